//! Settings of CLIP and CLIP-AC.

use anomalens_backbones::{Embedding, FeatureRequest, ImageEncoder, PositionResize, TokenStage};
use serde::{Deserialize, Serialize};

use crate::detector::{Enlargement, Profile, Smoothing};
use crate::input::Normalisation;
use crate::{DetectorError, InputSpec};

/// The paper's size, cut to whole patches.
const IMAGE_SIZE: u32 = 518;

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
        let patch = encoder.spec().multiple.max(1) as u32;
        Self {
            prompts: <Self as crate::Settings>::METHOD.to_owned(),
            class: "object".to_owned(),
            image_size: (IMAGE_SIZE / patch * patch).max(patch),
            block: encoder.spec().blocks(),
            temperature: 0.07,
            sigma: 4.0,
        }
    }
}

impl<const AC: bool> crate::Settings for Settings<AC> {
    const METHOD: &'static str = if AC { "clip-ac" } else { "clip" };

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(Self::METHOD, reason));
        if self.image_size == 0 {
            return refuse("`image_size` must be above 0");
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return refuse("`temperature` must be above 0");
        }
        if !(self.sigma >= 0.0 && self.sigma.is_finite()) {
            return refuse("`sigma` must be at least 0");
        }
        let request = FeatureRequest {
            embedding: Some(Embedding::Normed),
            positions: Some(PositionResize::Bilinear),
            ..FeatureRequest::blocks([self.block]).at(TokenStage::Projected)
        };
        let input = InputSpec::new(Normalisation::Clip.square(self.image_size), request);
        Ok(Profile {
            enlargement: Enlargement {
                smoothing: Smoothing::OfSide(self.sigma / f64::from(self.image_size)),
                ..Enlargement::default()
            },
            ..Profile::new(Self::METHOD, input)
        })
    }
}
