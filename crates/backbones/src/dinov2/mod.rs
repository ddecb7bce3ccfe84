//! DINOv2 vision transformers (Oquab et al., "DINOv2: Learning Robust Visual Features without
//! Supervision", 2023): ViT-S, B, L and g with patches of 14 pixels.
//!
//! Pre-norm blocks with LayerScale on both branches, exact GELU (SwiGLU in ViT-g), layer norm
//! with epsilon 1e-6. Everything else follows from the shapes of the weights.

mod block;
mod config;
mod position;

use candle_core::{Device, Tensor};
use candle_nn::{LayerNorm, Linear, Module};

pub use config::Config;
pub use position::PositionResize;

use crate::checkpoint::Checkpoint;
use crate::position::resize;
use crate::tower::Tower;
use crate::transformer::patches;
use crate::{BackboneError, FeatureRequest, Features, Grid, ImageEncoder};

/// The name of a DINOv2 checkpoint's class token, by which the family is recognised.
const CLASS_TOKEN: &str = "embeddings.cls_token";

/// Epsilon of every layer norm.
const LAYER_NORM_EPS: f64 = 1e-6;

/// A DINOv2 image encoder.
pub struct DinoV2 {
    name: String,
    config: Config,
    position_resize: PositionResize,
    /// The patch projection as a matrix `[width, 3 * patch * patch]`: patches do not overlap.
    projection: Linear,
    class_token: Tensor,
    positions: Tensor,
    tower: Tower,
    device: Device,
}

impl DinoV2 {
    /// Whether a checkpoint holds a DINOv2 network.
    pub fn recognises(checkpoint: &Checkpoint) -> bool {
        checkpoint.contains(CLASS_TOKEN) && checkpoint.contains("encoder.layer.0.norm1.weight")
    }

    /// Builds the network from its weights, on `device`.
    ///
    /// # Errors
    /// [`BackboneError`] that names the tensor which is missing or has another shape than the
    /// rest of the network needs.
    pub fn new(checkpoint: &Checkpoint, device: &Device) -> Result<Self, BackboneError> {
        let config = Config::from_checkpoint(checkpoint)?;
        let Config { width, patch, .. } = config;
        let tensor = |name: &str, shape: &[usize]| checkpoint.tensor(name, shape, device);
        let projection = tensor(
            "embeddings.patch_embeddings.projection.weight",
            &[width, 3, patch, patch],
        )?;
        Ok(Self {
            name: config.name(),
            position_resize: PositionResize::default(),
            projection: Linear::new(
                projection.flatten_from(1)?,
                Some(tensor(
                    "embeddings.patch_embeddings.projection.bias",
                    &[width],
                )?),
            ),
            class_token: tensor(CLASS_TOKEN, &[1, 1, width])?,
            positions: tensor(
                "embeddings.position_embeddings",
                &[1, 1 + config.position_side.pow(2), width],
            )?,
            tower: Tower {
                blocks: (0..config.blocks)
                    .map(|i| {
                        block::read(checkpoint, &format!("encoder.layer.{i}"), &config, device)
                    })
                    .collect::<Result<_, _>>()?,
                final_norm: layer_norm(checkpoint, "layernorm", width, device)?,
                projection: None,
            },
            device: device.clone(),
            config,
        })
    }

    /// The same network with another rule for position embeddings at other sizes.
    pub fn with_position_resize(self, position_resize: PositionResize) -> Self {
        Self {
            position_resize,
            ..self
        }
    }

    /// What the shapes of the weights tell.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The position embedding for a grid of patches, `[1, 1 + rows * columns, width]`, the class
    /// token's position first.
    ///
    /// # Errors
    /// Only those of the tensor library.
    pub fn position_embedding(&self, grid: Grid) -> Result<Tensor, BackboneError> {
        let side = self.config.position_side;
        let positions = resize(&self.positions.squeeze(0)?, side, grid, |to| {
            position::weights(side, to, self.position_resize)
        })?;
        Ok(positions.unsqueeze(0)?)
    }

    /// Class and patch tokens before the first block, `[batch, 1 + rows * columns, width]`.
    fn embed(&self, images: &Tensor, grid: Grid) -> Result<Tensor, BackboneError> {
        let batch = images.dim(0)?;
        let patches = self
            .projection
            .forward(&patches(images, self.config.patch)?)?;
        let class = self.class_token.expand((batch, 1, self.config.width))?;
        let tokens = Tensor::cat(&[class, patches], 1)?;
        Ok(tokens.broadcast_add(&self.position_embedding(grid)?)?)
    }
}

impl ImageEncoder for DinoV2 {
    fn name(&self) -> &str {
        &self.name
    }

    fn width(&self) -> usize {
        self.config.width
    }

    fn blocks(&self) -> usize {
        self.config.blocks
    }

    fn patch(&self) -> usize {
        self.config.patch
    }

    fn encode(&self, images: &Tensor, request: &FeatureRequest) -> Result<Features, BackboneError> {
        let images = images.to_device(&self.device)?;
        let patch = self.config.patch;
        self.tower
            .encode(&images, patch, &self.name, request, |images, grid| {
                self.embed(images, grid)
            })
    }
}

/// A layer norm of the network.
fn layer_norm(
    checkpoint: &Checkpoint,
    name: &str,
    width: usize,
    device: &Device,
) -> Result<LayerNorm, BackboneError> {
    Ok(LayerNorm::new(
        checkpoint.tensor(&format!("{name}.weight"), &[width], device)?,
        checkpoint.tensor(&format!("{name}.bias"), &[width], device)?,
        LAYER_NORM_EPS,
    ))
}
