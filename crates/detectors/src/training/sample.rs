//! Labelled images for training.

use std::path::PathBuf;

use anomalens_vision::{Limits, Mask};
use rayon::prelude::*;

use crate::{DetectorError, ImageSource};

/// One labelled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingSample {
    /// The image.
    pub source: ImageSource,
    /// What it shows.
    pub class: String,
    /// Whether it shows an anomaly.
    pub anomalous: bool,
    /// Where.
    pub mask: TrainingMask,
}

/// Which pixels of a training image are anomalous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrainingMask {
    /// Those above zero in this image, which is cropped as the sample's image is.
    File(PathBuf),
    /// None.
    Empty,
    /// Not known: the image teaches its label only.
    Unknown,
}

impl TrainingSample {
    /// The anomalous pixels at `side` x `side`, or none if they are not known.
    fn mask(&self, side: u32, limits: &Limits) -> Result<Option<Vec<bool>>, DetectorError> {
        let path = match &self.mask {
            TrainingMask::File(path) => path,
            TrainingMask::Empty => return Ok(Some(vec![false; (side * side) as usize])),
            TrainingMask::Unknown => return Ok(None),
        };
        let unusable = |reason: String| DetectorError::TrainingMask {
            path: path.clone(),
            reason,
        };
        let mut mask = Mask::open(path, limits).map_err(|e| unusable(e.to_string()))?;
        if let Some([x, y, width, height]) = self.source.crop {
            mask = mask
                .crop(x, y, width, height)
                .map_err(|e| unusable(e.to_string()))?;
        }
        Ok(Some(mask.resize(side, side)?.values().to_vec()))
    }
}

/// The masks of `samples`, each `side * side` or none where it is not known.
pub(crate) fn masks(
    samples: &[&TrainingSample],
    side: u32,
    limits: &Limits,
) -> Result<Vec<Option<Vec<bool>>>, DetectorError> {
    samples
        .par_iter()
        .map(|sample| sample.mask(side, limits))
        .collect()
}
