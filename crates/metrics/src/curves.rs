//! Points of the ROC and precision-recall curves, for plots, and fewer points of any curve.
//!
//! One point per distinct score, thresholds descending. The areas belong to [`crate::auroc`] and
//! [`crate::average_precision`]; nothing here feeds them.

use crate::error::{Level, MetricError};
use crate::image::descending_ties;
use crate::ranking::Counts;

/// One point of a ROC curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RocPoint {
    /// `score >= threshold` is called anomalous; infinite at the first point.
    pub threshold: f32,
    /// Share of the normal images called anomalous.
    pub false_positive_rate: f64,
    /// Share of the anomalous images called anomalous.
    pub true_positive_rate: f64,
}

/// One point of a precision-recall curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecallPoint {
    /// `score >= threshold` is called anomalous.
    pub threshold: f32,
    /// Share of the anomalous images called anomalous.
    pub recall: f64,
    /// Share of the images called anomalous that are.
    pub precision: f64,
}

/// A point that can be drawn in the unit square.
pub trait CurvePoint: Copy {
    /// Horizontal and vertical position, each 0 to 1.
    fn position(&self) -> (f64, f64);
}

impl CurvePoint for RocPoint {
    fn position(&self) -> (f64, f64) {
        (self.false_positive_rate, self.true_positive_rate)
    }
}

impl CurvePoint for PrecisionRecallPoint {
    fn position(&self) -> (f64, f64) {
        (self.recall, self.precision)
    }
}

/// The ROC curve from (0, 0) to (1, 1).
///
/// # Errors
/// As [`crate::auroc`].
pub fn roc_curve(scores: &[f32], labels: &[bool]) -> Result<Vec<RocPoint>, MetricError> {
    let (total, thresholds) = cumulative(scores, labels)?;
    total.require_both("the ROC curve", Level::Image)?;
    let origin = (f32::INFINITY, Counts::default());
    let points = std::iter::once(origin)
        .chain(thresholds)
        .map(|(threshold, counts)| RocPoint {
            threshold,
            false_positive_rate: counts.normal as f64 / total.normal as f64,
            true_positive_rate: counts.anomalous as f64 / total.anomalous as f64,
        });
    Ok(points.collect())
}

/// The precision-recall curve. It starts at the highest score; no point at recall 0 is added.
///
/// # Errors
/// As [`crate::average_precision`].
pub fn precision_recall_curve(
    scores: &[f32],
    labels: &[bool],
) -> Result<Vec<PrecisionRecallPoint>, MetricError> {
    let (total, thresholds) = cumulative(scores, labels)?;
    total.require_anomalous("the precision-recall curve", Level::Image)?;
    let points = thresholds
        .into_iter()
        .map(|(threshold, counts)| PrecisionRecallPoint {
            threshold,
            recall: counts.anomalous as f64 / total.anomalous as f64,
            precision: counts.anomalous as f64 / (counts.anomalous + counts.normal) as f64,
        });
    Ok(points.collect())
}

/// Leaves out points that a plot does not show: every point left out is nearer than `tolerance`,
/// horizontal and vertical, to the kept point before it. The first and the last point stay.
pub fn thin<P: CurvePoint>(points: impl IntoIterator<Item = P>, tolerance: [f64; 2]) -> Vec<P> {
    let mut thinned = Thinned::new(tolerance);
    for point in points {
        thinned.push(point);
    }
    thinned.finish()
}

/// What [`thin`] keeps of the points so far.
pub(crate) struct Thinned<P> {
    tolerance: [f64; 2],
    kept: Vec<P>,
    /// The last point, if it was left out.
    left_out: Option<P>,
}

impl<P: CurvePoint> Thinned<P> {
    pub(crate) fn new(tolerance: [f64; 2]) -> Self {
        Self {
            tolerance,
            kept: Vec::new(),
            left_out: None,
        }
    }

    pub(crate) fn push(&mut self, point: P) {
        let far = self.kept.last().is_none_or(|kept| {
            let ((x, y), (kept_x, kept_y)) = (point.position(), kept.position());
            let [across, up] = self.tolerance;
            (x - kept_x).abs() >= across || (y - kept_y).abs() >= up
        });
        if far {
            self.kept.push(point);
        }
        self.left_out = (!far).then_some(point);
    }

    pub(crate) fn finish(mut self) -> Vec<P> {
        self.kept.extend(self.left_out);
        self.kept
    }
}

/// Total counts, and for each distinct score (descending) the counts at or above it.
fn cumulative(
    scores: &[f32],
    labels: &[bool],
) -> Result<(Counts, Vec<(f32, Counts)>), MetricError> {
    let ties = descending_ties(scores, labels)?;
    let steps: Vec<_> = ties
        .iter()
        .map(|tie| (tie.score, tie.above.plus(tie.here)))
        .collect();
    let total = steps
        .last()
        .map_or(Counts::default(), |(_, counts)| *counts);
    Ok((total, steps))
}
