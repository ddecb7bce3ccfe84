//! Settings of CLIP-AD.

use anomalens_backbones::{Embedding, FeatureRequest, ImageEncoder};
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::components::layers::whole;
use crate::detector::Profile;
use crate::input::Normalisation;
use crate::{DetectorError, InputSpec};

/// What stands for a class in a text.
const PLACE: &str = "{}";

/// Side of the images in the paper.
const IMAGE_SIZE: u32 = 224;

/// The settings, with the defaults of the paper's code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the image shows.
    pub class: String,
    /// The normal classes, where there are several; else `class` alone is normal.
    pub classes: Vec<String>,
    /// The text of a normal class, `{}` being its name.
    pub template: String,
    /// The text of everything else; `{}` in it is `class`.
    pub general: String,
    /// Side of the central square that the network sees, in pixels; the shorter side of an image is
    /// resized to it.
    pub image_size: u32,
    /// What cosines are divided by before the softmax.
    pub temperature: f64,
}

impl Settings {
    /// The settings of the paper's code.
    pub(super) fn defaults(encoder: &dyn ImageEncoder) -> Self {
        Self {
            class: "object".to_owned(),
            classes: vec![],
            template: format!("a photo of a {PLACE}"),
            general: "a photo of something".to_owned(),
            image_size: whole(IMAGE_SIZE, encoder.spec()),
            temperature: 0.01,
        }
    }

    /// The texts of the normal classes, then the general one.
    pub(super) fn texts(&self) -> Vec<String> {
        let classes = match self.classes.as_slice() {
            [] => std::slice::from_ref(&self.class),
            classes => classes,
        };
        let normal = classes
            .iter()
            .map(|class| self.template.replace(PLACE, class));
        normal
            .chain([self.general.replace(PLACE, &self.class)])
            .collect()
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
        if !self.template.contains(PLACE) {
            return refuse("`template` must contain `{}`, the place of the class");
        }
        let request = FeatureRequest {
            embedding: Some(Embedding::Normed),
            ..FeatureRequest::default()
        };
        let preprocess = Normalisation::Clip.centre_crop(self.image_size);
        Ok(Profile::new(NAME, InputSpec::new(preprocess, request)))
    }
}
