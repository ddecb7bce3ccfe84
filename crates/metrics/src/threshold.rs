//! Where to draw the line between normal and anomalous: rules that choose a threshold from the
//! scores of images that the detector was not made from.
//!
//! The rules for a wanted rate are those of split conformal prediction (Vovk, Gammerman and Shafer,
//! "Algorithmic Learning in a Random World", 2005): they hold for as few images as there are, on
//! average over the images drawn, if later images are drawn alike. [`Guarantee`] adds how much one
//! such draw may be off.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Level, MetricError};
use crate::guarantee::Guarantee;
use crate::image::{check, descending_ties, f1_max};
use crate::ranking::Counts;

/// How a decision threshold is chosen. As text: `f1`, `fpr=0.01`, `recall=0.99`, `cost=10:1`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rule {
    /// The highest F1 on the images given.
    F1,
    /// At most this share of normal images is called anomalous; above 0, below 1.
    FalsePositiveRate(f64),
    /// At least this share of anomalous images is called so; above 0, below 1.
    Recall(f64),
    /// The lowest cost of wrong decisions on the images given.
    Cost {
        /// Cost of an anomalous image that is called normal; above 0.
        miss: f64,
        /// Cost of a normal image that is called anomalous; above 0.
        alarm: f64,
    },
}

impl Rule {
    /// Whether it can be met with normal images alone.
    pub fn needs_labels(self) -> bool {
        !matches!(self, Self::FalsePositiveRate(_))
    }

    /// Whether images with these labels (`true` is anomalous) can give a threshold by this rule,
    /// whatever their scores are: to be asked before they are scored.
    ///
    /// # Errors
    /// No images, a class that the rule needs and that is not there, or
    /// [`MetricError::TooFewForRate`].
    pub fn require_possible(self, labels: &[bool]) -> Result<(), MetricError> {
        let anomalous = labels.iter().filter(|&&label| label).count();
        let normal = labels.len() - anomalous;
        if labels.is_empty() {
            return Err(MetricError::Empty {
                level: Level::Image,
            });
        }
        if self.needs_labels() {
            let total = Counts {
                anomalous: anomalous as u64,
                normal: normal as u64,
            };
            total.require_both("a threshold by this rule", Level::Image)?;
        }
        self.guarantee(normal, anomalous).map(drop)
    }

    /// What a threshold promises that was chosen from so many images; none by F1 and costs.
    fn guarantee(self, normal: usize, anomalous: usize) -> Result<Option<Guarantee>, MetricError> {
        match self {
            Self::F1 | Self::Cost { .. } => Ok(None),
            Self::FalsePositiveRate(rate) => Guarantee::new(Class::Normal, normal, rate).map(Some),
            Self::Recall(rate) => Guarantee::new(Class::Anomalous, anomalous, 1.0 - rate).map(Some),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F1 => f.write_str("f1"),
            Self::FalsePositiveRate(rate) => write!(f, "fpr={rate}"),
            Self::Recall(rate) => write!(f, "recall={rate}"),
            Self::Cost { miss, alarm } => write!(f, "cost={miss}:{alarm}"),
        }
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl TryFrom<String> for Rule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<f64>().ok();
        let rate = |text: &str| {
            let rate = number(text).filter(|&rate| rate > 0.0 && rate < 1.0);
            rate.ok_or_else(|| format!("`{text}` is no rate: give a number above 0 and below 1"))
        };
        let cost = |text: &str| {
            let cost = number(text).filter(|&cost| cost > 0.0 && cost.is_finite());
            cost.ok_or_else(|| format!("`{text}` is no cost: give a number above 0"))
        };
        match text.split_once('=') {
            None if text == "f1" => Ok(Self::F1),
            Some(("fpr", value)) => rate(value).map(Self::FalsePositiveRate),
            Some(("recall", value)) => rate(value).map(Self::Recall),
            Some(("cost", costs)) => {
                let (miss, alarm) = costs.split_once(':').ok_or_else(|| {
                    format!("`{text}` lacks a cost: write it as cost=MISS:ALARM, such as cost=10:1")
                })?;
                Ok(Self::Cost {
                    miss: cost(miss)?,
                    alarm: cost(alarm)?,
                })
            }
            _ => Err(format!(
                "there is no rule `{text}`; the rules are f1, fpr=RATE, recall=RATE, \
                 cost=MISS:ALARM"
            )),
        }
    }
}

/// A decision threshold: an image is anomalous where `score >= value`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// The threshold.
    pub value: f32,
    /// What can be said of later images, for the rules of a wanted rate.
    pub guarantee: Option<Guarantee>,
}

impl Threshold {
    /// Chooses the threshold that `rule` asks for; of several the lowest, which misses least. By F1
    /// and costs it lies half way between the scores that it parts.
    ///
    /// # Errors
    /// Scores and labels of different length, no scores, a NaN or an infinite score, a class that
    /// the rule needs and that is not there, or [`MetricError::TooFewForRate`].
    pub fn choose(scores: &[f32], labels: &[bool], rule: Rule) -> Result<Self, MetricError> {
        check(scores, labels)?;
        if let Some(index) = scores.iter().position(|score| score.is_infinite()) {
            return Err(MetricError::InfiniteScore { index });
        }
        let of_class = |wanted: bool| {
            let pairs = scores.iter().zip(labels);
            let of_class = pairs.filter(|&(_, &label)| label == wanted);
            let mut sorted: Vec<f32> = of_class.map(|(&score, _)| score).collect();
            sorted.sort_unstable_by(f32::total_cmp);
            sorted
        };
        let (normal, anomalous) = (of_class(false), of_class(true));
        rule.require_possible(labels)?;
        let guarantee = rule.guarantee(normal.len(), anomalous.len())?;
        // How many of the images whose decisions are promised may be wrong.
        let wrong = guarantee.as_ref().map_or(0, |guarantee| guarantee.wrong);
        let value = match rule {
            Rule::F1 => half_way(scores, f1_max(scores, labels)?.threshold),
            Rule::Cost { miss, alarm } => half_way(scores, cheapest(scores, labels, miss, alarm)?),
            // The images that may be called anomalous are the highest; above the next.
            Rule::FalsePositiveRate(_) => normal[normal.len() - wrong - 1].next_up(),
            Rule::Recall(_) => anomalous[wrong],
        };
        Ok(Self { value, guarantee })
    }
}

/// A threshold that parts `scores` as `threshold` does, as far from those below as from those above.
fn half_way(scores: &[f32], threshold: f32) -> f32 {
    let (above, below): (Vec<f32>, Vec<f32>) = scores.iter().partition(|s| **s >= threshold);
    let above = above.into_iter().reduce(f32::min);
    let below = below.into_iter().reduce(f32::max);
    match (below, above) {
        // Neighbours have nothing between them.
        (Some(below), Some(above)) => Some(f32::midpoint(below, above))
            .filter(|&middle| middle > below)
            .unwrap_or(above),
        _ => threshold,
    }
}

/// The threshold of the lowest cost on the images given, all of them normal included.
fn cheapest(scores: &[f32], labels: &[bool], miss: f64, alarm: f64) -> Result<f32, MetricError> {
    let ties = descending_ties(scores, labels)?;
    let anomalous = labels.iter().filter(|&&label| label).count() as u64;
    let highest = ties.first().map_or(f32::INFINITY, |tie| tie.score);
    let mut best = (miss * anomalous as f64, highest.next_up());
    for tie in ties {
        let called = tie.above.plus(tie.here);
        let cost = miss * (anomalous - called.anomalous) as f64 + alarm * called.normal as f64;
        if cost <= best.0 {
            best = (cost, tie.score);
        }
    }
    Ok(best.1)
}
