//! Confidence intervals, and the bootstrap that finds one for any image-level metric.
//!
//! Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: images are drawn
//! again with replacement, within their class so that both classes keep their size, and the
//! metric's percentiles over the draws are the ends. The scores are sorted once; a draw is a count
//! for each image, and its metric one pass over them.

use rand_mt::Mt;
use rayon::prelude::*;

use crate::error::{Level, MetricError};
use crate::image::{check, ties_of};
use crate::ranking::{Counts, Tally};

/// A confidence interval, both ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// The middle `confidence` of `values`: percentiles, interpolated linearly as NumPy does.
    ///
    /// # Errors
    /// [`MetricError::NoResamples`] without values, [`MetricError::Confidence`] if `confidence` is
    /// not above 0 and below 1.
    pub fn of_values(mut values: Vec<f64>, confidence: f64) -> Result<Self, MetricError> {
        check_confidence(confidence)?;
        if values.is_empty() {
            return Err(MetricError::NoResamples);
        }
        values.sort_unstable_by(f64::total_cmp);
        let quantile = |q: f64| {
            let position = q * (values.len() - 1) as f64;
            let below = values[position.floor() as usize];
            let above = values[position.ceil() as usize];
            below + (above - below) * position.fract()
        };
        let tail = (1.0 - confidence) / 2.0;
        Ok(Self {
            low: quantile(tail),
            high: quantile(1.0 - tail),
        })
    }
}

/// The metrics of one score and one label per image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageMetric {
    /// [`crate::auroc`].
    Auroc,
    /// [`crate::average_precision`].
    AveragePrecision,
    /// The value of [`crate::f1_max`].
    F1Max,
}

impl ImageMetric {
    fn of(self, tally: &Tally) -> Result<f64, MetricError> {
        match self {
            Self::Auroc => tally.auroc(Level::Image),
            Self::AveragePrecision => tally.average_precision(Level::Image),
            Self::F1Max => tally.f1_max(Level::Image).map(|f1| f1.value),
        }
    }
}

/// The percentile bootstrap interval of `metric`, from `resamples` draws that follow from `seed`.
///
/// # Errors
/// As the metric; [`MetricError::NoResamples`], [`MetricError::Confidence`].
pub fn bootstrap(
    scores: &[f32],
    labels: &[bool],
    metric: ImageMetric,
    resamples: u32,
    confidence: f64,
    seed: u32,
) -> Result<Interval, MetricError> {
    check_confidence(confidence)?;
    let values = bootstrap_values(scores, labels, metric, resamples, seed)?;
    Interval::of_values(values, confidence)
}

/// The metric of each draw of the bootstrap. Draw `i` follows from `seed` and `i` alone, so that
/// draws of several classes can be averaged one by one for an interval of their mean.
///
/// # Errors
/// As the metric.
pub fn bootstrap_values(
    scores: &[f32],
    labels: &[bool],
    metric: ImageMetric,
    resamples: u32,
    seed: u32,
) -> Result<Vec<f64>, MetricError> {
    check(scores, labels)?;
    let sorted = Sorted::new(scores, labels);
    let draws = (0..resamples).into_par_iter();
    draws
        .map_init(Vec::new, |drawn, draw| {
            let tally = sorted.draw(&mut Mt::new_with_key([seed, draw]), drawn);
            metric.of(&tally)
        })
        .collect()
}

pub(crate) fn check_confidence(confidence: f64) -> Result<(), MetricError> {
    if confidence > 0.0 && confidence < 1.0 {
        return Ok(());
    }
    Err(MetricError::Confidence { confidence })
}

/// The images' scores without repeats, and which of them each image has.
struct Sorted {
    /// Descending.
    scores: Vec<f32>,
    /// The position in `scores` of each anomalous image, and of each normal one.
    anomalous: Vec<u32>,
    normal: Vec<u32>,
}

impl Sorted {
    fn new(scores: &[f32], labels: &[bool]) -> Self {
        let mut descending: Vec<f32> = scores.to_vec();
        descending.sort_unstable_by(|a, b| b.total_cmp(a));
        descending.dedup(); // Compared as numbers, so that -0 and +0 are one score.
        let position = |score: f32| descending.partition_point(|&other| other > score) as u32;
        let of_class = |wanted| {
            let pairs = scores.iter().zip(labels);
            let of_class = pairs.filter(|&(_, &label)| label == wanted);
            of_class.map(|(&score, _)| position(score)).collect()
        };
        let (anomalous, normal) = (of_class(true), of_class(false));
        Self {
            scores: descending,
            anomalous,
            normal,
        }
    }

    /// One draw: each class as often as it has images. `drawn` is room to work in.
    fn draw(&self, random: &mut Mt, drawn: &mut Vec<Counts>) -> Tally {
        drawn.clear();
        drawn.resize(self.scores.len(), Counts::default());
        for _ in &self.anomalous {
            drawn[any(&self.anomalous, random)].anomalous += 1;
        }
        for _ in &self.normal {
            drawn[any(&self.normal, random)].normal += 1;
        }
        let total = Counts {
            anomalous: self.anomalous.len() as u64,
            normal: self.normal.len() as u64,
        };
        let groups = self.scores.iter().copied().zip(drawn.iter().copied());
        Tally::of(total, ties_of(groups))
    }
}

/// One of `positions`, which are not empty.
fn any(positions: &[u32], random: &mut Mt) -> usize {
    let at = (u64::from(random.next_u32()) * positions.len() as u64) >> 32;
    positions[at as usize] as usize
}
