//! Settings of MaskCLIP.

use anomalens_backbones::{
    Activation, Departures, Dpam, FeatureRequest, ImageEncoder, PositionResize, SelfAttention,
    TokenStage,
};
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::DetectorError;
use crate::components::text_scores::{self, check_temperature};
use crate::detector::Profile;

/// The size of the published configurations, cut to whole patches.
const IMAGE_SIZE: u32 = 512;

/// The settings, with the defaults of the published code; what makes an anomaly map of its scores is
/// AnomalyCLIP's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The prompts: a name of those in the program, or a JSON file.
    pub prompts: String,
    /// What the image shows, in the words of the prompts.
    pub class: String,
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// The block whose values are taken, counted from 1; the last one in the paper.
    pub block: usize,
    /// Whether the network is computed as the published code does, with exact GELU and an epsilon of
    /// 1e-6, or as it was trained.
    pub as_published: bool,
    /// What cosines are divided by before the softmax.
    pub temperature: f64,
    /// Standard deviation of the Gaussian that smooths maps, in pixels of `image_size`.
    pub sigma: f64,
    /// Prompt denoising (section 3.3): a state that no patch has with at least this probability counts
    /// nowhere; 0 switches it off.
    pub prompt_denoising: f64,
    /// Key smoothing (section 3.3): patches less certain than this take over what patches with similar
    /// keys say; 0 switches it off.
    pub key_smoothing: f64,
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
            as_published: true,
            temperature: 0.07,
            sigma: 4.0,
            prompt_denoising: 0.0,
            key_smoothing: 0.0,
        }
    }
}

/// What is requested of `block`, whose values go on alone.
pub(super) fn request(block: usize, as_published: bool) -> FeatureRequest {
    let departures = Departures {
        activation: Some(Activation::Gelu),
        norm_epsilon: Some(6),
        ..Departures::default()
    };
    FeatureRequest {
        attention: Some(Dpam {
            first_block: block,
            attention: SelfAttention::Alone,
            feed_forward: true,
        }),
        positions: Some(PositionResize::Bicubic),
        departures: match as_published {
            true => departures,
            false => Departures::default(),
        },
        ..FeatureRequest::blocks([block]).at(TokenStage::Projected)
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
        let is_probability = |x: f64| (0.0..=1.0).contains(&x);
        if !is_probability(self.prompt_denoising) || !is_probability(self.key_smoothing) {
            return refuse("`prompt_denoising` and `key_smoothing` are from 0 to 1");
        }
        let mut profile = text_scores::profile(NAME, self.image_size, self.block, self.sigma)?;
        profile.input.request = request(self.block, self.as_published);
        if self.key_smoothing > 0.0 {
            let mut keys = profile.input.clone();
            keys.request.attention = None;
            keys.request.stage = TokenStage::Keys;
            profile.further.push(keys);
        }
        Ok(profile)
    }
}
