//! What the residuals of the power mean are measured in: each shot beside the others, as if it
//! were a new image.

use anomalens_vision::Map;

use super::residual;
use crate::DetectorError;

/// Part of the patches, the most different ones, whose mean stands for all.
const TOP_FRACTION: f64 = 0.01;

/// Least unit: shots that are copies of one image have no residual beside each other.
const LEAST: f32 = 5e-5;

/// Least unit of the whole, beside what quarters of the shots differ: two shots that happen to be
/// alike as a whole would make any other image look different. Chosen on auxiliary data
/// (docs/benchmarks/inctrl.md).
const LEAST_OF_QUARTERS: f32 = 0.6;

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

    /// The mean of those of the shots, as a unit; `quarters` is what quarters of the shots differ.
    pub(super) fn unit(shots: &[Self], quarters: f32) -> Self {
        let mean = |part: fn(&Self) -> f32| {
            shots.iter().map(part).sum::<f32>() / shots.len().max(1) as f32
        };
        Self {
            patches: mean(|shot| shot.patches).max(LEAST),
            whole: mean(|shot| shot.whole).max(LEAST_OF_QUARTERS * quarters),
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
    fn quarters_bound_the_unit_of_the_whole() {
        let shot = |whole| Residuals {
            patches: 0.2,
            whole,
            own: 0.3,
        };
        // (name, residuals of the wholes, of the quarters, the unit of the whole)
        for (name, wholes, quarters, expected) in [
            ("shots that differ", [0.04, 0.06], 0.02, 0.05),
            ("shots that happen to be alike", [0.001, 0.001], 0.1, 0.06),
            ("a single shot has none", [0.0, 0.0], 0.0, 0.0),
        ] {
            let unit = Residuals::unit(&wholes.map(shot), quarters);
            assert!((unit.whole - expected).abs() < 1e-6, "{name}: {unit:?}");
        }
    }
}
