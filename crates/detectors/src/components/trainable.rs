//! Linear layers that learn, as PyTorch has them: initial values, names, gradients.

use candle_core::{Device, Tensor, Var};
use rand_mt::Mt;

use crate::training::random::uniform;

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
