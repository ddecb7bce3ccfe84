//! What a detector says of one image, with the pictures of it.

use std::sync::Arc;

use anomalens_detectors::{Calibration, Prediction};
use anomalens_evaluation::picture::{AnomalousArea, Drawn, Style, boxes, draw, full_map};
use anomalens_vision::{Image, Map};

use crate::Error;

/// The result of one image.
#[derive(Debug, Clone)]
pub struct Inspection {
    image: Arc<Image>,
    prediction: Prediction,
    calibration: Option<Calibration>,
}

impl Inspection {
    pub(crate) fn new(
        image: Arc<Image>,
        prediction: Prediction,
        calibration: Option<Calibration>,
    ) -> Self {
        Self {
            image,
            prediction,
            calibration,
        }
    }

    /// The anomaly score: higher is more anomalous. Its unit is the method's own.
    pub fn score(&self) -> f32 {
        self.prediction.score
    }

    /// Whether the image is anomalous; none without a calibration.
    pub fn is_anomalous(&self) -> Option<bool> {
        let calibration = self.calibration.as_ref()?;
        Some(calibration.is_anomalous(self.score()))
    }

    /// The probability that it is; none unless the calibration saw anomalous images.
    pub fn probability(&self) -> Option<f64> {
        self.calibration.as_ref()?.probability(self.score())
    }

    /// The anomaly map at the image's size, `[height, width]`; NaN where the network did not see
    /// the image.
    ///
    /// # Errors
    /// [`Error`] for an image whose shape is too extreme.
    pub fn map(&self) -> Result<Map, Error> {
        Ok(full_map(&self.prediction)?)
    }

    /// The anomalous parts in pixels of the image, the highest peak first.
    ///
    /// # Errors
    /// [`Error`] for an image whose shape is too extreme.
    pub fn regions(&self) -> Result<Vec<AnomalousArea>, Error> {
        Ok(boxes(&self.prediction)?)
    }

    /// The heat map as a picture.
    ///
    /// # Errors
    /// [`Error`] for an image whose shape is too extreme.
    pub fn heat_map(&self) -> Result<Image, Error> {
        Ok(self.drawn()?.heat_map)
    }

    /// The heat map over the image, with the outline of what is anomalous.
    ///
    /// # Errors
    /// [`Error`] for an image whose shape is too extreme.
    pub fn overlay(&self) -> Result<Image, Error> {
        Ok(self.drawn()?.overlay)
    }

    /// The scores of the patches and what normal patches score.
    pub fn prediction(&self) -> &Prediction {
        &self.prediction
    }

    fn drawn(&self) -> Result<Drawn, Error> {
        Ok(draw(&self.image, &self.prediction, Style::default())?)
    }
}
