//! CLIP's vision transformer as an [`ImageEncoder`].

use std::sync::Arc;

use anomalens_vision::Preprocessed;
use candle_core::{Device, Tensor};

use super::layers::{LAYER_NORM_EPS, Reader};
use super::{ClipTensors, ClipText, VisionConfig};
use crate::checkpoint::Checkpoint;
use crate::vit::VisionTransformer;
use crate::vit::parts::{BlockParts, FeedForward, Head, Layer, Shape, Stem, Weights};
use crate::{
    Activation, BackboneError, EncoderSpec, FeatureRequest, ImageEncoder, ImageFeatures, Kernels,
    PositionResize,
};

/// CLIP's image encoder.
pub struct ClipVision {
    config: VisionConfig,
    network: VisionTransformer,
    /// The file, from which the text tower is read when it is asked for.
    checkpoint: Arc<Checkpoint>,
    activation: Activation,
}

impl ClipVision {
    /// Builds the encoder from its weights; the text tower's are not touched. `activation` is
    /// needed where the file does not say it or is wrong.
    ///
    /// # Errors
    /// [`BackboneError`] that names the tensor which is missing or has another shape than the
    /// rest of the network needs.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        activation: Option<Activation>,
        kernels: &Kernels,
    ) -> Result<Self, BackboneError> {
        let tensors = tensors(&checkpoint)?;
        let activation = match activation {
            Some(activation) => activation,
            None => tensors.activation()?.0,
        };
        let config = VisionConfig::of(&tensors)?;
        let shape = Shape {
            name: config.name(),
            width: config.width,
            blocks: config.blocks,
            heads: config.heads,
            patch: config.patch,
            position_side: config.position_side,
            position_resize: PositionResize::Bilinear,
            epsilon: LAYER_NORM_EPS,
            feed_forward: FeedForward::Plain(activation),
            embedding: config.embedding,
        };
        let weights = VisionWeights {
            tensors,
            config: &config,
        };
        Ok(Self {
            network: VisionTransformer::new(shape, &weights, kernels)?,
            activation,
            checkpoint,
            config,
        })
    }

    pub(crate) fn transformer(&self) -> &VisionTransformer {
        &self.network
    }

    /// What stands between the feed-forward layers of all blocks.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// What the shapes of the weights say.
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
    fn reader(&self, prefix: String) -> Reader<'_> {
        Reader {
            tensors: &self.tensors,
            prefix,
        }
    }

    fn outside(&self) -> Reader<'_> {
        self.reader("visual.".to_owned())
    }
}

impl Weights for VisionWeights<'_> {
    fn positions(&self) -> Result<Tensor, BackboneError> {
        let shape = [1 + self.config.position_side.pow(2), self.config.width];
        self.outside().tensor("positional_embedding", &shape)
    }

    fn stem(&self) -> Result<Stem, BackboneError> {
        let VisionConfig { width, patch, .. } = *self.config;
        let reader = self.outside();
        let projection = reader.tensor("conv1.weight", &[width, 3, patch, patch])?;
        Ok(Stem {
            projection: Layer {
                weight: projection.flatten_from(1)?,
                bias: Tensor::zeros(width, projection.dtype(), &Device::Cpu)?,
            },
            class_token: reader.tensor("class_embedding", &[width])?,
            norm: Some(reader.norm("ln_pre", width)?),
        })
    }

    fn block(&self, i: usize) -> Result<BlockParts, BackboneError> {
        let width = self.config.width;
        let reader = self.reader(format!("visual.transformer.resblocks.{i}."));
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

    fn head(&self) -> Result<Head, BackboneError> {
        let VisionConfig {
            width, embedding, ..
        } = *self.config;
        let reader = self.outside();
        Ok(Head {
            norm: reader.norm("ln_post", width)?,
            projection: Some(reader.tensor("proj", &[width, embedding])?),
        })
    }
}

impl ImageEncoder for ClipVision {
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

    fn text(&self, activation: Option<Activation>) -> Result<Option<ClipText>, BackboneError> {
        let tensors = tensors(&self.checkpoint)?;
        ClipText::new(&tensors, activation.unwrap_or(self.activation)).map(Some)
    }
}
