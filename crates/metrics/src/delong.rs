//! How sure an AUROC is, and whether two of the same images differ: DeLong's test.
//!
//! DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver
//! operating characteristic curves" (Biometrics 44, 1988). An image's placement is the share of
//! the other class that it is on the right side of, equal scores counting half; the AUROC is the
//! mean placement, and the placements' variances give its own. They come from one sort, as in Sun
//! and Xu, "Fast implementation of DeLong's algorithm" (IEEE Signal Processing Letters 21, 2014).

use crate::error::{Class, Level, MetricError};
use crate::image::check;
use crate::interval::{Interval, check_confidence};
use crate::normal::{half_width, two_sided};
use crate::ranking::Counts;

/// Two AUROCs on the same images, compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeLong {
    /// The AUROCs of the first and the second scores.
    pub auroc: [f64; 2],
    /// The first less the second.
    pub difference: f64,
    /// Standard error of the difference.
    pub standard_error: f64,
    /// Probability of a difference of at least this size, either way, if there were none (normal
    /// approximation). Where every image has the same placement difference the standard error is
    /// 0: then it is 1 if the AUROCs are equal (as for scores that rank alike) and 0 if not.
    pub p_value: f64,
}

/// DeLong's paired test of the AUROCs of the scores `a` and `b` of the same images; `labels` are
/// `true` for anomalous ones. It takes `O(n log n)`.
///
/// # Errors
/// As [`crate::auroc`], and [`MetricError::TooFew`] for a class with a single image.
pub fn delong(labels: &[bool], a: &[f32], b: &[f32]) -> Result<DeLong, MetricError> {
    const NAME: &str = "DeLong's test";
    let a = Placements::new(NAME, a, labels)?;
    let b = Placements::new(NAME, b, labels)?;
    let auroc = [a.auroc(), b.auroc()];
    let difference = auroc[0] - auroc[1];
    let standard_error = a.minus(&b).variance().sqrt();
    let p_value = if standard_error > 0.0 {
        two_sided(difference / standard_error)
    } else if difference == 0.0 {
        1.0
    } else {
        0.0
    };
    Ok(DeLong {
        auroc,
        difference,
        standard_error,
        p_value,
    })
}

/// DeLong's standard error of one AUROC: 0 where every image has the same placement, as in a
/// perfect ranking.
///
/// # Errors
/// As [`delong`].
pub fn auroc_standard_error(scores: &[f32], labels: &[bool]) -> Result<f64, MetricError> {
    let placements = Placements::new("the standard error of AUROC", scores, labels)?;
    Ok(placements.variance().sqrt())
}

/// DeLong's confidence interval of one AUROC, by the normal approximation and cut at 0 and 1. It
/// has no width where the standard error is 0.
///
/// # Errors
/// As [`delong`], or [`MetricError::Confidence`] if `confidence` is not above 0 and below 1.
pub fn auroc_interval(
    scores: &[f32],
    labels: &[bool],
    confidence: f64,
) -> Result<Interval, MetricError> {
    check_confidence(confidence)?;
    let placements = Placements::new("the interval of AUROC", scores, labels)?;
    let (auroc, margin) = (
        placements.auroc(),
        half_width(confidence) * placements.variance().sqrt(),
    );
    Ok(Interval {
        low: (auroc - margin).max(0.0),
        high: (auroc + margin).min(1.0),
    })
}

/// Placements as integers: twice the number of images of the other class that an image is on the
/// right side of. Differences and sums are exact, so that a variance of 0 is found as such.
struct Placements {
    anomalous: Vec<i64>,
    normal: Vec<i64>,
}

impl Placements {
    fn new(metric: &'static str, scores: &[f32], labels: &[bool]) -> Result<Self, MetricError> {
        check(scores, labels)?;
        let anomalous = labels.iter().filter(|&&label| label).count();
        let normal = labels.len() - anomalous;
        let total = Counts {
            anomalous: anomalous as u64,
            normal: normal as u64,
        };
        total.require_both(metric, Level::Image)?;
        for (class, found) in [(Class::Anomalous, anomalous), (Class::Normal, normal)] {
            if found < 2 {
                return Err(MetricError::TooFew {
                    metric,
                    class,
                    needed: 2,
                    found,
                });
            }
        }

        let mut ascending: Vec<usize> = (0..scores.len()).collect();
        ascending.sort_unstable_by(|&i, &j| scores[i].total_cmp(&scores[j]));
        let mut placements = vec![0_i64; scores.len()];
        let (mut normal_below, mut anomalous_above) = (0, anomalous as i64);
        for group in ascending.chunk_by(|&i, &j| scores[i] == scores[j]) {
            let anomalous_here = group.iter().filter(|&&i| labels[i]).count() as i64;
            let normal_here = group.len() as i64 - anomalous_here;
            anomalous_above -= anomalous_here;
            for &i in group {
                placements[i] = if labels[i] {
                    2 * normal_below + normal_here
                } else {
                    2 * anomalous_above + anomalous_here
                };
            }
            normal_below += normal_here;
        }
        let of_class = |wanted| {
            let pairs = placements.iter().zip(labels);
            let of_class = pairs.filter(|&(_, &label)| label == wanted);
            of_class.map(|(&placement, _)| placement).collect()
        };
        Ok(Self {
            anomalous: of_class(true),
            normal: of_class(false),
        })
    }

    fn auroc(&self) -> f64 {
        let pairs = self.anomalous.len() as u128 * self.normal.len() as u128;
        let won: i64 = self.anomalous.iter().sum();
        won as f64 / (2 * pairs) as f64
    }

    fn minus(&self, other: &Self) -> Self {
        let minus = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        Self {
            anomalous: minus(&self.anomalous, &other.anomalous),
            normal: minus(&self.normal, &other.normal),
        }
    }

    /// The variance of the mean placement.
    fn variance(&self) -> f64 {
        variance_of_mean(&self.anomalous, self.normal.len())
            + variance_of_mean(&self.normal, self.anomalous.len())
    }
}

/// The variance of the mean of placements among `others` images.
fn variance_of_mean(placements: &[i64], others: usize) -> f64 {
    let count = placements.len() as i128;
    let sum: i128 = placements.iter().map(|&x| i128::from(x)).sum();
    let squares: i128 = placements.iter().map(|&x| i128::from(x).pow(2)).sum();
    let scale = 4.0 * (others as f64).powi(2);
    let count_cubed = (count * count * (count - 1)) as f64;
    (count * squares - sum * sum) as f64 / count_cubed / scale
}
