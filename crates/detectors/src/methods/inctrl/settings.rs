//! Settings of InCTRL, and the defaults that depend on the backbone.

use anomalens_backbones::{Embedding, FeatureRequest, ImageEncoder};
use anomalens_vision::Preprocess;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::NAME;
use super::layout::BatchLayout;
use super::network::Sizes;
use super::residual;
use crate::detector::Profile;
use crate::{DetectorError, InputSpec, ReferenceAugmentation, Tta};

/// Side of the images in the paper, and where the backbone has no text encoder; other patch sizes
/// use the multiple just below.
const IMAGE_SIZE: usize = 240;
const IMAGE_SIZE_TEXT_FREE: usize = 224;

/// Blocks in the paper and without text encoder, of twelve.
const BLOCKS: [usize; 3] = [7, 9, 11];
const BLOCKS_TEXT_FREE: [usize; 2] = [6, 9];

/// By how much the adapter is narrower than the embedding.
const ADAPTER_REDUCTION: usize = 4;

/// The settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Side of the square that the network sees, in pixels.
    pub image_size: u32,
    /// How images are brought there.
    pub preprocessing: Preprocessing,
    /// In how many views each image is scored.
    pub tta: Tta,
    /// Blocks whose patch tokens are compared, counted from 1; their residuals are averaged.
    pub blocks: Vec<usize>,
    /// Whether each patch token is brought to mean 0 and variance 1 before it is compared.
    pub standardised: bool,
    /// In which forms each reference image is stored.
    pub reference_augmentation: ReferenceAugmentation,
    /// What makes a score of the residuals.
    pub head: Head,
    /// What the image shows, in the words of the prompts.
    pub class: String,
    /// Whether the prompts' score takes part.
    pub text_prior: bool,
    /// Whether the residual of the embedding takes part.
    pub image_residual: bool,
    /// Whether the residuals of the patches take part.
    pub patch_residual: bool,
    /// Whether the residuals of the patches beside the rest of their own image take part; for the
    /// power mean alone.
    pub own_residual: bool,
    /// Whether the largest patch residual is averaged with the holistic score.
    pub max_term: bool,
    /// Width of the adapter's middle.
    pub adapter_width: usize,
    /// Normal images beside each image in training.
    pub episode_shots: usize,
    /// Which blocks and shots meet in training.
    pub batch_layout: BatchLayout,
}

/// How images are brought to the size that the network sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preprocessing {
    /// The central square, CLIP's normalisation: the paper's.
    ClipCentreCrop,
    /// Stretched to a square, ImageNet's normalisation.
    ImagenetSquare,
}

/// What makes a score of the residuals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// The paper's adapter and heads.
    Network,
    /// The power mean of the residuals in units of the shots' own.
    PowerMean,
}

impl Settings {
    /// The paper's settings where the backbone has a text encoder; where it has not, those that
    /// were chosen on auxiliary data (docs/research/inctrl.md).
    pub(super) fn defaults(encoder: &dyn ImageEncoder, has_text: bool) -> Self {
        let (patch, blocks) = (encoder.spec().multiple.max(1), encoder.spec().blocks());
        let (size, preprocessing) = if has_text {
            (IMAGE_SIZE, Preprocessing::ClipCentreCrop)
        } else {
            (IMAGE_SIZE_TEXT_FREE, Preprocessing::ImagenetSquare)
        };
        Self {
            image_size: (size / patch * patch).max(patch) as u32,
            preprocessing,
            tta: Tta::default(),
            blocks: if has_text {
                &BLOCKS[..]
            } else {
                &BLOCKS_TEXT_FREE
            }
            .iter()
            .map(|block| (block * blocks / 12).max(1))
            .collect(),
            standardised: !has_text,
            reference_augmentation: if has_text {
                ReferenceAugmentation::Upright
            } else {
                ReferenceAugmentation::Flips
            },
            head: if has_text {
                Head::Network
            } else {
                Head::PowerMean
            },
            class: "object".to_owned(),
            text_prior: has_text,
            image_residual: true,
            patch_residual: true,
            own_residual: !has_text,
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

    /// In how many forms each reference image is stored, test-time views included.
    pub(super) fn forms(&self) -> usize {
        self.reference_augmentation.count() * self.tta.count()
    }

    /// The residual of an image's `patches` beside each other; 0 where it takes no part.
    pub(super) fn own(&self, patches: &[Tensor]) -> Result<f32, DetectorError> {
        match self.own_residual {
            true => residual::own(patches),
            false => Ok(0.0),
        }
    }

    /// `ratios` `[batch, 3]` without those that take no part.
    pub(super) fn parts(&self, ratios: &Tensor) -> candle_core::Result<Tensor> {
        let parts = [self.patch_residual, self.image_residual, self.own_residual];
        let parts = parts.map(|on| f32::from(u8::from(on)));
        ratios.broadcast_mul(&Tensor::new(&parts, ratios.device())?)
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
        if self.head == Head::PowerMean && self.text_prior {
            return refuse("`head = power-mean` has no part for `text_prior`: set it to false");
        }
        if self.head == Head::PowerMean && self.batch_layout == BatchLayout::Reference {
            return refuse("`batch_layout = reference` goes with `head = network` alone");
        }
        if !(self.text_prior || self.image_residual || self.patch_residual) {
            return refuse("one of `text_prior`, `image_residual`, `patch_residual` must be on");
        }
        let size = self.image_size;
        let input = InputSpec {
            preprocess: match self.preprocessing {
                Preprocessing::ClipCentreCrop => Preprocess::clip_centre_crop(size),
                Preprocessing::ImagenetSquare => Preprocess::imagenet_square(size),
            },
            request: FeatureRequest {
                // The power mean takes the mean token for the whole.
                embedding: (self.head == Head::Network).then_some(Embedding::Normed),
                ..FeatureRequest::blocks(self.blocks.iter().copied())
            },
        };
        Ok(Profile {
            tta: self.tta,
            ..Profile::new(NAME, input)
        })
    }
}
