//! Where a detector draws the line between normal and anomalous, and what its scores mean as
//! probabilities: chosen once from images that it was not made from, kept in its file.

use anomalens_metrics::{Platt, Rule};
use serde::{Deserialize, Serialize};

use crate::{Detector, DetectorError, Scope};

/// A detector's calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// How the threshold was chosen.
    pub rule: Rule,
    /// An image is anomalous where its score is at least this.
    pub threshold: f32,
    /// From score to probability, if there were labelled images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<Platt>,
    /// How many normal images it was chosen from.
    pub normal: usize,
    /// How many anomalous ones.
    pub anomalous: usize,
    /// The images, as given.
    pub data: String,
    /// When, RFC 3339 in UTC.
    pub date: String,
}

impl Calibration {
    /// Whether an image of this score is anomalous.
    pub fn is_anomalous(&self, score: f32) -> bool {
        score >= self.threshold
    }

    /// The probability that an image of this score is anomalous, where anomalous images are as
    /// frequent as among those that it was chosen from.
    pub fn probability(&self, score: f32) -> Option<f64> {
        self.probability.map(|platt| platt.probability(score))
    }

    /// What is wrong with it, as it stands in a file.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.threshold.is_finite() {
            return Err(format!("its threshold is {}", self.threshold));
        }
        if self.probability.is_some_and(|platt| !platt.is_rising()) {
            return Err("its probability does not rise with the score".to_owned());
        }
        if self.normal + self.anomalous == 0 {
            return Err("its calibration was chosen from no image".to_owned());
        }
        Ok(())
    }

    /// Whether one threshold can hold for what `detector` will score.
    ///
    /// # Errors
    /// [`DetectorError::CannotCalibrate`] if its scores depend on the other images, or if it is one
    /// detector for each of several classes.
    pub fn require_possible(detector: &dyn Detector) -> Result<(), DetectorError> {
        let method = detector.method();
        let reason = if detector.scope() != Scope::Single {
            "it scores images against each other, so that no threshold holds for other images"
        } else if !detector.classes().is_empty() {
            "it is made for each class by itself, and one threshold does not hold for all"
        } else {
            return Ok(());
        };
        Err(DetectorError::CannotCalibrate { method, reason })
    }
}
