//! Settings of SPADE.

use anomalens_backbones::{ImageEncoder, LayerId, Precision};
use anomalens_vision::Filter;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::components::layers::{Framing, blocks_and_stages, last_held, layers};
use crate::detector::{Enlargement, Profile, Smoothing};
use crate::input::Normalisation;
use crate::{Choice, DetectorError};

/// Strides in pixels of the stages that are compared: the first three of a ResNet.
const STRIDES: [usize; 3] = [4, 8, 16];

/// Blocks that stand for them in a transformer of twelve.
const BLOCKS: [usize; 3] = [3, 6, 9];

/// Pixels of the shorter side of an image.
const IMAGE_SIZE: u32 = 256;

/// Megabytes that the features of normal images may take.
const MAX_MEMORY: u32 = 4096;

/// Standard deviation of the Gaussian that smooths maps, in pixels of what the network sees.
pub(super) const SIGMA: f64 = 4.0;

/// The settings, with the defaults of the published re-implementation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Blocks of a transformer that are compared, counted from 1; their maps are averaged.
    pub blocks: Vec<usize>,
    /// Stages of a convolutional network that are compared, counted from 1.
    pub stages: Vec<usize>,
    /// The block or stage whose mean describes an image; the last one by default.
    pub pooled: Choice<usize>,
    /// Pixels of the shorter side of an image.
    pub image_size: u32,
    /// Side of the central square that is seen; 0 stretches all of the image to a square.
    pub crop: Choice<u32>,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
    /// Normal images, the nearest ones, that an image is compared with; all where there are fewer.
    pub neighbours: usize,
    /// Whether the places that the published code forgets are left out.
    pub literal_chunks: bool,
    /// How exactly nearest places are searched.
    pub search: Precision,
    /// Megabytes that the features of normal images may take, in memory and in the detector file.
    pub max_memory: u32,
}

impl Settings {
    /// Those for a backbone.
    pub fn defaults(encoder: &dyn ImageEncoder) -> Self {
        let spec = encoder.spec();
        let (blocks, stages) = blocks_and_stages(spec, &BLOCKS, &STRIDES);
        let last = last_held(encoder).map(LayerId::number);
        Self {
            blocks,
            stages,
            pooled: last.map_or(Choice::Auto, Choice::Given),
            image_size: IMAGE_SIZE,
            crop: Choice::Auto,
            normalisation: Normalisation::of(encoder),
            neighbours: 5,
            literal_chunks: false,
            search: spec.precision,
            max_memory: MAX_MEMORY,
        }
    }

    /// How images come to the network.
    pub(super) fn framing(&self) -> Framing {
        Framing {
            image_size: self.image_size,
            crop: self.crop,
            filter: Filter::Lanczos,
            normalisation: self.normalisation,
        }
    }

    /// The layers that are compared.
    pub(super) fn compared(&self) -> Result<Vec<LayerId>, DetectorError> {
        layers(NAME, &self.blocks, &self.stages)
    }

    /// The layer whose mean describes an image.
    pub(super) fn pooled(&self) -> Result<LayerId, DetectorError> {
        let last = self.compared()?.last().copied();
        let layer = match (self.pooled.given(), last) {
            (Some(number), Some(LayerId::Block(_))) => Some(LayerId::Block(number)),
            (Some(number), _) => Some(LayerId::Stage(number)),
            (None, last) => last,
        };
        layer.ok_or_else(|| DetectorError::settings(NAME, "no layer is compared"))
    }
}

impl crate::Settings for Settings {
    const METHOD: &'static str = NAME;

    fn profile(&self) -> Result<Profile, DetectorError> {
        if self.neighbours == 0 {
            return Err(DetectorError::settings(
                NAME,
                "`neighbours` must be above 0",
            ));
        }
        let framing = self.framing();
        let mut layers = self.compared()?;
        layers.push(self.pooled()?);
        let input = framing.input(NAME, layers)?;
        Ok(Profile {
            enlargement: Enlargement {
                smoothing: Smoothing::OfSide(SIGMA / f64::from(framing.side())),
                ..Enlargement::default()
            },
            ..Profile::new(NAME, input)
        })
    }
}
