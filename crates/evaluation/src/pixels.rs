//! Anomaly maps compared with their masks, at a chosen size: pixel metrics, and the regions that are
//! found.

use std::fmt;
use std::str::FromStr;

use anomalens_datasets::{MaskSource, Sample};
use anomalens_detectors::Prediction;
use anomalens_metrics::{
    Aupimo, MetricError, PimoOptions, PixelMetrics, PixelOptions, ScoredMask, region_overlaps,
};
use anomalens_vision::{Limits, Mask};
use rayon::prelude::*;
use serde::Serialize;

use crate::EvaluationError;
use crate::measure::Scored;
use crate::run::RunOptions;

/// The largest side of a square that pixel metrics are computed at.
const LARGEST_SIDE: u32 = 4096;

/// At which size pixel metrics are computed: maps are enlarged to it, masks resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// A square of this side, in pixels.
    Square(u32),
    /// That of the part of each image that the network saw, so that masks stay as they are.
    Original,
}

impl Default for Resolution {
    fn default() -> Self {
        Self::Square(256)
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Square(side) => write!(f, "{side}"),
            Self::Original => f.write_str("original"),
        }
    }
}

impl FromStr for Resolution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "original" {
            return Ok(Self::Original);
        }
        let side = text.parse().ok();
        side.filter(|side| (1..=LARGEST_SIDE).contains(side))
            .map(Self::Square)
            .ok_or_else(|| format!("give a number of pixels from 1 to {LARGEST_SIDE}, or original"))
    }
}

/// One region of a mask.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionResult {
    /// The image's id.
    pub image: String,
    /// What the anomaly is called.
    pub defect_type: String,
    /// Pixels of the region, at the size of the evaluation.
    pub area: usize,
    /// Those that were found.
    pub found: usize,
}

/// The images whose masks are known, of methods that have maps. The maps are made when they are wanted, for
/// all of a class
/// may not fit in memory.
pub(crate) struct Pixels<'a> {
    known: Vec<Scored<'a>>,
    options: &'a RunOptions,
}

impl<'a> Pixels<'a> {
    pub(crate) fn new(scored: &[Scored<'a>], options: &'a RunOptions) -> Self {
        let known = scored
            .iter()
            .filter(|(record, p)| record.sample.mask != MaskSource::Unknown && p.has_map());
        Self {
            known: known.copied().collect(),
            options,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn map(&self, index: usize) -> Result<ScoredMask<'static>, EvaluationError> {
        let (record, prediction) = self.known[index];
        scored_mask(&record.sample, prediction, self.options)
    }

    pub(crate) fn metrics(&self) -> Result<PixelMetrics, EvaluationError> {
        let map = |index| self.map(index);
        PixelMetrics::compute_each(self.known.len(), map, &PixelOptions::default())
    }

    /// AUPIMO, or why it is undefined.
    pub(crate) fn aupimo(&self) -> Result<Result<Aupimo, MetricError>, EvaluationError> {
        let map = |index| self.map(index);
        match Aupimo::compute_each(self.known.len(), map, &PimoOptions::default()) {
            Ok(found) => Ok(Ok(found)),
            Err(EvaluationError::Metric(reason)) => Ok(Err(reason)),
            Err(error) => Err(error),
        }
    }

    /// How much of each region reaches `threshold`.
    pub(crate) fn regions(&self, threshold: f32) -> Result<Vec<RegionResult>, EvaluationError> {
        let of_map = (0..self.known.len()).into_par_iter().map(|index| {
            let sample = &self.known[index].0.sample;
            let overlaps = region_overlaps(&self.map(index)?, threshold)?;
            let regions = overlaps.into_iter().map(|overlap| RegionResult {
                image: sample.id.clone(),
                defect_type: sample.defect_type.clone(),
                area: overlap.area,
                found: overlap.found,
            });
            Ok(regions.collect::<Vec<_>>())
        });
        let of_maps = of_map.collect::<Result<Vec<_>, EvaluationError>>()?;
        Ok(of_maps.into_iter().flatten().collect())
    }
}

/// The smooth map and the mask of a sample, at the same size.
fn scored_mask(
    sample: &Sample,
    prediction: &Prediction,
    options: &RunOptions,
) -> Result<ScoredMask<'static>, EvaluationError> {
    let footprint = prediction.size.footprint;
    let (width, height) = match options.resolution {
        Resolution::Square(side) => (side, side),
        Resolution::Original => (footprint.width as u32, footprint.height as u32),
    };
    let (rows, columns) = (height as usize, width as usize);
    let mask = match seen_mask(sample, prediction, &options.stream.decode.limits)? {
        Some(mask) => mask.resize(width, height)?.values().to_vec(),
        None => vec![false; rows * columns],
    };
    let map = prediction.smooth_map(rows, columns)?;
    Ok(ScoredMask::new(rows, columns, map.into_values(), mask)?)
}

/// The mask of a sample over the part of the image that the network saw; none if no pixel is
/// known to be anomalous.
///
/// # Errors
/// [`EvaluationError::MaskSize`] if it does not fit the image.
pub fn seen_mask(
    sample: &Sample,
    prediction: &Prediction,
    limits: &Limits,
) -> Result<Option<Mask>, EvaluationError> {
    let Some(mut mask) = sample.mask.open(limits)? else {
        return Ok(None);
    };
    if let Some(crop) = sample.crop {
        mask = mask.crop(crop.x, crop.y, crop.width, crop.height)?;
    }
    let size = prediction.size;
    if (mask.width(), mask.height()) != (size.width, size.height) {
        return Err(wrong_size(&mask, sample, prediction));
    }
    let [x, y, width, height] = [
        size.footprint.x,
        size.footprint.y,
        size.footprint.width,
        size.footprint.height,
    ]
    .map(|side| side as u32);
    Ok(Some(mask.crop(x, y, width, height)?))
}

fn wrong_size(mask: &Mask, sample: &Sample, prediction: &Prediction) -> EvaluationError {
    EvaluationError::MaskSize {
        mask: match &sample.mask {
            MaskSource::File(file) => file.path.clone(),
            // It is listed with the image.
            _ => sample.image.clone(),
        },
        mask_width: mask.width(),
        mask_height: mask.height(),
        image: sample.image.clone(),
        image_width: prediction.size.width,
        image_height: prediction.size.height,
    }
}
