//! Settings of the self-similarity method.

use serde::{Deserialize, Serialize};

use super::NAME;
use crate::{DetectorError, Looks, Setup};

/// The settings, each with a default that was chosen on magnetic tile, KolektorSDD, textile and
/// drawn defects alone (docs/benchmarks/self-similarity.md).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// How often each image goes through the network: once, or a second time moved by half a patch.
    pub looks: Looks,
    /// Blocks whose tokens are compared, counted from 1; their distances are averaged.
    pub blocks: Vec<usize>,
    /// Part of the patches, the most distant ones, whose mean is the image's score.
    pub top_fraction: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            image_size: 224,
            looks: Looks::Once,
            blocks: vec![6, 9],
            top_fraction: 0.02,
        }
    }
}

impl Config {
    /// What the backbone must do, or why the settings cannot be.
    pub(super) fn setup(&self) -> Result<Setup, DetectorError> {
        let refuse = |reason: &str| {
            Err(DetectorError::Config {
                method: NAME,
                reason: reason.to_owned(),
            })
        };
        if !(self.top_fraction > 0.0 && self.top_fraction <= 1.0) {
            return refuse("`top_fraction` must be above 0 and at most 1");
        }
        Setup::square(NAME, self.image_size, &self.blocks)
    }
}
