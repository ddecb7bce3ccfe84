//! Linear layers and batch norms that learn, as PyTorch has them: initial values, names, gradients.

use candle_core::{D, DType, Device, Tensor, Var};
use rand_mt::Mt;

use crate::training::random::uniform;

/// Epsilon of batch norms, and the weight of a batch in their running statistics.
const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// What a batch norm normalises by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The batch, from which the running statistics learn.
    Training,
    /// The batch, from which nothing is learned.
    Batch,
    /// What it has learned.
    Scoring,
}

/// Numbers drawn evenly from what PyTorch draws the parameters of a layer with so many `inputs` from.
pub(crate) fn initial(shape: &[usize], inputs: usize, random: &mut Mt) -> candle_core::Result<Var> {
    let bound = (inputs as f64).sqrt().recip();
    let count = shape.iter().product();
    let values = (0..count).map(|_| (bound * (2.0 * uniform(random) - 1.0)) as f32);
    let values = Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu)?;
    Var::from_tensor(&values)
}

/// A linear layer.
pub(crate) struct Linear {
    /// `[outputs, inputs]`.
    pub(crate) weight: Var,
    /// `[outputs]`.
    pub(crate) bias: Var,
}

impl Linear {
    /// One with initial values.
    pub(crate) fn new(inputs: usize, outputs: usize, random: &mut Mt) -> candle_core::Result<Self> {
        Ok(Self {
            weight: initial(&[outputs, inputs], inputs, random)?,
            bias: initial(&[outputs], inputs, random)?,
        })
    }

    /// `[..., outputs]` from `[..., inputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let rows = x.reshape(((), inputs))?;
        let y = rows.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        y.reshape(shape)
    }

    /// Its parameters by the names of a state dict.
    pub(crate) fn variables(&self) -> [(&'static str, Var); 2] {
        [("weight", self.weight.clone()), ("bias", self.bias.clone())]
    }
}

/// A batch norm.
pub(crate) struct BatchNorm {
    pub(crate) weight: Var,
    pub(crate) bias: Var,
    mean: Var,
    variance: Var,
}

impl BatchNorm {
    /// One over `width` numbers that changes nothing but their scale yet.
    pub(crate) fn new(width: usize) -> candle_core::Result<Self> {
        let (kind, device) = (DType::F32, Device::Cpu);
        Ok(Self {
            weight: Var::ones(width, kind, &device)?,
            bias: Var::zeros(width, kind, &device)?,
            mean: Var::zeros(width, kind, &device)?,
            variance: Var::ones(width, kind, &device)?,
        })
    }

    /// `[..., rows, width]`: each set of rows is a batch of its own.
    pub(crate) fn forward(&self, x: &Tensor, phase: Phase) -> candle_core::Result<Tensor> {
        let (centred, variance) = match phase {
            Phase::Scoring => (
                x.broadcast_sub(&self.mean)?,
                self.variance.as_tensor().clone(),
            ),
            Phase::Training | Phase::Batch => {
                let mean = mean_of_rows(x)?;
                let centred = x.broadcast_sub(&mean)?;
                let variance = mean_of_rows(&centred.sqr()?)?;
                if phase == Phase::Training {
                    self.learn(&mean, &variance, x.dim(D::Minus2)?)?;
                }
                (centred, variance)
            }
        };
        centred
            .broadcast_div(&(variance + EPSILON)?.sqrt()?)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }

    /// Learns from batches of so many rows, one after the other.
    fn learn(&self, means: &Tensor, variances: &Tensor, rows: usize) -> candle_core::Result<()> {
        let width = self.mean.dim(0)?;
        let unbiased = rows as f64 / (rows as f64 - 1.0).max(1.0);
        let variances = (variances.detach() * unbiased)?;
        for (running, new) in [(&self.mean, &means.detach()), (&self.variance, &variances)] {
            let new = new.reshape(((), width))?;
            for batch in 0..new.dim(0)? {
                let kept = (running.as_tensor() * (1.0 - MOMENTUM))?;
                running.set(&(kept + (new.get(batch)? * MOMENTUM)?)?)?;
            }
        }
        Ok(())
    }

    /// Its parameters and running statistics by the names of a state dict.
    pub(crate) fn variables(&self) -> [(&'static str, Var); 4] {
        [
            ("weight", self.weight.clone()),
            ("bias", self.bias.clone()),
            ("running_mean", self.mean.clone()),
            ("running_var", self.variance.clone()),
        ]
    }
}

/// `[..., 1, width]` from `[..., rows, width]`, summed in float64 as in PyTorch.
fn mean_of_rows(x: &Tensor) -> candle_core::Result<Tensor> {
    let mean = x.to_dtype(DType::F64)?.mean_keepdim(D::Minus2)?;
    mean.to_dtype(DType::F32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{flat, near};

    #[test]
    fn batches_side_by_side_are_batches_one_by_one() {
        let values: Vec<f32> = (0..24).map(|i| ((i * 7) % 11) as f32).collect();
        let both = Tensor::from_vec(values, (2, 4, 3), &Device::Cpu).unwrap();
        let (together, alone) = (BatchNorm::new(3).unwrap(), BatchNorm::new(3).unwrap());
        let found = together.forward(&both, Phase::Training).unwrap();
        for batch in 0..2 {
            let one = both.get(batch).unwrap();
            let expected = alone.forward(&one, Phase::Training).unwrap();
            near(
                "a batch",
                &flat(&found.get(batch).unwrap()),
                &flat(&expected),
                0.0,
            );
            let mean = flat(&expected.mean(0).unwrap());
            assert!(mean.iter().all(|mean| mean.abs() < 1e-6), "{mean:?}");
        }
        // After values a and b: 0.9 * 0.1 * a + 0.1 * b.
        let means = both.mean(1).unwrap().to_vec2::<f32>().unwrap();
        let expected: Vec<f32> = (0..3)
            .map(|i| 0.09 * means[0][i] + 0.1 * means[1][i])
            .collect();
        for norm in [&together, &alone] {
            near("learned", &flat(&norm.mean), &expected, 1e-6);
        }
        let before = flat(&together.mean);
        together.forward(&both, Phase::Batch).unwrap();
        assert_eq!(flat(&together.mean), before);
        let scored = together
            .forward(&both.get(0).unwrap(), Phase::Scoring)
            .unwrap();
        assert_ne!(flat(&scored), flat(&found.get(0).unwrap()));
    }
}
