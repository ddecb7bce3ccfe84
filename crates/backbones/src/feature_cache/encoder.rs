//! A network whose features are looked up before they are computed.

use std::sync::Arc;

use anomalens_vision::Preprocessed;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{FeatureCache, file};
use crate::clip::ClipText;
use crate::{BackboneError, EncoderSpec, FeatureRequest, ImageEncoder, ImageFeatures};

/// A network whose features are looked up before they are computed.
pub struct CachedEncoder {
    network: Arc<dyn ImageEncoder>,
    identity: String,
    pub(super) cache: Arc<FeatureCache>,
}

impl CachedEncoder {
    /// `network`, its features being kept in `cache`; `identity` tells it from every other that
    /// gives other numbers: its weights, precision and instruction set.
    pub fn new(
        network: Arc<dyn ImageEncoder>,
        identity: impl Into<String>,
        cache: Arc<FeatureCache>,
    ) -> Self {
        Self {
            network,
            identity: identity.into(),
            cache,
        }
    }

    /// What the features of `image` are called.
    pub(super) fn entry(&self, image: &Preprocessed, request: &FeatureRequest) -> String {
        let Preprocessed {
            height,
            width,
            values,
        } = image;
        let mut hash = Sha256::new();
        hash.update(format!(
            "{}\n{request:?}\n{height} {width}\n",
            self.identity
        ));
        hash.update(file::le_bytes(values));
        let digest = hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl ImageEncoder for CachedEncoder {
    fn spec(&self) -> &EncoderSpec {
        self.network.spec()
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        let looked_up: Vec<(String, Option<ImageFeatures>)> = images
            .par_iter()
            .map(|image| {
                let name = self.entry(image, request);
                let features = self.cache.read(&name);
                (name, features)
            })
            .collect();
        let missing: Vec<Preprocessed> = images
            .iter()
            .zip(&looked_up)
            .filter(|(_, (_, found))| found.is_none())
            .map(|(image, _)| image.clone())
            .collect();
        let mut fresh = self.network.encode(&missing, request)?.into_iter();
        let all = looked_up.into_iter().filter_map(|(name, found)| {
            found.or_else(|| {
                let features = fresh.next()?;
                self.cache.add(&name, &features);
                Some(features)
            })
        });
        Ok(all.collect())
    }

    fn text(&self) -> Result<Option<ClipText>, BackboneError> {
        self.network.text()
    }
}
