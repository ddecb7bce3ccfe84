//! Settings of ZOC.

use anomalens_backbones::{Embedding, FeatureRequest, ImageEncoder};
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::components::layers::whole;
use crate::detector::Profile;
use crate::input::Normalisation;
use crate::{Choice, DetectorError, InputSpec};

/// What stands for a class in a label, and for a label in a text.
const PLACE: &str = "{}";

/// Side of the images in the paper.
const IMAGE_SIZE: u32 = 224;

/// More steps than a decoder could make sense of.
const MOST_STEPS: usize = 512;

/// The settings, with the defaults of the paper's code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the image shows.
    pub class: String,
    /// The seen labels, in which `{}` is `class`.
    pub classes: Vec<String>,
    /// The text of a label, `{}` being the label.
    pub template: String,
    /// A file with the pieces of the decoder's vocabulary, one a line, in their order.
    pub vocabulary: String,
    /// How many of the most probable tokens of each step are candidates.
    pub top: usize,
    /// Tokens that are generated for an image.
    pub steps: usize,
    /// The token that generation starts from; `<s>` of the vocabulary.
    pub start: Choice<usize>,
    /// Heads of the decoder's attention; one for 64 numbers of its width.
    pub heads: Choice<usize>,
    /// Blocks of a decoder that is trained from nothing.
    pub layers: usize,
    /// Its width, a multiple of that of embeddings; twice that.
    pub width: Choice<usize>,
    /// For training, a JSON file of captions as those of COCO.
    pub captions: String,
    /// Side of the central square that the network sees, in pixels; the shorter side of an image is
    /// resized to it.
    pub image_size: u32,
    /// How pixels are normalised; as CIFAR-10 in the paper's code, whatever the images.
    pub normalisation: Normalisation,
    /// What cosines are divided by before the softmax.
    pub temperature: f64,
}

impl Settings {
    /// The settings of the paper's code; its seen labels are those of a data set.
    pub(super) fn defaults(encoder: &dyn ImageEncoder) -> Self {
        Self {
            class: "object".to_owned(),
            classes: vec![format!("normal {PLACE}")],
            template: format!("This is a photo of a {PLACE}"),
            vocabulary: String::new(),
            top: 35,
            steps: 9,
            start: Choice::Auto,
            heads: Choice::Auto,
            layers: 24,
            width: Choice::Auto,
            captions: String::new(),
            image_size: whole(IMAGE_SIZE, encoder.spec()),
            normalisation: Normalisation::Cifar,
            temperature: 0.01,
        }
    }

    /// The seen labels.
    pub(super) fn seen(&self) -> Vec<String> {
        let labels = self.classes.iter();
        labels
            .map(|label| label.replace(PLACE, &self.class))
            .collect()
    }

    /// The text of `label`.
    pub(super) fn text(&self, label: &str) -> String {
        self.template.replace(PLACE, label)
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if self.image_size == 0 {
            return refuse("`image_size` must be above 0");
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return refuse("`temperature` must be above 0");
        }
        if self.classes.is_empty() {
            return refuse("`classes` names no seen label");
        }
        if !self.template.contains(PLACE) {
            return refuse("`template` must contain `{}`, the place of the label");
        }
        if self.top == 0 {
            return refuse("`top` must be above 0");
        }
        if self.steps == 0 || self.steps > MOST_STEPS {
            return refuse("`steps` must be 1 to 512");
        }
        if self.layers == 0 || self.layers > 128 {
            return refuse("`layers` must be 1 to 128");
        }
        if self.heads == Choice::Given(0) || self.width == Choice::Given(0) {
            return refuse("`heads` and `width` must be above 0");
        }
        let request = FeatureRequest {
            embedding: Some(Embedding::Normed),
            ..FeatureRequest::default()
        };
        let preprocess = self.normalisation.centre_crop(self.image_size);
        Ok(Profile::new(NAME, InputSpec::new(preprocess, request)))
    }
}
