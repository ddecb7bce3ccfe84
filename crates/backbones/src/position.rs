//! Position embeddings on other grids than they were trained on.

use candle_core::Tensor;

use crate::{BackboneError, Grid};

/// `positions` `[1 + side * side, width]`, the class token's first, for `grid`:
/// `[1 + rows * columns, width]`. `matrix` gives the weights `[to, side]` of the trained positions
/// for each of `to` new ones on one axis: every interpolation of the field is a product on each.
pub(crate) fn resize(
    positions: &Tensor,
    side: usize,
    grid: Grid,
    matrix: impl Fn(usize) -> Vec<f32>,
) -> Result<Tensor, BackboneError> {
    if grid.rows == side && grid.columns == side {
        return Ok(positions.clone());
    }
    let width = positions.dim(1)?;
    let matrix = |to: usize| Tensor::from_vec(matrix(to), (to, side), positions.device());
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
