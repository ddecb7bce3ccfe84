//! A network whose features are looked up before they are computed.

use std::sync::Arc;

use anomalens_vision::Preprocessed;
use rayon::prelude::*;

use super::{FeatureCache, FeatureKey, Numbers};
use crate::checkpoint::Checkpoint;
use crate::clip::ClipText;
use crate::{
    Activation, BackboneError, Blueprint, EncoderSpec, FeatureRequest, ImageEncoder, ImageFeatures,
};

/// A network whose features are looked up before they are computed.
pub struct CachedEncoder {
    network: Arc<dyn ImageEncoder>,
    identity: String,
    pub(super) cache: Arc<FeatureCache>,
}

impl CachedEncoder {
    /// `network`, its features being kept in `cache`; `identity` distinguishes it from every other
    /// that gives other numbers: its weights, precision and instruction set.
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

    /// What the features of `image` are kept under.
    pub(super) fn key(&self, image: &Preprocessed, request: &FeatureRequest) -> FeatureKey {
        let Preprocessed {
            height,
            width,
            values,
        } = image;
        let about = format!("{request:?} {height} {width}");
        let pixels = Numbers::F32.bytes(values);
        FeatureKey::of([self.identity.as_bytes(), about.as_bytes(), &pixels])
    }
}

impl ImageEncoder for CachedEncoder {
    fn spec(&self) -> &EncoderSpec {
        self.network.spec()
    }

    /// Those of the network; their features are not kept.
    fn companions(&self) -> &[Arc<dyn ImageEncoder>] {
        self.network.companions()
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        let looked_up: Vec<(FeatureKey, Option<ImageFeatures>)> = images
            .par_iter()
            .map(|image| {
                let key = self.key(image, request);
                let features = self.cache.read(&key);
                (key, features)
            })
            .collect();
        let missing: Vec<Preprocessed> = images
            .iter()
            .zip(&looked_up)
            .filter(|(_, (_, found))| found.is_none())
            .map(|(image, _)| image.clone())
            .collect();
        let mut fresh = self.network.encode(&missing, request)?.into_iter();
        let all = looked_up.into_iter().filter_map(|(key, found)| {
            found.or_else(|| {
                let features = fresh.next()?;
                // That it cannot be written costs time later, and is no reason to stop.
                if let Err(error) = self.cache.add(&key, &features) {
                    self.cache.state().usage.failure = Some(error.to_string());
                }
                Some(features)
            })
        });
        Ok(all.collect())
    }

    fn text(&self, activation: Option<Activation>) -> Result<Option<ClipText>, BackboneError> {
        self.network.text(activation)
    }

    fn check(&self, request: &FeatureRequest) -> Result<(), BackboneError> {
        self.network.check(request)
    }

    fn batch(&self) -> usize {
        self.network.batch()
    }

    fn blueprint(&self) -> Option<Blueprint<'_>> {
        self.network.blueprint()
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.network.checkpoint()
    }
}
