//! The pre-norm transformer block that the image encoders share: self-attention and a feed-forward
//! layer, each behind a layer norm, each joining the residual.
//!
//! Beside its own stream a block can serve AnomalyCLIP's local one ("DPAM", section 3.3 of the
//! paper): attention of values (or queries, or keys) to themselves, without feed-forward layer.

use candle_core::Tensor;
use candle_nn::{LayerNorm, Linear, Module, ops::softmax_last_dim};

use crate::BackboneError;
use crate::encoder::SelfAttention;
use crate::ops::{Activation, linear, linear_activated, linear_onto};

/// Attention scores held at once, in numbers: heads are worked on in groups of at most so many.
const SCORES_AT_ONCE: usize = 4 << 20;

/// A block; factors such as LayerScale are folded into the layers that they follow.
pub(crate) struct Block {
    pub(crate) norm1: LayerNorm,
    pub(crate) attention: Attention,
    pub(crate) norm2: LayerNorm,
    pub(crate) feed_forward: FeedForward,
}

impl Block {
    /// `[batch, tokens, width]` to the same shape.
    pub(crate) fn forward(&self, tokens: &Tensor) -> Result<Tensor, BackboneError> {
        let heads = self.attention.project(&self.norm1.forward(tokens)?)?;
        let tokens = self.attention.onto(tokens, &heads, None)?;
        self.feed_forward(&tokens)
    }

    /// The next state of the block's own stream and of the local one, both
    /// `[batch, tokens, width]`; the local stream attends with the own stream's projections.
    pub(crate) fn forward_dual(
        &self,
        tokens: &Tensor,
        local: &Tensor,
        kind: SelfAttention,
    ) -> Result<(Tensor, Tensor), BackboneError> {
        let heads = self.attention.project(&self.norm1.forward(tokens)?)?;
        let local = self.attention.onto(local, &heads, Some(kind))?;
        let tokens = self.attention.onto(tokens, &heads, None)?;
        Ok((self.feed_forward(&tokens)?, local))
    }

    fn feed_forward(&self, tokens: &Tensor) -> Result<Tensor, BackboneError> {
        self.feed_forward.onto(tokens, &self.norm2.forward(tokens)?)
    }
}

/// Multi-head self-attention.
pub(crate) struct Attention {
    /// Query, key and value as one layer; the query carries [`scale`](Self::scale).
    qkv: Linear,
    output: Linear,
    heads: usize,
    /// 1 / sqrt(head width).
    scale: f64,
}

/// Queries, keys and values of every head, each `[batch, heads, tokens, head width]`.
struct Heads {
    query: Tensor,
    key: Tensor,
    value: Tensor,
}

impl Attention {
    /// From the joint projection, rows ordered query, key, value: `weight` `[3 * width, width]`,
    /// `bias` `[3 * width]`.
    pub(crate) fn new(
        weight: &Tensor,
        bias: &Tensor,
        output: Linear,
        heads: usize,
    ) -> Result<Self, BackboneError> {
        let width = weight.dim(1)?;
        let scale = ((width / heads) as f64).sqrt().recip();
        let factors = Tensor::cat(
            &[
                Tensor::full(scale as f32, width, weight.device())?,
                Tensor::ones(2 * width, weight.dtype(), weight.device())?,
            ],
            0,
        )?;
        Ok(Self {
            qkv: Linear::new(
                weight.broadcast_mul(&factors.unsqueeze(1)?)?,
                Some((bias * factors)?),
            ),
            output,
            heads,
            scale,
        })
    }

    /// Queries, keys and values of normalised `tokens`.
    fn project(&self, tokens: &Tensor) -> Result<Heads, BackboneError> {
        let (batch, count, width) = tokens.dims3()?;
        let qkv = linear(&self.qkv, tokens)?
            .reshape((batch, count, 3, self.heads, width / self.heads))?
            .permute((2, 0, 3, 1, 4))?
            .contiguous()?;
        Ok(Heads {
            query: qkv.get(0)?,
            key: qkv.get(1)?,
            value: qkv.get(2)?,
        })
    }

    /// `residual + attention`, of queries to keys or of one projection to itself.
    fn onto(
        &self,
        residual: &Tensor,
        heads: &Heads,
        local: Option<SelfAttention>,
    ) -> Result<Tensor, BackboneError> {
        let Heads { query, key, value } = heads;
        let (from, to, scale) = match local {
            None => (query, key, 1.0),
            Some(SelfAttention::Values) => (value, value, self.scale),
            Some(SelfAttention::Keys) => (key, key, self.scale),
            // Both factors carry the scale.
            Some(SelfAttention::Queries) => (query, query, self.scale.recip()),
        };
        let (batch, count, width) = residual.dims3()?;
        let group = (SCORES_AT_ONCE / (batch * count * count)).clamp(1, self.heads);
        let joined = (0..self.heads)
            .step_by(group)
            .map(|first| {
                let group = group.min(self.heads - first);
                let heads = |x: &Tensor| x.narrow(1, first, group);
                let mut scores = heads(from)?.matmul(&heads(to)?.transpose(2, 3)?)?;
                if scale != 1.0 {
                    scores = (scores * scale)?;
                }
                softmax_last_dim(&scores)?.matmul(&heads(value)?)
            })
            .collect::<candle_core::Result<Vec<_>>>()?;
        let joined = Tensor::cat(&joined, 1)?
            .transpose(1, 2)?
            .reshape((batch, count, width))?;
        Ok(linear_onto(residual, &self.output, &joined)?)
    }
}

/// The feed-forward layers.
pub(crate) enum FeedForward {
    /// Two layers with an activation between them.
    Plain {
        up: Linear,
        activation: Activation,
        down: Linear,
    },
    /// One layer to twice the width, its halves multiplied, and one back (DINOv2 ViT-g).
    SwiGlu { both: Linear, down: Linear },
}

impl FeedForward {
    /// `residual + feed_forward(tokens)`.
    fn onto(&self, residual: &Tensor, tokens: &Tensor) -> Result<Tensor, BackboneError> {
        Ok(match self {
            Self::Plain {
                up,
                activation,
                down,
            } => linear_onto(residual, down, &linear_activated(up, tokens, *activation)?)?,
            Self::SwiGlu { both, down } => {
                let halves = linear(both, tokens)?.chunk(2, 2)?;
                let product = (halves[0].silu()? * &halves[1])?;
                linear_onto(residual, down, &product)?
            }
        })
    }
}

/// The patches of `images` `[batch, 3, height, width]` as rows, `[batch, patches, 3 * patch *
/// patch]`: patches do not overlap, so that their projection is a matrix product.
pub(crate) fn patches(images: &Tensor, patch: usize) -> candle_core::Result<Tensor> {
    let (batch, channels, height, width) = images.dims4()?;
    let (rows, columns) = (height / patch, width / patch);
    images
        .reshape(&[batch, channels, rows, patch, columns, patch][..])?
        .permute([0, 2, 4, 1, 3, 5])?
        .reshape((batch, rows * columns, channels * patch * patch))
}
