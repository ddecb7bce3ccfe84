//! AUPRO by 200 thresholds, as AnomalyCLIP, VAND and others compute the figures they print.
//!
//! Thresholds `np.arange(lowest, highest, (highest - lowest) / 200)` over all maps (200 or, by
//! rounding, 201 of them), pixels strictly above one are predicted; points with FPR strictly below
//! the limit are kept, their FPR is stretched to 0..1, and the trapezoid is taken. Nothing is
//! interpolated, so one extreme pixel moves the value, which can be points away from the exact one.
//!
//! Numbers are mixed as in NumPy 1, which the published figures were made with: the step is `f64`, and
//! thresholds are rounded to `f32` for the comparison.

use crate::aupro::ProPoint;
use crate::error::MetricError;

const STEPS: f64 = 200.0;

/// The thresholds, ascending, as `f32`: a pixel is predicted where `score > threshold`.
pub(crate) fn thresholds(lowest: f32, highest: f32) -> Result<Vec<f32>, MetricError> {
    let range = f64::from(highest - lowest);
    let start = f64::from(lowest);
    let step = range / STEPS;
    let count = (range / step).ceil();
    if !count.is_finite() {
        return Err(MetricError::NoSteps { lowest, highest });
    }
    // `arange` fills from its first two values.
    let step = (start + step) - start;
    let thresholds = (0..count as u32).map(|index| (start + f64::from(index) * step) as f32);
    Ok(thresholds.collect())
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
        let cases = [
            (0.0, 1.0, 200, 0.005, 0.995),
            (
                1.2,
                4.9,
                200,
                1.218_500_047_922_134_4,
                4.881_500_095_129_013,
            ),
            (-3.5, 0.125, 200, -3.481_875, 0.106_874_999_999_989_4),
            (
                1000.0,
                1000.1,
                200,
                1_000.000_499_877_929_7,
                1_000.099_475_708_001_5,
            ),
            (
                0.391_228_2,
                0.516_740_2,
                201,
                0.391_855_759_024_620_05,
                0.516_740_202_903_747_1,
            ),
        ];
        for (lowest, highest, count, second, last) in cases {
            let thresholds = thresholds(lowest, highest).unwrap();
            assert_eq!(thresholds.len(), count, "{lowest}..{highest}");
            assert_eq!(thresholds[0], lowest);
            for (threshold, expected) in [(thresholds[1], second), (thresholds[count - 1], last)] {
                assert_eq!(threshold, expected as f32);
            }
        }
    }

    #[test]
    fn no_thresholds_without_a_finite_range() {
        for (lowest, highest) in [(0.5, 0.5), (0.0, f32::INFINITY), (f32::MIN, f32::MAX)] {
            let expected = Err(MetricError::NoSteps { lowest, highest });
            assert_eq!(thresholds(lowest, highest), expected);
        }
    }
}
