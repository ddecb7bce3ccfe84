//! Settings of AnomalyCLIP, and the defaults that depend on the backbone.

use anomalens_backbones::{
    Dpam, Embedding, FeatureRequest, ImageEncoder, SelfAttention, TokenStage,
};
use anomalens_base::nearest;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::detector::{Enlargement, Profile, Smoothing};
use crate::input::Normalisation;
use crate::{DetectorError, InputSpec};

/// Side of the images in the paper; other patch sizes use the multiple just below.
const IMAGE_SIZE: usize = 518;

/// Side of the images where the backbone has no text encoder.
const IMAGE_SIZE_TEXT_FREE: usize = 224;

/// The settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
    /// Blocks whose tokens are compared, counted from 1; their maps are averaged.
    pub blocks: Vec<usize>,
    /// What attends to itself in the local stream; none for the network's own stream.
    pub dpam: Option<SelfAttention>,
    /// The first block of the local stream, counted from 1.
    pub dpam_first_block: usize,
    /// What is learned.
    pub prompt: PromptKind,
    /// The word for what is looked at, the same for all things.
    pub class_word: String,
    /// Whether the class's own name takes its place (the paper's ablation).
    pub object_aware: bool,
    /// The classes that prompts are stored for, where they have their own; those of the training
    /// data are added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// What follows the learned tokens in the normal prompts, `{}` being the class; of several the
    /// embeddings are averaged.
    pub normal_templates: Vec<String>,
    /// The same for the anomalous prompts.
    pub anomalous_templates: Vec<String>,
    /// Learned tokens at the start of each prompt.
    pub context_length: usize,
    /// Blocks of the text encoder that get learned tokens, the first one's being the context.
    pub prompt_depth: usize,
    /// Learned tokens in each of the later ones.
    pub deep_tokens: usize,
    /// By what cosines are divided before the softmax.
    pub temperature: f64,
    /// Standard deviation of the Gaussian that smooths maps, in pixels of an image of
    /// `image_size`.
    pub sigma: f64,
    /// What an image's score is made of.
    pub image_score: ImageScore,
    /// Weight of the image's cross-entropy in the loss.
    pub global_weight: f64,
    /// Weight of focal and dice loss of the maps.
    pub local_weight: f64,
}

/// What is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptKind {
    /// Tokens of two prompts, through CLIP's text encoder.
    Text,
    /// The two embeddings themselves: for backbones without text encoder.
    Embedding,
}

/// What an image's score is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageScore {
    /// The probability from the image's embedding, as in the paper.
    Embedding,
    /// The mean of the largest hundredth of the map.
    Map,
    /// The mean of both.
    Both,
}

impl Settings {
    /// The paper's settings where the backbone allows them, in proportion where it does not.
    pub(super) fn defaults(encoder: &dyn ImageEncoder, has_text: bool) -> Self {
        let (patch, blocks) = (encoder.spec().multiple.max(1), encoder.spec().blocks());
        let size = if has_text {
            IMAGE_SIZE
        } else {
            IMAGE_SIZE_TEXT_FREE
        };
        Self {
            image_size: (size / patch * patch).max(patch) as u32,
            normalisation: if has_text {
                Normalisation::Clip
            } else {
                Normalisation::Imagenet
            },
            blocks: if has_text {
                vec![blocks]
            } else {
                [4, 6, 8, 10].map(|b| (b * blocks / 12).max(1)).to_vec()
            },
            dpam: has_text.then_some(SelfAttention::Values),
            // Block 6 of 24.
            dpam_first_block: (blocks / 4).max(1),
            prompt: if has_text {
                PromptKind::Text
            } else {
                PromptKind::Embedding
            },
            class_word: "object".to_owned(),
            object_aware: false,
            classes: vec![],
            normal_templates: vec!["{}.".to_owned()],
            anomalous_templates: vec!["damaged {}.".to_owned()],
            context_length: 12,
            prompt_depth: 9,
            deep_tokens: 4,
            temperature: 0.07,
            sigma: 4.0,
            image_score: if has_text {
                ImageScore::Embedding
            } else {
                ImageScore::Both
            },
            global_weight: 1.0,
            local_weight: 4.0,
        }
    }

    /// What stands for the class in the prompts of each pair.
    pub(super) fn words(&self) -> Vec<String> {
        if self.object_aware {
            let names = self.classes.iter();
            names.map(|name| name.replace('_', " ")).collect()
        } else {
            vec![self.class_word.clone()]
        }
    }

    /// Which pair of prompts images of `class` are compared with.
    ///
    /// # Errors
    /// [`DetectorError::UnknownClass`] if there is none for it.
    pub(super) fn pair(&self, class: &str) -> Result<usize, DetectorError> {
        if !self.object_aware {
            return Ok(0);
        }
        let found = self.classes.iter().position(|name| name == class);
        found.ok_or_else(|| DetectorError::UnknownClass {
            name: class.to_owned(),
            nearest: nearest(class, self.classes.iter().map(String::as_str)),
            known: self.classes.join(", "),
        })
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if self.blocks.is_empty() {
            return refuse("`blocks` names no block");
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return refuse("`temperature` must be above 0");
        }
        if !(self.sigma >= 0.0 && self.sigma.is_finite()) {
            return refuse("`sigma` must be at least 0");
        }
        let weights = [self.global_weight, self.local_weight];
        if !weights.iter().all(|w| *w >= 0.0 && w.is_finite()) || weights == [0.0, 0.0] {
            return refuse("`global_weight` and `local_weight` must be at least 0, one above it");
        }
        if self.image_size == 0 {
            return refuse("`image_size` must be above 0");
        }
        if self.context_length == 0 || self.context_length > 64 {
            return refuse("`context_length` must be 1 to 64");
        }
        if self.deep_tokens > self.context_length && self.prompt_depth > 1 {
            return refuse("`deep_tokens` must not exceed `context_length`");
        }
        if self.prompt_depth == 0 || self.prompt_depth > 64 {
            return refuse("`prompt_depth` must be at least 1");
        }
        if !self.object_aware && !self.classes.is_empty() {
            return refuse("`classes` is for `object_aware` prompts alone");
        }
        if self.object_aware && self.prompt == PromptKind::Embedding {
            return refuse("`object_aware` needs `prompt = text`");
        }
        for templates in [&self.normal_templates, &self.anomalous_templates] {
            if templates.is_empty() || !templates.iter().all(|text| text.contains("{}")) {
                return refuse("a template must contain `{}`, and there must be one of each kind");
            }
        }
        let size = self.image_size;
        let request = FeatureRequest {
            stage: TokenStage::Projected,
            attention: self.dpam.map(|attention| Dpam {
                first_block: self.dpam_first_block,
                attention,
                feed_forward: false,
            }),
            embedding: Some(match self.prompt {
                PromptKind::Text => Embedding::Direct,
                PromptKind::Embedding => Embedding::Normed,
            }),
            ..FeatureRequest::blocks(self.blocks.iter().copied())
        };
        let input = InputSpec::new(self.normalisation.square(size), request);
        Ok(Profile {
            enlargement: Enlargement {
                smoothing: Smoothing::OfSide(self.sigma / f64::from(size)),
                ..Enlargement::default()
            },
            ..Profile::new(NAME, input)
        })
    }
}
