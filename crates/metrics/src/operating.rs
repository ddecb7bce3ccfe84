//! What a detector finds at a given rate of false alarms.

use crate::error::MetricError;
use crate::image::{Confusion, check};

/// A threshold and the decisions that it makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatingPoint {
    /// An image is called anomalous where `score >= threshold`.
    pub threshold: f32,
    /// The decisions.
    pub confusion: Confusion,
}

impl OperatingPoint {
    /// The lowest threshold at which at most `rate` (a fraction) of the normal images are called
    /// anomalous. Exact: a step down to the next score would call too many so. Below one false alarm
    /// (`rate * normal images < 1`) none is allowed.
    ///
    /// # Errors
    /// Scores and labels of different length, no scores, a NaN, or an infinite score that would have to be exceeded.
    pub fn at_false_positive_rate(
        scores: &[f32],
        labels: &[bool],
        rate: f64,
    ) -> Result<Self, MetricError> {
        check(scores, labels)?;
        let pairs = scores.iter().zip(labels);
        let normal = pairs.filter(|(_, label)| !**label).map(|(score, _)| *score);
        let mut normal: Vec<f32> = normal.collect();
        normal.sort_unstable_by(|a, b| b.total_cmp(a));
        // 0.07 of 100 is 7, although the product of the nearest floats is a little more or less.
        let allowed = (rate * normal.len() as f64 * (1.0 + f64::EPSILON)) as usize;
        // Everything above the first normal image that must not be called anomalous.
        let excluded = normal.get(allowed).copied();
        let called = scores.iter().copied();
        let called = called.filter(|score| excluded.is_none_or(|excluded| *score > excluded));
        let threshold = match called.reduce(f32::min) {
            Some(lowest) => lowest,
            // The highest score is a normal image's.
            None => match scores.iter().position(|score| score.is_infinite()) {
                Some(index) => return Err(MetricError::InfiniteScore { index }),
                None => scores.iter().copied().fold(f32::MIN, f32::max).next_up(),
            },
        };
        Ok(Self {
            threshold,
            confusion: Confusion::at(scores, labels, threshold)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decisions_at_a_rate() {
        let normal: Vec<f32> = (0..20).map(|i| i as f32).collect();
        for (name, normal, anomalous, rate, threshold, found, alarms) in [
            (
                "one of twenty",
                &normal[..],
                &[18.0, 18.5, 30.0][..],
                0.05,
                18.5,
                2,
                1,
            ),
            (
                "two of twenty",
                &normal[..],
                &[17.5, 18.5, 30.0][..],
                0.1,
                17.5,
                3,
                2,
            ),
            (
                "too few for one",
                &normal[..],
                &[18.5, 30.0][..],
                0.01,
                30.0,
                1,
                0,
            ),
            (
                "ties are all or none",
                &[1.0, 1.0, 0.0][..],
                &[1.0, 2.0][..],
                0.34,
                2.0,
                1,
                0,
            ),
            ("no normal image", &[][..], &[1.0, 2.0][..], 0.01, 1.0, 2, 0),
            (
                "none can be called",
                &[3.0][..],
                &[1.0][..],
                0.5,
                3.0_f32.next_up(),
                0,
                0,
            ),
        ] {
            let scores = [normal, anomalous].concat();
            let labels: Vec<bool> = (0..scores.len()).map(|i| i >= normal.len()).collect();
            let point = OperatingPoint::at_false_positive_rate(&scores, &labels, rate).unwrap();
            let Confusion {
                true_positives,
                false_positives,
                ..
            } = point.confusion;
            assert_eq!(
                (point.threshold, true_positives, false_positives),
                (threshold, found, alarms),
                "{name}"
            );
        }
    }

    proptest! {
        /// No threshold with as few false alarms finds more.
        #[test]
        fn nothing_better_is_possible(
            images in prop::collection::vec((0_u8..20, any::<bool>()), 1..60),
            percent in 0_u32..100,
        ) {
            let (scores, labels): (Vec<f32>, Vec<bool>) =
                images.iter().map(|&(score, label)| (f32::from(score), label)).unzip();
            let rate = f64::from(percent) / 100.0;
            let point = OperatingPoint::at_false_positive_rate(&scores, &labels, rate).unwrap();
            let normal = labels.iter().filter(|label| !**label).count() as u64;
            let few = |alarms: u64| alarms * 100 <= u64::from(percent) * normal;
            prop_assert!(few(point.confusion.false_positives));
            for threshold in scores.iter().copied() {
                let other = Confusion::at(&scores, &labels, threshold).unwrap();
                if few(other.false_positives) {
                    prop_assert!(other.true_positives <= point.confusion.true_positives);
                    prop_assert!(threshold >= point.threshold);
                }
            }
        }
    }
}
