//! Settings of PaDiM.

use anomalens_backbones::ImageEncoder;
use anomalens_vision::Filter;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::components::layers::{Framing, blocks_and_stages, layers, whole};
use crate::detector::{Enlargement, Profile, Smoothing};
use crate::input::Normalisation;
use crate::{Choice, DetectorError};

/// Strides in pixels of the stages that are joined: the first three of a ResNet.
const STRIDES: [usize; 3] = [4, 8, 16];

/// Blocks that stand for them in a transformer of twelve.
const BLOCKS: [usize; 3] = [3, 6, 9];

/// Pixels of the shorter side of an image.
const IMAGE_SIZE: u32 = 256;

/// Seed of the channels that are taken.
const SEED: u32 = 1024;

/// Megabytes that the distributions may take.
const MAX_MEMORY: u32 = 2048;

/// Standard deviation of the Gaussian that smooths maps, in pixels of what the network sees.
pub(super) const SIGMA: f64 = 4.0;

/// The settings, with the defaults of the published code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whose implementation is followed.
    pub variant: Variant,
    /// Blocks of a transformer that are joined, counted from 1.
    pub blocks: Vec<usize>,
    /// Stages of a convolutional network that are joined, counted from 1.
    pub stages: Vec<usize>,
    /// Pixels of the shorter side of an image.
    pub image_size: u32,
    /// Side of the central square that is seen; 0 stretches all of the image to a square.
    pub crop: Choice<u32>,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
    /// Channels of the joined layers that are taken.
    pub features: Choice<usize>,
    /// Seed by which they are taken.
    pub seed: u32,
    /// What is added to the diagonal of each covariance.
    pub regularisation: f64,
    /// Megabytes that the distributions may take, in memory and in the detector file.
    pub max_memory: u32,
}

/// Whose implementation is followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The one that most papers use, by xiahaifeng1995.
    #[default]
    Original,
    /// Anomalib's.
    Anomalib,
}

impl Settings {
    /// Those of a variant for a backbone.
    pub fn defaults(encoder: &dyn ImageEncoder, variant: Variant) -> Self {
        let spec = encoder.spec();
        let (blocks, stages) = blocks_and_stages(spec, &BLOCKS, &STRIDES);
        let (image_size, crop, regularisation) = match variant {
            Variant::Original => (IMAGE_SIZE, Choice::Auto, 0.01),
            // It adds 1e-5 once more before it inverts.
            Variant::Anomalib => (whole(IMAGE_SIZE, spec), Choice::Given(0), 0.01 + 1e-5),
        };
        Self {
            variant,
            blocks,
            stages,
            image_size,
            crop,
            normalisation: Normalisation::of(encoder),
            features: Choice::Auto,
            seed: SEED,
            regularisation,
            max_memory: MAX_MEMORY,
        }
    }

    /// How images come to the network.
    pub(super) fn framing(&self) -> Framing {
        Framing {
            image_size: self.image_size,
            crop: self.crop,
            filter: match self.variant {
                Variant::Original => Filter::Lanczos,
                Variant::Anomalib => Filter::Bilinear,
            },
            normalisation: self.normalisation,
        }
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if self.features.given() == Some(0) {
            return refuse("`features` must be above 0");
        }
        if !(self.regularisation > 0.0 && self.regularisation.is_finite()) {
            return refuse("`regularisation` must be above 0");
        }
        let framing = self.framing();
        let input = framing.input(NAME, layers(NAME, &self.blocks, &self.stages)?)?;
        Ok(Profile {
            enlargement: Enlargement {
                smoothing: match self.variant {
                    Variant::Original => Smoothing::OfSide(SIGMA / f64::from(framing.side())),
                    // The detector smooths, at the size of what the network sees.
                    Variant::Anomalib => Smoothing::Off,
                },
                ..Enlargement::default()
            },
            ..Profile::new(NAME, input)
        })
    }
}
