//! Which layers of a network methods of the papers compare, and how images come to them: layers of a
//! convolutional network by their strides, blocks of a transformer by their place among twelve.

use anomalens_backbones::{EncoderSpec, FeatureRequest, ImageEncoder, ImageFeatures, LayerId};
use anomalens_vision::{Filter, Preprocess, Resize};

use crate::components::joined::Cells;
use crate::input::Normalisation;
use crate::{Choice, DetectorError, InputSpec};

/// Of the shorter side of an image so much is seen: 224 of 256 pixels, 320 of 366.
const SEEN: (u32, u32) = (7, 8);

/// The last stage of a convolutional network with this stride.
pub(crate) fn last_of(spec: &EncoderSpec, stride: usize) -> Option<usize> {
    let stages = spec.layers.iter().filter(|layer| layer.stride == stride);
    stages.map(|layer| layer.id.number()).max()
}

/// The blocks of a network of so `many` that correspond to `blocks` of twelve.
pub(crate) fn of_twelve(blocks: &[usize], many: usize) -> Vec<usize> {
    let block = |block: &usize| (block * many / 12).max(1);
    blocks.iter().map(block).collect()
}

/// Blocks of a transformer, or the last stages of a convolutional network with these strides: those of
/// `encoder`, the others empty.
pub(crate) fn blocks_and_stages(
    encoder: &EncoderSpec,
    blocks: &[usize],
    strides: &[usize],
) -> (Vec<usize>, Vec<usize>) {
    match encoder.blocks() {
        0 => {
            let stages = strides.iter().filter_map(|&s| last_of(encoder, s));
            (vec![], stages.collect())
        }
        many => (of_twelve(blocks, many), vec![]),
    }
}

/// The layer that settings of `method` name as `blocks` or as `stages`; one of them must be empty.
pub(crate) fn layers(
    method: &'static str,
    blocks: &[usize],
    stages: &[usize],
) -> Result<Vec<LayerId>, DetectorError> {
    let refuse = |reason| Err(DetectorError::settings(method, reason));
    let layers: Vec<LayerId> = match (blocks, stages) {
        ([], []) => return refuse("`blocks` names no block, and `stages` no stage"),
        (blocks, []) => blocks.iter().copied().map(LayerId::Block).collect(),
        ([], stages) => stages.iter().copied().map(LayerId::Stage).collect(),
        _ => return refuse("a network has `blocks` or `stages`, not both"),
    };
    match layers.is_sorted_by(|a, b| a < b) {
        true => Ok(layers),
        false => refuse("layers are named in their order, each once"),
    }
}

/// The deepest layer that `encoder` holds: networks may be cut short.
pub(crate) fn last_held(encoder: &dyn ImageEncoder) -> Option<LayerId> {
    let layers = encoder.spec().layers.iter().rev().map(|layer| layer.id);
    // No image is encoded, but layers that are not there are refused.
    let is_held = |layer: &LayerId| {
        encoder
            .encode(&[], &FeatureRequest::layers([*layer]))
            .is_ok()
    };
    layers.into_iter().find(is_held)
}

/// The tokens of `image` after each of `layers`.
pub(crate) fn cells<'a>(
    image: &'a ImageFeatures,
    layers: &[LayerId],
) -> Result<Vec<Cells<'a>>, DetectorError> {
    let cells = layers.iter().map(|&layer| {
        let map = image.map(layer);
        map.map(Cells::of).ok_or(DetectorError::MissingLayer(layer))
    });
    cells.collect()
}

/// How the papers' methods bring images to a network: the shorter side resized, the centre cut out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framing {
    pub(crate) image_size: u32,
    pub(crate) crop: Choice<u32>,
    pub(crate) filter: Filter,
    pub(crate) normalisation: Normalisation,
}

impl Framing {
    /// The side of the central square; where it is left open, seven eighths of the image in multiples of
    /// what `encoder` takes.
    pub(crate) fn crop(given: Choice<u32>, image_size: u32, encoder: &EncoderSpec) -> Choice<u32> {
        let seen = u64::from(image_size) * u64::from(SEEN.0) / u64::from(SEEN.1);
        let crop = given.given().unwrap_or_else(|| whole(seen as u32, encoder));
        Choice::Given(crop)
    }

    /// Side of what the network sees.
    pub(crate) fn side(&self) -> u32 {
        match self.crop.given() {
            Some(0) | None => self.image_size,
            Some(crop) => crop,
        }
    }

    /// The input for these `layers`; with `crop` 0 all of the image is stretched to a square.
    pub(crate) fn input(
        &self,
        method: &'static str,
        layers: Vec<LayerId>,
    ) -> Result<InputSpec, DetectorError> {
        let (size, crop) = (self.image_size, self.side());
        if size == 0 {
            return Err(DetectorError::settings(
                method,
                "`image_size` must be above 0",
            ));
        }
        if crop > size {
            let reason = format_args!("`crop`, {crop}, must not exceed `image_size`, {size}");
            return Err(DetectorError::settings(method, reason));
        }
        let square = self.normalisation.square(size);
        let resize = match self.crop.given() {
            Some(1..) => Resize::ShorterSideCentreCrop { size, crop },
            Some(0) | None => square.resize,
        };
        let preprocess = Preprocess {
            resize,
            filter: self.filter,
            ..square
        };
        Ok(InputSpec::new(preprocess, FeatureRequest::layers(layers)))
    }
}

/// `side` cut to a multiple of what `encoder` takes, one at least.
pub(crate) fn whole(side: u32, encoder: &EncoderSpec) -> u32 {
    let multiple = encoder.multiple.max(1) as u32;
    (side / multiple * multiple).max(multiple)
}
