//! Maps of a convolutional network as patches: every cell is averaged with those around it, and coarse
//! maps are brought to the grid of the finest (PatchCore, section 3.1).

use anomalens_backbones::{FeatureMap, Grid, ImageFeatures};

use crate::components::neighbourhood::average;

/// The maps of `features` as one, its tokens one map's after the other's: each averaged over a square of
/// `side` cells and of length 1, then resized bilinearly to the finest grid. It has the first one's layer.
pub(crate) fn joined_cells(features: ImageFeatures, side: usize) -> ImageFeatures {
    let Some(first) = features.maps.first() else {
        return features;
    };
    let grids = features.maps.iter().map(|map| map.grid);
    let grid = grids.max_by_key(|grid| grid.len()).unwrap_or(first.grid);
    let layer = first.layer;
    let dim = features.maps.iter().map(|map| map.dim).sum();
    let mut tokens = vec![0.0; grid.len() * dim];
    let mut before = 0;
    for map in &features.maps {
        let cells = average(&map.tokens, map.grid, map.dim, side);
        for (at, token) in tokens.chunks_exact_mut(dim).enumerate() {
            let place = (at / grid.columns, at % grid.columns);
            let token = &mut token[before..][..map.dim];
            add_cell(token, &cells, map, grid, place);
        }
        before += map.dim;
    }
    ImageFeatures {
        maps: vec![FeatureMap {
            layer,
            grid,
            dim,
            tokens,
            class_token: None,
        }],
        ..features
    }
}

/// Adds what `cells` of `map` have at a `place` of the finer `grid`.
fn add_cell(
    token: &mut [f32],
    cells: &[f32],
    map: &FeatureMap,
    grid: Grid,
    (row, column): (usize, usize),
) {
    for (row, down) in along(row, grid.rows, map.grid.rows) {
        for (column, right) in along(column, grid.columns, map.grid.columns) {
            let cell = &cells[(row * map.grid.columns + column) * map.dim..][..map.dim];
            let values = token.iter_mut().zip(cell);
            values.for_each(|(sum, value)| *sum += down * right * value);
        }
    }
}

/// The two cells of `coarse` along a side beside the centre of cell `at` of `fine`, and their weights.
fn along(at: usize, fine: usize, coarse: usize) -> [(usize, f32); 2] {
    let centre = (at as f32 + 0.5) * coarse as f32 / fine as f32 - 0.5;
    let centre = centre.clamp(0.0, (coarse - 1) as f32);
    let lower = centre as usize;
    let part = centre - lower as f32;
    [(lower, 1.0 - part), ((lower + 1).min(coarse - 1), part)]
}

#[cfg(test)]
mod tests {
    use anomalens_backbones::LayerId;

    use super::*;

    #[test]
    fn coarse_maps_are_brought_to_the_grid_of_the_finest() {
        let map = |number, rows, columns, tokens: &[f32]| FeatureMap {
            layer: LayerId::Stage(number),
            grid: Grid { rows, columns },
            dim: tokens.len() / (rows * columns),
            tokens: tokens.to_vec(),
            class_token: None,
        };
        let features = ImageFeatures {
            maps: vec![
                map(3, 1, 4, &[1.0, 2.0, 3.0, 4.0]),
                map(4, 1, 2, &[3.0, 4.0, 8.0, -6.0]),
            ],
            ..ImageFeatures::default()
        };
        let joined = joined_cells(features, 1);
        let map = joined.layer(3).unwrap();
        assert_eq!((map.grid.columns, map.dim, joined.maps.len()), (4, 3, 1));
        let expected = [
            [1.0, 0.6, 0.8],
            [1.0, 0.65, 0.45], // three quarters of the first, one of the second
            [1.0, 0.75, -0.25],
            [1.0, 0.8, -0.6],
        ];
        for (found, expected) in map.tokens.iter().zip(expected.as_flattened()) {
            assert!((found - expected).abs() < 1e-6, "{:?}", map.tokens);
        }
    }
}
