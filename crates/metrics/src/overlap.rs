//! How much of each region of a mask a threshold finds.

use crate::error::MetricError;
use crate::pixel::ScoredMask;
use crate::regions::Regions;

/// One 8-connected region of a mask at a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionOverlap {
    /// Pixels of the region.
    pub area: usize,
    /// Those of them with `score >= threshold`.
    pub found: usize,
}

impl RegionOverlap {
    /// The part of the region that is found, 0 to 1.
    pub fn share(&self) -> f64 {
        self.found as f64 / self.area as f64
    }
}

/// The regions of one map's mask, in the order of their first pixels, row by row.
///
/// # Errors
/// [`MetricError::NanThreshold`]. A pixel whose score is NaN is not found.
pub fn region_overlaps(
    map: &ScoredMask<'_>,
    threshold: f32,
) -> Result<Vec<RegionOverlap>, MetricError> {
    if threshold.is_nan() {
        return Err(MetricError::NanThreshold);
    }
    let Regions { runs, areas, .. } = Regions::label(map.columns, &map.mask);
    let mut overlaps: Vec<RegionOverlap> = areas
        .into_iter()
        .map(|area| RegionOverlap { area, found: 0 })
        .collect();
    for run in runs {
        let scores = map.scores[run.pixels].iter();
        overlaps[run.region].found += scores.filter(|&&score| score >= threshold).count();
    }
    Ok(overlaps)
}
