//! The pre-norm transformer block on candle: self-attention and a feed-forward layer, each behind
//! a layer norm, each joining the residual.
//!
//! Beside its own stream a block can serve AnomalyCLIP's local one ("DPAM", section 3.3 of the
//! paper): attention of values (or queries, or keys) to themselves, without feed-forward layer.

use candle_core::{Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, ops::softmax_last_dim};

use super::Activation;
use super::parts::{self, BlockParts, Layer, Shape};
use crate::encoder::SelfAttention;

/// Attention scores held at once, in numbers: heads are worked on in groups of at most so many.
const SCORES_AT_ONCE: usize = 4 << 20;

/// A block; factors such as LayerScale are folded into the layers that they follow.
pub(super) struct Block {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    feed_forward: FeedForward,
}

impl Block {
    pub(super) fn new(parts: BlockParts, shape: &Shape) -> Result<Self> {
        let down = linear(parts.down, parts.scale2.as_ref())?;
        let up = linear(parts.up, None)?;
        Ok(Self {
            norm1: layer_norm(parts.norm1, shape.epsilon),
            attention: Attention {
                qkv: linear(parts.qkv, None)?,
                output: linear(parts.output, parts.scale1.as_ref())?,
                heads: shape.heads,
            },
            norm2: layer_norm(parts.norm2, shape.epsilon),
            feed_forward: match shape.feed_forward {
                parts::FeedForward::Plain(activation) => FeedForward::Plain {
                    up,
                    activation,
                    down,
                },
                parts::FeedForward::SwiGlu => FeedForward::SwiGlu { both: up, down },
            },
        })
    }

    /// `[batch, tokens, width]` to the same shape.
    pub(super) fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let heads = self.attention.project(&self.norm1.forward(tokens)?)?;
        let tokens = (tokens + self.attention.of(&heads, None)?)?;
        self.feed_forward(&tokens)
    }

    /// The next state of the block's own stream and of the local one, both
    /// `[batch, tokens, width]`; the local stream attends with the own stream's projections.
    pub(super) fn forward_dual(
        &self,
        tokens: &Tensor,
        local: &Tensor,
        kind: SelfAttention,
    ) -> Result<(Tensor, Tensor)> {
        let heads = self.attention.project(&self.norm1.forward(tokens)?)?;
        let local = (local + self.attention.of(&heads, Some(kind))?)?;
        let tokens = (tokens + self.attention.of(&heads, None)?)?;
        Ok((self.feed_forward(&tokens)?, local))
    }

    fn feed_forward(&self, tokens: &Tensor) -> Result<Tensor> {
        tokens + self.feed_forward.forward(&self.norm2.forward(tokens)?)?
    }
}

/// Multi-head self-attention.
struct Attention {
    /// Query, key and value as one layer.
    qkv: Linear,
    output: Linear,
    heads: usize,
}

/// Queries, keys and values of every head, each `[batch, heads, tokens, head width]`.
struct Heads {
    query: Tensor,
    key: Tensor,
    value: Tensor,
}

impl Attention {
    /// Queries, keys and values of normalised `tokens`.
    fn project(&self, tokens: &Tensor) -> Result<Heads> {
        let (batch, count, width) = tokens.dims3()?;
        let qkv = self
            .qkv
            .forward(tokens)?
            .reshape((batch, count, 3, self.heads, width / self.heads))?
            .permute((2, 0, 3, 1, 4))?
            .contiguous()?;
        Ok(Heads {
            query: qkv.get(0)?,
            key: qkv.get(1)?,
            value: qkv.get(2)?,
        })
    }

    /// The attention of queries to keys or of one projection to itself.
    fn of(&self, heads: &Heads, local: Option<SelfAttention>) -> Result<Tensor> {
        let Heads { query, key, value } = heads;
        let (from, to) = match local {
            None => (query, key),
            Some(SelfAttention::Values) => (value, value),
            Some(SelfAttention::Keys) => (key, key),
            Some(SelfAttention::Queries) => (query, query),
        };
        let (batch, _, count, head_width) = value.dims4()?;
        let scale = (head_width as f64).sqrt().recip();
        let group = (SCORES_AT_ONCE / (batch * count * count)).clamp(1, self.heads);
        let joined = (0..self.heads)
            .step_by(group)
            .map(|first| {
                let group = group.min(self.heads - first);
                let heads = |x: &Tensor| x.narrow(1, first, group)?.contiguous();
                let keys = heads(to)?.transpose(2, 3)?.contiguous()?;
                let scores = (heads(from)?.matmul(&keys)? * scale)?;
                softmax_last_dim(&scores)?.matmul(&heads(value)?)
            })
            .collect::<Result<Vec<_>>>()?;
        let joined = Tensor::cat(&joined, 1)?.transpose(1, 2)?.reshape((
            batch,
            count,
            self.heads * head_width,
        ))?;
        self.output.forward(&joined)
    }
}

/// The feed-forward layers.
enum FeedForward {
    /// Two layers with an activation between them.
    Plain {
        up: Linear,
        activation: Activation,
        down: Linear,
    },
    /// One layer to twice the width, its halves multiplied, and one back.
    SwiGlu { both: Linear, down: Linear },
}

impl FeedForward {
    fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain {
                up,
                activation,
                down,
            } => down.forward(&activation.apply(&up.forward(tokens)?)?),
            Self::SwiGlu { both, down } => {
                let halves = both.forward(tokens)?.chunk(2, 2)?;
                down.forward(&(halves[0].silu()? * &halves[1])?)
            }
        }
    }
}

/// A layer with every output multiplied by `scale` `[out]`.
pub(super) fn linear(layer: Layer, scale: Option<&Tensor>) -> Result<Linear> {
    let Layer { weight, bias } = layer;
    Ok(match scale {
        Some(scale) => Linear::new(
            weight.broadcast_mul(&scale.unsqueeze(1)?)?,
            Some((bias * scale)?),
        ),
        None => Linear::new(weight, Some(bias)),
    })
}

pub(super) fn layer_norm(layer: Layer, epsilon: f64) -> LayerNorm {
    LayerNorm::new(layer.weight, layer.bias, epsilon)
}
