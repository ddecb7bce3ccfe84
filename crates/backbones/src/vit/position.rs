//! Position embeddings on other grids than they were trained on.

use candle_core::Tensor;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::parts::Shape;
use crate::{BackboneError, Grid, PositionResize};

/// The cubic kernel's parameter in PyTorch, without antialiasing and with it (as in Pillow).
const CUBIC: f64 = -0.75;
const CUBIC_ANTIALIAS: f64 = -0.5;

/// `positions` `[1 + side * side, width]`, the class token's first, for `grid`:
/// `[1 + rows * columns, width]`.
pub(super) fn resize(
    positions: &Tensor,
    shape: &Shape,
    grid: Grid,
    rule: PositionResize,
) -> Result<Tensor, BackboneError> {
    let (side, width) = (shape.position_side, shape.width);
    if grid.rows == side && grid.columns == side {
        return Ok(positions.clone());
    }
    // Every interpolation of the field is a product on each axis.
    let matrix = |to: usize| {
        let weights = weights(side, to, rule);
        Tensor::from_vec(weights, (to, side), positions.device())
    };
    let patches = positions
        .narrow(0, 1, side * side)?
        .reshape((side, side * width))?;
    let rows = matrix(grid.rows)?
        .matmul(&patches)?
        .reshape((grid.rows, side, width))?;
    let patches = matrix(grid.columns)?
        .broadcast_left(grid.rows)?
        .matmul(&rows)?
        .reshape((grid.len(), width))?;
    Ok(Tensor::cat(&[positions.narrow(0, 0, 1)?, patches], 0)?)
}

/// Row-major `[to, from]`: the weights of the trained positions on one axis for each new one.
fn weights(from: usize, to: usize, rule: PositionResize) -> Vec<f32> {
    match rule {
        PositionResize::Bilinear => bilinear(from, to),
        PositionResize::Bicubic => bicubic(from, to, from as f64 / to as f64),
        PositionResize::BicubicPadded => bicubic(from, to, from as f64 / (to as f64 + 0.1)),
        PositionResize::BicubicAntialias => bicubic_antialias(from, to),
    }
}

/// Half-pixel centres, borders repeated.
fn bilinear(from: usize, to: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; from * to];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let source = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
        let first = source.floor();
        let part = source - first;
        let first = first as usize;
        row[first] += (1.0 - part) as f32;
        row[(first + 1).min(from - 1)] += part as f32;
    }
    matrix
}

/// Half-pixel centres, borders repeated; `step` from each new position to the next.
fn bicubic(from: usize, to: usize, step: f64) -> Vec<f32> {
    let mut matrix = vec![0.0; from * to];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let source = (i as f64 + 0.5) * step - 0.5;
        let first = source.floor();
        for tap in -1..=2 {
            let position = first + f64::from(tap);
            let index = position.clamp(0.0, (from - 1) as f64) as usize;
            row[index] += cubic(source - position, CUBIC) as f32;
        }
    }
    matrix
}

/// As PyTorch's `interpolate` with antialiasing: the kernel is as wide as the larger of both steps,
/// and its weights are normalised over the taps that exist.
fn bicubic_antialias(from: usize, to: usize) -> Vec<f32> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let mut matrix = vec![0.0; from * to];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - 2.0 * stretch + 0.5).max(0.0) as usize;
        let end = ((centre + 2.0 * stretch + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..end)
            .map(|j| cubic((j as f64 - centre + 0.5) / stretch, CUBIC_ANTIALIAS))
            .collect();
        let sum: f64 = weights.iter().sum();
        for (value, weight) in row[first..end].iter_mut().zip(weights) {
            *value = (weight / sum) as f32;
        }
    }
    matrix
}

/// The cubic convolution kernel with parameter `a` at distance `x`.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        a * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

/// A rule as packed files hold it: by the family of networks that has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stored {
    DinoV2(String),
    Clip(String),
}

pub(super) fn serialize<S: Serializer>(
    rule: &PositionResize,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let stored = match rule {
        PositionResize::Bicubic => Stored::DinoV2("exact-size".to_owned()),
        PositionResize::BicubicPadded => Stored::DinoV2("padded-scale".to_owned()),
        PositionResize::Bilinear => Stored::Clip("bilinear".to_owned()),
        PositionResize::BicubicAntialias => Stored::Clip("bicubic-antialias".to_owned()),
    };
    stored.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<PositionResize, D::Error> {
    let (Stored::DinoV2(rule) | Stored::Clip(rule)) = Stored::deserialize(deserializer)?;
    match rule.as_str() {
        "exact-size" => Ok(PositionResize::Bicubic),
        "padded-scale" => Ok(PositionResize::BicubicPadded),
        "bilinear" => Ok(PositionResize::Bilinear),
        "bicubic-antialias" => Ok(PositionResize::BicubicAntialias),
        _ => Err(de::Error::custom(format_args!(
            "no position rule is called `{rule}`"
        ))),
    }
}
