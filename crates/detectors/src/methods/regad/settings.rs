//! Settings of RegAD.

use anomalens_backbones::{FeatureRequest, LayerId};
use anomalens_vision::{Filter, Preprocess, Resize};
use serde::{Deserialize, Serialize};

use super::NAME;
use super::network::Sizes;
use super::transformer::Transformer;
use crate::detector::{Enlargement, Profile, Smoothing};
use crate::{DetectorError, InputSpec};

/// Side in pixels of the square that an image is stretched to, and what it may be: the transformers are made
/// for one size.
const IMAGE_SIZE: u32 = 224;
const IMAGE_SIZES: [u32; 2] = [32, 512];

/// Normal images that each one is registered with in training; more than the paper ever has.
const EPISODE_SHOTS: usize = 2;
const MOST_SHOTS: usize = 64;

/// Megabytes that statistics may take.
const MAX_MEMORY: u32 = 2048;

/// Standard deviation of the Gaussian that smooths maps, in pixels of what the network sees.
pub(super) const SIGMA: f64 = 4.0;

/// The settings, with the defaults of the published code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Side in pixels of the square that an image is stretched to.
    pub image_size: u32,
    /// What the transformers can do to a map.
    pub transformer: Transformer,
    /// Normal images that each one is registered with in training.
    pub episode_shots: usize,
    /// What is added to the diagonal of each covariance.
    pub regularisation: f64,
    /// Megabytes that the statistics may take.
    pub max_memory: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image_size: IMAGE_SIZE,
            transformer: Transformer::default(),
            episode_shots: EPISODE_SHOTS,
            regularisation: 0.01,
            max_memory: MAX_MEMORY,
        }
    }
}

impl Settings {
    /// The network whose first stage has `width` channels.
    pub(super) fn sizes(&self, width: usize) -> Sizes {
        Sizes::new(self.transformer, self.image_size as usize, width)
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: String| Err(DetectorError::settings(NAME, reason));
        let [least, most] = IMAGE_SIZES;
        let size = self.image_size;
        if !(least..=most).contains(&size) {
            return refuse(format!("`image_size` must be {least} to {most}"));
        }
        if !(1..=MOST_SHOTS).contains(&self.episode_shots) {
            return refuse(format!("`episode_shots` must be 1 to {MOST_SHOTS}"));
        }
        if !(self.regularisation > 0.0 && self.regularisation.is_finite()) {
            return refuse("`regularisation` must be above 0".to_owned());
        }
        let preprocess = Preprocess {
            resize: Resize::Stretch {
                height: size,
                width: size,
            },
            filter: Filter::Lanczos,
            mean: [0.0; 3],
            std: [1.0; 3],
            ..Preprocess::imagenet_square(size)
        };
        let request = FeatureRequest::layers([LayerId::PIXELS]);
        Ok(Profile {
            enlargement: Enlargement {
                smoothing: Smoothing::OfSide(SIGMA / f64::from(size)),
                ..Enlargement::default()
            },
            ..Profile::new(NAME, InputSpec::new(preprocess, request))
        })
    }
}
