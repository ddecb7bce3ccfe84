//! AUPIMO: how much of each anomalous image's mask is found before normal images show anything.
//!
//! Bertoldo, Ameln, Vaidya and Akçay, "AUPIMO: Redefining Visual Anomaly Detection Benchmarks with
//! High Speed and Low Tolerance" (BMVC 2024), as in anomalib: thresholds lie evenly between the
//! lowest and the highest score of the normal images; the false-positive rate (FPR) that all images
//! share is the mean over the normal images of theirs; an image's value is its true-positive rate
//! integrated over the logarithm of the FPR between two bounds, divided by the bounds' distance.
//!
//! Other pixel-level metrics are exact, this one is not: it depends on the number of
//! thresholds, as the original does.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::error::{Class, Level, MetricError};
use crate::pixel::{ScoredMask, first_error};

/// Fewer points of the curve than this give no value, as in anomalib.
const LEAST_POINTS: usize = 31;

/// Fewer points than this make a rough value.
const ROUGH_BELOW: usize = 300;

/// Choices of AUPIMO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PimoOptions {
    /// Number of thresholds, at least 2.
    pub thresholds: usize,
    /// Lower and upper bound of the FPR, both above 0 and at most 1.
    pub fpr_bounds: [f64; 2],
}

impl Default for PimoOptions {
    /// The paper's bounds, anomalib's number of thresholds.
    fn default() -> Self {
        Self {
            thresholds: 300_000,
            fpr_bounds: [1e-5, 1e-4],
        }
    }
}

/// AUPIMO of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct Aupimo {
    /// The value of each image, 0 to 1; none for normal images, whose masks are empty.
    pub per_image: Vec<Option<f64>>,
    /// The mean over the anomalous images.
    pub mean: f64,
    /// Points of the curve between the bounds.
    pub points: usize,
    /// The FPRs nearest to the bounds that thresholds reach, between which is integrated.
    pub fpr_reached: [f64; 2],
    /// Whether the values are rough, of which anomalib warns: fewer than 300 points, or a bound that
    /// is missed by more than a hundredth.
    pub is_rough: bool,
}

impl Aupimo {
    /// Computes AUPIMO over `count` maps that `map` gives by their index. It is called twice for
    /// each, on several threads, and must give the same both times.
    ///
    /// # Errors
    /// Options that cannot be, a NaN, no normal or no anomalous image, bounds that no threshold
    /// comes near ([`MetricError::PimoBound`], [`MetricError::PimoPoints`]), or what `map` fails
    /// with.
    pub fn compute_each<'a, E: From<MetricError> + Send>(
        count: usize,
        map: impl Fn(usize) -> Result<ScoredMask<'a>, E> + Sync,
        options: &PimoOptions,
    ) -> Result<Self, E> {
        let [low, high] = options.fpr_bounds;
        if !(0.0 < low && low < high && high <= 1.0) || options.thresholds < 2 {
            return Err(MetricError::PimoOptions {
                thresholds: options.thresholds,
                low,
                high,
            }
            .into());
        }
        let normal_ranges = first_error((0..count).into_par_iter().map(|index| {
            let scored = map(index)?;
            scored.require_numbers(index)?;
            Ok::<_, E>(normal_range(&scored))
        }))?;
        let thresholds = Thresholds::over(&normal_ranges, options.thresholds)?;
        let is_normal = |index: &usize| normal_ranges[*index].is_some();
        let (normal, anomalous): (Vec<usize>, Vec<usize>) = (0..count).partition(is_normal);

        let curve = Curve::between(options.fpr_bounds, &shared_fpr(&normal, &map, &thresholds)?)?;
        let values = first_error(anomalous.par_iter().map(|&index| {
            let scored = map(index)?;
            let pixels = scored.scores.iter().zip(scored.mask.iter());
            let anomalous = pixels.filter(|&(_, &anomalous)| anomalous).map(|(s, _)| *s);
            let found = thresholds.at_or_above(anomalous.clone());
            Ok::<_, E>(curve.area(&found, anomalous.count()))
        }))?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let mut per_image = vec![None; count];
        for (index, value) in anomalous.into_iter().zip(values) {
            per_image[index] = Some(value);
        }
        Ok(Self {
            per_image,
            mean,
            points: curve.log_fpr.len(),
            fpr_reached: curve.fpr_reached,
            is_rough: curve.is_rough(options.fpr_bounds),
        })
    }
}

/// The lowest and the highest score of a normal image; none of an anomalous one.
fn normal_range(map: &ScoredMask<'_>) -> Option<(f32, f32)> {
    let is_normal = !map.mask.contains(&true);
    is_normal.then(|| {
        let scores = map.scores.iter();
        scores.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &score| {
            (low.min(score), high.max(score))
        })
    })
}

/// Evenly spaced thresholds, ascending; a pixel is predicted where `score >= threshold`.
struct Thresholds {
    values: Vec<f32>,
    /// Thresholds per unit of score.
    density: f64,
}

impl Thresholds {
    fn over(normal_ranges: &[Option<(f32, f32)>], count: usize) -> Result<Self, MetricError> {
        let normal = normal_ranges.iter().flatten().count();
        for (present, absent) in [
            (Class::Normal, normal_ranges.len() - normal),
            (Class::Anomalous, normal),
        ] {
            if absent == 0 {
                return Err(MetricError::OneClass {
                    metric: "AUPIMO",
                    level: Level::Image,
                    present,
                    count: normal_ranges.len() as u64,
                });
            }
        }
        let ranges = normal_ranges.iter().flatten().copied();
        let (low, high) = ranges.fold((f32::INFINITY, f32::NEG_INFINITY), |a, b| {
            (a.0.min(b.0), a.1.max(b.1))
        });
        // PyTorch's `linspace` in float32: from both ends to the middle.
        let step = (high - low) / (count - 1) as f32;
        let values = (0..count).map(|index| {
            if index < count / 2 {
                low + step * index as f32
            } else {
                high - step * (count - 1 - index) as f32
            }
        });
        Ok(Self {
            values: values.collect(),
            density: (count - 1) as f64 / (f64::from(high) - f64::from(low)),
        })
    }

    /// For each threshold, how many of `scores` are at or above it.
    fn at_or_above(&self, scores: impl Iterator<Item = f32>) -> Vec<u64> {
        // Counted by the number of thresholds passed, then summed from the last.
        let mut counts = vec![0; self.values.len() + 1];
        for score in scores {
            counts[self.passed(score)] += 1;
        }
        let mut sum = 0;
        for count in counts.iter_mut().rev() {
            sum += *count;
            *count = sum;
        }
        counts.remove(0);
        counts
    }

    /// How many thresholds are at or below `score`.
    fn passed(&self, score: f32) -> usize {
        let position = (f64::from(score) - f64::from(self.values[0])) * self.density;
        let mut passed = (position.max(0.0) as usize).min(self.values.len());
        while self.values.get(passed).is_some_and(|&t| t <= score) {
            passed += 1;
        }
        while passed > 0 && self.values[passed - 1] > score {
            passed -= 1;
        }
        passed
    }
}

/// The mean of the normal images' FPRs at each threshold.
fn shared_fpr<'a, E: From<MetricError> + Send>(
    normal: &[usize],
    map: &(impl Fn(usize) -> Result<ScoredMask<'a>, E> + Sync),
    thresholds: &Thresholds,
) -> Result<Vec<f64>, E> {
    // Images of one size add up as integers, so that the order does not matter.
    type BySize = BTreeMap<usize, Vec<u64>>;
    let add = |mut sums: BySize, (size, counts): (usize, Vec<u64>)| {
        match sums.get_mut(&size) {
            Some(sum) => sum.iter_mut().zip(counts).for_each(|(sum, c)| *sum += c),
            None => drop(sums.insert(size, counts)),
        }
        sums
    };
    let by_size: BySize = normal
        .par_iter()
        .map(|&index| {
            let scored = map(index)?;
            let counts = thresholds.at_or_above(scored.scores.iter().copied());
            Ok::<_, E>((scored.scores.len(), counts))
        })
        .try_fold(BySize::new, |sums, counted| Ok::<_, E>(add(sums, counted?)))
        .try_reduce(BySize::new, |a, b| Ok(b.into_iter().fold(a, add)))?;
    let mut fpr = vec![0.0; thresholds.values.len()];
    for (size, counts) in by_size {
        for (fpr, count) in fpr.iter_mut().zip(counts) {
            *fpr += count as f64 / size as f64;
        }
    }
    fpr.iter_mut().for_each(|fpr| *fpr /= normal.len() as f64);
    Ok(fpr)
}

/// The part of the curves' common axis that is integrated over.
struct Curve {
    /// Index of the first threshold.
    first: usize,
    /// Logarithm of the FPR at that and the following thresholds, descending.
    log_fpr: Vec<f64>,
    /// The logarithms' distance for the bounds as given.
    width: f64,
    fpr_reached: [f64; 2],
}

impl Curve {
    fn between([low, high]: [f64; 2], shared_fpr: &[f64]) -> Result<Self, MetricError> {
        // The lowest of the thresholds whose FPR is nearest.
        let nearest = |bound: f64| {
            let mut best = 0;
            for (index, fpr) in shared_fpr.iter().enumerate() {
                if (fpr - bound).abs() < (shared_fpr[best] - bound).abs() {
                    best = index;
                }
            }
            best
        };
        let least = shared_fpr.last().copied().unwrap_or_default();
        if low < least {
            return Err(MetricError::PimoBound { bound: low, least });
        }
        let (first, last) = (nearest(high), nearest(low));
        let points = (last + 1).saturating_sub(first);
        if points < LEAST_POINTS {
            return Err(MetricError::PimoPoints {
                points,
                needed: LEAST_POINTS,
            });
        }
        Ok(Self {
            first,
            log_fpr: shared_fpr[first..=last]
                .iter()
                .map(|fpr| fpr.ln())
                .collect(),
            width: (high / low).ln(),
            fpr_reached: [shared_fpr[last], shared_fpr[first]],
        })
    }

    fn is_rough(&self, bounds: [f64; 2]) -> bool {
        let missed = |(reached, bound): (f64, f64)| (reached - bound).abs() > 0.01 * bound;
        self.log_fpr.len() < ROUGH_BELOW || std::iter::zip(self.fpr_reached, bounds).any(missed)
    }

    /// The area under an image's curve, from how many of its `anomalous` pixels are at or above
    /// each threshold.
    fn area(&self, found: &[u64], anomalous: usize) -> f64 {
        let found = &found[self.first..self.first + self.log_fpr.len()];
        let rate = |found: u64| found as f64 / anomalous as f64;
        let area: f64 = std::iter::zip(self.log_fpr.windows(2), found.windows(2))
            .map(|(x, y)| (x[0] - x[1]) * (rate(y[0]) + rate(y[1])) / 2.0)
            .sum();
        (area / self.width).clamp(0.0, 1.0)
    }
}
