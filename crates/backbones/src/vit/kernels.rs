//! Weights of a vision transformer, packed for the kernels of this processor part by part.

use anomalens_kernels::{
    BlockWeights, Calibration, Engine, Epilogue, Grid, HeadWeights, Images, LinearWeights,
    NormWeights, Precision, StemWeights, Vit, VitConfig,
};
use candle_core::Tensor;

use super::parts::{FeedForward, Layer, Shape, Weights};
use super::{calibration_images, position};
use crate::BackboneError;

/// What the weights do not say to the kernels.
pub(super) fn config(shape: &Shape) -> VitConfig {
    VitConfig {
        heads: shape.heads,
        patch: shape.patch,
        epsilon: shape.epsilon as f32,
        activation: match shape.feed_forward {
            FeedForward::Plain(activation) => activation.epilogue(),
            FeedForward::SwiGlu => Epilogue::SwiGlu,
        },
    }
}

/// Images that the weights of 8-bit layers are fitted to, and patches on either side of each.
const CALIBRATION_IMAGES: usize = 16;
const CALIBRATION_GRID: usize = 8;

/// Packs the first `blocks` blocks of a network, one after the other; `positions` is its position
/// embedding.
pub(super) fn pack(
    engine: Engine,
    precision: Precision,
    shape: &Shape,
    blocks: usize,
    weights: &dyn Weights,
    positions: &Tensor,
) -> Result<Vit, BackboneError> {
    let stem = weights.stem()?;
    let patch = Numbers::of(stem.projection)?;
    let class_token = numbers(&stem.class_token)?;
    let norm = stem.norm.map(Numbers::of).transpose()?;
    let head = weights.head()?;
    let final_norm = Numbers::of(head.norm)?;
    let projection = head
        .projection
        .map(|matrix| numbers(&matrix.t()?))
        .transpose()?;
    let mut vit = Vit::new(
        engine,
        precision,
        config(shape),
        &StemWeights {
            patch: patch.linear(),
            class_token: &class_token,
            norm: norm.as_ref().map(Numbers::norm),
        },
        &HeadWeights {
            norm: final_norm.norm(),
            projection: projection.as_deref(),
        },
    )?;
    let mut calibration = match precision {
        Precision::Int8 if engine.has_int8() => Some(calibration(&vit, shape, positions)?),
        _ => None,
    };
    for i in 0..blocks {
        let parts = weights.block(i)?;
        let (norm1, norm2) = (Numbers::of(parts.norm1)?, Numbers::of(parts.norm2)?);
        let (qkv, output) = (Numbers::of(parts.qkv)?, Numbers::of(parts.output)?);
        let (up, down) = (Numbers::of(parts.up)?, Numbers::of(parts.down)?);
        let scale1 = parts.scale1.as_ref().map(numbers).transpose()?;
        let scale2 = parts.scale2.as_ref().map(numbers).transpose()?;
        let block = BlockWeights {
            norm1: norm1.norm(),
            qkv: qkv.linear(),
            output: output.linear(),
            scale1: scale1.as_deref(),
            norm2: norm2.norm(),
            up: up.linear(),
            down: down.linear(),
            scale2: scale2.as_deref(),
        };
        vit.push(&block, calibration.as_mut())?;
    }
    Ok(vit)
}

/// Images for a network to be fitted to.
fn calibration(vit: &Vit, shape: &Shape, positions: &Tensor) -> Result<Calibration, BackboneError> {
    let side = CALIBRATION_GRID * shape.patch;
    let pixels = calibration_images::draw(CALIBRATION_IMAGES, side);
    let grid = Grid {
        rows: CALIBRATION_GRID,
        columns: CALIBRATION_GRID,
    };
    let images = Images {
        pixels: pixels.chunks_exact(3 * side * side).collect(),
        height: side,
        width: side,
    };
    let positions = numbers(&position::resize(
        positions,
        shape,
        grid,
        shape.position_resize,
    )?)?;
    Ok(vit.calibration(&images, &positions)?)
}

/// The values of a layer.
struct Numbers {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Numbers {
    fn of(layer: Layer) -> candle_core::Result<Self> {
        Ok(Self {
            weight: numbers(&layer.weight)?,
            bias: numbers(&layer.bias)?,
        })
    }

    fn linear(&self) -> LinearWeights<'_> {
        LinearWeights {
            weight: &self.weight,
            bias: &self.bias,
        }
    }

    fn norm(&self) -> NormWeights<'_> {
        NormWeights {
            weight: &self.weight,
            bias: &self.bias,
        }
    }
}

/// The values of a tensor, row by row.
pub(super) fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
