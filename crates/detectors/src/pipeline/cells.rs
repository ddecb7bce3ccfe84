//! Maps of a convolutional network as patches: every cell is averaged with those around it, and coarse
//! maps are brought to the grid of the finest (PatchCore, section 3.1).

use std::borrow::Cow;

use anomalens_backbones::{FeatureMap, ImageFeatures};

use crate::components::joined::{Cells, Sampling, finest, join};
use crate::components::neighbourhood::average;

/// The maps of `features` as one, its tokens one map's after the other's: each averaged over a square of
/// `side` cells and of length 1, then resized bilinearly to the finest grid. It has the first one's layer.
pub(crate) fn joined_cells(features: ImageFeatures, side: usize) -> ImageFeatures {
    let Some(first) = features.maps.first() else {
        return features;
    };
    let layer = first.layer;
    let averaged = features.maps.iter().map(|map| Cells {
        tokens: Cow::Owned(average(&map.tokens, map.grid, map.dim, side)),
        ..Cells::of(map)
    });
    let averaged: Vec<Cells> = averaged.collect();
    let grid = finest(&averaged);
    ImageFeatures {
        maps: vec![FeatureMap {
            layer,
            grid,
            dim: averaged.iter().map(|cells| cells.width).sum(),
            tokens: join(&averaged, grid, Sampling::Bilinear),
            class_token: None,
        }],
        ..features
    }
}

#[cfg(test)]
mod tests {
    use anomalens_backbones::{Grid, LayerId};

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
