//! The weights of a vision transformer as plain slices, and the layers packed from them.

use super::VitConfig;
use crate::engine::{Engine, Precision};
use crate::error::ShapeError;
use crate::linear::PackedLinear;
use crate::product::{Epilogue, PANEL};
use crate::rows::LayerNorm;

/// Weight `[outputs, inputs]` and bias `[outputs]`.
#[derive(Debug, Clone, Copy)]
pub struct LinearWeights<'a> {
    /// Row by row.
    pub weight: &'a [f32],
    /// One for each output.
    pub bias: &'a [f32],
}

/// The weights of a layer norm.
#[derive(Debug, Clone, Copy)]
pub struct NormWeights<'a> {
    /// One for each input.
    pub weight: &'a [f32],
    /// One for each input.
    pub bias: &'a [f32],
}

/// What comes before the first block.
#[derive(Debug, Clone, Copy)]
pub struct StemWeights<'a> {
    /// `[width, 3 * patch * patch]` and a bias, which may be zeros.
    pub patch: LinearWeights<'a>,
    /// `[width]`
    pub class_token: &'a [f32],
    /// CLIP's layer norm before the first block.
    pub norm: Option<NormWeights<'a>>,
}

/// The weights of one block.
#[derive(Debug, Clone, Copy)]
pub struct BlockWeights<'a> {
    /// Before attention.
    pub norm1: NormWeights<'a>,
    /// Queries, keys and values, in this order.
    pub qkv: LinearWeights<'a>,
    /// After attention.
    pub output: LinearWeights<'a>,
    /// LayerScale after attention, if there is one.
    pub scale1: Option<&'a [f32]>,
    /// Before the feed-forward layers.
    pub norm2: NormWeights<'a>,
    /// The first feed-forward layer; of SwiGLU first all gates, then all values.
    pub up: LinearWeights<'a>,
    /// The second one.
    pub down: LinearWeights<'a>,
    /// LayerScale after the feed-forward layers, if there is one.
    pub scale2: Option<&'a [f32]>,
}

/// What follows the last block.
#[derive(Debug, Clone, Copy)]
pub struct HeadWeights<'a> {
    /// The final layer norm.
    pub norm: NormWeights<'a>,
    /// `[outputs, width]` without bias, to the space that images and texts share.
    pub projection: Option<&'a [f32]>,
}

/// A packed block.
pub(super) struct Block {
    pub(super) norm1: LayerNorm,
    pub(super) qkv: PackedLinear,
    pub(super) output: PackedLinear,
    pub(super) norm2: LayerNorm,
    pub(super) up: PackedLinear,
    pub(super) down: PackedLinear,
}

/// Packs layers, checking their shapes.
#[derive(Clone, Copy)]
pub(super) struct Packer<'a> {
    pub(super) engine: Engine,
    pub(super) precision: Precision,
    pub(super) config: &'a VitConfig,
    pub(super) width: usize,
}

impl Packer<'_> {
    /// The same for layers whose inputs or outputs do not suit 8 bits: pixels and final tokens.
    pub(super) fn wide(self) -> Self {
        Self {
            precision: self.precision.wide(),
            ..self
        }
    }

    pub(super) fn norm(&self, norm: NormWeights) -> Result<LayerNorm, ShapeError> {
        ShapeError::check("weight of a layer norm", norm.weight.len(), self.width)?;
        LayerNorm::new(norm.weight, norm.bias, self.config.epsilon)
    }

    /// A layer, with every output multiplied by its `scale`.
    pub(super) fn linear(
        &self,
        what: &'static str,
        layer: LinearWeights,
        inputs: usize,
        outputs: usize,
        scale: Option<&[f32]>,
    ) -> Result<PackedLinear, ShapeError> {
        ShapeError::check(what, layer.weight.len(), inputs * outputs)?;
        ShapeError::check(what, layer.bias.len(), outputs)?;
        let Some(scale) = scale else {
            return PackedLinear::new(self.engine, self.precision, layer.weight, layer.bias);
        };
        ShapeError::check("LayerScale", scale.len(), outputs)?;
        let rows = layer.weight.chunks_exact(inputs).zip(scale);
        let weight: Vec<f32> = rows
            .flat_map(|(row, scale)| row.iter().map(move |x| x * scale))
            .collect();
        let bias: Vec<f32> = layer
            .bias
            .iter()
            .zip(scale)
            .map(|(x, scale)| x * scale)
            .collect();
        PackedLinear::new(self.engine, self.precision, &weight, &bias)
    }

    pub(super) fn block(&self, weights: &BlockWeights) -> Result<Block, ShapeError> {
        let width = self.width;
        let (up, middle) = match self.config.activation {
            Epilogue::SwiGlu => {
                let (weight, bias) = interleaved(weights.up, width)?;
                let up = PackedLinear::new(self.engine, self.precision, &weight, &bias)?;
                (up, weights.up.bias.len() / 2)
            }
            _ => {
                let middle = weights.up.bias.len();
                let name = "first feed-forward layer";
                (self.linear(name, weights.up, width, middle, None)?, middle)
            }
        };
        let down = self.linear(
            "second feed-forward layer",
            weights.down,
            middle,
            width,
            weights.scale2,
        )?;
        Ok(Block {
            norm1: self.norm(weights.norm1)?,
            qkv: self.linear("query, key and value", weights.qkv, width, 3 * width, None)?,
            output: self.linear(
                "attention's output",
                weights.output,
                width,
                width,
                weights.scale1,
            )?,
            norm2: self.norm(weights.norm2)?,
            up,
            down: match self.config.activation.lowest() {
                Some(lowest) => down.above(lowest),
                None => down,
            },
        })
    }
}

/// Gates and values of SwiGLU side by side in every panel, see [`Epilogue::SwiGlu`].
fn interleaved(up: LinearWeights, width: usize) -> Result<(Vec<f32>, Vec<f32>), ShapeError> {
    const HALF: usize = PANEL / 2;
    let middle = up.bias.len() / 2;
    let what = "first feed-forward layer";
    ShapeError::check(what, middle, middle.next_multiple_of(HALF))?;
    ShapeError::check(what, up.weight.len(), 2 * middle * width)?;
    let (mut weight, mut bias) = (vec![], vec![]);
    for first in (0..middle).step_by(HALF) {
        for first in [first, middle + first] {
            weight.extend_from_slice(&up.weight[first * width..(first + HALF) * width]);
            bias.extend_from_slice(&up.bias[first..first + HALF]);
        }
    }
    Ok((weight, bias))
}
