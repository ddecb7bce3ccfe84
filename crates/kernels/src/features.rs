//! What a network gives for an image: plain numbers, whatever the network.

use serde::{Deserialize, Serialize};

use crate::LayerId;

/// The places of an image that have a token each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    /// Places from top to bottom.
    pub rows: usize,
    /// Places from left to right.
    pub columns: usize,
}

impl Grid {
    /// Places in all.
    pub fn len(self) -> usize {
        self.rows * self.columns
    }

    /// Whether there is no place at all.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The tokens of one image after one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureMap {
    /// The layer.
    pub layer: LayerId,
    /// The places that the tokens belong to: patches of a transformer, cells of a convolution.
    pub grid: Grid,
    /// Length of a token.
    pub dim: usize,
    /// `[rows * columns, dim]`, row by row.
    pub tokens: Vec<f32>,
    /// `[dim]`; none where the network has no class token.
    pub class_token: Option<Vec<f32>>,
}

/// The features of one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageFeatures {
    /// One for each layer that was requested, in that order.
    pub maps: Vec<FeatureMap>,
    /// `[embedding width]`, if it was requested.
    pub embedding: Option<Vec<f32>>,
    /// Those of the same image as it is seen otherwise, by another network or at another size.
    pub further: Vec<ImageFeatures>,
}

impl ImageFeatures {
    /// The places of the first map: those of every map of a transformer. None without maps.
    pub fn grid(&self) -> Grid {
        let nowhere = Grid {
            rows: 0,
            columns: 0,
        };
        self.maps.first().map_or(nowhere, |map| map.grid)
    }

    /// The tokens after `layer`, if they are there.
    pub fn map(&self, layer: LayerId) -> Option<&FeatureMap> {
        self.maps.iter().find(|map| map.layer == layer)
    }

    /// The tokens after the block of a transformer or the stage of a convolutional network with this
    /// number, counted from 1, if they are there.
    pub fn layer(&self, number: usize) -> Option<&FeatureMap> {
        let mut maps = self.maps.iter();
        maps.find(|map| map.layer.number() == number)
    }
}
