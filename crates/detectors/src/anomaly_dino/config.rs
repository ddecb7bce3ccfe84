//! Settings of AnomalyDINO.

use anomalens_backbones::FeatureRequest;
use anomalens_vision::Preprocess;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::{DetectorError, Setup};

/// The settings, each with a default that was chosen on the magnetic-tile and textile data sets
/// alone (docs/benchmarks/few-shot.md).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// Blocks whose tokens are compared, counted from 1; their distances are averaged.
    pub blocks: Vec<usize>,
    /// Whether the tokens pass through the network's final layer norm.
    pub final_norm: bool,
    /// Part of the patches, the most distant ones, whose mean is the image's score.
    pub top_fraction: f64,
    /// In how many equal steps of a full turn each shot is stored; 1 for upright only.
    pub rotations: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            image_size: 224,
            blocks: vec![6, 9],
            final_norm: false,
            top_fraction: 0.01,
            rotations: 1,
        }
    }
}

impl Config {
    /// What the backbone must do, or why the settings cannot be.
    pub(super) fn setup(&self) -> Result<Setup, DetectorError> {
        let refuse = |reason: &str| {
            Err(DetectorError::Config { method: NAME, reason: reason.to_owned() })
        };
        if self.blocks.is_empty() {
            return refuse("`blocks` names no block");
        }
        if self.rotations == 0 {
            return refuse("`rotations` must be at least 1");
        }
        if !(self.top_fraction > 0.0 && self.top_fraction <= 1.0) {
            return refuse("`top_fraction` must be above 0 and at most 1");
        }
        if self.image_size == 0 {
            return refuse("`image_size` must be above 0");
        }
        let request = FeatureRequest::blocks(self.blocks.iter().copied());
        Ok(Setup {
            preprocess: Preprocess::imagenet_square(self.image_size),
            request: FeatureRequest { final_norm: self.final_norm, ..request },
        })
    }
}
