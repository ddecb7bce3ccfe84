//! Linear layers with what follows them in one pass over the result. candle would spread each
//! step over all cores with a barrier, which costs more than it saves where every core has an
//! image of its own; other devices use its operations.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor};
use candle_nn::{Linear, Module};
use rayon::prelude::*;

/// `layer(x)` for `x` `[batch, tokens, in]`.
pub(crate) fn linear(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    match on_cpu(layer, x) {
        Some(bias) => {
            let product = product(layer, x)?;
            product.inplace_op2(bias, &AddBias(|x| x))?;
            Ok(product)
        }
        None => layer.forward(x),
    }
}

/// The function between the two layers of a block's feed-forward half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU, `x * Phi(x)`: DINOv2, most models of OpenCLIP.
    Gelu,
    /// `x * sigmoid(1.702 x)`: all models of OpenAI.
    QuickGelu,
}

/// `activation(layer(x))`.
pub(crate) fn linear_activated(
    layer: &Linear,
    x: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    match (on_cpu(layer, x), activation) {
        (Some(bias), Activation::Gelu) => {
            let product = product(layer, x)?;
            product.inplace_op2(bias, &AddBias(gelu))?;
            Ok(product)
        }
        (Some(bias), Activation::QuickGelu) => {
            let product = product(layer, x)?;
            product.inplace_op2(bias, &AddBias(quick_gelu))?;
            Ok(product)
        }
        (None, Activation::Gelu) => layer.forward(x)?.gelu_erf(),
        (None, Activation::QuickGelu) => {
            let x = layer.forward(x)?;
            &x * candle_nn::ops::sigmoid(&(&x * QUICK_GELU)?)?
        }
    }
}

/// `residual + layer(x)`.
pub(crate) fn linear_onto(residual: &Tensor, layer: &Linear, x: &Tensor) -> Result<Tensor> {
    match on_cpu(layer, x) {
        Some(bias) => {
            let product = product(layer, x)?;
            product.inplace_op3(bias, &residual.contiguous()?, &AddBiasAndResidual)?;
            Ok(product)
        }
        None => residual + layer.forward(x)?,
    }
}

/// The layer's bias, where the operations of this module apply.
fn on_cpu<'a>(layer: &'a Linear, x: &Tensor) -> Option<&'a Tensor> {
    layer.bias().filter(|_| x.device().is_cpu())
}

/// The layer without its bias.
fn product(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    let (batch, tokens, inputs) = x.dims3()?;
    let rows = x.reshape((batch * tokens, inputs))?;
    let outputs = layer.weight().dim(0)?;
    rows.matmul(&layer.weight().t()?)?
        .reshape((batch, tokens, outputs))
}

/// Adds a vector to every row of a contiguous tensor, then applies a function.
struct AddBias<F>(F);

impl<F: Fn(f32) -> f32 + Sync> InplaceOp2 for AddBias<F> {
    fn name(&self) -> &'static str {
        "add bias"
    }

    fn cpu_fwd(
        &self,
        sums: &mut CpuStorage,
        sums_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let bias = values(bias, bias_layout)?;
        let sums = values_mut(sums, sums_layout)?;
        sums.par_chunks_mut(ROWS * bias.len()).for_each(|rows| {
            for row in rows.chunks_exact_mut(bias.len()) {
                for (x, bias) in row.iter_mut().zip(bias) {
                    *x = (self.0)(*x + bias);
                }
            }
        });
        Ok(())
    }
}

/// Adds a vector to every row of a contiguous tensor, and another tensor of its shape.
struct AddBiasAndResidual;

impl InplaceOp3 for AddBiasAndResidual {
    fn name(&self) -> &'static str {
        "add bias and residual"
    }

    fn cpu_fwd(
        &self,
        sums: &mut CpuStorage,
        sums_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<()> {
        let bias = values(bias, bias_layout)?;
        let residual = values(residual, residual_layout)?;
        let sums = values_mut(sums, sums_layout)?;
        let task = ROWS * bias.len();
        sums.par_chunks_mut(task)
            .zip(residual.par_chunks(task))
            .for_each(|(sums, residual)| {
                let rows = sums.chunks_exact_mut(bias.len());
                for (row, residual) in rows.zip(residual.chunks_exact(bias.len())) {
                    for ((x, bias), residual) in row.iter_mut().zip(bias).zip(residual) {
                        *x += bias + residual;
                    }
                }
            });
        Ok(())
    }
}

/// Rows that one task works on.
const ROWS: usize = 64;

/// The values of a contiguous float32 tensor.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let range = layout.contiguous_offsets();
    let (start, end) = range.ok_or_else(|| candle_core::Error::msg("not contiguous"))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// As [`values`], to be changed.
fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
    else {
        return Err(candle_core::Error::msg("not contiguous float32 values"));
    };
    Ok(&mut values[start..end])
}

/// The factor in QuickGELU.
pub(crate) const QUICK_GELU: f64 = 1.702;

/// `x * sigmoid(1.702 x)`.
#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + (-(QUICK_GELU as f32) * x).exp())
}

/// Exact GELU.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Numerator and denominator, in powers of x squared, of the rational approximation of
/// erf(x) / x on [-4, 4] that Eigen uses; highest power first.
const ERF_NUMERATOR: [f32; 7] = [
    -2.726_142_3e-10,
    2.770_681_4e-8,
    -2.101_024e-6,
    -5.692_506_4e-5,
    -7.349_906_3e-4,
    -2.954_6e-3,
    -1.609_603_3e-2,
];
const ERF_DENOMINATOR: [f32; 5] = [
    -1.456_607_2e-5,
    -2.133_740_5e-4,
    -1.682_827e-3,
    -7.373_329_2e-3,
    -1.426_473_9e-2,
];

/// The error function to 1e-6, without branches so that it is compiled to vector instructions.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let polynomial = |terms: &[f32]| terms.iter().fold(0.0, |sum, term| sum * square + term);
    x * polynomial(&ERF_NUMERATOR) / polynomial(&ERF_DENOMINATOR)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn layers_equal_those_of_candle() {
        let tensor = |shape: &[usize], scale: f32| {
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count)
                .map(|i| (i as f32 * 0.61).sin() * scale)
                .collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        for (tokens, inputs, outputs) in [(1, 3, 5), (257, 24, 17), (130, 8, 64)] {
            let layer = Linear::new(
                tensor(&[outputs, inputs], 2.0),
                Some(tensor(&[outputs], 1.0)),
            );
            let x = tensor(&[2, tokens, inputs], 1.5);
            let residual = tensor(&[2, tokens, outputs], 3.0);
            let plain = layer.forward(&x).unwrap();
            for (name, found, expected) in [
                ("linear", linear(&layer, &x), plain.clone()),
                (
                    "gelu",
                    linear_activated(&layer, &x, Activation::Gelu),
                    plain.gelu_erf().unwrap(),
                ),
                (
                    "quick gelu",
                    linear_activated(&layer, &x, Activation::QuickGelu),
                    (&plain * candle_nn::ops::sigmoid(&(&plain * QUICK_GELU).unwrap()).unwrap())
                        .unwrap(),
                ),
                (
                    "onto",
                    linear_onto(&residual, &layer, &x),
                    (&residual + &plain).unwrap(),
                ),
            ] {
                let difference = (found.unwrap() - expected).unwrap().abs().unwrap();
                let largest = difference.flatten_all().unwrap().max(0).unwrap();
                let largest: f32 = largest.to_scalar().unwrap();
                assert!(largest < 1e-5, "{name} of {tokens} tokens: {largest}");
            }
        }
    }

    #[test]
    fn gelu_is_exact_over_its_whole_range() {
        let x: Vec<f32> = (-40_000..40_000).map(|i| i as f32 / 4_000.0).collect();
        let exact = Tensor::new(x.as_slice(), &Device::Cpu)
            .unwrap()
            .gelu_erf()
            .unwrap();
        for (x, exact) in x.iter().zip(exact.to_vec1::<f32>().unwrap()) {
            assert!((gelu(*x) - exact).abs() < 2e-6, "{x}: {} {exact}", gelu(*x));
        }
    }
}
