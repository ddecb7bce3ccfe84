//! AUROC, average precision and F1-max from scores in descending order, equal scores merged.
//!
//! All three change only at scores that an anomalous item has: between two such scores the true
//! positives stay, so neither the AP sum nor the won pairs grow, and F1 falls. A [`Tally`]
//! therefore takes the anomalous tie groups alone, each with the counts above it, and tallies of
//! separate score ranges can be added.

use crate::error::{Class, Level, MetricError};

/// The largest F1 over all thresholds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct F1Max {
    /// F1 = 2 * true positives / (anomalous + predicted anomalous), 0 to 1.
    pub value: f64,
    /// The score at which it is reached (`score >= threshold` is called anomalous); the lowest
    /// one if several do.
    pub threshold: f32,
}

/// An integer that orders as the score does; -0 and +0 are one key.
pub(crate) fn score_key(score: f32) -> u32 {
    const SIGN: u32 = 1 << 31;
    let bits = (score + 0.0).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// The score of a key made by [`score_key`].
pub(crate) fn key_score(key: u32) -> f32 {
    const SIGN: u32 = 1 << 31;
    f32::from_bits(if key & SIGN == 0 { !key } else { key & !SIGN })
}

/// How many items of each class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) anomalous: u64,
    pub(crate) normal: u64,
}

impl Counts {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            anomalous: self.anomalous + other.anomalous,
            normal: self.normal + other.normal,
        }
    }

    /// An error if one of the classes is missing.
    pub(crate) fn require_both(
        self,
        metric: &'static str,
        level: Level,
    ) -> Result<(), MetricError> {
        self.require_anomalous(metric, level)?;
        if self.normal > 0 {
            return Ok(());
        }
        Err(MetricError::OneClass {
            metric,
            level,
            present: Class::Anomalous,
            count: self.anomalous,
        })
    }

    /// An error if no item is anomalous.
    pub(crate) fn require_anomalous(
        self,
        metric: &'static str,
        level: Level,
    ) -> Result<(), MetricError> {
        if self.anomalous > 0 {
            return Ok(());
        }
        Err(MetricError::OneClass {
            metric,
            level,
            present: Class::Normal,
            count: self.normal,
        })
    }
}

/// All items of one score.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tie {
    pub(crate) score: f32,
    /// Items with a higher score.
    pub(crate) above: Counts,
    /// Items with this score.
    pub(crate) here: Counts,
}

/// Running sums over tie groups in descending order of score.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    total: Counts,
    /// Twice the number of (anomalous, normal) pairs in the right order, equal scores half.
    twice_pairs_won: u128,
    /// Sum over anomalous items of the precision at their score.
    precision_sum: f64,
    best_f1: F1Ratio,
}

impl Tally {
    /// An empty tally over `total` items.
    pub(crate) fn new(total: Counts) -> Self {
        Self {
            total,
            twice_pairs_won: 0,
            precision_sum: 0.0,
            best_f1: F1Ratio::NOTHING_CALLED,
        }
    }

    /// The tally of tie groups in descending order.
    pub(crate) fn of(total: Counts, ties: impl Iterator<Item = Tie>) -> Self {
        let mut tally = Self::new(total);
        ties.filter(|tie| tie.here.anomalous > 0)
            .for_each(|tie| tally.add(&tie));
        tally
    }

    /// Takes the next lower tie group. Groups without anomalous items may be left out.
    pub(crate) fn add(&mut self, tie: &Tie) {
        let at_or_above = tie.above.plus(tie.here);
        let normal_below = self.total.normal - at_or_above.normal;
        let predicted = at_or_above.anomalous + at_or_above.normal;

        self.twice_pairs_won += u128::from(tie.here.anomalous)
            * (2 * u128::from(normal_below) + u128::from(tie.here.normal));
        self.precision_sum +=
            tie.here.anomalous as f64 * (at_or_above.anomalous as f64 / predicted as f64);
        self.offer_f1(F1Ratio {
            true_positives: at_or_above.anomalous,
            denominator: self.total.anomalous + predicted,
            threshold: tie.score,
        });
    }

    /// Adds the tally of the next lower score range.
    pub(crate) fn append(&mut self, lower: &Self) {
        self.twice_pairs_won += lower.twice_pairs_won;
        self.precision_sum += lower.precision_sum;
        self.offer_f1(lower.best_f1);
    }

    /// Area under the ROC curve.
    pub(crate) fn auroc(&self, level: Level) -> Result<f64, MetricError> {
        self.total.require_both("AUROC", level)?;
        let pairs = u128::from(self.total.anomalous) * u128::from(self.total.normal);
        Ok(self.twice_pairs_won as f64 / (2 * pairs) as f64)
    }

    /// Average precision.
    pub(crate) fn average_precision(&self, level: Level) -> Result<f64, MetricError> {
        self.total.require_anomalous("average precision", level)?;
        Ok(self.precision_sum / self.total.anomalous as f64)
    }

    /// Largest F1.
    pub(crate) fn f1_max(&self, level: Level) -> Result<F1Max, MetricError> {
        self.total.require_anomalous("F1-max", level)?;
        Ok(self.best_f1.f1_max())
    }

    fn offer_f1(&mut self, candidate: F1Ratio) {
        if candidate.reaches(self.best_f1) {
            self.best_f1 = candidate;
        }
    }
}

/// F1 at one threshold as a fraction, so that maxima compare exactly.
#[derive(Debug, Clone, Copy)]
struct F1Ratio {
    true_positives: u64,
    /// Anomalous items plus items predicted anomalous.
    denominator: u64,
    threshold: f32,
}

impl F1Ratio {
    /// A threshold above every score.
    const NOTHING_CALLED: Self = Self {
        true_positives: 0,
        denominator: 1,
        threshold: f32::INFINITY,
    };

    fn reaches(self, other: Self) -> bool {
        u128::from(self.true_positives) * u128::from(other.denominator)
            >= u128::from(other.true_positives) * u128::from(self.denominator)
    }

    fn f1_max(self) -> F1Max {
        F1Max {
            value: (2 * self.true_positives) as f64 / self.denominator as f64,
            threshold: self.threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_scores_and_turn_back() {
        let ascending = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::from_bits(1),
            0.0,
            f32::from_bits(1),
            0.5,
            1.0,
            f32::MAX,
            f32::INFINITY,
        ];
        for pair in ascending.windows(2) {
            assert!(score_key(pair[0]) < score_key(pair[1]), "{pair:?}");
        }
        for score in ascending {
            assert_eq!(key_score(score_key(score)), score);
        }
        assert_eq!(score_key(-0.0), score_key(0.0));
    }
}
