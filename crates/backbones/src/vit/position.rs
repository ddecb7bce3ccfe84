//! Position embeddings on other grids than they were trained on.

use candle_core::Tensor;

use super::parts::{PositionResize, Shape};
use crate::{BackboneError, Grid, clip, dinov2};

/// `positions` `[1 + side * side, width]`, the class token's first, for `grid`:
/// `[1 + rows * columns, width]`.
pub(super) fn resize(
    positions: &Tensor,
    shape: &Shape,
    grid: Grid,
) -> Result<Tensor, BackboneError> {
    let (side, width) = (shape.position_side, shape.width);
    if grid.rows == side && grid.columns == side {
        return Ok(positions.clone());
    }
    // The weights `[to, side]` of the trained positions for each of `to` new ones on one axis:
    // every interpolation of the field is a product on each.
    let matrix = |to: usize| {
        let weights = match shape.position_resize {
            PositionResize::DinoV2(rule) => dinov2::position_weights(side, to, rule),
            PositionResize::Clip(rule) => clip::position_weights(side, to, rule),
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
