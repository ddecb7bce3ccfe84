//! Settings of AnomalyDINO.

use serde::{Deserialize, Serialize};

use super::NAME;
use crate::{DetectorError, Looks, Setup, Views};

/// The settings, with defaults that were chosen on the magnetic-tile and textile data sets, but for
/// the two weights (docs/benchmarks/few-shot.md tells why).
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
    /// Weight of a patch's distance to the rest of its own image, beside that to the shots; both
    /// are brought to the spread that they have on the shots.
    pub own_weight: f64,
    /// Weight of the mean token's distance in the image's score.
    pub image_weight: f64,
    /// In which views each shot is stored.
    pub views: Views,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            image_size: 224,
            looks: Looks::Once,
            blocks: vec![6, 9],
            top_fraction: 0.01,
            own_weight: 0.0,
            image_weight: 0.1,
            views: Views::Flips,
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
        for (weight, reason) in [
            (self.own_weight, "`own_weight` must be at least 0"),
            (self.image_weight, "`image_weight` must be at least 0"),
        ] {
            if !(weight >= 0.0 && weight.is_finite()) {
                return refuse(reason);
            }
        }
        if !(self.top_fraction > 0.0 && self.top_fraction <= 1.0) {
            return refuse("`top_fraction` must be above 0 and at most 1");
        }
        Setup::square(NAME, self.image_size, &self.blocks)
    }
}
