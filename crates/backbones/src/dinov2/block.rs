//! One transformer block: self-attention and a feed-forward layer, each behind a layer norm and
//! scaled before it joins the residual.

use candle_core::{Device, Tensor};
use candle_nn::{LayerNorm, Linear, Module, ops::softmax_last_dim};

use super::config::{Config, FeedForward};
use super::layer_norm;
use crate::BackboneError;
use crate::checkpoint::Checkpoint;
use crate::ops::{linear, linear_gelu, linear_onto};

/// A block; LayerScale is folded into the linear layers that it follows.
pub(super) struct Block {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    feed_forward: Mlp,
}

impl Block {
    /// Reads the block whose tensors' names start with `name`.
    pub(super) fn new(
        checkpoint: &Checkpoint,
        name: &str,
        config: &Config,
        device: &Device,
    ) -> Result<Self, BackboneError> {
        let width = config.width;
        let scale = |i: usize| {
            checkpoint.tensor(&format!("{name}.layer_scale{i}.lambda1"), &[width], device)
        };
        let reader = Reader {
            checkpoint,
            name,
            device,
        };
        Ok(Self {
            norm1: layer_norm(checkpoint, &format!("{name}.norm1"), width, device)?,
            attention: Attention::new(&reader, config, &scale(1)?)?,
            norm2: layer_norm(checkpoint, &format!("{name}.norm2"), width, device)?,
            feed_forward: Mlp::new(&reader, config, &scale(2)?)?,
        })
    }

    /// `[batch, tokens, width]` to the same shape.
    pub(super) fn forward(&self, tokens: &Tensor) -> Result<Tensor, BackboneError> {
        let tokens = self.attention.onto(tokens, &self.norm1.forward(tokens)?)?;
        self.feed_forward
            .onto(&tokens, &self.norm2.forward(&tokens)?)
    }
}

/// Reads a block's linear layers.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    name: &'a str,
    device: &'a Device,
}

impl Reader<'_> {
    /// Weight `[out, in]` and bias `[out]` of the layer `name`.
    fn linear(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<(Tensor, Tensor), BackboneError> {
        let tensor = |part: &str, shape: &[usize]| {
            self.checkpoint
                .tensor(&format!("{}.{name}.{part}", self.name), shape, self.device)
        };
        Ok((
            tensor("weight", &[outputs, inputs])?,
            tensor("bias", &[outputs])?,
        ))
    }

    /// The layer `name` with every output multiplied by `scale`, `[out]`.
    fn scaled(&self, name: &str, inputs: usize, scale: &Tensor) -> Result<Linear, BackboneError> {
        let (weight, bias) = self.linear(name, inputs, scale.dim(0)?)?;
        Ok(Linear::new(
            weight.broadcast_mul(&scale.unsqueeze(1)?)?,
            Some((bias * scale)?),
        ))
    }
}

/// Multi-head self-attention.
struct Attention {
    /// Query, key and value as one layer; the query carries the factor 1 / sqrt(head width).
    qkv: Linear,
    output: Linear,
    heads: usize,
}

impl Attention {
    fn new(reader: &Reader, config: &Config, scale: &Tensor) -> Result<Self, BackboneError> {
        let Config { width, heads, .. } = *config;
        let part = |name: &str| reader.linear(&format!("attention.attention.{name}"), width, width);
        let (query, key, value) = (part("query")?, part("key")?, part("value")?);
        let factor = ((width / heads) as f64).sqrt().recip();
        let weight = Tensor::cat(&[(query.0 * factor)?, key.0, value.0], 0)?;
        let bias = Tensor::cat(&[(query.1 * factor)?, key.1, value.1], 0)?;
        Ok(Self {
            qkv: Linear::new(weight, Some(bias)),
            output: reader.scaled("attention.output.dense", width, scale)?,
            heads,
        })
    }

    /// `residual + attention(tokens)`.
    fn onto(&self, residual: &Tensor, tokens: &Tensor) -> Result<Tensor, BackboneError> {
        let (batch, count, width) = tokens.dims3()?;
        let qkv = linear(&self.qkv, tokens)?
            .reshape((batch, count, 3, self.heads, width / self.heads))?
            .permute((2, 0, 3, 1, 4))?
            .contiguous()?;
        let scores = qkv.get(0)?.matmul(&qkv.get(1)?.transpose(2, 3)?)?;
        let joined = softmax_last_dim(&scores)?.matmul(&qkv.get(2)?)?;
        let joined = joined.transpose(1, 2)?.reshape((batch, count, width))?;
        Ok(linear_onto(residual, &self.output, &joined)?)
    }
}

/// The feed-forward layers.
enum Mlp {
    Gelu { up: Linear, down: Linear },
    SwiGlu { both: Linear, down: Linear },
}

impl Mlp {
    fn new(reader: &Reader, config: &Config, scale: &Tensor) -> Result<Self, BackboneError> {
        let linear = |name: &str, outputs: usize| {
            let (weight, bias) = reader.linear(name, config.width, outputs)?;
            Ok::<_, BackboneError>(Linear::new(weight, Some(bias)))
        };
        Ok(match config.feed_forward {
            FeedForward::Gelu(middle) => Self::Gelu {
                up: linear("mlp.fc1", middle)?,
                down: reader.scaled("mlp.fc2", middle, scale)?,
            },
            FeedForward::SwiGlu(middle) => Self::SwiGlu {
                both: linear("mlp.weights_in", 2 * middle)?,
                down: reader.scaled("mlp.weights_out", middle, scale)?,
            },
        })
    }

    /// `residual + feed_forward(tokens)`.
    fn onto(&self, residual: &Tensor, tokens: &Tensor) -> Result<Tensor, BackboneError> {
        Ok(match self {
            Self::Gelu { up, down } => linear_onto(residual, down, &linear_gelu(up, tokens)?)?,
            Self::SwiGlu { both, down } => {
                let halves = linear(both, tokens)?.chunk(2, 2)?;
                let product = (halves[0].silu()? * &halves[1])?;
                linear_onto(residual, down, &product)?
            }
        })
    }
}
