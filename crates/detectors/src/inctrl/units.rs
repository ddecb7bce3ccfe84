//! What the residuals of the power mean are measured in: each shot beside the others, as if it
//! were a new image.

use anomalens_vision::Map;

use super::residual;
use crate::DetectorError;

/// Part of the patches, the most different ones, whose mean stands for all.
const TOP_FRACTION: f64 = 0.01;

/// Least unit: shots that are copies of one image have no residual beside each other.
const LEAST: f32 = 5e-5;

/// The residuals of an image: of its patches and of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Residuals {
    pub(super) patches: f32,
    pub(super) whole: f32,
}

impl Residuals {
    /// From the map of an image, and the means of its tokens beside those of its shots.
    pub(super) fn new<'a>(
        map: &Map,
        means: &[f32],
        shots: impl Iterator<Item = &'a [f32]>,
        blocks: usize,
    ) -> Self {
        let whole = shots.map(|shot| residual::between(means, shot, blocks));
        let nearest = whole.fold(f32::INFINITY, f32::min);
        Self {
            patches: map.top_mean(TOP_FRACTION),
            // A single shot has nothing that it could be compared with.
            whole: if nearest.is_finite() { nearest } else { 0.0 },
        }
    }

    /// The mean of those of the shots, as a unit.
    pub(super) fn unit(shots: &[Self]) -> Self {
        let mean = |part: fn(&Self) -> f32| {
            shots.iter().map(part).sum::<f32>() / shots.len().max(1) as f32
        };
        Self {
            patches: mean(|shot| shot.patches).max(LEAST),
            whole: mean(|shot| shot.whole),
        }
    }

    /// In these units. Where the shots tell none for the whole, it does not count.
    pub(super) fn ratios(self, unit: Self) -> [f32; 2] {
        let whole = if unit.whole > 0.0 {
            self.whole / unit.whole.max(LEAST)
        } else {
            0.0
        };
        [self.patches / unit.patches, whole]
    }
}

/// The map of an image as one row, for its largest values.
pub(super) fn row(values: &[f32]) -> Result<Map, DetectorError> {
    Ok(Map::new(1, values.len(), values.to_vec())?)
}
