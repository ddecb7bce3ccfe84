//! Settings of InCTRL, and the defaults that depend on the backbone.

use anomalens_backbones::{Embedding, FeatureRequest, ImageEncoder};
use serde::{Deserialize, Serialize};

use super::NAME;
use super::layout::BatchLayout;
use super::network::Sizes;
use crate::detector::Profile;
use crate::input::Normalisation;
use crate::{DetectorError, InputSpec};

/// Side of the images in the paper; other patch sizes use the multiple just below.
const IMAGE_SIZE: usize = 240;

/// Blocks in the paper, of twelve.
const BLOCKS: [usize; 3] = [7, 9, 11];

/// By how much the adapter is narrower than the embedding.
const ADAPTER_REDUCTION: usize = 4;

/// The settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Side of the central square that the network sees, in pixels; the shorter side of an image
    /// is resized to it.
    pub image_size: u32,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
    /// Blocks whose patch tokens are compared, counted from 1; their residuals are averaged.
    pub blocks: Vec<usize>,
    /// What the image shows, in the words of the prompts.
    pub class: String,
    /// Whether the prompts' score takes part; not in the paper: off where there is no text encoder.
    pub text_prior: bool,
    /// Whether the residual of the embedding takes part.
    pub image_residual: bool,
    /// Whether the residuals of the patches take part.
    pub patch_residual: bool,
    /// Whether the largest patch residual is averaged with the holistic score.
    pub max_term: bool,
    /// Width of the adapter's middle.
    pub adapter_width: usize,
    /// Normal images for each image in training.
    pub episode_shots: usize,
    /// Which blocks and references meet in training.
    pub batch_layout: BatchLayout,
}

impl Settings {
    /// The paper's settings; without text encoder the text prior is off.
    pub(super) fn defaults(encoder: &dyn ImageEncoder, has_text: bool) -> Self {
        let (patch, blocks) = (encoder.spec().multiple.max(1), encoder.spec().blocks());
        Self {
            image_size: (IMAGE_SIZE / patch * patch).max(patch) as u32,
            normalisation: match has_text {
                true => Normalisation::Clip,
                false => Normalisation::Imagenet,
            },
            blocks: BLOCKS.map(|block| (block * blocks / 12).max(1)).to_vec(),
            class: "object".to_owned(),
            text_prior: has_text,
            image_residual: true,
            patch_residual: true,
            max_term: true,
            adapter_width: (encoder.spec().embedding / ADAPTER_REDUCTION).max(1),
            episode_shots: 2,
            batch_layout: BatchLayout::Intended,
        }
    }

    /// The sizes of the learned parts.
    pub(super) fn sizes(&self, encoder: &dyn ImageEncoder) -> Sizes {
        Sizes {
            embedding: encoder.spec().embedding,
            patches: (self.image_size as usize / encoder.spec().multiple).pow(2),
            middle: self.adapter_width,
        }
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if self.blocks.is_empty() {
            return refuse("`blocks` names no block");
        }
        if self.image_size == 0 {
            return refuse("`image_size` must be above 0");
        }
        if self.adapter_width == 0 {
            return refuse("`adapter_width` must be above 0");
        }
        if self.episode_shots == 0 {
            return refuse("`episode_shots` must be above 0");
        }
        if !(self.text_prior || self.image_residual || self.patch_residual) {
            return refuse("one of `text_prior`, `image_residual`, `patch_residual` must be on");
        }
        let preprocess = self.normalisation.centre_crop(self.image_size);
        let request = FeatureRequest {
            embedding: Some(Embedding::Normed),
            ..FeatureRequest::blocks(self.blocks.iter().copied())
        };
        Ok(Profile::new(NAME, InputSpec::new(preprocess, request)))
    }
}
