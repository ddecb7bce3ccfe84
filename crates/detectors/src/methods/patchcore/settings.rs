//! Settings of PatchCore.

use anomalens_backbones::{ImageEncoder, Precision};
use anomalens_vision::Filter;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::components::layers::{Framing, blocks_and_stages, layers, whole};
use crate::detector::{Enlargement, Profile, Smoothing};
use crate::input::Normalisation;
use crate::settings::check_fraction;
use crate::{Choice, DetectorError};

/// Strides in pixels of the stages that are joined: the second and the third of a ResNet.
const STRIDES: [usize; 2] = [8, 16];

/// Blocks that stand for them in a transformer of twelve.
const BLOCKS: [usize; 2] = [6, 9];

/// Pixels of the shorter side of an image.
const IMAGE_SIZE: u32 = 256;

/// Numbers of a patch in the original's memory bank.
const DIMENSION: usize = 1024;

/// Numbers of a patch that a memory bank can have.
const MOST: usize = 1 << 14;

/// Standard deviation of the Gaussian that smooths maps, in pixels of what the network sees.
pub(super) const SIGMA: f64 = 4.0;

/// The settings, with the defaults of the published code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whose implementation is followed.
    pub variant: Variant,
    /// Blocks of a transformer that are joined, counted from 1.
    pub blocks: Vec<usize>,
    /// Stages of a convolutional network that are joined, counted from 1.
    pub stages: Vec<usize>,
    /// Pixels of the shorter side of an image.
    pub image_size: u32,
    /// Side of the central square that is seen; 0 stretches all of the image to a square.
    pub crop: Choice<u32>,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
    /// Numbers of a patch in the original's memory bank.
    pub dimension: usize,
    /// Part of the patches that the memory bank keeps.
    pub coreset: f64,
    /// How these are chosen.
    pub selection: Selection,
    /// Whether patches are compared by random projections when these are chosen.
    pub projection: bool,
    /// Seed of what is random.
    pub seed: u32,
    /// Neighbours in the memory bank over which an image's score is weighed; 1 for none.
    pub neighbours: usize,
    /// How exactly nearest patches are searched.
    pub search: Precision,
}

/// Whose implementation is followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The authors'.
    #[default]
    Original,
    /// Anomalib's.
    Anomalib,
}

/// How the patches of the memory bank are chosen, the farthest each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// First the one that is farthest from ten random patches on average.
    Approximate,
    /// First the one that is farthest from all patches.
    Exact,
    /// First a random one.
    KCentre,
}

impl Settings {
    /// Those of a variant for a backbone.
    pub fn defaults(encoder: &dyn ImageEncoder, variant: Variant) -> Self {
        let spec = encoder.spec();
        let (blocks, stages) = blocks_and_stages(spec, &BLOCKS, &STRIDES);
        let original = variant == Variant::Original;
        // A patch is described by nine cells of each layer; fewer numbers are not made more.
        let compared = |number| blocks.contains(&number) || stages.contains(&number);
        let compared = spec
            .layers
            .iter()
            .filter(|layer| compared(layer.id.number()));
        let narrowest = compared.map(|layer| 9 * layer.dim).min();
        Self {
            variant,
            image_size: match variant {
                Variant::Original => IMAGE_SIZE,
                Variant::Anomalib => whole(IMAGE_SIZE, spec),
            },
            crop: match variant {
                Variant::Original => Choice::Auto,
                Variant::Anomalib => Choice::Given(0),
            },
            normalisation: Normalisation::of(encoder),
            dimension: narrowest.unwrap_or(DIMENSION).min(DIMENSION),
            coreset: 0.1,
            selection: match variant {
                Variant::Original => Selection::Approximate,
                Variant::Anomalib => Selection::KCentre,
            },
            projection: true,
            seed: 0,
            neighbours: if original { 1 } else { 9 },
            search: spec.precision,
            blocks,
            stages,
        }
    }

    /// How images come to the network.
    pub(super) fn framing(&self) -> Framing {
        Framing {
            image_size: self.image_size,
            crop: self.crop,
            filter: Filter::Bilinear,
            normalisation: self.normalisation,
        }
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(NAME, reason));
        check_fraction(NAME, "coreset", self.coreset)?;
        if self.neighbours == 0 {
            return refuse("`neighbours` must be above 0");
        }
        if !(1..=MOST).contains(&self.dimension) {
            return refuse("`dimension` must be 1 to 16384");
        }
        let framing = self.framing();
        let input = framing.input(NAME, layers(NAME, &self.blocks, &self.stages)?)?;
        Ok(Profile {
            enlargement: Enlargement {
                smoothing: match self.variant {
                    Variant::Original => Smoothing::OfSide(SIGMA / f64::from(framing.side())),
                    // The detector smooths, at the size of what the network sees.
                    Variant::Anomalib => Smoothing::Off,
                },
                ..Enlargement::default()
            },
            ..Profile::new(NAME, input)
        })
    }
}
