//! Which images a report shows: the most anomalous ones, and those that are most out of order.
//!
//! Scores of different classes need not be comparable, so images are chosen by where they stand
//! within their class; scores only break ties.

use std::cmp::Ordering;

use anomalens_detectors::Prediction;

use anomalens_evaluation::{ClassResult, Evaluation, ImageRecord};

/// Images in each gallery.
const SHOWN: usize = 8;

/// Where a scored image stands among the others of its class.
#[derive(Clone, Copy)]
pub(super) struct Standing<'a> {
    pub(super) record: &'a ImageRecord,
    pub(super) prediction: &'a Prediction,
    /// One more than the images with a higher score.
    pub(super) rank: usize,
    /// Images of the class that were scored.
    pub(super) ranked: usize,
    /// Images of the other label that this one is on the wrong side of.
    pub(super) passed: usize,
    /// Images of the other label.
    pub(super) others: usize,
}

impl<'a> Standing<'a> {
    /// All images that were scored.
    pub(super) fn of_all(evaluation: &'a Evaluation) -> Vec<Self> {
        evaluation.classes.iter().flat_map(Self::of_class).collect()
    }

    /// The images of a class that were scored.
    pub(super) fn of_class(class: &'a ClassResult) -> Vec<Self> {
        let scored: Vec<(&ImageRecord, &Prediction)> = class
            .images
            .iter()
            .filter_map(|r| Some((r, r.prediction.as_ref().ok()?)))
            .collect();
        let sorted = |wanted: fn(&ImageRecord) -> bool| {
            let images = scored.iter().filter(|(record, _)| wanted(record));
            let mut scores: Vec<f32> = images.map(|(_, prediction)| prediction.score).collect();
            scores.sort_unstable_by(f32::total_cmp);
            scores
        };
        let all = sorted(|_| true);
        let normal = sorted(|record| !record.is_anomalous());
        let anomalous = sorted(ImageRecord::is_anomalous);
        let below = |scores: &[f32], score| scores.partition_point(|s| s.total_cmp(&score).is_lt());
        let above = |scores: &[f32], score| {
            scores.len() - scores.partition_point(|s| s.total_cmp(&score).is_le())
        };
        let standing = |&(record, prediction): &(&'a ImageRecord, &'a Prediction)| {
            let score = prediction.score;
            let (passed, others) = if record.is_anomalous() {
                (above(&normal, score), normal.len())
            } else {
                (below(&anomalous, score), anomalous.len())
            };
            let rank = 1 + above(&all, score);
            Self {
                record,
                prediction,
                rank,
                ranked: all.len(),
                passed,
                others,
            }
        };
        scored.iter().map(standing).collect()
    }

    fn score(&self) -> f32 {
        self.prediction.score
    }

    /// Share of the images of the other label that this one is on the wrong side of; 0 if there
    /// are none.
    pub(super) fn wrongness(&self) -> f64 {
        self.passed as f64 / self.others.max(1) as f64
    }
}

/// The images with the highest scores; classes take turns.
pub(super) fn most_anomalous<'a>(standings: &[Standing<'a>]) -> Vec<Standing<'a>> {
    let mut images = standings.to_vec();
    images.sort_by(|a, b| a.rank.cmp(&b.rank).then(b.score().total_cmp(&a.score())));
    images.truncate(SHOWN);
    images
}

/// The normal images with the highest scores.
pub(super) fn most_wrong_normal<'a>(standings: &[Standing<'a>]) -> Vec<Standing<'a>> {
    most_wrong(standings, false, |a, b| b.score().total_cmp(&a.score()))
}

/// The anomalous images with the lowest scores.
pub(super) fn most_wrong_anomalous<'a>(standings: &[Standing<'a>]) -> Vec<Standing<'a>> {
    most_wrong(standings, true, |a, b| a.score().total_cmp(&b.score()))
}

fn most_wrong<'a>(
    standings: &[Standing<'a>],
    anomalous: bool,
    by_score: fn(&Standing, &Standing) -> Ordering,
) -> Vec<Standing<'a>> {
    let mut images = standings.to_vec();
    images.retain(|standing| standing.record.is_anomalous() == anomalous);
    images.sort_by(|a, b| {
        b.wrongness()
            .total_cmp(&a.wrongness())
            .then_with(|| by_score(a, b))
    });
    images.truncate(SHOWN);
    images
}
