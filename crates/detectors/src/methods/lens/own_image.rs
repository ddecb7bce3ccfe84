//! Evidence: the rest of the image itself. Surfaces repeat themselves and many things are
//! symmetric; a patch is as anomalous as it is different from the rest of its image.
//!
//! Scores are in units of what normal images score: of the target if some are given, of auxiliary
//! data otherwise. How it was found: docs/research/self-similarity.md.

use anomalens_backbones::ImageFeatures;
use anomalens_vision::Map;

use super::residual::top;
use super::{NAME, Settings};
use crate::components::self_similarity::{Distance, self_distances};
use crate::detector::{Array, NormalRange, Scored, State};
use crate::settings::Checked;
use crate::{DetectorError, FitContext};

/// Patches, the most distant ones, whose mean is the image's score.
pub(super) const HIGHEST: usize = 5;

/// Quantile of normal images' patch scores beyond which patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// Name of the tensor in a detector file: image, median, upper quantile.
const TENSOR: &str = "own_image_scale";

/// What normal images score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct OwnImage {
    /// The mean score of an image, in cosine distance.
    image: f32,
    /// The scores of patches, in units of `image`.
    range: NormalRange,
}

/// Measured with the default settings and the backbone `dinov2-s-focus` on normal images of magnetic
/// tile, HeadCT and drawn textures; docs/research/self-similarity.md has the commands.
const AUXILIARY: OwnImage = OwnImage {
    image: 0.370,
    range: NormalRange {
        median: 1.668,
        upper_quantile: 3.470,
    },
};

/// Least unit, for normal images that hardly have any structure.
const LEAST: f32 = AUXILIARY.image / 20.0;

impl OwnImage {
    /// Measured on the normal images of `context`, if there are any.
    pub(super) fn fit(
        context: &FitContext<'_>,
        checked: &Checked<Settings>,
    ) -> Result<Self, DetectorError> {
        if context.references.is_empty() {
            return Ok(AUXILIARY);
        }
        let Checked { settings, profile } = checked;
        let (mut patches, mut image) = (vec![], 0.0);
        for reference in context.references {
            let features = context.encode(&profile.input, settings.tta, [&*reference.open()?])?;
            let (score, places) = compared(&features[0], settings)?;
            image += score / context.references.len() as f32;
            patches.extend(places);
        }
        let image = image.max(LEAST);
        Ok(Self {
            image,
            range: NormalRange::of(patches, UPPER_QUANTILE).scaled_by(image),
        })
    }

    /// The result of one image.
    pub(super) fn score(
        &self,
        image: &ImageFeatures,
        checked: &Checked<Settings>,
    ) -> Result<Scored, DetectorError> {
        let width = image.maps.first().map_or(0, |map| map.dim);
        let grid = checked.profile.check(image, width)?;
        let (score, places) = compared(image, &checked.settings)?;
        let values = places.map(|distance| distance / self.image);
        let map = Map::new(grid.rows, grid.columns, values.collect())?;
        Ok(Scored {
            score: score / self.image,
            map,
            range: self.range,
        })
    }

    /// The unit of scores.
    pub(super) fn image(&self) -> f32 {
        self.image
    }

    /// The tensor for a detector file.
    pub(super) fn array(&self) -> (String, Array) {
        let NormalRange {
            median,
            upper_quantile,
        } = self.range;
        let values = vec![self.image, median, upper_quantile];
        (TENSOR.to_owned(), Array::vector(values))
    }

    /// The scale again from its tensor.
    pub(super) fn load(state: &mut State) -> Result<Self, DetectorError> {
        match state.take(NAME, TENSOR)?.values.as_slice() {
            &[image, median, upper_quantile] if image > 0.0 => Ok(Self {
                image,
                range: NormalRange {
                    median,
                    upper_quantile,
                },
            }),
            _ => Err(DetectorError::tensor(NAME, TENSOR)),
        }
    }
}

/// How different the least familiar patches are, and each place, from the rest of the image.
fn compared(
    image: &ImageFeatures,
    settings: &Settings,
) -> Result<(f32, impl Iterator<Item = f32>), DetectorError> {
    let found = self_distances(image, settings.compared())?;
    let distances: Vec<f32> = found.iter().map(Distance::of_image).collect();
    let places = found.into_iter().map(|distance| distance.of_place());
    Ok((top(&distances, HIGHEST), places))
}
