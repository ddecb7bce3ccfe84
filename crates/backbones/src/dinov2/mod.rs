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
use rayon::prelude::*;

pub use config::Config;
pub use position::PositionResize;

use crate::checkpoint::Checkpoint;
use crate::{BackboneError, BlockFeatures, FeatureRequest, Features, Grid, ImageEncoder};
use block::Block;

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
    blocks: Vec<Block>,
    norm: LayerNorm,
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
            blocks: (0..config.blocks)
                .map(|i| Block::new(checkpoint, &format!("encoder.layer.{i}"), &config, device))
                .collect::<Result<_, _>>()?,
            norm: layer_norm(checkpoint, "layernorm", width, device)?,
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
        position::resize(
            &self.positions,
            self.config.position_side,
            grid,
            self.position_resize,
        )
    }

    /// Class and patch tokens before the first block, `[batch, 1 + rows * columns, width]`.
    fn embed(&self, images: &Tensor, grid: Grid) -> Result<Tensor, BackboneError> {
        let patch = self.config.patch;
        let batch = images.dim(0)?;
        let patches = images
            .reshape(&[batch, 3, grid.rows, patch, grid.columns, patch][..])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((batch, grid.len(), 3 * patch * patch))?;
        let patches = self.projection.forward(&patches)?;
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
        let grid = self.grid(images)?;
        if let Some(&block) = request
            .blocks
            .iter()
            .find(|&&b| b == 0 || b > self.blocks.len())
        {
            return Err(BackboneError::NoSuchBlock {
                block,
                encoder: self.name.clone(),
                blocks: self.blocks.len(),
            });
        }
        let images = images.to_device(&self.device)?;
        if !self.device.is_cpu() {
            return self.tokens(&images, grid, request);
        }
        // On the CPU one image on each core is faster than all cores on one product.
        let batch = (0..images.dim(0)?)
            .into_par_iter()
            .map(|i| self.tokens(&images.narrow(0, i, 1)?, grid, request))
            .collect::<Result<Vec<_>, _>>()?;
        Features::join(batch)
    }
}

impl DinoV2 {
    /// The tokens of a batch after the wanted blocks.
    fn tokens(
        &self,
        images: &Tensor,
        grid: Grid,
        request: &FeatureRequest,
    ) -> Result<Features, BackboneError> {
        let mut tokens = self.embed(images, grid)?;
        let last = request.blocks.iter().copied().max().unwrap_or(0);
        let mut wanted = Vec::with_capacity(request.blocks.len());
        for (i, block) in self.blocks.iter().enumerate().take(last) {
            tokens = block.forward(&tokens)?;
            if request.blocks.contains(&(i + 1)) {
                let tokens = if request.final_norm {
                    self.norm.forward(&tokens)?
                } else {
                    tokens.clone()
                };
                wanted.push(BlockFeatures {
                    block: i + 1,
                    class_token: tokens.narrow(1, 0, 1)?.squeeze(1)?,
                    patch_tokens: tokens.narrow(1, 1, grid.len())?,
                });
            }
        }
        Ok(Features {
            grid,
            blocks: wanted,
        })
    }

    /// The grid of a batch of images, or why they do not fit.
    fn grid(&self, images: &Tensor) -> Result<Grid, BackboneError> {
        let patch = self.config.patch;
        match *images.dims() {
            [_, 3, height, width]
                if height > 0 && width > 0 && height % patch == 0 && width % patch == 0 =>
            {
                Ok(Grid {
                    rows: height / patch,
                    columns: width / patch,
                })
            }
            _ => Err(BackboneError::InputShape {
                found: images.dims().to_vec(),
                patch,
            }),
        }
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
