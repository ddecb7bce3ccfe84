//! AUPRO, exact: the area under per-region overlap (PRO) over the false-positive rate (FPR), and
//! that curve for plots.
//!
//! Bergmann et al., MVTec AD (IJCV 2021), as in the data set's evaluation code: every distinct
//! score is a threshold, the curve starts at (0, 0), is cut at the FPR limit by linear
//! interpolation, and its area is divided by the limit.
//!
//! PRO at a threshold is the sum of 1 / area(region) over the anomalous pixels at or above it,
//! divided by the number of regions. So the area is a sum over pixels too: a tie group of weight
//! `w`, met while the FPR goes from `f0` to `f1`, lifts the curve along a ramp from `f0` to `f1`
//! and by `w` from there on.

use crate::curves::CurvePoint;

/// One point of a per-region-overlap curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProPoint {
    /// Share of the normal pixels called anomalous.
    pub false_positive_rate: f64,
    /// Mean over the regions of the share of each that is called anomalous.
    pub overlap: f64,
}

impl CurvePoint for ProPoint {
    fn position(&self) -> (f64, f64) {
        (self.false_positive_rate, self.overlap)
    }
}

/// The curve from (0, 0) through `points`, of which one reaches `limit`, cut there by linear
/// interpolation.
pub(crate) fn cut(
    points: impl Iterator<Item = ProPoint>,
    limit: f64,
) -> impl Iterator<Item = ProPoint> {
    let mut last = ProPoint {
        false_positive_rate: 0.0,
        overlap: 0.0,
    };
    let within = points.map_while(move |point| {
        let (f0, f1) = (last.false_positive_rate, point.false_positive_rate);
        if f0 >= limit {
            return None;
        }
        let share = if f1 > limit {
            (limit - f0) / (f1 - f0)
        } else {
            1.0
        };
        last = ProPoint {
            false_positive_rate: f1.min(limit),
            overlap: last.overlap + share * (point.overlap - last.overlap),
        };
        Some(last)
    });
    std::iter::once(last).chain(within)
}

/// The area, up to `limit`, under a ramp that rises from 0 at FPR `f0` to 1 at `f1` and stays 1.
pub(crate) fn ramp_area(f0: f64, f1: f64, limit: f64) -> f64 {
    if f1 <= limit {
        (limit - f1) + (f1 - f0) / 2.0
    } else if f0 < limit {
        (limit - f0).powi(2) / (2.0 * (f1 - f0))
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramp_areas() {
        let cases = [
            ("step at the start", 0.0, 0.0, 0.3),
            ("ramp inside", 0.1, 0.2, 0.15),
            ("ramp up to the limit", 0.1, 0.3, 0.1),
            ("cut by the limit", 0.2, 0.4, 0.025),
            ("starts at the limit", 0.3, 0.5, 0.0),
            ("step at the limit", 0.3, 0.3, 0.0),
            ("beyond the limit", 0.5, 0.5, 0.0),
        ];
        for (name, f0, f1, expected) in cases {
            let area = ramp_area(f0, f1, 0.3);
            assert!((area - expected).abs() < 1e-15, "{name}: {area}");
        }
    }
}
