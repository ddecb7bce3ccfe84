//! AUPRO by 200 thresholds, as AnomalyCLIP, VAND and others compute the figures they print.
//!
//! Thresholds `np.arange(lowest, highest, (highest - lowest) / 200)` over all maps (200 or, by
//! rounding, 201 of them), pixels strictly above one are predicted; points with FPR strictly below
//! the limit are kept, their FPR is stretched to 0..1, and the trapezoid is taken. Nothing is
//! interpolated, so one extreme pixel moves the value, which can be points away from the exact one.

use crate::aupro::ProPoint;
use crate::error::MetricError;

const STEPS: f32 = 200.0;

/// How NumPy mixes `f32` scores with other numbers when it makes and applies the thresholds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NumpyRules {
    /// NumPy 1.x, which the published figures were made with: the step is `f64`, thresholds are
    /// rounded to `f32` for the comparison.
    #[default]
    V1,
    /// NumPy 2.x: the step is `f32`, the comparison `f64`.
    V2,
}

/// The thresholds, ascending, as `f32`: a pixel is predicted where `score > threshold`.
pub(crate) fn thresholds(
    lowest: f32,
    highest: f32,
    rules: NumpyRules,
) -> Result<Vec<f32>, MetricError> {
    let range = highest - lowest;
    let start = f64::from(lowest);
    let (count, second) = match rules {
        NumpyRules::V1 => {
            let range = f64::from(range);
            let step = range / f64::from(STEPS);
            ((range / step).ceil(), start + step)
        }
        NumpyRules::V2 => {
            let step = range / STEPS;
            (f64::from((range / step).ceil()), f64::from(lowest + step))
        }
    };
    if !count.is_finite() {
        return Err(MetricError::NoSteps { lowest, highest });
    }
    // `arange` fills from its first two values.
    let step = second - start;
    let thresholds = (0..count as u32).map(|index| {
        let threshold = start + f64::from(index) * step;
        match rules {
            NumpyRules::V1 => threshold as f32,
            NumpyRules::V2 => round_down(threshold),
        }
    });
    Ok(thresholds.collect())
}

/// The largest `f32` not above `value`: an `f32` is above one exactly if it is above the other.
fn round_down(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value {
        nearest.next_down()
    } else {
        nearest
    }
}

/// The area under the points below `limit`, their FPR stretched to 0..1.
pub(crate) fn stretched_area(points: &[ProPoint], limit: f64) -> Result<f64, MetricError> {
    let kept: Vec<&ProPoint> = points
        .iter()
        .filter(|point| point.false_positive_rate < limit)
        .collect();
    // Thresholds ascend, so the FPR descends.
    let (Some(last), Some(first)) = (kept.first(), kept.last()) else {
        return Err(MetricError::FlatSteps { limit });
    };
    let width = last.false_positive_rate - first.false_positive_rate;
    if width == 0.0 {
        return Err(MetricError::FlatSteps { limit });
    }
    let area: f64 = kept
        .windows(2)
        .map(|pair| {
            (pair[0].false_positive_rate - pair[1].false_positive_rate)
                * (pair[0].overlap + pair[1].overlap)
                / 2.0
        })
        .sum();
    Ok(area / width)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Count, second and last of `np.arange(lowest, highest, (highest - lowest) / 200)`.
    #[test]
    fn thresholds_of_numpy() {
        use NumpyRules::{V1, V2};
        let cases = [
            (V1, 0.0, 1.0, 200, 0.005, 0.995),
            (
                V1,
                1.2,
                4.9,
                200,
                1.218_500_047_922_134_4,
                4.881_500_095_129_013,
            ),
            (V1, -3.5, 0.125, 200, -3.481_875, 0.106_874_999_999_989_4),
            (
                V1,
                1000.0,
                1000.1,
                200,
                1_000.000_499_877_929_7,
                1_000.099_475_708_001_5,
            ),
            (
                V1,
                0.391_228_2,
                0.516_740_2,
                201,
                0.391_855_759_024_620_05,
                0.516_740_202_903_747_1,
            ),
            (
                V2,
                0.0,
                1.0,
                200,
                0.004_999_999_888_241_291,
                0.994_999_977_760_016_9,
            ),
            (
                V2,
                1.2,
                4.9,
                200,
                1.218_500_018_119_812,
                4.881_494_164_466_858,
            ),
            (
                V2,
                -3.5,
                0.125,
                200,
                -3.481_874_942_779_541,
                0.106_886_386_871_337_89,
            ),
            (
                V2,
                1000.0,
                1000.1,
                201,
                1_000.000_488_281_25,
                1_000.097_656_25,
            ),
            (
                V2,
                0.392_970_44,
                0.909_454_6,
                201,
                0.395_552_873_611_450_2,
                0.909_456_610_679_626_5,
            ),
        ];
        for (rules, lowest, highest, count, second, last) in cases {
            let thresholds = thresholds(lowest, highest, rules).unwrap();
            assert_eq!(thresholds.len(), count, "{rules:?} {lowest}..{highest}");
            assert_eq!(thresholds[0], lowest);
            for (threshold, expected) in [(thresholds[1], second), (thresholds[count - 1], last)] {
                match rules {
                    V1 => assert_eq!(threshold, expected as f32),
                    V2 => assert!(
                        f64::from(threshold) <= expected
                            && f64::from(threshold.next_up()) > expected,
                        "{threshold} {expected}"
                    ),
                }
            }
        }
    }

    #[test]
    fn no_thresholds_without_a_finite_range() {
        for (lowest, highest) in [(0.5, 0.5), (0.0, f32::INFINITY), (f32::MIN, f32::MAX)] {
            for rules in [NumpyRules::V1, NumpyRules::V2] {
                let expected = Err(MetricError::NoSteps { lowest, highest });
                assert_eq!(thresholds(lowest, highest, rules), expected);
            }
        }
    }
}
