//! DINOv2 vision transformers (Oquab et al., "DINOv2: Learning Robust Visual Features without
//! Supervision", 2023): ViT-S, B, L and g with patches of 14 pixels.
//!
//! Pre-norm blocks with LayerScale on both branches, exact GELU (SwiGLU in ViT-g), layer norm
//! with epsilon 1e-6. Everything else follows from the shapes of the weights.

mod config;
mod weights;

use anomalens_vision::Preprocessed;
use candle_core::Tensor;

pub use config::{Config, FeedForwardKind};
pub(crate) use config::{names, shapes};

use crate::Activation;
use crate::checkpoint::Checkpoint;
use crate::vit::VisionTransformer;
use crate::vit::parts::{FeedForward, Shape};
use crate::{
    BackboneError, Blueprint, EncoderSpec, FeatureRequest, Grid, ImageEncoder, ImageFeatures,
    Kernels, PositionResize,
};
use weights::DinoWeights;

/// The name of a DINOv2 checkpoint's class token, by which the family is recognised.
const CLASS_TOKEN: &str = "embeddings.cls_token";

/// Epsilon of every layer norm.
const LAYER_NORM_EPS: f64 = 1e-6;

/// A DINOv2 image encoder.
pub struct DinoV2 {
    config: Config,
    network: VisionTransformer,
}

impl DinoV2 {
    /// Whether a checkpoint holds a DINOv2 network.
    pub fn recognises(checkpoint: &Checkpoint) -> bool {
        checkpoint.contains(CLASS_TOKEN) && checkpoint.contains("encoder.layer.0.norm1.weight")
    }

    /// Builds the network from its weights.
    ///
    /// # Errors
    /// [`BackboneError`] that names the tensor which is missing or has another shape than the
    /// rest of the network needs.
    pub fn new(checkpoint: &Checkpoint, kernels: &Kernels) -> Result<Self, BackboneError> {
        let config = Config::from_checkpoint(checkpoint)?;
        let shape = Shape {
            name: config.name(),
            width: config.width,
            blocks: config.blocks,
            heads: config.heads,
            patch: config.patch,
            position_side: config.position_side,
            position_resize: PositionResize::Bicubic,
            epsilon: LAYER_NORM_EPS,
            feed_forward: match config.feed_forward {
                FeedForwardKind::Gelu(_) => FeedForward::Plain(Activation::Gelu),
                FeedForwardKind::SwiGlu(_) => FeedForward::SwiGlu,
            },
            embedding: config.width,
        };
        let weights = DinoWeights {
            checkpoint,
            config: &config,
        };
        Ok(Self {
            network: VisionTransformer::new(shape, &weights, kernels)?,
            config,
        })
    }

    pub(crate) fn transformer(&self) -> &VisionTransformer {
        &self.network
    }

    /// What the shapes of the weights say.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The position embedding for a grid of patches, `[1, 1 + rows * columns, width]`, the class
    /// token's position first, resized by `rule` or the network's own.
    ///
    /// # Errors
    /// Only those of the tensor library.
    pub fn position_embedding(
        &self,
        grid: Grid,
        rule: Option<PositionResize>,
    ) -> Result<Tensor, BackboneError> {
        Ok(self.network.position_embedding(grid, rule)?.unsqueeze(0)?)
    }
}

impl ImageEncoder for DinoV2 {
    fn spec(&self) -> &EncoderSpec {
        self.network.spec()
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        self.network.encode(images, request)
    }

    fn check(&self, request: &FeatureRequest) -> Result<(), BackboneError> {
        self.network.check(request)
    }

    fn blueprint(&self) -> Option<Blueprint<'_>> {
        self.network.blueprint()
    }
}
