//! What can be wrong with the inputs, and when a metric has no value.

use std::fmt;

use serde::Serialize;

/// Why a metric could not be computed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// Scores and labels do not pair up.
    #[error("there are {scores} scores but {labels} labels: give exactly one label per score")]
    LengthMismatch {
        /// Number of scores.
        scores: usize,
        /// Number of labels.
        labels: usize,
    },
    /// Nothing to evaluate.
    #[error("there are no {level}s to evaluate: give at least one")]
    Empty {
        /// What is missing.
        level: Level,
    },
    /// An image score is NaN.
    #[error("the score at index {index} is not a number: remove this image or repair its score")]
    NanScore {
        /// Position in the scores, from 0.
        index: usize,
    },
    /// An anomaly map holds a NaN.
    #[error(
        "anomaly map {map} is not a number at row {row}, column {column}: remove this image or \
         repair its map"
    )]
    NanPixel {
        /// Position in the list of maps, from 0.
        map: usize,
        /// Row of the first NaN, from 0.
        row: usize,
        /// Column of the first NaN, from 0.
        column: usize,
    },
    /// The decision threshold is NaN.
    #[error("the decision threshold is not a number: give a finite threshold")]
    NanThreshold,
    /// A map or mask does not have `rows * columns` values.
    #[error("a {what} of {rows} x {columns} pixels needs {rows} * {columns} values, found {found}")]
    Shape {
        /// "map" or "mask".
        what: &'static str,
        /// Rows of the map.
        rows: usize,
        /// Columns of the map.
        columns: usize,
        /// Number of values given.
        found: usize,
    },
    /// A map with more pixels than a 32-bit count can hold.
    #[error(
        "a map of {rows} x {columns} pixels is too large: the limit is {} pixels",
        u32::MAX
    )]
    MapTooLarge {
        /// Rows of the map.
        rows: usize,
        /// Columns of the map.
        columns: usize,
    },
    /// The metric compares two classes and only one is there.
    #[error(
        "{metric} is undefined: all {count} {level}s are {present}; add {} ones to the evaluation",
        present.other()
    )]
    OneClass {
        /// Name of the metric.
        metric: &'static str,
        /// What was counted.
        level: Level,
        /// The class that is there.
        present: Class,
        /// How many there are.
        count: u64,
    },
    /// A class is there, with too few images for the spread of its scores.
    #[error(
        "{metric} needs at least {needed} {class} images, found {found}: add more to the evaluation"
    )]
    TooFew {
        /// Name of the metric.
        metric: &'static str,
        /// The class.
        class: Class,
        /// How many it needs.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// A score is infinite where only finite ones make sense.
    #[error("the score at index {index} is infinite: remove this image or repair its score")]
    InfiniteScore {
        /// Position in the scores, from 0.
        index: usize,
    },
    /// No threshold from so few images holds for a wanted rate.
    #[error(
        "wrong decisions on at most {}% of the {class} images cannot be promised from {found} of \
         them: give at least {needed}, or allow more",
        percent(*rate)
    )]
    TooFewForRate {
        /// The class.
        class: Class,
        /// The largest share of wrong decisions.
        rate: f64,
        /// How many images it takes.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// Scores say nothing of the probability of an anomaly, or the opposite.
    #[error(
        "the scores do not rise with the share of anomalous images, so no probability follows from \
         them: check that the labels are right"
    )]
    NotRising,
    /// The confidence of an interval is no probability.
    #[error("the confidence is {confidence}: give a number above 0 and below 1, such as 0.95")]
    Confidence {
        /// The confidence given.
        confidence: f64,
    },
    /// A bootstrap without draws.
    #[error("a bootstrap interval needs at least one resample: 1000 or more is usual")]
    NoResamples,
    /// The integration limit of AUPRO is not a false-positive rate.
    #[error("the false-positive-rate limit of AUPRO is {limit}: give a number above 0, at most 1")]
    FprLimit {
        /// The limit given.
        limit: f64,
    },
    /// AUPIMO with other options than can be.
    #[error(
        "AUPIMO cannot be computed with {thresholds} thresholds between the false-positive rates \
         {low} and {high}: give at least 2 thresholds, and rates above 0, at most 1, the lower first"
    )]
    PimoOptions {
        /// Number of thresholds.
        thresholds: usize,
        /// Lower bound of the false-positive rate.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// AUPIMO: even the highest threshold has a higher false-positive rate than the lower bound.
    #[error(
        "AUPIMO is undefined: the false-positive rate of the normal images is never below {least}, \
         the lower bound is {bound}; add normal images or take larger maps"
    )]
    PimoBound {
        /// The lower bound.
        bound: f64,
        /// The lowest rate above 0.
        least: f64,
    },
    /// AUPIMO: too few thresholds between the bounds.
    #[error(
        "AUPIMO is undefined: {points} thresholds lie between the bounds of the false-positive \
         rate, fewer than {needed}; add normal images or take larger maps"
    )]
    PimoPoints {
        /// How many lie there.
        points: usize,
        /// How many are needed.
        needed: usize,
    },
    /// AUPRO with 200 steps: no thresholds fit between the extreme scores.
    #[error(
        "AUPRO with 200 steps is undefined: no 200 thresholds fit between the lowest score \
         {lowest} and the highest {highest}; use the exact AUPRO"
    )]
    NoSteps {
        /// Lowest score of all maps.
        lowest: f32,
        /// Highest score of all maps.
        highest: f32,
    },
    /// AUPRO with 200 steps: its curve has no width.
    #[error(
        "AUPRO with 200 steps is undefined: its thresholds give fewer than two different \
         false-positive rates below {limit}; use the exact AUPRO"
    )]
    FlatSteps {
        /// The false-positive-rate limit.
        limit: f64,
    },
}

/// A share in percent, without the digits in which 1 - 0.9 differs from 0.1.
fn percent(share: f64) -> f64 {
    (1e11 * share).round() / 1e9
}

/// What a metric is computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// One score per image.
    Image,
    /// One score per pixel.
    Pixel,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Pixel => "pixel",
        })
    }
}

/// The two classes of anomaly detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Label `false`.
    Normal,
    /// Label `true`.
    Anomalous,
}

impl Class {
    fn other(self) -> Self {
        match self {
            Self::Normal => Self::Anomalous,
            Self::Anomalous => Self::Normal,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Anomalous => "anomalous",
        })
    }
}
