//! Image-level metrics: one score and one label (`true` = anomalous) per image.
//!
//! The values are those of scikit-learn's `roc_auc_score` and `average_precision_score`, and the
//! maximum of F1 over its `precision_recall_curve`.

use serde::Serialize;

use crate::error::{Level, MetricError};
use crate::ranking::{Counts, F1Max, Tally, Tie};

/// Area under the ROC curve: the share of (anomalous, normal) pairs that the scores put in the
/// right order, equal scores counting half.
///
/// # Errors
/// Scores and labels of different length, no scores, a NaN, or only one class.
pub fn auroc(scores: &[f32], labels: &[bool]) -> Result<f64, MetricError> {
    tally(scores, labels)?.auroc(Level::Image)
}

/// Average precision: the mean, over the anomalous images, of the precision at their score. It is
/// a sum of steps and not the trapezoid under the precision-recall curve.
///
/// # Errors
/// Scores and labels of different length, no scores, a NaN, or no anomalous image. Without normal
/// images the value is 1, whatever the scores.
pub fn average_precision(scores: &[f32], labels: &[bool]) -> Result<f64, MetricError> {
    tally(scores, labels)?.average_precision(Level::Image)
}

/// The largest F1 over all thresholds, and where it is reached.
///
/// # Errors
/// As [`average_precision`].
pub fn f1_max(scores: &[f32], labels: &[bool]) -> Result<F1Max, MetricError> {
    tally(scores, labels)?.f1_max(Level::Image)
}

/// Right and wrong decisions at one threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// Anomalous, called anomalous.
    pub true_positives: u64,
    /// Normal, called anomalous.
    pub false_positives: u64,
    /// Anomalous, called normal.
    pub false_negatives: u64,
    /// Normal, called normal.
    pub true_negatives: u64,
}

impl Confusion {
    /// Counts the decisions `score >= threshold`.
    ///
    /// # Errors
    /// Scores and labels of different length, no scores, or a NaN among scores and threshold.
    pub fn at(scores: &[f32], labels: &[bool], threshold: f32) -> Result<Self, MetricError> {
        check(scores, labels)?;
        if threshold.is_nan() {
            return Err(MetricError::NanThreshold);
        }
        let count = |called: bool, label: bool| {
            let pairs = scores.iter().zip(labels);
            pairs
                .filter(|&(&score, &l)| (score >= threshold, l) == (called, label))
                .count() as u64
        };
        Ok(Self {
            true_positives: count(true, true),
            false_positives: count(true, false),
            false_negatives: count(false, true),
            true_negatives: count(false, false),
        })
    }
}

/// The distinct scores in descending order with the counts at and above each.
pub(crate) fn descending_ties(scores: &[f32], labels: &[bool]) -> Result<Vec<Tie>, MetricError> {
    check(scores, labels)?;
    let mut items: Vec<(f32, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    items.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));

    // Compared as numbers, so that -0 and +0 are one score.
    let groups = items.chunk_by(|a, b| a.0 == b.0).map(|group| {
        let anomalous = group.iter().filter(|(_, label)| *label).count();
        let here = Counts {
            anomalous: anomalous as u64,
            normal: (group.len() - anomalous) as u64,
        };
        (group[0].0, here)
    });
    Ok(ties_of(groups).collect())
}

/// Descending scores and the counts at each, with the counts above.
pub(crate) fn ties_of(groups: impl Iterator<Item = (f32, Counts)>) -> impl Iterator<Item = Tie> {
    groups.scan(Counts::default(), |seen, (score, here)| {
        let above = *seen;
        *seen = above.plus(here);
        Some(Tie { score, above, here })
    })
}

fn tally(scores: &[f32], labels: &[bool]) -> Result<Tally, MetricError> {
    let ties = descending_ties(scores, labels)?;
    let total = ties
        .iter()
        .fold(Counts::default(), |sum, tie| sum.plus(tie.here));
    Ok(Tally::of(total, ties.into_iter()))
}

pub(crate) fn check(scores: &[f32], labels: &[bool]) -> Result<(), MetricError> {
    if scores.len() != labels.len() {
        return Err(MetricError::LengthMismatch {
            scores: scores.len(),
            labels: labels.len(),
        });
    }
    if scores.is_empty() {
        return Err(MetricError::Empty {
            level: Level::Image,
        });
    }
    match scores.iter().position(|score| score.is_nan()) {
        Some(index) => Err(MetricError::NanScore { index }),
        None => Ok(()),
    }
}
