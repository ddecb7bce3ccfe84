//! What a weight file holds, without building its network.

use std::path::Path;

use crate::checkpoint::{Checkpoint, Format};
use crate::clip::{ActivationSource, ClipTensors, TextConfig, VisionConfig};
use crate::dinov2::{Config, DinoV2, FeedForwardKind};
use crate::load::FAMILIES;
use crate::{Activation, BackboneError, LayerId, LayerInfo, cnn};

/// What a weight file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The usual name of a network of these sizes.
    pub name: String,
    /// What kind of file it is.
    pub format: Format,
    /// Tensors in the file.
    pub tensors: usize,
    /// Length of a token.
    pub width: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Side of the images that the position embedding was trained on, in pixels.
    pub image_side: usize,
    /// Length of an embedding in the space shared with texts.
    pub embedding: Option<usize>,
    /// The function between the feed-forward layers, `gelu`, `quick-gelu` or `swiglu`, or after
    /// convolutions: `relu` or `relu6`.
    pub activation: &'static str,
    /// How that is known, where the weights do not say it.
    pub activation_source: Option<ActivationSource>,
    /// The text encoder.
    pub text: Option<TextConfig>,
    /// The stages of a convolutional network, which has no blocks, heads, patches and side.
    pub stages: Vec<LayerInfo>,
}

/// Looks into a weight file of any known family and format; `activation` is what the caller knows.
///
/// # Errors
/// As [`load_encoder`](crate::load_encoder).
pub fn describe(
    path: &Path,
    activation: Option<(Activation, ActivationSource)>,
) -> Result<Description, BackboneError> {
    let checkpoint = Checkpoint::open(path)?;
    let (format, tensors) = (checkpoint.format(), checkpoint.names().count());
    if let Some(clip) = ClipTensors::new(&checkpoint) {
        let config = VisionConfig::of(&clip)?;
        let (activation, source) = activation.map_or_else(|| clip.activation(), Ok)?;
        return Ok(Description {
            name: config.name(),
            format,
            tensors,
            width: config.width,
            blocks: config.blocks,
            heads: config.heads,
            patch: config.patch,
            image_side: config.position_side * config.patch,
            embedding: Some(config.embedding),
            activation: activation.name(),
            activation_source: Some(source),
            text: TextConfig::of(&clip).ok(),
            stages: vec![],
        });
    }
    if DinoV2::recognises(&checkpoint) {
        let config = Config::from_checkpoint(&checkpoint)?;
        return Ok(Description {
            name: config.name(),
            format,
            tensors,
            width: config.width,
            blocks: config.blocks,
            heads: config.heads,
            patch: config.patch,
            image_side: config.position_side * config.patch,
            embedding: None,
            activation: match config.feed_forward {
                FeedForwardKind::Gelu(_) => Activation::Gelu.name(),
                FeedForwardKind::SwiGlu(_) => "swiglu",
            },
            activation_source: None,
            text: None,
            stages: vec![],
        });
    }
    if let Some(plan) = cnn::plan(&checkpoint) {
        let plan = plan?;
        let (stages, embedding) = plan.sizes();
        let stage = |(i, scale): (usize, &cnn::Scale)| LayerInfo {
            id: LayerId::Stage(i + 1),
            dim: scale.dim,
            stride: scale.stride,
        };
        return Ok(Description {
            format,
            tensors,
            width: stages.last().map_or(0, |scale| scale.dim),
            blocks: 0,
            heads: 0,
            patch: 0,
            image_side: 0,
            embedding: Some(embedding),
            activation: plan.activation,
            activation_source: None,
            text: None,
            stages: stages.iter().enumerate().map(stage).collect(),
            name: plan.name,
        });
    }
    Err(BackboneError::UnknownFamily {
        path: path.to_owned(),
        known: FAMILIES,
    })
}
