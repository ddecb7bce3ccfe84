//! CLIP's vision transformer as an [`ImageEncoder`].

use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::layers::{LAYER_NORM_EPS, Reader};
use super::{ClipTensors, ClipText, VisionConfig};
use crate::checkpoint::Checkpoint;
use crate::vit::VisionTransformer;
use crate::vit::parts::{self, BlockParts, FeedForward, Head, Layer, Shape, Stem, Weights};
use crate::{Activation, BackboneError, Compute, FeatureRequest, Features, ImageEncoder};

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
    config: VisionConfig,
    network: VisionTransformer,
    /// The file, from which the text tower is read when it is asked for.
    checkpoint: Arc<Checkpoint>,
    activation: Activation,
    device: Device,
}

impl ClipVision {
    /// Builds the encoder from its weights, for `compute` (a device stands for candle on it); the
    /// text tower's are not touched. `activation` is needed where the file does not tell it or is
    /// wrong.
    ///
    /// # Errors
    /// [`BackboneError`] that names the tensor which is missing or has another shape than the
    /// rest of the network needs.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        activation: Option<Activation>,
        compute: impl Into<Compute>,
    ) -> Result<Self, BackboneError> {
        let compute = compute.into();
        let tensors = tensors(&checkpoint)?;
        let activation = activation.map_or_else(|| tensors.activation(), Ok)?;
        let config = VisionConfig::of(&tensors)?;
        let shape = Shape {
            name: config.name(),
            width: config.width,
            blocks: config.blocks,
            heads: config.heads,
            patch: config.patch,
            position_side: config.position_side,
            position_resize: parts::PositionResize::Clip(PositionResize::default()),
            epsilon: LAYER_NORM_EPS,
            feed_forward: FeedForward::Plain(activation),
            embedding: config.embedding,
        };
        let weights = VisionWeights {
            tensors,
            config: &config,
        };
        Ok(Self {
            network: VisionTransformer::new(shape, &weights, &compute)?,
            device: compute.device(),
            activation,
            checkpoint,
            config,
        })
    }

    /// The same network with another rule for position embeddings at other sizes.
    pub fn with_position_resize(self, rule: PositionResize) -> Self {
        let rule = parts::PositionResize::Clip(rule);
        Self {
            network: self.network.with_position_resize(rule),
            ..self
        }
    }

    pub(crate) fn transformer(&self) -> &VisionTransformer {
        &self.network
    }

    /// What the shapes of the weights tell.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }
}

/// The view of a checkpoint that must be one of CLIP.
fn tensors(checkpoint: &Checkpoint) -> Result<ClipTensors<'_>, BackboneError> {
    ClipTensors::new(checkpoint).ok_or_else(|| BackboneError::UnknownFamily {
        path: checkpoint.path().to_owned(),
        known: "CLIP",
    })
}

/// The vision tower's weights.
struct VisionWeights<'a> {
    tensors: ClipTensors<'a>,
    config: &'a VisionConfig,
}

impl VisionWeights<'_> {
    fn reader<'a>(&'a self, prefix: String, device: &'a Device) -> Reader<'a> {
        Reader {
            tensors: &self.tensors,
            prefix,
            device,
        }
    }

    fn outside<'a>(&'a self, device: &'a Device) -> Reader<'a> {
        self.reader("visual.".to_owned(), device)
    }
}

impl Weights for VisionWeights<'_> {
    fn positions(&self, device: &Device) -> Result<Tensor, BackboneError> {
        let shape = [1 + self.config.position_side.pow(2), self.config.width];
        self.outside(device).tensor("positional_embedding", &shape)
    }

    fn stem(&self, device: &Device) -> Result<Stem, BackboneError> {
        let VisionConfig { width, patch, .. } = *self.config;
        let reader = self.outside(device);
        let projection = reader.tensor("conv1.weight", &[width, 3, patch, patch])?;
        Ok(Stem {
            projection: Layer {
                weight: projection.flatten_from(1)?,
                bias: Tensor::zeros(width, projection.dtype(), device)?,
            },
            class_token: reader.tensor("class_embedding", &[width])?,
            norm: Some(reader.norm("ln_pre", width)?),
        })
    }

    fn block(&self, i: usize, device: &Device) -> Result<BlockParts, BackboneError> {
        let width = self.config.width;
        let reader = self.reader(format!("visual.transformer.resblocks.{i}."), device);
        Ok(BlockParts {
            norm1: reader.norm("ln_1", width)?,
            qkv: Layer {
                weight: reader.tensor("attn.in_proj_weight", &[3 * width, width])?,
                bias: reader.tensor("attn.in_proj_bias", &[3 * width])?,
            },
            output: reader.layer("attn.out_proj", width, width)?,
            scale1: None,
            norm2: reader.norm("ln_2", width)?,
            up: reader.layer("mlp.c_fc", width, 4 * width)?,
            down: reader.layer("mlp.c_proj", 4 * width, width)?,
            scale2: None,
        })
    }

    fn head(&self, device: &Device) -> Result<Head, BackboneError> {
        let VisionConfig {
            width, embedding, ..
        } = *self.config;
        let reader = self.outside(device);
        Ok(Head {
            norm: reader.norm("ln_post", width)?,
            projection: Some(reader.tensor("proj", &[width, embedding])?),
        })
    }

    fn release(&self) {
        self.tensors.checkpoint().release();
    }
}

impl ImageEncoder for ClipVision {
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
        let tensors = tensors(&self.checkpoint)?;
        ClipText::new(&tensors, self.activation, &self.device).map(Some)
    }

    fn encode(&self, images: &Tensor, request: &FeatureRequest) -> Result<Features, BackboneError> {
        self.network.encode(images, request)
    }
}
