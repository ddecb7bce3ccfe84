//! The head for networks without text encoder, in place of the paper's two: an image is anomalous
//! if its patches are beside those of the shots, if it is as a whole, or if some of its patches are
//! unlike the rest of it.
//!
//! Residuals are measured in units of what the shots differ among themselves; their power mean is
//! near the larger one, where a sum would let the one hide in the other's noise. So little is
//! learned (how much the whole and the own image count) because larger heads learn the auxiliary data itself
//! (docs/research/inctrl.md).

use candle_core::{D, Device, Tensor, Var};

/// The exponent, chosen on auxiliary data.
const POWER: f64 = 4.0;

/// Where learning starts: the weights of the whole and of the own image, steepness and middle of
/// the probability over the mean's logarithm.
const INITIAL: [f64; 4] = [0.5, 0.85, 4.0, 1.5];

/// What ten epochs on magnetic tile made of them, with `dinov2-s-focus`; docs/research/inctrl.md has
/// the command.
const LEARNED: [f64; 4] = [0.417, 1.026, 2.784, 1.262];

/// Least ratio: an image that is a shot has none.
const LEAST: f64 = 1e-3;

/// What is learned; logarithms, of shape `[1]`.
pub(super) struct PowerMean {
    image_weight: Var,
    own_weight: Var,
    steepness: Var,
    middle: Var,
}

impl PowerMean {
    /// As learning finds it.
    pub(super) fn new() -> candle_core::Result<Self> {
        Self::of(INITIAL)
    }

    /// As learning left it.
    pub(super) fn learned() -> candle_core::Result<Self> {
        Self::of(LEARNED)
    }

    fn of(values: [f64; 4]) -> candle_core::Result<Self> {
        let [image_weight, own_weight, steepness, middle] =
            values.map(|value| Var::new(&[value.ln() as f32], &Device::Cpu));
        Ok(Self {
            image_weight: image_weight?,
            own_weight: own_weight?,
            steepness: steepness?,
            middle: middle?,
        })
    }

    /// The names and values of what is learned.
    pub(super) fn variables(&self) -> Vec<(String, Var)> {
        [
            ("image_weight", &self.image_weight),
            ("own_weight", &self.own_weight),
            ("steepness", &self.steepness),
            ("middle", &self.middle),
        ]
        .map(|(name, var)| (format!("power_mean.{name}"), var.clone()))
        .to_vec()
    }

    /// The weighted power mean `[batch]` of `ratios` `[batch, 3]`: of the patches, of the whole, and
    /// of the patches beside their own image. Where all are 1 it is 1.
    pub(super) fn scores(&self, ratios: &Tensor) -> candle_core::Result<Tensor> {
        let unit = self.logarithms(&ratios.ones_like()?)?;
        (self.logarithms(ratios)? - unit)?.exp()
    }

    /// What the logistic function makes the probability of an anomaly of, `[batch]`.
    pub(super) fn logits(&self, ratios: &Tensor) -> candle_core::Result<Tensor> {
        self.logarithms(ratios)?
            .broadcast_sub(&self.middle)?
            .broadcast_mul(&self.steepness.exp()?)
    }

    /// The logarithm of the power sum's root.
    fn logarithms(&self, ratios: &Tensor) -> candle_core::Result<Tensor> {
        let unweighted = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?;
        let weights = [
            &unweighted,
            self.image_weight.as_tensor(),
            self.own_weight.as_tensor(),
        ];
        let weights = Tensor::cat(&weights, 0)?;
        let terms = (ratios
            .clamp(LEAST, f64::INFINITY)?
            .log()?
            .broadcast_add(&weights)?
            * POWER)?;
        terms.log_sum_exp(D::Minus1)? / POWER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_tells_normal_from_anomalous() {
        let head = PowerMean::learned().unwrap();
        for (ratios, anomalous) in [
            ([1.0, 1.0, 1.0], false),
            ([2.0, 1.0, 1.0], true),
            ([1.0, 6.0, 1.0], true),
            ([1.0, 1.0, 2.0], true),
        ] {
            let ratios = Tensor::new(&[ratios.map(|x: f64| x as f32)], &Device::Cpu).unwrap();
            let logit: Vec<f32> = head.logits(&ratios).unwrap().to_vec1().unwrap();
            assert_eq!(logit[0] > 0.0, anomalous, "{ratios}: {logit:?}");
        }
    }

    #[test]
    fn the_larger_residual_counts() {
        let head = PowerMean::new().unwrap();
        let score = |ratios: [f32; 3]| {
            let ratios = Tensor::new(&[ratios], &Device::Cpu).unwrap();
            let logit: Vec<f32> = head.logits(&ratios).unwrap().to_vec1().unwrap();
            let score: Vec<f32> = head.scores(&ratios).unwrap().to_vec1().unwrap();
            (score[0], logit[0])
        };
        // The whole counts half in the beginning, the own image a little less than the patches.
        let all = (1.0 + 0.5_f32.powi(4) + 0.85_f32.powi(4)).powf(0.25);
        let both = 2_f32.powf(0.25);
        for (name, ratios, expected) in [
            ("all as the shots", [1.0, 1.0, 1.0], 1.0),
            ("patches", [3.0, 0.0, 0.0], 3.0 / all),
            ("the whole", [0.5, 6.0, 0.0], 3.0 / all),
            ("the own image", [0.5, 0.0, 3.0 / 0.85], 3.0 / all),
            ("two", [2.0, 4.0, 0.0], 2.0 * both / all),
        ] {
            let (found, logit) = score(ratios);
            assert!((found - expected).abs() < 1e-2, "{name}: {found}");
            assert_eq!(logit > 0.0, expected > 1.0, "{name}: {logit}");
        }
    }
}
