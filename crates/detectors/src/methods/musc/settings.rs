//! Settings of MuSc.

use anomalens_backbones::{
    Embedding, FeatureRequest, ImageEncoder, PositionResize, Precision, TokenStage,
};
use anomalens_vision::{Alignment, Filter, Preprocess};
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::detector::{Enlargement, Profile, Scope, Smoothing};
use crate::settings::check_fraction;
use crate::{DetectorError, InputSpec};

/// Side of the square that images are stretched to, in pixels, before it is cut to whole patches.
const IMAGE_SIZE: usize = 518;

/// Blocks at the end of so many equal parts of the network are compared: 6, 12, 18, 24 of ViT-L.
const STAGES: usize = 4;

/// The settings. The defaults are those of the published code for MVTec AD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The kind of backbone, on which preprocessing and the class token depend.
    pub family: Family,
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// Blocks whose tokens are compared, counted from 1; their scores are averaged.
    pub blocks: Vec<usize>,
    /// Degrees of aggregation (r): sides of the square neighbourhoods over which tokens are
    /// averaged.
    pub degrees: Vec<usize>,
    /// Part of the other images, the most similar ones, that score a patch.
    pub lowest_fraction: f32,
    /// For the re-scoring by class tokens, the numbers of images (the image itself among them)
    /// over which scores are averaged; none for no re-scoring. The published code has [1, 8, 9]
    /// for VisA.
    pub rescore: Vec<usize>,
    /// How many images are scored against each other at the most; all of them if none.
    pub group: Option<usize>,
    /// How exactly nearest patches are searched: as the backbone computes.
    pub search: Precision,
}

/// A kind of backbone, as the published code distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Images resized by a bicubic filter, tokens as the blocks leave them, and embeddings of
    /// length 1 as class tokens.
    Clip,
    /// Images resized by a bilinear filter, tokens and class token after the final norm.
    DinoV2,
}

impl Settings {
    /// Those for a backbone.
    ///
    /// # Errors
    /// Those of looking for its text encoder.
    pub fn defaults(encoder: &dyn ImageEncoder) -> Result<Self, DetectorError> {
        let spec = encoder.spec();
        let (blocks, patch) = (spec.blocks(), spec.multiple.max(1));
        Ok(Self {
            family: match encoder.text(None)? {
                Some(_) => Family::Clip,
                None => Family::DinoV2,
            },
            image_size: ((IMAGE_SIZE / patch).max(1) * patch) as u32,
            blocks: (1..=STAGES)
                .map(|stage| (stage * blocks / STAGES).max(1))
                .collect(),
            degrees: vec![1, 3, 5],
            lowest_fraction: 0.3,
            rescore: vec![1, 2, 3],
            group: None,
            search: spec.precision,
        })
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if self.degrees.is_empty() || self.degrees.iter().any(|r| r % 2 == 0) {
            return refuse("`degrees` must be odd numbers, at least one");
        }
        check_fraction(NAME, "lowest_fraction", self.lowest_fraction.into())?;
        if self.rescore.contains(&0) {
            return refuse("`rescore` counts the image itself and so starts at 1");
        }
        if self.group.is_some_and(|group| group < super::NEEDED) {
            return refuse("`group` must be at least 2");
        }
        let InputSpec {
            preprocess,
            request,
            ..
        } = InputSpec::square(NAME, self.image_size, &self.blocks)?;
        let request = FeatureRequest {
            embedding: (!self.rescore.is_empty()).then_some(Embedding::Normed),
            ..request
        };
        let input = match self.family {
            Family::Clip => InputSpec::new(
                Preprocess::clip_square(self.image_size),
                FeatureRequest {
                    positions: Some(PositionResize::Bicubic),
                    ..request
                },
            ),
            Family::DinoV2 => InputSpec::new(
                Preprocess {
                    filter: Filter::Bilinear,
                    ..preprocess
                },
                FeatureRequest {
                    positions: Some(PositionResize::BicubicPadded),
                    ..request.at(TokenStage::Normed)
                },
            ),
        };
        Ok(Profile {
            scope: Scope::Joint(self.group.unwrap_or(usize::MAX)),
            enlargement: Enlargement {
                alignment: Alignment::Corners,
                smoothing: Smoothing::Off,
                ..Enlargement::default()
            },
            ..Profile::new(NAME, input)
        })
    }
}
