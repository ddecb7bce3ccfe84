//! Adam (Kingma and Ba, 2015) as PyTorch computes it, with decoupled weight decay if asked for
//! (AdamW, Loshchilov and Hutter, 2019); its state can be saved.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::Optimiser;
use super::optimiser::is_finite;

/// The optimiser of named parameters.
pub(crate) struct Adam {
    rate: f64,
    betas: [f64; 2],
    epsilon: f64,
    decay: f64,
    steps: u32,
    parameters: Vec<Parameter>,
}

struct Parameter {
    name: String,
    value: Var,
    /// Running means of the gradient and of its square.
    moments: [Tensor; 2],
}

impl Adam {
    /// An optimiser that has not stepped yet.
    pub(crate) fn new(
        parameters: Vec<(String, Var)>,
        rate: f64,
        betas: [f64; 2],
    ) -> candle_core::Result<Self> {
        let parameters = parameters.into_iter().map(|(name, value)| {
            let zeros = value.zeros_like()?;
            Ok(Parameter {
                name,
                value,
                moments: [zeros.clone(), zeros],
            })
        });
        Ok(Self {
            rate,
            betas,
            epsilon: 1e-8,
            decay: 0.0,
            steps: 0,
            parameters: parameters.collect::<candle_core::Result<_>>()?,
        })
    }

    /// The same with weight decay.
    pub(crate) fn with_decay(self, decay: f64) -> Self {
        Self { decay, ..self }
    }
}

impl Optimiser for Adam {
    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<bool> {
        let mut finite = true;
        self.steps += 1;
        let exponent = self.steps as i32;
        let [first, second] = self.betas;
        let corrections = self.betas.map(|beta| 1.0 - beta.powi(exponent));
        for parameter in &mut self.parameters {
            let Some(gradient) = gradients.get(&parameter.value) else {
                continue;
            };
            let [mean, square] = &parameter.moments;
            let mean = ((mean * first)? + (gradient * (1.0 - first))?)?;
            let square = ((square * second)? + (gradient.sqr()? * (1.0 - second))?)?;
            let size = ((&square / corrections[1])?.sqrt()? + self.epsilon)?;
            let step = ((&mean * (self.rate / corrections[0]))? / size)?;
            let kept = (parameter.value.as_tensor() * (1.0 - self.rate * self.decay))?;
            let moved = (kept - step)?;
            for tensor in [&moved, &square] {
                finite &= is_finite(tensor)?;
            }
            parameter.value.set(&moved)?;
            // Without their history, which would keep every earlier step in memory.
            parameter.moments = [mean.detach(), square.detach()];
        }
        Ok(finite)
    }

    fn set_rate(&mut self, rate: f64) {
        self.rate = rate;
    }

    fn state(&self) -> candle_core::Result<Vec<(String, Tensor)>> {
        let device = candle_core::Device::Cpu;
        let mut state = vec![(
            "adam.steps".to_owned(),
            Tensor::new(&[self.steps], &device)?,
        )];
        for Parameter {
            name,
            value,
            moments: [mean, square],
        } in &self.parameters
        {
            state.push((name.clone(), value.as_tensor().clone()));
            state.push((format!("adam.mean.{name}"), mean.clone()));
            state.push((format!("adam.square.{name}"), square.clone()));
        }
        Ok(state)
    }

    fn restore(
        &mut self,
        take: &dyn Fn(&str) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<()> {
        let steps = take("adam.steps")?.to_vec1::<u32>()?;
        for parameter in &mut self.parameters {
            let name = &parameter.name;
            parameter.value.set(&take(name)?)?;
            parameter.moments = [
                take(&format!("adam.mean.{name}"))?,
                take(&format!("adam.square.{name}"))?,
            ];
        }
        self.steps = steps.first().copied().unwrap_or(0);
        Ok(())
    }
}
