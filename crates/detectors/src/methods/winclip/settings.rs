//! Settings of WinCLIP.

use anomalens_backbones::{
    Embedding, FeatureRequest, ImageEncoder, LayerId, PositionResize, TokenStage,
};
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::components::text_scores::check_temperature;
use crate::detector::{Enlargement, Profile, Smoothing};
use crate::input::Normalisation;
use crate::{DetectorError, InputSpec};

/// The paper's size.
const IMAGE_SIZE: u32 = 240;

/// More patches on a side than any window has.
const LARGEST_WINDOW: usize = 64;

/// How far the patches of references and images have come when they are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatchTokens {
    /// As the last block leaves them: zqhang/WinCLIP-pytorch, mala-lab/WinCLIP.
    Block,
    /// After the final layer norm: anomalib.
    Normed,
}

/// The settings, with the defaults of zqhang/WinCLIP-pytorch, which the tables of AnomalyCLIP and
/// APRIL-GAN go with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The prompts: a name of those in the program, or a JSON file.
    pub prompts: String,
    /// What the image shows, in the words of the prompts.
    pub class: String,
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// Sides of the windows, in patches.
    pub windows: Vec<usize>,
    /// What cosines are divided by before the softmax.
    pub temperature: f64,
    /// The patches that references and images are compared by.
    pub patch_tokens: PatchTokens,
    /// The block that these are taken after, counted from 1.
    pub block: usize,
}

impl Settings {
    /// The settings of the public implementations.
    pub(super) fn defaults(encoder: &dyn ImageEncoder) -> Self {
        let patch = encoder.spec().multiple.max(1) as u32;
        Self {
            prompts: NAME.to_owned(),
            class: "object".to_owned(),
            image_size: (IMAGE_SIZE / patch * patch).max(patch),
            windows: vec![2, 3],
            temperature: 0.07,
            patch_tokens: PatchTokens::Block,
            block: encoder.spec().blocks().max(1),
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
        check_temperature(NAME, self.temperature)?;
        if self.block == 0 {
            return refuse("`block` is counted from 1");
        }
        let mut sides = self.windows.clone();
        sides.sort_unstable();
        sides.dedup();
        let fits = |side: &usize| (1..=LARGEST_WINDOW).contains(side);
        if sides.is_empty() || sides.len() < self.windows.len() || !sides.iter().all(fits) {
            return refuse("`windows` must be one or more different sides of 1 to 64 patches");
        }
        let windows = sides.into_iter().map(LayerId::Window);
        let request = FeatureRequest {
            embedding: Some(Embedding::Normed),
            positions: Some(PositionResize::BicubicAntialias),
            ..FeatureRequest::layers(windows.chain([LayerId::Block(self.block)]))
        };
        let stage = match self.patch_tokens {
            PatchTokens::Block => TokenStage::Block,
            PatchTokens::Normed => TokenStage::Normed,
        };
        let preprocess = Normalisation::Clip.square(self.image_size);
        Ok(Profile {
            enlargement: Enlargement {
                smoothing: Smoothing::Off,
                ..Enlargement::default()
            },
            ..Profile::new(NAME, InputSpec::new(preprocess, request.at(stage)))
        })
    }
}
