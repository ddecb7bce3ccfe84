//! Settings of lens.

use anomalens_backbones::{BackboneError, FeatureRequest, ImageEncoder, LayerId};
use anomalens_vision::{Preprocess, Resize};
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::components::layers::{blocks_and_stages, layers};
use crate::detector::{Profile, Scope};
use crate::input::Normalisation;
use crate::{Choice, DetectorError, InputSpec, MethodSettings, ReferenceAugmentation, Tta};

/// Side of the square that small images are stretched to; other patch sizes use the multiple just
/// below.
const SMALL: u32 = 224;

/// Images whose shorter side is below this are small: scans, or parts of photographs.
pub(super) const SMALL_BELOW: u32 = 448;

/// Blocks whose tokens are compared, of twelve.
const BLOCKS: [usize; 2] = [6, 9];

/// Strides in pixels of the stages of convolutional networks that are compared.
const STRIDES: [usize; 2] = [8, 16];

/// Side of the squares of cells over which their maps are averaged.
const CELLS: usize = 3;

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
    /// How many of the networks see each image, where there are several.
    #[serde(default = "open")]
    pub networks: Choice<usize>,
    /// The shorter side of what the network sees, in pixels.
    pub image_size: Choice<u32>,
    /// Width and height that images are stretched to, in pixels; follows from `image_size` and the
    /// shape of the references.
    pub input_size: Choice<[u32; 2]>,
    /// Side of the tiles in which larger inputs are seen, in pixels; 0 for none.
    pub tiles: Choice<u32>,
    /// Whether images that are seen in tiles are seen whole too, at a smaller size.
    #[serde(default = "open")]
    pub overview: Choice<bool>,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
    /// In how many views each image is scored.
    pub tta: Tta,
    /// Blocks of a transformer whose tokens are compared, counted from 1; their residuals are averaged.
    pub blocks: Vec<usize>,
    /// Stages of a convolutional network, counted from 1, whose maps are joined and compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<usize>,
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
        let spec = encoder.spec();
        let (blocks, stages) = blocks_and_stages(spec, &BLOCKS, &STRIDES);
        Ok(Self {
            evidence: Evidence::Auto,
            own_image: true,
            image_level: true,
            networks: Choice::Auto,
            image_size: Choice::Auto,
            input_size: Choice::Auto,
            tiles: Choice::Auto,
            overview: Choice::Auto,
            normalisation: Normalisation::of(encoder),
            tta: Tta::default(),
            blocks,
            stages,
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

    /// The layers that are taken from the network.
    pub(super) fn layers(&self) -> Result<Vec<LayerId>, DetectorError> {
        layers(NAME, &self.blocks, &self.stages)
    }

    /// The numbers of the layers whose tokens are compared, as they come out of the pipeline.
    pub(super) fn compared(&self) -> &[usize] {
        match self.blocks.as_slice() {
            [] => self.stages.get(..1).unwrap_or_default(), // They are joined.
            blocks => blocks,
        }
    }

    /// Whether pictures are large, so that small details count.
    pub(super) fn is_large(&self) -> bool {
        let size = self.input_size.given();
        size.is_some_and(|[width, height]| width.min(height) >= SMALL_BELOW)
    }

    /// Pixels of the input from one patch to the next.
    pub(super) fn patch(&self, encoder: &dyn ImageEncoder) -> Result<usize, DetectorError> {
        let spec = encoder.spec();
        let layers = self.layers()?.into_iter();
        let strides = layers.map(|layer| Ok(spec.layer(layer)?.stride));
        let strides = strides.collect::<Result<Vec<usize>, BackboneError>>()?;
        Ok(strides.into_iter().min().unwrap_or(spec.multiple))
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

fn open<T>() -> Choice<T> {
    Choice::Auto
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
        if side == 0 {
            return refuse("`image_size` must be above 0");
        }
        let input = InputSpec {
            network: 0,
            preprocess: Preprocess {
                resize: Resize::Stretch { height, width },
                ..self.normalisation.square(side)
            },
            request: FeatureRequest::layers(self.layers()?),
            tiles: tiles.map(|side| side as usize),
            join_cells: (!self.stages.is_empty()).then_some(CELLS),
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
