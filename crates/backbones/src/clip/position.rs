//! CLIP's position embedding on other grids than it was trained on.

use candle_core::Tensor;

use super::PositionResize;
use crate::{BackboneError, Grid};

/// The kernel's parameter where resizing is antialiased, as in Pillow.
const CUBIC_A: f64 = -0.5;

/// `positions` `[1 + side * side, width]` for `grid`: `[1 + rows * columns, width]`, always from
/// the trained table.
pub(super) fn resize(
    positions: &Tensor,
    side: usize,
    grid: Grid,
    rule: PositionResize,
) -> Result<Tensor, BackboneError> {
    if grid.rows == side && grid.columns == side {
        return Ok(positions.clone());
    }
    let width = positions.dim(1)?;
    let matrix = |to: usize| {
        let weights = match rule {
            PositionResize::Bilinear => bilinear(side, to),
            PositionResize::BicubicAntialias => bicubic_antialias(side, to),
        };
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

/// Row-major `[to, from]`: half-pixel centres, borders repeated.
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

/// Row-major `[to, from]`: the kernel is as wide as the larger of both steps, and its weights are
/// normalised over the taps that exist.
fn bicubic_antialias(from: usize, to: usize) -> Vec<f32> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let mut matrix = vec![0.0; from * to];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - 2.0 * stretch + 0.5).max(0.0) as usize;
        let end = ((centre + 2.0 * stretch + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..end)
            .map(|j| cubic((j as f64 - centre + 0.5) / stretch))
            .collect();
        let sum: f64 = weights.iter().sum();
        for (value, weight) in row[first..end].iter_mut().zip(weights) {
            *value = (weight / sum) as f32;
        }
    }
    matrix
}

/// The cubic convolution kernel at distance `x`.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        CUBIC_A * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}
