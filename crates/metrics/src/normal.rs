//! The standard normal distribution.

/// The probability that a standard normal number is at least `z` away from 0.
pub(crate) fn two_sided(z: f64) -> f64 {
    libm::erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// The distance from 0 within which a standard normal number lies with the probability
/// `confidence`, above 0 and below 1.
pub(crate) fn half_width(confidence: f64) -> f64 {
    // Halved until neighbours are left: `two_sided` falls, and is 0 long before 40.
    let (mut low, mut high) = (0.0, 40.0);
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return middle;
        }
        if two_sided(middle) > 1.0 - confidence {
            low = middle;
        } else {
            high = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_tables() {
        // scipy.stats.norm: 2 * sf(z), and ppf((1 + confidence) / 2).
        for (z, expected) in [
            (0.0, 1.0),
            (-1.0, 0.317_310_507_862_914_15),
            (1.959_963_984_540_054, 0.05),
            (8.0, 1.244_192_114_854_348e-15),
        ] {
            let p = two_sided(z);
            assert!((p - expected).abs() <= 1e-13 * expected, "{z}: {p}");
        }
        for (confidence, expected) in [
            (0.5, 0.674_489_750_196_081_7),
            (0.95, 1.959_963_984_540_054),
            (0.999, 3.290_526_731_491_895),
        ] {
            let width = half_width(confidence);
            assert!((width - expected).abs() < 1e-12, "{confidence}: {width}");
        }
    }
}
