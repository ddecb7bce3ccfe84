//! Layers whose parameters are learned: parameters by name, linear layers with the initial values of PyTorch,
//! and what is computed with them, from operations that have a gradient.

use std::collections::BTreeMap;

use candle_core::{D, Device, Error, Result, Tensor, Var};
use candle_nn::ops::softmax;
use rand_mt::Mt;

use super::random::uniform;

/// Parameters under the names that checkpoints have.
#[derive(Default)]
pub(crate) struct Parameters(BTreeMap<String, Var>);

impl Parameters {
    /// Adds one, or gives it another value.
    pub(crate) fn insert(&mut self, name: impl Into<String>, value: &Tensor) -> Result<()> {
        self.0.insert(name.into(), Var::from_tensor(value)?);
        Ok(())
    }

    /// Each with its name.
    pub(crate) fn all(&self) -> Vec<(String, Var)> {
        let all = self.0.iter();
        all.map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// The one called `name`.
    pub(crate) fn get(&self, name: &str) -> Result<&Tensor> {
        let found = self.0.get(name).map(Var::as_tensor);
        found.ok_or_else(|| Error::Msg(format!("there is no parameter `{name}`")))
    }

    /// `x` `[.., in]` by the layer `name`: its `weight` `[out, in]` and, where there is one, its `bias`.
    pub(crate) fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"))?;
        let (outputs, inputs) = weight.dims2()?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        let rows = x.reshape(((), inputs))?.matmul(&weight.t()?)?;
        let rows = match self.0.get(&format!("{name}.bias")) {
            Some(bias) => rows.broadcast_add(bias)?,
            None => rows,
        };
        rows.reshape(shape)
    }

    /// The layer norm `name` of `x` over the last axis.
    pub(crate) fn norm(&self, name: &str, x: &Tensor, epsilon: f64) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        centred
            .broadcast_div(&(variance + epsilon)?.sqrt()?)?
            .broadcast_mul(self.get(&format!("{name}.weight"))?)?
            .broadcast_add(self.get(&format!("{name}.bias"))?)
    }
}

/// Numbers drawn evenly from what PyTorch draws the parameters of a layer with so many `inputs` from.
pub(crate) fn initial(shape: &[usize], inputs: usize, random: &mut Mt) -> Result<Var> {
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
    pub(crate) fn new(inputs: usize, outputs: usize, random: &mut Mt) -> Result<Self> {
        Ok(Self {
            weight: initial(&[outputs, inputs], inputs, random)?,
            bias: initial(&[outputs], inputs, random)?,
        })
    }

    /// `[..., outputs]` from `[..., inputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
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

/// Multi-head attention of queries `[batch, n, width]` to keys and values `[batch, m, width]`; `mask`,
/// `[n, m]`, is added to the scores.
pub(crate) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let split = |x: &Tensor| {
        let (batch, count, width) = x.dims3()?;
        let x = x.reshape((batch, count, heads, width / heads))?;
        x.transpose(1, 2)?.contiguous()
    };
    let (batch, count, width) = query.dims3()?;
    let scale = ((width / heads) as f64).sqrt().recip();
    let scores = (split(query)? * scale)?.matmul(&split(key)?.transpose(2, 3)?.contiguous()?)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    let joined = softmax(&scores, D::Minus1)?.matmul(&split(value)?)?;
    joined.transpose(1, 2)?.reshape((batch, count, width))
}
