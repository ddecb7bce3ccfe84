//! Settings of lens.

use anomalens_backbones::ImageEncoder;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::detector::{Profile, Scope};
use crate::input::Normalisation;
use crate::{DetectorError, InputSpec, MethodSettings, ReferenceAugmentation, Tta};

/// Side of the square that images are stretched to; other patch sizes use the multiple just below.
const IMAGE_SIZE: usize = 224;

/// Blocks whose tokens are compared, of twelve.
const BLOCKS: [usize; 2] = [6, 9];

/// The settings, with defaults that were chosen on auxiliary data alone (docs/research).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What an image is compared with.
    pub evidence: Evidence,
    /// Whether each patch is compared with the rest of its own image too, where there is other
    /// evidence.
    pub own_image: bool,
    /// Whether the mean token of an image is compared with those of others too.
    pub image_level: bool,
    /// Side of the square that images are stretched to, in pixels.
    pub image_size: u32,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
    /// In how many views each image is scored.
    pub tta: Tta,
    /// Blocks whose tokens are compared, counted from 1; their residuals are averaged.
    pub blocks: Vec<usize>,
    /// In which forms each reference image is stored.
    pub reference_augmentation: ReferenceAugmentation,
    /// The most images that are scored against each other.
    pub group: usize,
    /// Normal images for each image in training.
    pub episode_references: usize,
}

/// What an image is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// Reference images if there are any, else the image itself.
    Auto,
    /// The rest of the image itself.
    OwnImage,
    /// A few normal images of the target.
    References,
    /// The other images of a batch, unlabelled.
    Batch,
}

impl Evidence {
    /// The settings that choose it.
    pub fn settings(self) -> MethodSettings {
        let value = serde_json::to_value(self).unwrap_or_default();
        MethodSettings::from_iter([("evidence".to_owned(), value)])
    }
}

impl Settings {
    /// The defaults for `encoder`; the same for every network but for what follows from its sizes
    /// and its normalisation.
    ///
    /// # Errors
    /// Those of opening a text encoder.
    pub fn defaults(encoder: &dyn ImageEncoder) -> Result<Self, DetectorError> {
        let (patch, blocks) = (encoder.spec().multiple.max(1), encoder.spec().blocks());
        // Networks with a text encoder were trained with CLIP's normalisation.
        let normalisation = match encoder.text()? {
            Some(_) => Normalisation::Clip,
            None => Normalisation::Imagenet,
        };
        Ok(Self {
            evidence: Evidence::Auto,
            own_image: true,
            image_level: true,
            image_size: (IMAGE_SIZE / patch * patch).max(patch) as u32,
            normalisation,
            tta: Tta::default(),
            blocks: BLOCKS.map(|block| (block * blocks / 12).max(1)).to_vec(),
            reference_augmentation: ReferenceAugmentation::Flips,
            group: 64,
            episode_references: 2,
        })
    }

    /// In how many forms each reference image is stored, test-time views included.
    pub(super) fn forms(&self) -> usize {
        self.reference_augmentation.count() * self.tta.count()
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        if self.group < 2 {
            return refuse("`group` must be at least 2");
        }
        if self.episode_references < 2 {
            return refuse(
                "references are measured against each other: `episode_references` must be at \
                 least 2",
            );
        }
        let input = InputSpec {
            preprocess: self.normalisation.square(self.image_size),
            ..InputSpec::square(NAME, self.image_size, &self.blocks)?
        };
        Ok(Profile {
            scope: match self.evidence {
                Evidence::Batch => Scope::Joint(self.group),
                Evidence::Auto | Evidence::OwnImage | Evidence::References => Scope::Single,
            },
            tta: self.tta,
            ..Profile::new(NAME, input)
        })
    }
}
