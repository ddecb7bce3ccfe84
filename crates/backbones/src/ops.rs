//! Element-wise operations that candle computes on one core with a scalar function.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

/// Exact GELU, `x * Phi(x)`.
pub(crate) fn gelu(x: &Tensor) -> candle_core::Result<Tensor> {
    if x.device().is_cpu() {
        x.contiguous()?.apply_op1_no_bwd(&Gelu)
    } else {
        x.gelu_erf()
    }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let input = storage.as_slice::<f32>()?;
        let input = &input[layout.start_offset()..][..layout.shape().elem_count()];
        let mut output = vec![0.0; input.len()];
        output
            .par_chunks_mut(CHUNK)
            .zip(input.par_chunks(CHUNK))
            .for_each(|(out, x)| {
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
                }
            });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }
}

/// Values that one task works on.
const CHUNK: usize = 16 * 1024;

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
    use super::*;

    #[test]
    fn gelu_equals_the_exact_function() {
        let x: Vec<f32> = (-40_000..40_000).map(|i| i as f32 / 4_000.0).collect();
        let x = Tensor::new(x, &candle_core::Device::Cpu).unwrap();
        let exact = x.gelu_erf().unwrap().to_vec1::<f32>().unwrap();
        for (fast, exact) in gelu(&x)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .zip(exact)
        {
            assert!((fast - exact).abs() < 2e-6, "{fast} {exact}");
        }
    }
}
