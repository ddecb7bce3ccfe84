//! Stochastic gradient descent with momentum as PyTorch computes it (no dampening), with a Nesterov step and
//! with weight decay added to the gradient if asked for; its state can be saved.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::Optimiser;
use super::optimiser::is_finite;

/// The optimiser of named parameters.
pub(crate) struct Sgd {
    rate: f64,
    momentum: f64,
    decay: f64,
    nesterov: bool,
    parameters: Vec<Parameter>,
}

struct Parameter {
    name: String,
    value: Var,
    /// Gradients of earlier steps, weighted down by the momentum with every step.
    velocity: Tensor,
}

impl Sgd {
    /// An optimiser that has not stepped yet.
    pub(crate) fn new(
        parameters: Vec<(String, Var)>,
        rate: f64,
        momentum: f64,
    ) -> candle_core::Result<Self> {
        let parameters = parameters.into_iter().map(|(name, value)| {
            Ok(Parameter {
                velocity: value.zeros_like()?,
                name,
                value,
            })
        });
        Ok(Self {
            rate,
            momentum,
            decay: 0.0,
            nesterov: false,
            parameters: parameters.collect::<candle_core::Result<_>>()?,
        })
    }

    /// The same with weight decay.
    pub(crate) fn with_decay(self, decay: f64) -> Self {
        Self { decay, ..self }
    }

    /// The same with Nesterov's step: as if the next velocity were known.
    pub(crate) fn with_nesterov(self) -> Self {
        Self {
            nesterov: true,
            ..self
        }
    }
}

impl Optimiser for Sgd {
    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<bool> {
        let mut finite = true;
        for parameter in &mut self.parameters {
            let Some(gradient) = gradients.get(&parameter.value) else {
                continue;
            };
            let value = parameter.value.as_tensor();
            let gradient = (gradient + (value * self.decay)?)?;
            // The first step's velocity is its gradient, since there are only zeros before it.
            let velocity = ((&parameter.velocity * self.momentum)? + &gradient)?.detach();
            let step = match self.nesterov {
                true => (gradient + (&velocity * self.momentum)?)?,
                false => velocity.clone(),
            };
            let moved = (value - (step * self.rate)?)?;
            finite &= is_finite(&moved)?;
            parameter.value.set(&moved)?;
            parameter.velocity = velocity;
        }
        Ok(finite)
    }

    fn set_rate(&mut self, rate: f64) {
        self.rate = rate;
    }

    fn state(&self) -> candle_core::Result<Vec<(String, Tensor)>> {
        let parameters = self.parameters.iter();
        Ok(parameters
            .flat_map(|parameter| {
                let name = &parameter.name;
                [
                    (name.clone(), parameter.value.as_tensor().clone()),
                    (format!("sgd.velocity.{name}"), parameter.velocity.clone()),
                ]
            })
            .collect())
    }

    fn restore(
        &mut self,
        take: &dyn Fn(&str) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<()> {
        for parameter in &mut self.parameters {
            let name = &parameter.name;
            parameter.value.set(&take(name)?)?;
            parameter.velocity = take(&format!("sgd.velocity.{name}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Device;

    use super::*;

    /// Steps on the loss `x^2 / 2`, whose gradient is `x`.
    fn steps(optimiser: &mut Sgd, value: &Var, count: usize) -> f32 {
        for _ in 0..count {
            let loss = (value.as_tensor().sqr().unwrap() / 2.0).unwrap();
            assert!(optimiser.step(&loss.backward().unwrap()).unwrap());
        }
        value.to_scalar().unwrap()
    }

    fn start() -> (Sgd, Var) {
        let value = Var::new(1_f32, &Device::Cpu).unwrap();
        let named = vec![("x".to_owned(), value.clone())];
        (Sgd::new(named, 0.1, 0.9).unwrap().with_decay(0.5), value)
    }

    #[test]
    fn nesterovs_steps_are_those_of_the_formula() {
        // v = 0.9 v + 1.5 x; x = x - 0.1 (1.5 x + 0.9 v)
        let (optimiser, x) = start();
        let mut optimiser = optimiser.with_nesterov();
        let (mut expected, mut velocity) = (1_f32, 0_f32);
        for step in 1..=3 {
            let gradient = 1.5 * expected;
            velocity = 0.9 * velocity + gradient;
            expected -= 0.1 * (gradient + 0.9 * velocity);
            let found = steps(&mut optimiser, &x, 1);
            assert!((found - expected).abs() < 1e-6, "step {step}: {found}");
        }
    }

    #[test]
    fn steps_are_those_of_the_formula_and_resume() {
        // v = 0.9 v + 1.5 x; x = x - 0.1 v
        let (mut whole, x) = start();
        let (mut expected, mut velocity) = (1_f32, 0_f32);
        for step in 1..=3 {
            velocity = 0.9 * velocity + 1.5 * expected;
            expected -= 0.1 * velocity;
            let found = steps(&mut whole, &x, 1);
            assert!((found - expected).abs() < 1e-6, "step {step}: {found}");
        }
        let (mut first, x) = start();
        steps(&mut first, &x, 2);
        let state: HashMap<String, Tensor> = first.state().unwrap().into_iter().collect();
        let (mut second, x) = start();
        second.restore(&|name| Ok(state[name].clone())).unwrap();
        let resumed = steps(&mut second, &x, 1);
        assert!((resumed - expected).abs() < 1e-6, "{resumed}");
    }
}
