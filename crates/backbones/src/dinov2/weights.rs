//! Reads DINOv2's tensors: separate projections, LayerScale on both branches.

use candle_core::{Device, Tensor};

use super::CLASS_TOKEN;
use super::config::{Config, FeedForwardKind};
use crate::BackboneError;
use crate::checkpoint::Checkpoint;
use crate::vit::parts::{BlockParts, Head, Layer, Stem, Weights};

/// The weights of a network of a known configuration.
pub(super) struct DinoWeights<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) config: &'a Config,
}

impl DinoWeights<'_> {
    fn norm(&self, name: &str) -> Result<Layer, BackboneError> {
        self.layer(name, &[self.config.width])
    }

    /// Weight of `shape`, whose first side is that of the bias.
    fn layer(&self, name: &str, shape: &[usize]) -> Result<Layer, BackboneError> {
        let tensor = |part: &str, shape: &[usize]| {
            self.checkpoint
                .tensor(&format!("{name}.{part}"), shape, &Device::Cpu)
        };
        Ok(Layer {
            weight: tensor("weight", shape)?,
            bias: tensor("bias", &shape[..1])?,
        })
    }
}

impl Weights for DinoWeights<'_> {
    fn positions(&self) -> Result<Tensor, BackboneError> {
        let shape = [1, 1 + self.config.position_side.pow(2), self.config.width];
        let positions =
            self.checkpoint
                .tensor("embeddings.position_embeddings", &shape, &Device::Cpu)?;
        Ok(positions.squeeze(0)?)
    }

    fn stem(&self) -> Result<Stem, BackboneError> {
        let Config { width, patch, .. } = *self.config;
        let projection = "embeddings.patch_embeddings.projection";
        let Layer { weight, bias } = self.layer(projection, &[width, 3, patch, patch])?;
        Ok(Stem {
            projection: Layer {
                weight: weight.flatten_from(1)?,
                bias,
            },
            class_token: self
                .checkpoint
                .tensor(CLASS_TOKEN, &[1, 1, width], &Device::Cpu)?
                .flatten_all()?,
            norm: None,
        })
    }

    fn block(&self, i: usize) -> Result<BlockParts, BackboneError> {
        let width = self.config.width;
        let block = format!("encoder.layer.{i}");
        let layer = |name: &str, outputs: usize, inputs: usize| {
            self.layer(&format!("{block}.{name}"), &[outputs, inputs])
        };
        let scale = |i: usize| {
            let name = format!("{block}.layer_scale{i}.lambda1");
            self.checkpoint.tensor(&name, &[width], &Device::Cpu)
        };
        let part = |part: &str| layer(&format!("attention.attention.{part}"), width, width);
        let (query, key, value) = (part("query")?, part("key")?, part("value")?);
        let (up, down) = match self.config.feed_forward {
            FeedForwardKind::Gelu(middle) => (
                layer("mlp.fc1", middle, width)?,
                layer("mlp.fc2", width, middle)?,
            ),
            FeedForwardKind::SwiGlu(middle) => (
                layer("mlp.weights_in", 2 * middle, width)?,
                layer("mlp.weights_out", width, middle)?,
            ),
        };
        Ok(BlockParts {
            norm1: self.norm(&format!("{block}.norm1"))?,
            qkv: Layer {
                weight: Tensor::cat(&[query.weight, key.weight, value.weight], 0)?,
                bias: Tensor::cat(&[query.bias, key.bias, value.bias], 0)?,
            },
            output: layer("attention.output.dense", width, width)?,
            scale1: Some(scale(1)?),
            norm2: self.norm(&format!("{block}.norm2"))?,
            up,
            down,
            scale2: Some(scale(2)?),
        })
    }

    fn head(&self) -> Result<Head, BackboneError> {
        Ok(Head {
            norm: self.norm("layernorm")?,
            projection: None,
        })
    }
}
