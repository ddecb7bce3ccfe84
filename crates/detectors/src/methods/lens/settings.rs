//! Settings of lens.

use anomalens_backbones::ImageEncoder;
use anomalens_vision::{Preprocess, Resize};
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::detector::{Profile, Scope};
use crate::input::Normalisation;
use crate::{Choice, DetectorError, InputSpec, MethodSettings, ReferenceAugmentation, Tta};

/// Side of the square that small images are stretched to; other patch sizes use the multiple just
/// below.
const SMALL: u32 = 224;

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
    /// The shorter side of what the network sees, in pixels.
    pub image_size: Choice<u32>,
    /// Width and height that images are stretched to, in pixels; follows from `image_size` and the
    /// shape of the references.
    pub input_size: Choice<[u32; 2]>,
    /// Side of the tiles in which larger inputs are seen, in pixels; 0 for none.
    pub tiles: Choice<u32>,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
    /// In how many views each image is scored.
    pub tta: Tta,
    /// Blocks whose tokens are compared, counted from 1; their residuals are averaged.
    pub blocks: Vec<usize>,
    /// In which forms each reference image is stored.
    pub reference_augmentation: Choice<ReferenceAugmentation>,
    /// Whether patches of the ground around an object count less.
    pub foreground: Choice<bool>,
    /// Megabytes of memory that the patches of references may take; those that cover the others are kept.
    /// Without a value 24,576 patches of each block are kept, 94 MB for each block of a DINOv2-S.
    #[serde(default)]
    pub max_memory: Option<u32>,
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
        let blocks = encoder.spec().blocks();
        // Networks with a text encoder were trained with CLIP's normalisation.
        let normalisation = match encoder.text()? {
            Some(_) => Normalisation::Clip,
            None => Normalisation::Imagenet,
        };
        Ok(Self {
            evidence: Evidence::Auto,
            own_image: true,
            image_level: true,
            image_size: Choice::Auto,
            input_size: Choice::Auto,
            tiles: Choice::Auto,
            normalisation,
            tta: Tta::default(),
            blocks: of_twelve(&BLOCKS, blocks),
            reference_augmentation: Choice::Auto,
            foreground: Choice::Auto,
            max_memory: None,
            group: 64,
            episode_references: 2,
        })
    }

    /// These settings with fixed values where they are left open: those for small images, and for
    /// evidence other than references.
    pub(super) fn settled(self, encoder: &dyn ImageEncoder) -> Self {
        let side = self.image_size.given().unwrap_or_else(|| small(encoder));
        let or = |given: Option<u32>| Choice::Given(given.unwrap_or(0));
        Self {
            image_size: Choice::Given(side),
            input_size: Choice::Given(self.input_size.given().unwrap_or([side, side])),
            tiles: or(self.tiles.given()),
            reference_augmentation: Choice::Given(self.augmentation()),
            foreground: Choice::Given(self.foreground.given().unwrap_or(false)),
            ..self
        }
    }

    /// Whether things lie in any direction, as the form of so many references says; a single one
    /// does not.
    pub(super) fn lie_in_any_direction(&self, references: usize) -> bool {
        self.augmentation() == ReferenceAugmentation::Rotations && references > 1
    }

    /// The forms of a reference image that are stored.
    pub(super) fn augmentation(&self) -> ReferenceAugmentation {
        let given = self.reference_augmentation.given();
        given.unwrap_or(ReferenceAugmentation::Flips)
    }
}

/// The blocks of a network of so `many` that correspond to `blocks` of twelve.
pub(super) fn of_twelve(blocks: &[usize], many: usize) -> Vec<usize> {
    let block = |block: &usize| (block * many / 12).max(1);
    blocks.iter().map(block).collect()
}

/// The side for small images.
pub(super) fn small(encoder: &dyn ImageEncoder) -> u32 {
    let patch = encoder.spec().multiple.max(1) as u32;
    (SMALL / patch * patch).max(patch)
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
        let side = self.image_size.given().unwrap_or(SMALL);
        let [width, height] = self.input_size.given().unwrap_or([side, side]);
        if width == 0 || height == 0 {
            return refuse("`input_size` must be above 0");
        }
        let tiles = self.tiles.given().filter(|&side| side > 0);
        let square = InputSpec::square(NAME, side, &self.blocks)?;
        let input = InputSpec {
            preprocess: Preprocess {
                resize: Resize::Stretch { height, width },
                ..self.normalisation.square(side)
            },
            tiles: tiles.map(|side| side as usize),
            ..square
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
