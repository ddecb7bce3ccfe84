//! Settings of APRIL-GAN.

use anomalens_backbones::{
    Activation, Departures, Embedding, FeatureRequest, ImageEncoder, PositionResize,
};
use anomalens_vision::Alignment;
use serde::{Deserialize, Serialize};

use super::{NAME, NEEDED};
use crate::detector::{Enlargement, Profile, Scope, Smoothing};
use crate::input::Normalisation;
use crate::{Choice, DetectorError, InputSpec};

/// The paper's size, cut to whole patches.
const IMAGE_SIZE: u32 = 518;

/// The network is looked at after each of so many equal parts of its blocks.
const PARTS: usize = 4;

/// The settings, with the defaults of the paper's code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The prompts: a name of those in the program, or a JSON file.
    pub prompts: String,
    /// What the image shows, in the words of the prompts.
    pub class: String,
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// Blocks whose patch tokens are compared, counted from 1; each has a linear layer, and their maps
    /// are averaged.
    pub blocks: Vec<usize>,
    /// The function between feed-forward layers of both towers. The published code has the exact GELU
    /// with weights that were trained with QuickGELU, and its linear layers learned from that.
    pub activation: Activation,
    /// What cosines are divided by before the softmax.
    pub temperature: f64,
    /// What an image's score is made of; of the text alone without normal images, of both with them.
    pub image_score: Choice<ImageScore>,
    /// How many images are scored against each other at the most, where they are; all if none.
    pub group: Option<usize>,
}

/// What an image's score is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageScore {
    /// The probability from the image's embedding.
    Text,
    /// The mean of that and of the highest value of the map.
    Both,
    /// The same, with the highest values of the maps of all images brought to 0..=1: the published rule,
    /// for which all test images of a class are needed.
    MinMax,
}

impl Settings {
    /// The settings of the paper's code where the backbone allows them, in proportion where it does not.
    pub(super) fn defaults(encoder: &dyn ImageEncoder) -> Self {
        let spec = encoder.spec();
        let (patch, many) = (spec.multiple.max(1) as u32, spec.blocks());
        let mut blocks: Vec<usize> = (1..=PARTS).map(|i| (i * many / PARTS).max(1)).collect();
        blocks.dedup();
        Self {
            prompts: NAME.to_owned(),
            class: "object".to_owned(),
            image_size: (IMAGE_SIZE / patch * patch).max(patch),
            blocks,
            activation: Activation::Gelu,
            temperature: 0.01,
            image_score: Choice::Auto,
            group: None,
        }
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if self.image_size == 0 {
            return refuse("`image_size` must be above 0");
        }
        if self.blocks.is_empty() {
            return refuse("`blocks` names no block");
        }
        if !self.blocks.is_sorted_by(|a, b| a < b) {
            return refuse("`blocks` are named in their order, each once");
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return refuse("`temperature` must be above 0");
        }
        if self.group.is_some_and(|group| group < NEEDED) {
            return refuse("`group` must be at least 2");
        }
        let request = FeatureRequest {
            embedding: Some(Embedding::Normed),
            positions: Some(PositionResize::BicubicAntialias),
            departures: Departures {
                activation: Some(self.activation),
                ..Departures::default()
            },
            ..FeatureRequest::blocks(self.blocks.iter().copied())
        };
        let input = InputSpec::new(Normalisation::Clip.square(self.image_size), request);
        Ok(Profile {
            scope: match self.image_score {
                Choice::Given(ImageScore::MinMax) => Scope::Joint(self.group.unwrap_or(usize::MAX)),
                _ => Scope::Single,
            },
            enlargement: Enlargement {
                alignment: Alignment::Corners,
                smoothing: Smoothing::Off,
                ..Enlargement::default()
            },
            ..Profile::new(NAME, input)
        })
    }
}
