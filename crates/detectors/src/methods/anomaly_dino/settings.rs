//! Settings of AnomalyDINO.

use anomalens_backbones::{EncoderSpec, FeatureRequest, PositionResize, Precision, TokenStage};
use anomalens_vision::Preprocess;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::detector::{Enlargement, Profile, Smoothing};
use crate::settings::check_fraction;
use crate::{DetectorError, InputSpec};

/// Pixels of the shorter side; 672 is the paper's other choice.
const IMAGE_SIZE: u32 = 448;

/// Standard deviation of the Gaussian that smooths maps, in pixels of the original image.
const SIGMA: f64 = 4.0;

/// The settings. The defaults are those of the published code's preset `agnostic`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Pixels of the shorter side of an image; the aspect ratio is kept.
    pub image_size: u32,
    /// Right and bottom are cut to multiples of so many pixels: the backbone's patch.
    pub multiple: u32,
    /// The block whose normed tokens are compared, counted from 1: the last.
    pub block: usize,
    /// Whether reference images are stored in eight rotations.
    pub rotation: bool,
    /// Whether patches outside the object are left out of test images.
    pub masking: Masking,
    /// Part of the patches, the most distant ones, whose mean is the image's score.
    pub top_fraction: f64,
    /// How exactly nearest patches are searched: as the backbone computes.
    pub search: Precision,
}

/// Whether patches outside the object count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Masking {
    /// By the name of the class, as in the published code; off for names that it does not know.
    Auto,
    /// Only patches of the object count.
    On,
    /// All patches count.
    Off,
}

/// The classes that the published code masks: five of MVTec AD and all of VisA.
const MASKED: [&str; 17] = [
    "capsule",
    "hazelnut",
    "pill",
    "screw",
    "toothbrush",
    "candle",
    "capsules",
    "cashew",
    "chewinggum",
    "fryum",
    "macaroni1",
    "macaroni2",
    "pcb1",
    "pcb2",
    "pcb3",
    "pcb4",
    "pipe_fryum",
];

impl Masking {
    /// On or off, for images of `class`.
    pub(super) fn for_class(self, class: Option<&str>) -> Self {
        match self {
            Self::Auto if class.is_some_and(|class| MASKED.contains(&class)) => Self::On,
            Self::Auto => Self::Off,
            chosen => chosen,
        }
    }
}

impl Settings {
    /// Those for a backbone.
    pub fn defaults(encoder: &EncoderSpec) -> Self {
        Self {
            image_size: IMAGE_SIZE,
            multiple: encoder.multiple as u32,
            block: encoder.blocks(),
            rotation: true,
            masking: Masking::Auto,
            top_fraction: 0.01,
            search: encoder.precision,
        }
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let Self {
            image_size,
            multiple,
            ..
        } = *self;
        check_fraction(NAME, "top_fraction", self.top_fraction)?;
        if multiple == 0 || image_size < multiple {
            let reason = format_args!("`image_size` must be at least `multiple`, {multiple}");
            return Err(DetectorError::settings(NAME, reason));
        }
        let request = FeatureRequest {
            positions: Some(PositionResize::BicubicPadded),
            ..FeatureRequest::blocks([self.block]).at(TokenStage::Normed)
        };
        let preprocess = Preprocess::imagenet_shorter_side(image_size, multiple);
        let input = InputSpec::new(preprocess, request);
        Ok(Profile {
            enlargement: Enlargement {
                smoothing: Smoothing::Pixels(SIGMA),
                over_margins: true,
                ..Enlargement::default()
            },
            ..Profile::new(NAME, input)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masking_follows_the_class() {
        use Masking::{Auto, Off, On};
        for (setting, class, expected) in [
            (Auto, Some("screw"), On),
            (Auto, Some("pcb3"), On),
            (Auto, Some("bottle"), Off),
            (Auto, Some("bolt"), Off),
            (Auto, None, Off),
            (On, Some("bottle"), On),
            (Off, Some("screw"), Off),
        ] {
            assert_eq!(setting.for_class(class), expected, "{setting:?} {class:?}");
        }
    }
}
