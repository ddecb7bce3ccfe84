//! CLIP's vision transformer as an [`ImageEncoder`].

use std::sync::Arc;

use candle_core::{Device, Tensor};
use candle_nn::{LayerNorm, Linear, Module};
use serde::{Deserialize, Serialize};

use super::layers::Reader;
use super::{ClipTensors, ClipText, VisionConfig, position};
use crate::checkpoint::Checkpoint;
use crate::position::resize;
use crate::tower::Tower;
use crate::transformer::{Attention, Block, FeedForward, patches};
use crate::{Activation, BackboneError, FeatureRequest, Features, Grid, ImageEncoder};

/// How the position embedding is brought to another grid than it was trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionResize {
    /// Bilinear, half-pixel centres, no antialiasing: AnomalyCLIP and the CLIP baselines.
    #[default]
    Bilinear,
    /// Bicubic (a = -0.5) with antialiasing: VAND and OpenCLIP.
    BicubicAntialias,
}

/// CLIP's image encoder.
pub struct ClipVision {
    name: String,
    config: VisionConfig,
    position_resize: PositionResize,
    /// The patch projection as a matrix `[width, 3 * patch * patch]`.
    projection: Linear,
    class_token: Tensor,
    positions: Tensor,
    norm: LayerNorm,
    tower: Tower,
    device: Device,
    /// The file, from which the text tower is read when it is asked for.
    checkpoint: Arc<Checkpoint>,
    activation: Activation,
}

impl ClipVision {
    /// Builds the encoder from its weights, on `device`; the text tower's are not touched.
    /// `activation` is needed where the file does not tell it or is wrong.
    ///
    /// # Errors
    /// [`BackboneError`] that names the tensor which is missing or has another shape than the
    /// rest of the network needs.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        activation: Option<Activation>,
        device: &Device,
    ) -> Result<Self, BackboneError> {
        let tensors = &tensors(&checkpoint)?;
        let activation = activation.map_or_else(|| tensors.activation(), Ok)?;
        let config = VisionConfig::of(tensors)?;
        let VisionConfig {
            width,
            patch,
            embedding,
            ..
        } = config;
        let reader = Reader {
            tensors,
            prefix: "visual.".to_owned(),
            device,
        };
        let projection = reader.tensor("conv1.weight", &[width, 3, patch, patch])?;
        Ok(Self {
            name: config.name(),
            position_resize: PositionResize::default(),
            projection: Linear::new(projection.flatten_from(1)?, None),
            class_token: reader.tensor("class_embedding", &[width])?,
            positions: reader.tensor(
                "positional_embedding",
                &[1 + config.position_side.pow(2), width],
            )?,
            norm: reader.layer_norm("ln_pre", width)?,
            tower: Tower {
                blocks: (0..config.blocks)
                    .map(|i| block(tensors, i, &config, activation, device))
                    .collect::<Result<_, _>>()?,
                final_norm: reader.layer_norm("ln_post", width)?,
                projection: Some(reader.tensor("proj", &[width, embedding])?),
            },
            device: device.clone(),
            activation,
            checkpoint,
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
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Tokens before the first block, `[batch, 1 + rows * columns, width]`.
    fn embed(&self, images: &Tensor, grid: Grid) -> Result<Tensor, BackboneError> {
        let VisionConfig { width, patch, .. } = self.config;
        let batch = images.dim(0)?;
        let patches = self.projection.forward(&patches(images, patch)?)?;
        let class = self.class_token.expand((batch, 1, width))?;
        let side = self.config.position_side;
        let positions = resize(&self.positions, side, grid, |to| {
            position::weights(side, to, self.position_resize)
        })?;
        let tokens = Tensor::cat(&[class, patches], 1)?.broadcast_add(&positions)?;
        Ok(self.norm.forward(&tokens)?)
    }
}

/// The view of a checkpoint that must be one of CLIP.
fn tensors(checkpoint: &Checkpoint) -> Result<ClipTensors<'_>, BackboneError> {
    ClipTensors::new(checkpoint).ok_or_else(|| BackboneError::UnknownFamily {
        path: checkpoint.path().to_owned(),
        known: "CLIP",
    })
}

/// Block `i`, counted from 0, of the vision tower.
fn block(
    tensors: &ClipTensors,
    i: usize,
    config: &VisionConfig,
    activation: Activation,
    device: &Device,
) -> Result<Block, BackboneError> {
    let width = config.width;
    let reader = Reader {
        tensors,
        prefix: format!("visual.transformer.resblocks.{i}."),
        device,
    };
    Ok(Block {
        norm1: reader.layer_norm("ln_1", width)?,
        attention: Attention::new(
            &reader.tensor("attn.in_proj_weight", &[3 * width, width])?,
            &reader.tensor("attn.in_proj_bias", &[3 * width])?,
            reader.linear("attn.out_proj", width, width)?,
            config.heads,
        )?,
        norm2: reader.layer_norm("ln_2", width)?,
        feed_forward: FeedForward::Plain {
            up: reader.linear("mlp.c_fc", width, 4 * width)?,
            activation,
            down: reader.linear("mlp.c_proj", 4 * width, width)?,
        },
    })
}

impl ImageEncoder for ClipVision {
    fn name(&self) -> &str {
        &self.name
    }

    fn width(&self) -> usize {
        self.config.width
    }

    fn embedding_width(&self) -> usize {
        self.config.embedding
    }

    fn blocks(&self) -> usize {
        self.config.blocks
    }

    fn patch(&self) -> usize {
        self.config.patch
    }

    fn text_encoder(&self) -> Result<Option<ClipText>, BackboneError> {
        let tensors = tensors(&self.checkpoint)?;
        ClipText::new(&tensors, self.activation, &self.device).map(Some)
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
