//! Reads a block of DINOv2: separate projections, LayerScale on both branches.

use candle_core::{Device, Tensor};
use candle_nn::Linear;

use super::config::{Config, FeedForwardKind};
use super::layer_norm;
use crate::BackboneError;
use crate::checkpoint::Checkpoint;
use crate::ops::Activation;
use crate::transformer::{Attention, Block, FeedForward};

/// The block whose tensors' names start with `name`; LayerScale is folded into the linear layers
/// that it follows.
pub(super) fn read(
    checkpoint: &Checkpoint,
    name: &str,
    config: &Config,
    device: &Device,
) -> Result<Block, BackboneError> {
    let Config { width, heads, .. } = *config;
    let reader = Reader {
        checkpoint,
        name,
        device,
    };
    let scale =
        |i: usize| checkpoint.tensor(&format!("{name}.layer_scale{i}.lambda1"), &[width], device);
    let part = |part: &str| reader.tensors(&format!("attention.attention.{part}"), width, width);
    let (query, key, value) = (part("query")?, part("key")?, part("value")?);
    Ok(Block {
        norm1: layer_norm(checkpoint, &format!("{name}.norm1"), width, device)?,
        attention: Attention::new(
            &Tensor::cat(&[query.0, key.0, value.0], 0)?,
            &Tensor::cat(&[query.1, key.1, value.1], 0)?,
            reader.scaled("attention.output.dense", width, &scale(1)?)?,
            heads,
        )?,
        norm2: layer_norm(checkpoint, &format!("{name}.norm2"), width, device)?,
        feed_forward: reader.feed_forward(config, &scale(2)?)?,
    })
}

/// Reads a block's linear layers.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    name: &'a str,
    device: &'a Device,
}

impl Reader<'_> {
    /// Weight `[out, in]` and bias `[out]` of the layer `name`.
    fn tensors(
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

    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, BackboneError> {
        let (weight, bias) = self.tensors(name, inputs, outputs)?;
        Ok(Linear::new(weight, Some(bias)))
    }

    /// The layer `name` with every output multiplied by `scale`, `[out]`.
    fn scaled(&self, name: &str, inputs: usize, scale: &Tensor) -> Result<Linear, BackboneError> {
        let (weight, bias) = self.tensors(name, inputs, scale.dim(0)?)?;
        Ok(Linear::new(
            weight.broadcast_mul(&scale.unsqueeze(1)?)?,
            Some((bias * scale)?),
        ))
    }

    fn feed_forward(&self, config: &Config, scale: &Tensor) -> Result<FeedForward, BackboneError> {
        Ok(match config.feed_forward {
            FeedForwardKind::Gelu(middle) => FeedForward::Plain {
                up: self.linear("mlp.fc1", config.width, middle)?,
                activation: Activation::Gelu,
                down: self.scaled("mlp.fc2", middle, scale)?,
            },
            FeedForwardKind::SwiGlu(middle) => FeedForward::SwiGlu {
                both: self.linear("mlp.weights_in", config.width, 2 * middle)?,
                down: self.scaled("mlp.weights_out", middle, scale)?,
            },
        })
    }
}
