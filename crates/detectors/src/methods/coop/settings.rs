//! Settings of CoOp.

use anomalens_backbones::ImageEncoder;
use anomalens_base::nearest;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::components::text_scores;
use crate::detector::Profile;
use crate::{Choice, DetectorError};

/// What an image shows where nobody says.
const CLASS: &str = "object";

/// The settings, with the defaults of AnomalyCLIP's tables as far as they are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What images show, in the words of the prompts: those of the training data are added. A pair of
    /// prompts is stored for each.
    pub classes: Vec<String>,
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// The block whose patch tokens are compared, counted from 1.
    pub block: usize,
    /// What cosines are divided by before the softmax; that which the model was trained with, if it is
    /// left open.
    pub temperature: Choice<f64>,
    /// Standard deviation of the Gaussian that smooths maps, in pixels of `image_size`.
    pub sigma: f64,
    /// Learned tokens of a prompt.
    pub context_length: usize,
    /// Words that they start from, each of them one token; random values if none. Their number is then
    /// the context's length.
    pub initial_words: Option<String>,
    /// Where the class stands.
    pub position: Position,
    /// Whether the normal and the anomalous prompt have learned tokens each.
    pub class_specific: bool,
    /// What a normal thing is called, `{}` being the class.
    pub normal_name: String,
    /// What an anomalous thing is called.
    pub anomalous_name: String,
}

/// Where the class stands in a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// After the learned tokens.
    #[default]
    End,
    /// Between their halves, the first being the smaller one.
    Middle,
    /// Before them.
    Front,
}

impl Position {
    /// Of so many learned tokens, how many stand before the class.
    pub(super) fn before(self, tokens: usize) -> usize {
        match self {
            Self::End => tokens,
            Self::Middle => tokens / 2,
            Self::Front => 0,
        }
    }
}

impl Settings {
    /// The paper's settings.
    pub(super) fn defaults(encoder: &dyn ImageEncoder) -> Self {
        Self {
            classes: vec![],
            image_size: text_scores::image_size(encoder.spec().multiple),
            block: encoder.spec().blocks(),
            temperature: Choice::Given(0.07),
            sigma: 4.0,
            context_length: 16,
            initial_words: None,
            position: Position::End,
            class_specific: false,
            normal_name: "normal {}".to_owned(),
            anomalous_name: "anomalous {}".to_owned(),
        }
    }

    /// The words that the context starts from.
    pub(super) fn words(&self) -> Option<Vec<String>> {
        let words = self.initial_words.as_deref()?.replace('_', " ");
        Some(words.split_whitespace().map(str::to_owned).collect())
    }

    /// The names of a normal and of an anomalous thing of `class`.
    pub(super) fn names(&self, class: &str) -> [String; 2] {
        let class = class.replace('_', " ");
        let names = [&self.normal_name, &self.anomalous_name];
        names.map(|name| name.replace("{}", &class))
    }

    /// The classes that pairs of prompts are made for.
    pub(super) fn all_classes(&self) -> Vec<String> {
        match self.classes.as_slice() {
            [] => vec![CLASS.to_owned()],
            some => some.to_vec(),
        }
    }

    /// Which pair of prompts images of `class` are compared with.
    ///
    /// # Errors
    /// [`DetectorError::UnknownClass`] if there is none for it.
    pub(super) fn pair(&self, class: &str) -> Result<usize, DetectorError> {
        let found = self.classes.iter().position(|name| name == class);
        found.ok_or_else(|| DetectorError::UnknownClass {
            name: class.to_owned(),
            nearest: nearest(class, self.classes.iter().map(String::as_str)),
            known: self.classes.join(", "),
        })
    }

    /// What cosines are divided by.
    pub(super) fn temperature(&self) -> f64 {
        self.temperature.given().unwrap_or(f64::NAN)
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if let Some(temperature) = self.temperature.given() {
            text_scores::check_temperature(NAME, temperature)?;
        }
        if self.context_length == 0 || self.context_length > 64 {
            return refuse("`context_length` must be 1 to 64");
        }
        if self.initial_words.is_some() && self.class_specific {
            return refuse("`initial_words` are for a context that both prompts share");
        }
        let names = [&self.normal_name, &self.anomalous_name];
        if !names.iter().all(|name| name.contains("{}")) {
            return refuse("`normal_name` and `anomalous_name` must contain `{}`");
        }
        text_scores::profile(NAME, self.image_size, self.block, self.sigma)
    }
}
