//! Batch norm (Ioffe and Szegedy, 2015) as PyTorch computes it.

use candle_core::{CpuStorage, CustomOp3, D, DType, Device, Layout, Result, Shape, Tensor, Var};
use rayon::prelude::*;

use super::{numbers, of_numbers, to_vec};

/// What is added to variances, and the weight of a batch in the running statistics.
const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// What batch norms normalise by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The batch, from which the running statistics learn.
    Training,
    /// The batch, from which nothing is learned.
    Batch,
    /// What they have learned.
    Scoring,
}

/// Numbers of every channel brought to a mean and a spread that are learned.
#[derive(Debug, Clone)]
pub(crate) struct BatchNorm {
    pub(crate) weight: Var,
    pub(crate) bias: Var,
    /// Running mean and variance, which have no gradient.
    pub(crate) mean: Var,
    pub(crate) variance: Var,
}

impl BatchNorm {
    /// One that has seen no batch.
    pub(crate) fn new(width: usize) -> Result<Self> {
        let (kind, device) = (DType::F32, Device::Cpu);
        Ok(Self {
            weight: Var::ones(width, kind, &device)?,
            bias: Var::zeros(width, kind, &device)?,
            mean: Var::zeros(width, kind, &device)?,
            variance: Var::ones(width, kind, &device)?,
        })
    }

    /// `x`, `[images, channels]` with any axes after these, normalised.
    pub(crate) fn forward(&self, x: &Tensor, phase: Phase) -> Result<Tensor> {
        let x = x.contiguous()?;
        let (mean, variance) = match phase {
            Phase::Scoring => (exactly(&self.mean)?, exactly(&self.variance)?),
            Phase::Batch => statistics(&x)?,
            Phase::Training => self.learn(&x)?,
        };
        let spread = |variance: &f64| (variance + EPSILON).sqrt().recip();
        let normalise = Normalise {
            spread: variance.iter().map(spread).collect(),
            mean,
        };
        match phase {
            Phase::Scoring => x.apply_op3_no_bwd(&self.weight, &self.bias, &normalise),
            Phase::Training | Phase::Batch => x.apply_op3(&self.weight, &self.bias, normalise),
        }
    }

    /// `[sets.., rows, channels]`, each set of rows a batch of its own, one after the other.
    pub(crate) fn forward_sets(&self, x: &Tensor, phase: Phase) -> Result<Tensor> {
        let (rows, channels) = (x.dim(D::Minus2)?, x.dim(D::Minus1)?);
        let sets = x.reshape(((), rows, channels))?;
        let sets = (0..sets.dim(0)?).map(|set| self.forward(&sets.get(set)?, phase));
        Tensor::stack(&sets.collect::<Result<Vec<_>>>()?, 0)?.reshape(x.shape())
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

    /// The means and variances of a batch, which the running statistics move towards.
    fn learn(&self, x: &Tensor) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mean, variance) = statistics(x)?;
        let count = (x.elem_count() / mean.len().max(1)) as f64;
        let unbiased = count / (count - 1.0).max(1.0);
        for (running, new, factor) in [
            (&self.mean, &mean, 1.0),
            (&self.variance, &variance, unbiased),
        ] {
            let moved = exactly(running)?.into_iter().zip(new);
            let moved = moved.map(|(old, new)| old + MOMENTUM * (new * factor - old));
            let moved: Vec<f32> = moved.map(|x| x as f32).collect();
            running.set(&Tensor::new(moved, &Device::Cpu)?)?;
        }
        Ok((mean, variance))
    }
}

/// The mean and the variance of each channel of a batch.
fn statistics(x: &Tensor) -> Result<(Vec<f64>, Vec<f64>)> {
    let (channels, places) = channels(x.dims());
    let values = to_vec(x)?;
    let count = (values.len() / channels.max(1)) as f64;
    let of_channel = |channel: usize| {
        let lines = || values.chunks_exact(places).skip(channel).step_by(channels);
        let sum = |term: &dyn Fn(f64) -> f64| -> f64 {
            let line = |line: &[f32]| line.iter().map(|&x| term(f64::from(x))).sum::<f64>();
            lines().map(line).sum()
        };
        let mean = sum(&|x| x) / count;
        (mean, sum(&|x| (x - mean).powi(2)) / count)
    };
    Ok((0..channels).into_par_iter().map(of_channel).unzip())
}

/// In float64.
fn exactly(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(to_vec(tensor)?.into_iter().map(f64::from).collect())
}

/// Channels, and places of each.
fn channels(dims: &[usize]) -> (usize, usize) {
    let channels = dims.get(1).copied().unwrap_or(1);
    let places = dims.iter().skip(2).product();
    (channels, places)
}

/// `(x - mean) * spread * weight + bias`, where mean and spread are those of the batch.
struct Normalise {
    mean: Vec<f64>,
    /// One through the standard deviation.
    spread: Vec<f64>,
}

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (channels, places) = channels(x_layout.dims());
        let weight = numbers(weight, weight_layout)?;
        let bias = numbers(bias, bias_layout)?;
        if weight.len() != channels || bias.len() != channels || self.mean.len() != channels {
            let reason = format!("{channels} channels, and a norm for {}", weight.len());
            return Err(candle_core::Error::msg(reason));
        }
        let mut result = numbers(x, x_layout)?.to_vec();
        let lines = result.par_chunks_exact_mut(places.max(1)).enumerate();
        lines.for_each(|(line, values)| {
            let channel = line % channels;
            let scale = (self.spread[channel] * f64::from(weight[channel])) as f32;
            let (mean, bias) = (self.mean[channel] as f32, bias[channel]);
            values
                .iter_mut()
                .for_each(|x| *x = (*x - mean) * scale + bias);
        });
        Ok(of_numbers(result, x_layout.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (channels, places) = channels(x.dims());
        let places = places.max(1);
        let (x, shape, weight) = (to_vec(x)?, x.shape(), to_vec(weight)?);
        let gradient = to_vec(gradient)?;
        let count = (x.len() / channels.max(1)) as f64;
        // Sums of the gradient, and of its products with what was normalised.
        let of_channel = |channel: usize| {
            let lines = x.chunks_exact(places).zip(gradient.chunks_exact(places));
            let lines = lines.skip(channel).step_by(channels);
            let mut sums = (0.0, 0.0);
            for (x, gradient) in lines {
                for (&x, &gradient) in x.iter().zip(gradient) {
                    let normal = (f64::from(x) - self.mean[channel]) * self.spread[channel];
                    sums.0 += f64::from(gradient);
                    sums.1 += f64::from(gradient) * normal;
                }
            }
            sums
        };
        let sums = (0..channels).into_par_iter().map(of_channel);
        let (sums, products): (Vec<f64>, Vec<f64>) = sums.unzip();
        let mut of_x = gradient;
        let lines = of_x
            .par_chunks_exact_mut(places)
            .zip(x.par_chunks_exact(places));
        lines.enumerate().for_each(|(line, (of_x, x))| {
            let channel = line % channels;
            let (mean, spread) = (self.mean[channel] as f32, self.spread[channel] as f32);
            let scale = spread * weight[channel];
            let sum = (sums[channel] / count) as f32;
            let product = (products[channel] / count) as f32 * spread;
            let both = of_x.iter_mut().zip(x);
            both.for_each(|(gradient, x)| {
                *gradient = scale * (*gradient - sum - (x - mean) * product)
            });
        });
        let narrow = |sums: Vec<f64>| {
            let sums: Vec<f32> = sums.into_iter().map(|x| x as f32).collect();
            Tensor::new(sums, &Device::Cpu)
        };
        let of_x = Tensor::from_vec(of_x, shape, &Device::Cpu)?;
        Ok((Some(of_x), Some(narrow(products)?), Some(narrow(sums)?)))
    }
}
