//! Settings of MuSc.

use serde::{Deserialize, Serialize};

use super::NAME;
use crate::detector::{Profile, Scope};
use crate::settings::{check_fraction, check_weight};
use crate::{DetectorError, InputSpec, Tta};

/// The settings, each with a default that was chosen on the magnetic-tile and textile data sets
/// alone (docs/research/few-shot.md).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// In how many views each image is scored.
    pub tta: Tta,
    /// Blocks whose tokens are compared, counted from 1; their scores are averaged.
    pub blocks: Vec<usize>,
    /// Sides of the square neighbourhoods over which tokens are averaged (paper: r = 1, 3, 5).
    pub neighbourhoods: Vec<usize>,
    /// Length to which tokens are shortened (principal components of the group) before they are
    /// compared; 0 to compare them whole. Costs little accuracy and saves most of the time.
    pub dimensions: usize,
    /// Part of the other images, the most similar ones, that score a patch (paper: 0.3).
    pub lowest_fraction: f32,
    /// Part of the patches whose mean is the image's score; the highest alone if it is 0 (paper).
    pub top_fraction: f64,
    /// Weight of a patch's distance to the rest of its own image, beside its score; both are
    /// brought to the same spread in the group.
    pub own_weight: f64,
    /// Weight of the mean token in the image's score: how far it is from those of the most similar
    /// images, in units of the group's mean.
    pub image_weight: f64,
    /// For the re-scoring by class tokens, the numbers of images (the image itself among them)
    /// over which scores are averaged; none for no re-scoring.
    pub rescore: Vec<usize>,
    /// How many images are scored against each other at the most.
    pub group: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image_size: 224,
            tta: Tta::default(),
            blocks: vec![6, 9],
            neighbourhoods: vec![1, 3, 5],
            dimensions: 96,
            lowest_fraction: 0.3,
            top_fraction: 0.0,
            own_weight: 0.5,
            image_weight: 0.25,
            rescore: vec![],
            group: 64,
        }
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if self.neighbourhoods.is_empty() || self.neighbourhoods.iter().any(|r| r % 2 == 0) {
            return refuse("`neighbourhoods` must be odd numbers, at least one");
        }
        check_fraction(NAME, "lowest_fraction", self.lowest_fraction.into())?;
        if !(0.0..=1.0).contains(&self.top_fraction) {
            return refuse("`top_fraction` must be between 0 and 1");
        }
        check_weight(NAME, "own_weight", self.own_weight)?;
        check_weight(NAME, "image_weight", self.image_weight)?;
        if self.rescore.contains(&0) {
            return refuse("`rescore` counts the image itself and so starts at 1");
        }
        if self.group < 2 {
            return refuse("`group` must be at least 2");
        }
        let input = InputSpec::square(NAME, self.image_size, &self.blocks)?;
        Ok(Profile {
            scope: Scope::Joint(self.group),
            tta: self.tta,
            ..Profile::new(NAME, input)
        })
    }
}
