//! Settings of DenseCLIP.

use anomalens_backbones::ImageEncoder;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::DetectorError;
use crate::components::text_scores::{self, check_temperature};
use crate::detector::Profile;

/// The size that the published ViT is trained at, cut to whole patches.
const IMAGE_SIZE: u32 = 640;

/// More than any prompt or decoder has.
const MOST: usize = 4096;

/// The settings, with the defaults of the published ViT-B/16.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The names of both states: a name of prompts in the program, or a JSON file, one prompt each.
    pub prompts: String,
    /// What the image shows, in the words of the prompts.
    pub class: String,
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// The block whose patch tokens are compared, counted from 1.
    pub block: usize,
    /// Whether the class token is added twice, as the published code does.
    pub class_twice: bool,
    /// Learned tokens before the name; only where it is trained.
    pub context_length: usize,
    /// Width, attention heads and layers of the context decoder; only where it is trained.
    pub decoder_width: usize,
    /// See `decoder_width`.
    pub decoder_heads: usize,
    /// See `decoder_width`.
    pub decoder_layers: usize,
    /// What cosines are divided by before the softmax.
    pub temperature: f64,
    /// Standard deviation of the Gaussian that smooths maps, in pixels of `image_size`.
    pub sigma: f64,
}

impl Settings {
    /// The published settings.
    pub(super) fn defaults(encoder: &dyn ImageEncoder) -> Self {
        let patch = encoder.spec().multiple.max(1) as u32;
        Self {
            prompts: NAME.to_owned(),
            class: "object".to_owned(),
            image_size: (IMAGE_SIZE / patch * patch).max(patch),
            block: encoder.spec().blocks().max(1),
            class_twice: true,
            context_length: 8,
            decoder_width: 256,
            decoder_heads: 4,
            decoder_layers: 3,
            temperature: 0.07,
            sigma: 4.0,
        }
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if self.block == 0 {
            return refuse("`block` is counted from 1");
        }
        check_temperature(NAME, self.temperature)?;
        let (width, heads) = (self.decoder_width, self.decoder_heads);
        if heads == 0 || width == 0 || width > MOST || !width.is_multiple_of(heads) {
            return refuse("`decoder_width` must be a multiple of `decoder_heads`, up to 4096");
        }
        if self.decoder_layers > MOST || self.context_length > MOST {
            return refuse("`decoder_layers` and `context_length` are at most 4096");
        }
        let mut profile = text_scores::profile(NAME, self.image_size, self.block, self.sigma)?;
        profile.input.request.departures.class_twice = self.class_twice;
        Ok(profile)
    }
}
