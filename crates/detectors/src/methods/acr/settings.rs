//! Settings of ACR.

use anomalens_backbones::{ImageEncoder, LayerId};
use anomalens_vision::Filter;
use serde::{Deserialize, Serialize};

use super::network::Sizes;
use super::{NAME, NEEDED};
use crate::components::layers::{Framing, blocks_and_stages, layers};
use crate::detector::{Enlargement, Profile, Scope, Smoothing};
use crate::input::Normalisation;
use crate::{Choice, DetectorError};

/// Stride in pixels of the stage that is compared: the third of a ResNet.
const STRIDE: usize = 16;

/// The block that stands for it in a transformer of twelve.
const BLOCK: usize = 9;

/// Pixels of the shorter side of an image.
const IMAGE_SIZE: u32 = 256;

/// Standard deviation of the Gaussian that smooths maps, in pixels of what the network sees.
const SIGMA: f64 = 4.0;

/// The most rows of a task in training, numbers of the centre, and hidden layers: more is a mistake.
const MOST_ROWS: usize = 4096;
const MOST_NUMBERS: usize = 4096;
const MOST_LAYERS: usize = 16;

/// The settings, with the defaults of the published code for MVTec AD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The block of a transformer whose tokens are compared, counted from 1; one at the most.
    pub blocks: Vec<usize>,
    /// The stage of a convolutional network, instead.
    pub stages: Vec<usize>,
    /// Pixels of the shorter side of an image.
    pub image_size: u32,
    /// Side of the central square that is seen; 0 stretches all of the image to a square.
    pub crop: Choice<u32>,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
    /// Hidden layers, each half as wide as the one before.
    pub layers: Choice<usize>,
    /// Numbers of the centre.
    pub output: usize,
    /// Part of a batch that are pseudo-anomalies, up to one half.
    pub anomaly_ratio: f64,
    /// Standard deviation of the noise that makes them of normal features.
    pub noise: f64,
    /// Seed of that noise where images are scored.
    pub seed: u32,
    /// How many images are scored against each other at the most; all of them if none.
    pub group: Option<usize>,
    /// Features in a training task, pseudo-anomalies among them.
    pub task_size: usize,
    /// Whether training looks at the normal ones of these alone.
    pub one_class: bool,
}

impl Settings {
    /// Those for a backbone.
    pub fn defaults(encoder: &dyn ImageEncoder) -> Self {
        let (blocks, stages) = blocks_and_stages(encoder.spec(), &[BLOCK], &[STRIDE]);
        Self {
            blocks,
            stages,
            image_size: IMAGE_SIZE,
            crop: Choice::Auto,
            normalisation: Normalisation::of(encoder),
            layers: Choice::Auto,
            output: 32,
            anomaly_ratio: 0.5,
            noise: 0.1,
            seed: 0,
            group: None,
            task_size: 60,
            one_class: false,
        }
    }

    /// What was left open, as it follows from `encoder`.
    pub(super) fn resolve(&mut self, encoder: &dyn ImageEncoder) {
        self.crop = Framing::crop(self.crop, self.image_size, encoder.spec());
    }

    /// The layer that is compared.
    pub(super) fn layer(&self) -> Result<LayerId, DetectorError> {
        match *layers(NAME, &self.blocks, &self.stages)?.as_slice() {
            [layer] => Ok(layer),
            _ => Err(DetectorError::settings(
                NAME,
                "one layer is compared, and `blocks` or `stages` names several",
            )),
        }
    }

    /// The sizes of the network for features of `width` numbers.
    pub(super) fn sizes(&self, width: usize) -> Sizes {
        let layers = self.layers.given();
        let layers = layers.unwrap_or_else(|| Sizes::layers(width, self.output));
        Sizes::halving(width, layers, self.output)
    }

    /// How images come to the network.
    pub(super) fn framing(&self) -> Framing {
        Framing {
            image_size: self.image_size,
            crop: self.crop,
            filter: Filter::Lanczos,
            normalisation: self.normalisation,
        }
    }

    /// Normal features and pseudo-anomalies of a training task.
    pub(super) fn task(&self) -> (usize, usize) {
        let pseudo = (self.task_size as f64 * self.anomaly_ratio) as usize;
        let pseudo = pseudo.max(1);
        (self.task_size.saturating_sub(pseudo), pseudo)
    }

    /// Pseudo-anomalies that join so many images.
    pub(super) fn pseudo(&self, images: usize) -> usize {
        if self.anomaly_ratio == 0.0 {
            return 0;
        }
        let wanted = images as f64 * self.anomaly_ratio / (1.0 - self.anomaly_ratio);
        (wanted as usize).clamp(1, images.max(1))
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: String| Err(DetectorError::settings(NAME, reason));
        if self.output == 0 || self.output > MOST_NUMBERS {
            return refuse(format!("`output` must be 1 to {MOST_NUMBERS}"));
        }
        if self.layers.given().is_some_and(|n| n > MOST_LAYERS) {
            return refuse(format!("`layers` must be at most {MOST_LAYERS}"));
        }
        if !(0.0..=0.5).contains(&self.anomaly_ratio) {
            return refuse("`anomaly_ratio` must be 0 to 0.5".to_owned());
        }
        if !(self.noise > 0.0 && self.noise.is_finite()) {
            return refuse("`noise` must be above 0".to_owned());
        }
        if self.group.is_some_and(|group| group < NEEDED) {
            return refuse(format!("`group` must be at least {NEEDED}"));
        }
        if !(2..=MOST_ROWS).contains(&self.task_size) {
            return refuse(format!("`task_size` must be 2 to {MOST_ROWS}"));
        }
        let framing = self.framing();
        Ok(Profile {
            scope: Scope::Joint(self.group.unwrap_or(usize::MAX)),
            enlargement: Enlargement {
                smoothing: Smoothing::OfSide(SIGMA / f64::from(framing.side().max(1))),
                ..Enlargement::default()
            },
            ..Profile::new(NAME, framing.input(NAME, vec![self.layer()?])?)
        })
    }
}
