//! A network whose features are looked up before they are computed.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{FeatureCache, file};
use crate::clip::ClipText;
use crate::{BackboneError, BlockFeatures, FeatureRequest, Features, ImageEncoder, ImageFeatures};

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

    /// What the features of `image`, `[3, height, width]`, are called.
    pub(super) fn entry(
        &self,
        image: &Tensor,
        request: &FeatureRequest,
    ) -> candle_core::Result<String> {
        let mut hash = Sha256::new();
        hash.update(format!("{}\n{request:?}\n{:?}\n", self.identity, image.dims()).as_bytes());
        hash.update(file::le_bytes(image.flatten_all()?.to_vec1::<f32>()?));
        let digest = hash.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl ImageEncoder for CachedEncoder {
    fn name(&self) -> &str {
        self.network.name()
    }

    fn width(&self) -> usize {
        self.network.width()
    }

    fn embedding_width(&self) -> usize {
        self.network.embedding_width()
    }

    fn blocks(&self) -> usize {
        self.network.blocks()
    }

    fn patch(&self) -> usize {
        self.network.patch()
    }

    fn text_encoder(&self) -> Result<Option<ClipText>, BackboneError> {
        self.network.text_encoder()
    }

    fn encode(&self, images: &Tensor, request: &FeatureRequest) -> Result<Features, BackboneError> {
        let batch = match images.dims() {
            &[batch, _, _, _] if batch > 0 => batch,
            // It has the right error for that.
            _ => return self.network.encode(images, request),
        };
        let looked_up: Vec<(String, Option<ImageFeatures>)> = (0..batch)
            .into_par_iter()
            .map(|i| {
                let name = self.entry(&images.get(i)?, request)?;
                let features = self.cache.read(&name, request);
                Ok((name, features))
            })
            .collect::<candle_core::Result<_>>()?;
        let missing: Vec<u32> = (0..)
            .zip(&looked_up)
            .filter_map(|(i, (_, features))| features.is_none().then_some(i))
            .collect();
        let mut fresh = vec![];
        if !missing.is_empty() {
            let indices = Tensor::new(missing.as_slice(), images.device())?;
            let encoded = self
                .network
                .encode(&images.index_select(&indices, 0)?, request)?;
            fresh = encoded.into_images()?;
        }
        let mut fresh = fresh.into_iter();
        let all = looked_up.into_iter().filter_map(|(name, found)| {
            found.or_else(|| {
                let features = fresh.next()?;
                self.cache.add(&name, &features);
                Some(features)
            })
        });
        Ok(join(all.collect())?)
    }
}

/// The features of a batch from those of its images, which have the same sizes.
pub(super) fn join(images: Vec<ImageFeatures>) -> candle_core::Result<Features> {
    let batch = images.len();
    let Some(first) = images.first() else {
        return Err(candle_core::Error::msg("an empty batch has no features"));
    };
    let tensor = |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu);
    let rows = |part: &dyn Fn(&ImageFeatures) -> Vec<f32>| -> Vec<f32> {
        images.iter().flat_map(part).collect()
    };
    let patches = first.grid.len();
    let blocks = first.blocks.iter().enumerate().map(|(i, tokens)| {
        let width = tokens.class_token.len();
        Ok(BlockFeatures {
            block: tokens.block,
            class_token: tensor(
                rows(&|image| image.blocks[i].class_token.clone()),
                &[batch, width],
            )?,
            patch_tokens: tensor(
                rows(&|image| image.blocks[i].patch_tokens.clone()),
                &[batch, patches, width],
            )?,
        })
    });
    let embedding = first.embedding.as_ref().map(|embedding| {
        let values = rows(&|image| image.embedding.clone().unwrap_or_default());
        tensor(values, &[batch, embedding.len()])
    });
    Ok(Features {
        grid: first.grid,
        blocks: blocks.collect::<candle_core::Result<_>>()?,
        embedding: embedding.transpose()?,
    })
}
