//! Residuals of several kinds joined to one score: an image is anomalous if its patches are against
//! those of the references, if its mean token is, or if some of its patches differ from the rest of
//! it.
//!
//! Residuals are measured in units of what the references differ among themselves; their power mean
//! is near the largest one, where a sum would let one hide in the noise of another. So little is
//! learned (how much the image level and the own image count) because larger heads learn the
//! auxiliary data itself (docs/research/inctrl.md).

use candle_core::{D, Device, Tensor, Var};

use super::score_scale::PARTS;
use super::{NAME, Settings};
use crate::DetectorError;
use crate::detector::{Array, State};

/// The exponent, chosen on auxiliary data.
pub(super) const POWER: f64 = 4.0;

/// Where learning starts: the weights of the image level and of the own image, steepness and middle of
/// the probability over the mean's logarithm.
const INITIAL: [f64; 4] = [0.5, 0.85, 4.0, 1.5];

/// The same after ten epochs on magnetic tile with `dinov2-s-focus`; docs/research/inctrl.md has the
/// command.
const LEARNED: [f64; 4] = [0.417, 1.026, 2.784, 1.262];

/// Least ratio: an image that is a reference has none.
pub(super) const LEAST: f64 = 1e-3;

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

    /// The score of an image with these ratios, without the parts that are switched off.
    pub(super) fn score(
        &self,
        ratios: [f32; PARTS],
        settings: &Settings,
    ) -> Result<f32, DetectorError> {
        let ratios = parts(&Tensor::new(&[ratios], &Device::Cpu)?, settings)?;
        Ok(self.scores(&ratios)?.get(0)?.to_scalar()?)
    }

    /// The tensors for a detector file.
    pub(super) fn arrays(&self) -> Vec<(String, Array)> {
        Array::all_of(self.variables()).collect()
    }

    /// The weights again from the tensors of a detector file.
    pub(super) fn load(state: &mut State) -> Result<Self, DetectorError> {
        let head = Self::new()?;
        for (name, var) in head.variables() {
            match state.take(NAME, &name)?.values.as_slice() {
                &[value] => var.set(&Tensor::new(&[value], &Device::Cpu)?)?,
                _ => return Err(DetectorError::tensor(NAME, &name)),
            }
        }
        Ok(head)
    }

    /// The weighted power mean `[batch]` of `ratios` `[batch, 3]`: of the patches, of the mean
    /// token, and of the patches against their own image. Where all are 1 it is 1.
    fn scores(&self, ratios: &Tensor) -> candle_core::Result<Tensor> {
        let unit = self.logarithms(&ratios.ones_like()?)?;
        (self.logarithms(ratios)? - unit)?.exp()
    }

    /// The logit of the probability of an anomaly, `[batch]`.
    pub(super) fn logits(&self, ratios: &Tensor) -> candle_core::Result<Tensor> {
        self.logarithms(ratios)?
            .broadcast_sub(&self.middle)?
            .broadcast_mul(&self.steepness.exp()?)
    }

    /// The logarithms of the weights of all three, and that of the power mean's unit.
    pub(super) fn logarithms_of_weights(&self) -> candle_core::Result<([f32; 3], f32)> {
        let weight = |var: &Var| var.get(0)?.to_scalar::<f32>();
        let ones = Tensor::new(&[[1_f32; PARTS]], &Device::Cpu)?;
        let weights = [0.0, weight(&self.image_weight)?, weight(&self.own_weight)?];
        Ok((weights, self.logarithms(&ones)?.get(0)?.to_scalar()?))
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

/// `ratios` `[batch, 3]` without those that are switched off.
pub(super) fn parts(ratios: &Tensor, settings: &Settings) -> candle_core::Result<Tensor> {
    let parts = [true, settings.image_level, settings.own_image];
    let parts = parts.map(|on| f32::from(u8::from(on)));
    ratios.broadcast_mul(&Tensor::new(&parts, ratios.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learned_weights_separate_normal_from_anomalous() {
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
        // The image level counts half in the beginning, the own image a little less than the patches.
        let all = (1.0 + 0.5_f32.powi(4) + 0.85_f32.powi(4)).powf(0.25);
        let both = 2_f32.powf(0.25);
        for (name, ratios, expected) in [
            ("all as the references", [1.0, 1.0, 1.0], 1.0),
            ("patches", [3.0, 0.0, 0.0], 3.0 / all),
            ("the image level", [0.5, 6.0, 0.0], 3.0 / all),
            ("the own image", [0.5, 0.0, 3.0 / 0.85], 3.0 / all),
            ("two", [2.0, 4.0, 0.0], 2.0 * both / all),
        ] {
            let (found, logit) = score(ratios);
            assert!((found - expected).abs() < 1e-2, "{name}: {found}");
            assert_eq!(logit > 0.0, expected > 1.0, "{name}: {logit}");
        }
    }
}
