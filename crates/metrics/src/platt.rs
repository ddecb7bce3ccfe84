//! Scores as probabilities, and how far these can be relied on.
//!
//! Platt, "Probabilistic outputs for support vector machines" (1999): a logistic curve over the
//! score, fitted to labels that are drawn a little towards the middle, so that it does not become a
//! step where the scores separate the classes. Fitted by Newton's method with halved steps, as in
//! Lin, Lin and Weng, "A note on Platt's probabilistic outputs" (Machine Learning 68, 2007).

use serde::{Deserialize, Serialize};

use crate::error::{Level, MetricError};
use crate::image::check;
use crate::ranking::Counts;

/// The probability that an image is anomalous: `1 / (1 + exp(-(slope * score + offset)))`. It holds
/// where anomalous images are as frequent as among those that it was fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Platt {
    /// Above 0: a higher score is never less probable.
    pub slope: f64,
    /// What is added to the score times the slope.
    pub offset: f64,
}

impl Platt {
    /// Fits the curve to scores and labels.
    ///
    /// # Errors
    /// As [`crate::auroc`]; an infinite score; [`MetricError::NotRising`] if higher scores do not
    /// go with more anomalous images.
    pub fn fit(scores: &[f32], labels: &[bool]) -> Result<Self, MetricError> {
        check(scores, labels)?;
        if let Some(index) = scores.iter().position(|score| score.is_infinite()) {
            return Err(MetricError::InfiniteScore { index });
        }
        let anomalous = labels.iter().filter(|&&label| label).count() as f64;
        let normal = labels.len() as f64 - anomalous;
        Counts {
            anomalous: anomalous as u64,
            normal: normal as u64,
        }
        .require_both("a probability", Level::Image)?;
        // In units in which any scores are near 0 and 1, so that sums of them lose nothing.
        let count = scores.len() as f64;
        let mean = scores.iter().map(|&s| f64::from(s)).sum::<f64>() / count;
        let squares = scores.iter().map(|&s| (f64::from(s) - mean).powi(2));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        if deviation == 0.0 {
            return Err(MetricError::NotRising);
        }
        let targets = [1.0 / (normal + 2.0), (anomalous + 1.0) / (anomalous + 2.0)];
        let points: Vec<(f64, f64)> = scores
            .iter()
            .zip(labels)
            .map(|(&score, &label)| {
                let unit = (f64::from(score) - mean) / deviation;
                (unit, targets[usize::from(label)])
            })
            .collect();
        let Logistic { slope, offset } = Logistic::fit(&points, anomalous / normal);
        let fitted = Self {
            slope: slope / deviation,
            offset: offset - slope * mean / deviation,
        };
        if fitted.is_rising() {
            Ok(fitted)
        } else {
            Err(MetricError::NotRising)
        }
    }

    /// Whether this is a curve that rises.
    pub fn is_rising(&self) -> bool {
        self.slope > 0.0 && self.slope.is_finite() && self.offset.is_finite()
    }

    /// The probability of an image with this score, 0 to 1.
    pub fn probability(&self, score: f32) -> f64 {
        sigmoid(self.slope * f64::from(score) + self.offset)
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A logistic curve over any unit.
#[derive(Clone, Copy)]
struct Logistic {
    slope: f64,
    offset: f64,
}

impl Logistic {
    /// The curve of the highest likelihood at `points` of a unit and a target; `odds` are those of
    /// the first guess, a flat curve.
    fn fit(points: &[(f64, f64)], odds: f64) -> Self {
        const STEPS: usize = 100;
        const SHORTEST: f64 = 1e-10;
        // Keeps the matrix of second derivatives invertible; the fit does not depend on it.
        const RIDGE: f64 = 1e-12;
        let mut curve = Self {
            slope: 0.0,
            offset: odds.ln(),
        };
        let mut loss = curve.loss(points);
        for _ in 0..STEPS {
            // First and second derivatives of the loss.
            let (mut g, mut h) = ([0.0; 2], [RIDGE, 0.0, RIDGE]);
            for &(unit, target) in points {
                let p = sigmoid(curve.slope * unit + curve.offset);
                let (error, weight) = (p - target, p * (1.0 - p));
                g[0] += error * unit;
                g[1] += error;
                h[0] += weight * unit * unit;
                h[1] += weight * unit;
                h[2] += weight;
            }
            let determinant = h[0] * h[2] - h[1] * h[1];
            let slope = -(h[2] * g[0] - h[1] * g[1]) / determinant;
            let offset = -(h[0] * g[1] - h[1] * g[0]) / determinant;
            let mut step = 1.0;
            loop {
                let next = Self {
                    slope: curve.slope + step * slope,
                    offset: curve.offset + step * offset,
                };
                let next_loss = next.loss(points);
                if next_loss < loss {
                    (curve, loss) = (next, next_loss);
                    break;
                }
                step /= 2.0;
                if step < SHORTEST {
                    return curve;
                }
            }
        }
        curve
    }

    /// The cross-entropy, without overflow.
    fn loss(self, points: &[(f64, f64)]) -> f64 {
        let loss = |&(unit, target): &(f64, f64)| {
            let x = self.slope * unit + self.offset;
            (-x.abs()).exp().ln_1p() + x.max(0.0) - target * x
        };
        points.iter().map(loss).sum()
    }
}

/// Images of similar probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// How many there are; above 0.
    pub images: usize,
    /// The mean of their probabilities.
    pub probability: f64,
    /// The share of them that is anomalous.
    pub anomalous: f64,
}

/// How probabilities agree with what came true.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reliability {
    /// Ten equal ranges of probability, those without images left out.
    pub bins: Vec<Bin>,
    /// Mean squared distance of the probabilities from the labels (Brier 1950): 0 is best, 0.25
    /// what 0.5 for every image gives.
    pub brier: f64,
    /// Expected calibration error: the mean distance, over the images, of their bin's probability
    /// from its share of anomalous images.
    pub expected_error: f64,
}

impl Reliability {
    /// Compares `probabilities`, each 0 to 1, with labels.
    ///
    /// # Errors
    /// Different lengths, or no images.
    pub fn of(probabilities: &[f64], labels: &[bool]) -> Result<Self, MetricError> {
        const BINS: usize = 10;
        if probabilities.len() != labels.len() {
            return Err(MetricError::LengthMismatch {
                scores: probabilities.len(),
                labels: labels.len(),
            });
        }
        if labels.is_empty() {
            return Err(MetricError::Empty {
                level: Level::Image,
            });
        }
        let mut sums = [(0, 0.0, 0); BINS];
        let mut squares = 0.0;
        for (&probability, &label) in probabilities.iter().zip(labels) {
            let (images, sum, anomalous) =
                &mut sums[((probability * BINS as f64) as usize).min(BINS - 1)];
            *images += 1;
            *sum += probability;
            *anomalous += usize::from(label);
            squares += (probability - f64::from(u8::from(label))).powi(2);
        }
        let filled = sums.into_iter().filter(|(images, ..)| *images > 0);
        let bins: Vec<Bin> = filled
            .map(|(images, sum, anomalous)| Bin {
                images,
                probability: sum / images as f64,
                anomalous: anomalous as f64 / images as f64,
            })
            .collect();
        let off = |bin: &Bin| bin.images as f64 * (bin.probability - bin.anomalous).abs();
        let count = labels.len() as f64;
        Ok(Self {
            brier: squares / count,
            expected_error: bins.iter().map(off).sum::<f64>() / count,
            bins,
        })
    }
}
