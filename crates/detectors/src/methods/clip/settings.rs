//! Settings of CLIP and CLIP-AC.

use anomalens_backbones::ImageEncoder;
use serde::{Deserialize, Serialize};

use crate::DetectorError;
use crate::components::text_scores;
use crate::detector::Profile;

/// The settings, with the defaults of AnomalyCLIP's tables; `AC` for CLIP-AC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings<const AC: bool> {
    /// The prompts: a name of those in the program, or a JSON file.
    pub prompts: String,
    /// What the image shows, in the words of the prompts.
    pub class: String,
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// The block whose patch tokens are compared, counted from 1.
    pub block: usize,
    /// What cosines are divided by before the softmax.
    pub temperature: f64,
    /// Standard deviation of the Gaussian that smooths maps, in pixels of `image_size`.
    pub sigma: f64,
}

impl<const AC: bool> Settings<AC> {
    /// The paper's settings.
    pub(super) fn defaults(encoder: &dyn ImageEncoder) -> Self {
        Self {
            prompts: <Self as crate::Settings>::METHOD.to_owned(),
            class: "object".to_owned(),
            image_size: text_scores::image_size(encoder.spec().multiple),
            block: encoder.spec().blocks(),
            temperature: 0.07,
            sigma: 4.0,
        }
    }
}

impl<const AC: bool> crate::Settings for Settings<AC> {
    const METHOD: &'static str = if AC { "clip-ac" } else { "clip" };

    fn profile(&self) -> Result<Profile, DetectorError> {
        text_scores::check_temperature(Self::METHOD, self.temperature)?;
        text_scores::profile(Self::METHOD, self.image_size, self.block, self.sigma)
    }
}
