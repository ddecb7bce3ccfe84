//! A vision transformer as its weight file describes it: sizes, and tensors part by part, so that no
//! more of a large file is in memory than the part at work.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{BackboneError, PositionResize};
use anomalens_kernels::Activation;

/// What the kinds of vision transformers differ in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// A name for people.
    pub(crate) name: String,
    /// Length of a token.
    pub(crate) width: usize,
    /// Number of blocks.
    pub(crate) blocks: usize,
    /// Number of attention heads.
    pub(crate) heads: usize,
    /// Side of a patch, in pixels.
    pub(crate) patch: usize,
    /// Side of the square grid that the position embedding was trained on.
    pub(crate) position_side: usize,
    /// How it is brought to other grids.
    #[serde(with = "super::position")]
    pub(crate) position_resize: PositionResize,
    /// Epsilon of every layer norm.
    pub(crate) epsilon: f64,
    /// What every block has after its attention.
    pub(crate) feed_forward: FeedForward,
    /// Length of an embedding.
    pub(crate) embedding: usize,
}

/// The feed-forward half of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FeedForward {
    /// Two layers with a function between them.
    Plain(Activation),
    /// SwiGLU: one layer to twice the width, its halves multiplied, and one back (DINOv2 ViT-g).
    SwiGlu,
}

/// Weight `[outputs, inputs]` and bias `[outputs]`, or weight and bias of a layer norm.
pub(crate) struct Layer {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

/// What comes before the first block.
pub(crate) struct Stem {
    /// The patch projection, `[width, 3 * patch * patch]`: patches do not overlap, so that it is
    /// a matrix product.
    pub(crate) projection: Layer,
    /// `[width]`
    pub(crate) class_token: Tensor,
    /// CLIP's layer norm.
    pub(crate) norm: Option<Layer>,
}

/// One block.
pub(crate) struct BlockParts {
    pub(crate) norm1: Layer,
    /// Rows ordered query, key, value.
    pub(crate) qkv: Layer,
    pub(crate) output: Layer,
    /// LayerScale `[width]` after attention.
    pub(crate) scale1: Option<Tensor>,
    pub(crate) norm2: Layer,
    /// Of SwiGLU first all gates, then all values.
    pub(crate) up: Layer,
    pub(crate) down: Layer,
    /// LayerScale `[width]` after the feed-forward layers.
    pub(crate) scale2: Option<Tensor>,
}

/// What follows the last block.
pub(crate) struct Head {
    pub(crate) norm: Layer,
    /// `[width, embedding]`; none where there is no joint space.
    pub(crate) projection: Option<Tensor>,
}

/// Where the weights of a network are read from.
pub(crate) trait Weights {
    /// The position embedding `[1 + side * side, width]`, the class token's first.
    fn positions(&self) -> Result<Tensor, BackboneError>;

    fn stem(&self) -> Result<Stem, BackboneError>;

    /// Block `i`, counted from 0.
    fn block(&self, i: usize) -> Result<BlockParts, BackboneError>;

    fn head(&self) -> Result<Head, BackboneError>;
}
