//! What a threshold from so many images promises of later ones.
//!
//! Let `n` images of a class be scored, and the threshold lie so that `wrong` of them are on the
//! wrong side. If scores do not tie, the share of all later images on the wrong side is a random
//! number of the beta distribution with parameters `wrong + 1` and `n - wrong` (Vovk, "Conditional
//! validity of inductive conformal predictors", 2012); its mean is `(wrong + 1) / (n + 1)`. Ties
//! only make it smaller. Its distribution function is a binomial sum.

use serde::Serialize;

use crate::error::{Class, MetricError};

/// The probability with which [`Guarantee::bound`] holds.
pub const BOUND_CONFIDENCE: f64 = 0.95;

/// What holds of the share of wrong decisions among later images of one class, drawn as those that
/// the threshold was chosen from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Guarantee {
    /// The class.
    pub class: Class,
    /// How many images of it the threshold was chosen from.
    pub images: usize,
    /// How many of those lie on the wrong side, if none tie.
    pub wrong: usize,
    /// The largest share that was asked for.
    pub rate: f64,
    /// The mean share over all choices of so many images: at most `rate`.
    pub expected: f64,
    /// The probability that the share is at most `rate`.
    pub confidence: f64,
    /// The share that is not exceeded with a probability of [`BOUND_CONFIDENCE`].
    pub bound: f64,
}

impl Guarantee {
    /// The most wrong decisions among `images` for which the mean share of later ones is at most
    /// `rate`, above 0 and below 1.
    ///
    /// # Errors
    /// [`MetricError::TooFewForRate`] if there is no such number.
    pub(crate) fn new(class: Class, images: usize, rate: f64) -> Result<Self, MetricError> {
        // A rate such as 0.01 is a little off as f64: 99 images are enough for it.
        const ROUNDING: f64 = 1e-9;
        let allowed = (images as f64 + 1.0) * rate * (1.0 + ROUNDING);
        if allowed < 1.0 {
            return Err(MetricError::TooFewForRate {
                class,
                rate,
                needed: ((1.0 - ROUNDING) / rate).ceil() as usize - 1,
                found: images,
            });
        }
        let wrong = (allowed.floor() as usize - 1).min(images - 1);
        let at_most = |share| at_least(wrong + 1, images, share);
        Ok(Self {
            class,
            images,
            wrong,
            rate,
            expected: (wrong + 1) as f64 / (images + 1) as f64,
            confidence: at_most(rate),
            bound: solve(at_most, BOUND_CONFIDENCE),
        })
    }
}

/// The probability of at least `successes`, above 0, in `trials` that succeed with `probability`,
/// above 0 and below 1.
fn at_least(successes: usize, trials: usize, probability: f64) -> f64 {
    let n = trials as f64;
    let term = |hits: usize| {
        let k = hits as f64;
        let choose = libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
        (choose + k * probability.ln() + (n - k) * (-probability).ln_1p()).exp()
    };
    // The tail that does not hold the mean is small, and its terms fall from its start.
    if successes as f64 > n * probability {
        (successes..=trials).map(term).sum()
    } else {
        1.0 - (0..successes).rev().map(term).sum::<f64>()
    }
}

/// Where `rising`, which goes from 0 to 1 on (0, 1), reaches `value`.
fn solve(rising: impl Fn(f64) -> f64, value: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..f64::MANTISSA_DIGITS {
        let middle = f64::midpoint(low, high);
        if rising(middle) < value {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.beta(wrong + 1, images - wrong)`: `cdf(rate)` and `ppf(0.95)`.
    #[test]
    fn equals_the_beta_distribution() {
        let cases = [
            (
                99,
                0.01,
                0,
                0.630_270_362_350_273_2,
                0.029_806_673_773_350_886,
            ),
            (
                100,
                0.01,
                0,
                0.633_967_658_726_770_5,
                0.029_513_049_607_039_925,
            ),
            (
                198,
                0.01,
                0,
                0.863_299_995_043_401_7,
                0.015_016_078_188_760_933,
            ),
            (
                199,
                0.01,
                1,
                0.592_633_985_229_337_4,
                0.023_615_443_641_967_03,
            ),
            (
                19,
                0.05,
                0,
                0.622_646_397_464_692_4,
                0.145_868_503_312_243_4,
            ),
            (
                300,
                0.05,
                14,
                0.536_983_409_254_929,
                0.071_994_057_146_295_07,
            ),
            (9, 0.5, 4, 0.5, 0.748_632_372_591_822_7),
            (1, 0.9, 0, 0.9, 0.95),
            (
                10_000,
                0.001,
                9,
                0.542_132_876_020_985_6,
                0.001_569_995_118_806_433_5,
            ),
        ];
        for (images, rate, wrong, confidence, bound) in cases {
            let found = Guarantee::new(Class::Normal, images, rate).unwrap();
            let name = format!("{images} images, rate {rate}");
            assert_eq!(found.wrong, wrong, "{name}");
            assert!(found.expected <= rate + 1e-12, "{name}");
            assert!(
                (found.confidence - confidence).abs() < 1e-9,
                "{name}: {found:?}"
            );
            assert!((found.bound - bound).abs() < 1e-9, "{name}: {found:?}");
        }
    }

    #[test]
    fn too_few_images_are_told() {
        for (images, rate, needed) in [(98, 0.01, 99), (18, 0.05, 19), (0, 0.5, 1), (8, 0.1, 9)] {
            let expected = MetricError::TooFewForRate {
                class: Class::Normal,
                rate,
                needed,
                found: images,
            };
            assert_eq!(Guarantee::new(Class::Normal, images, rate), Err(expected));
            assert!(Guarantee::new(Class::Normal, needed, rate).is_ok());
        }
    }
}
