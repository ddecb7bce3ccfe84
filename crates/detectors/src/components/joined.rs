//! Maps of several layers as one: coarse ones are brought to the grid of a finer one, and the tokens of each
//! place stand one layer's after the other's.

use std::borrow::Cow;

use anomalens_backbones::{FeatureMap, Grid};

/// The tokens of one layer.
pub(crate) struct Cells<'a> {
    /// `[places, width]`.
    pub(crate) tokens: Cow<'a, [f32]>,
    pub(crate) grid: Grid,
    /// Length of a token.
    pub(crate) width: usize,
}

impl<'a> Cells<'a> {
    /// Those of `map` as they are.
    pub(crate) fn of(map: &'a FeatureMap) -> Self {
        Self {
            tokens: Cow::Borrowed(&map.tokens),
            grid: map.grid,
            width: map.dim,
        }
    }
}

/// How a coarse map is brought to a finer grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampling {
    /// Between the centres of the cells around.
    Bilinear,
    /// The cell that the place lies in.
    Nearest,
}

impl Sampling {
    /// The cells of `coarse` along a side that place `at` of `fine` is made of, and their weights.
    pub(crate) fn along(self, at: usize, fine: usize, coarse: usize) -> [(usize, f32); 2] {
        match self {
            Self::Nearest => [(at * coarse / fine, 1.0), (0, 0.0)],
            Self::Bilinear => {
                let centre = (at as f32 + 0.5) * coarse as f32 / fine as f32 - 0.5;
                let centre = centre.clamp(0.0, (coarse - 1) as f32);
                let lower = centre as usize;
                let part = centre - lower as f32;
                [(lower, 1.0 - part), ((lower + 1).min(coarse - 1), part)]
            }
        }
    }
}

/// The grid with the most places.
pub(crate) fn finest(layers: &[Cells<'_>]) -> Grid {
    let nowhere = Grid {
        rows: 0,
        columns: 0,
    };
    let grids = layers.iter().map(|layer| layer.grid);
    grids.max_by_key(|grid| grid.len()).unwrap_or(nowhere)
}

/// `layers` on `grid`, `[places, sum of their widths]`.
pub(crate) fn join(layers: &[Cells<'_>], grid: Grid, sampling: Sampling) -> Vec<f32> {
    let dim: usize = layers.iter().map(|layer| layer.width).sum();
    let mut tokens = vec![0.0; grid.len() * dim];
    let mut before = 0;
    for layer in layers.iter().filter(|layer| !layer.grid.is_empty()) {
        for (at, token) in tokens.chunks_exact_mut(dim).enumerate() {
            let place = (at / grid.columns, at % grid.columns);
            add_cell(
                &mut token[before..][..layer.width],
                layer,
                grid,
                place,
                sampling,
            );
        }
        before += layer.width;
    }
    tokens
}

/// Adds what `layer` has at a place of the finer `grid`.
fn add_cell(
    token: &mut [f32],
    layer: &Cells<'_>,
    grid: Grid,
    (row, column): (usize, usize),
    sampling: Sampling,
) {
    let Grid { rows, columns } = layer.grid;
    for (row, down) in sampling.along(row, grid.rows, rows) {
        for (column, right) in sampling.along(column, grid.columns, columns) {
            let weight = down * right;
            if weight > 0.0 {
                let cell = &layer.tokens[(row * columns + column) * layer.width..][..layer.width];
                let values = token.iter_mut().zip(cell);
                values.for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }
}
