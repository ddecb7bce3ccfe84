//! What cells say together: means over seeds.

use serde::Serialize;

/// Mean and sample standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The deviation; none of a single value.
    pub deviation: Option<f64>,
}

impl Spread {
    /// That of `values`; none if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / (count - 1.0)).sqrt();
        (!values.is_empty()).then_some(Self {
            mean,
            deviation: (values.len() > 1).then_some(deviation),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        let of = |mean, deviation| Some(Spread { mean, deviation });
        for (values, expected) in [
            (&[][..], None),
            (&[0.5], of(0.5, None)),
            (&[1.0, 2.0, 3.0], of(2.0, Some(1.0))),
        ] {
            assert_eq!(Spread::of(values), expected, "{values:?}");
        }
    }
}
