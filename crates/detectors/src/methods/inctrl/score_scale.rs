//! What the residuals of the power mean are measured in: each shot beside the others, as if it
//! were a new image.

use anomalens_vision::Map;

use super::residual::{self, Quarters};
use crate::DetectorError;

/// Part of the patches, the most different ones, whose mean stands for all.
const TOP_FRACTION: f64 = 0.01;

/// Least unit: shots that are copies of one image have no residual beside each other.
const LEAST: f32 = 5e-5;

/// Where images are of one even surface, quarters of different images differ by less than this part
/// of what quarters of one image do, and wholes by still less: then a whole that differs tells
/// something. Where they differ by more, as those of things and of lighting that changes do, it
/// tells nothing, least of all beside two shots that happen to be alike. Chosen on auxiliary data
/// (docs/research/inctrl.md).
const EVEN: f32 = 0.3;

/// The residuals of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Residuals {
    /// Of its patches beside those of the shots.
    pub(super) patches: f32,
    /// Of the whole beside the nearest shot.
    pub(super) whole: f32,
    /// Of its patches beside the rest of the image.
    pub(super) own: f32,
}

/// How many they are.
pub(super) const PARTS: usize = 3;

impl Residuals {
    /// From the map of an image, its residual beside itself, and the means of its tokens beside
    /// those of its shots.
    pub(super) fn new<'a>(
        map: &Map,
        own: f32,
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
            own,
        }
    }

    /// The mean of those of the shots, as a unit. That of the whole grows with how unlike the
    /// `quarters` of different shots are.
    pub(super) fn unit(shots: &[Self], quarters: Quarters) -> Self {
        let unevenness = quarters.between / quarters.within.max(LEAST) / EVEN;
        let mean = |part: fn(&Self) -> f32| {
            shots.iter().map(part).sum::<f32>() / shots.len().max(1) as f32
        };
        Self {
            patches: mean(|shot| shot.patches).max(LEAST),
            whole: mean(|shot| shot.whole) * (1.0 + unevenness.powi(4)),
            own: mean(|shot| shot.own).max(LEAST),
        }
    }

    /// In these units. Where the shots tell none for the whole, it does not count.
    pub(super) fn ratios(self, unit: Self) -> [f32; PARTS] {
        let whole = if unit.whole > 0.0 {
            self.whole / unit.whole.max(LEAST)
        } else {
            0.0
        };
        [self.patches / unit.patches, whole, self.own / unit.own]
    }
}

/// The map of an image as one row, for its largest values.
pub(super) fn row(values: &[f32]) -> Result<Map, DetectorError> {
    Ok(Map::new(1, values.len(), values.to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_counts_on_even_surfaces() {
        let shot = |whole| Residuals {
            patches: 0.2,
            whole,
            own: 0.3,
        };
        // (name, residuals of the wholes, of quarters between images and within, unit of the whole)
        for (name, wholes, between, within, expected) in [
            ("an even surface", [0.04, 0.06], 0.0, 0.1, 0.05),
            ("at the border", [0.04, 0.06], 0.03, 0.1, 0.1),
            ("things", [0.04, 0.06], 0.09, 0.1, 0.05 * 82.0),
            ("shots without a mark", [0.0, 0.0], 0.0, 0.0, 0.0),
            ("a single shot has none", [0.0, 0.0], 0.0, 0.1, 0.0),
        ] {
            let unit = Residuals::unit(&wholes.map(shot), Quarters { between, within });
            assert!((unit.whole - expected).abs() < 1e-4, "{name}: {unit:?}");
        }
    }
}
