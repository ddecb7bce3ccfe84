//! Settings of AnomalyDINO.

use serde::{Deserialize, Serialize};

use super::NAME;
use crate::detector::Profile;
use crate::settings::{check_fraction, check_weight};
use crate::{DetectorError, InputSpec, ReferenceAugmentation, Tta};

/// The settings, with defaults that were chosen on the magnetic-tile and textile data sets, but for
/// the two weights (docs/research/few-shot.md tells why).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// In how many views each image is scored.
    pub tta: Tta,
    /// Blocks whose tokens are compared, counted from 1; their distances are averaged.
    pub blocks: Vec<usize>,
    /// Part of the patches, the most distant ones, whose mean is the image's score.
    pub top_fraction: f64,
    /// Weight of a patch's distance to the rest of its own image, beside that to the references;
    /// both are brought to the spread that they have on the references.
    pub own_weight: f64,
    /// Weight of the mean token's distance in the image's score.
    pub image_weight: f64,
    /// In which forms each reference image is stored.
    pub reference_augmentation: ReferenceAugmentation,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image_size: 224,
            tta: Tta::default(),
            blocks: vec![6, 9],
            top_fraction: 0.01,
            own_weight: 0.0,
            image_weight: 0.1,
            reference_augmentation: ReferenceAugmentation::Flips,
        }
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        check_weight(NAME, "own_weight", self.own_weight)?;
        check_weight(NAME, "image_weight", self.image_weight)?;
        check_fraction(NAME, "top_fraction", self.top_fraction)?;
        let input = InputSpec::square(NAME, self.image_size, &self.blocks)?;
        Ok(Profile {
            tta: self.tta,
            ..Profile::new(NAME, input)
        })
    }
}
