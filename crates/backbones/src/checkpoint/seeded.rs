//! Random (seeded) weights that follow from a seed and their names alone, so that the goldens of large
//! networks need not contain any. `tests/goldens/README.md` has the rule.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// 64-bit FNV-1a: the hash of nothing, and the factor.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// SplitMix64 (Steele et al., "Fast Splittable Pseudorandom Number Generators", 2014): the
/// increment, and the shift and factor of each mixing step.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX: [(u32, u64); 2] = [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)];

/// Values are uniform, from multiples of 2^-24.
const STEPS: f64 = (1_u64 << 24) as f64;

/// The tensor `name` of `shape` under `seed`, float32 on the CPU: uniform around the mean and with
/// the deviation that the name and the shape ask for.
///
/// # Errors
/// None but what candle reports for a tensor that cannot be made.
pub fn seeded_tensor(seed: u64, name: &str, shape: &[usize]) -> candle_core::Result<Tensor> {
    let Spread { mean, deviation } = Spread::of(name, shape);
    let values = values(seed, name, shape.iter().product(), mean, deviation);
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn values(seed: u64, name: &str, count: usize, mean: f64, deviation: f64) -> Vec<f32> {
    let hash = fnv(&format!("{seed}:{name}"));
    (0..count as u64)
        .into_par_iter()
        .map(|i| (mean + deviation * ((2.0 * uniform(hash, i) - 1.0) * 3_f64.sqrt())) as f32)
        .collect()
}

fn fnv(text: &str) -> u64 {
    text.bytes().fold(FNV_BASIS, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
    })
}

/// The `i`-th number of a stream, in [0, 1).
pub(crate) fn uniform(hash: u64, i: u64) -> f64 {
    let start = hash.wrapping_add((i + 1).wrapping_mul(GOLDEN_GAMMA));
    let mixed = MIX.iter().fold(start, |z, &(shift, factor)| {
        (z ^ (z >> shift)).wrapping_mul(factor)
    });
    ((mixed ^ (mixed >> 31)) >> 40) as f64 / STEPS
}

/// Mean and standard deviation of a tensor's values.
struct Spread {
    mean: f64,
    deviation: f64,
}

impl Spread {
    fn of(name: &str, shape: &[usize]) -> Self {
        let base = name.rsplit('.').next().unwrap_or(name);
        let inverse_root = |count: usize| (count.max(1) as f64).powf(-0.5);
        let side = |axis: usize| shape.get(axis).copied().unwrap_or(1);
        let norm = name.split('.').any(|part| part.starts_with("ln_"));
        let (mean, deviation) = match base {
            "running_mean" => (0.0, 0.1),
            "running_var" => (1.0, 0.2),
            "num_batches_tracked" => (0.0, 0.0),
            "weight" if shape.len() == 1 => (1.0, 0.2),
            "logit_scale" => (100_f64.ln(), 0.0),
            "weight" if norm => (1.0, 0.2),
            _ if norm => (0.0, 0.1),
            "bias" | "in_proj_bias" => (0.0, 0.1),
            "class_embedding" | "positional_embedding" => (0.0, 0.3),
            _ if name == "token_embedding.weight" => (0.0, 0.3),
            "in_proj_weight" => (0.0, 1.5 * inverse_root(side(1))),
            "proj" | "text_projection" => (0.0, inverse_root(side(0))),
            _ => (0.0, inverse_root(shape.iter().skip(1).product())),
        };
        Self { mean, deviation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_those_of_the_rule() {
        let hash = fnv("7:visual.proj");
        assert_eq!(hash, 0x79fc_7266_69bc_a739);
        let expected = [0.85824728, 0.58643681, 0.2268604, 0.16086346];
        for (i, expected) in (0..).zip(expected) {
            let found = uniform(hash, i);
            assert!((found - expected).abs() < 5e-9, "{i}: {found}");
        }
    }

    #[test]
    fn values_have_their_mean_and_deviation() {
        let cases = [
            (
                7,
                "x",
                1.0,
                [1.6986151, -0.24395122, -0.05673232, -0.05681202],
            ),
            (
                21,
                "adapter.fc.0.weight",
                0.125,
                [-0.15694524, -0.09569104, -0.0792983, 0.12148192],
            ),
        ];
        for (seed, name, deviation, expected) in cases {
            for (found, expected) in values(seed, name, 4, 0.0, deviation).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-7, "{name}: {found}");
            }
        }
    }

    #[test]
    fn the_spread_follows_from_the_name() {
        let cases: [(&str, &[usize], f64, f64); 14] = [
            ("bn1.running_mean", &[4], 0.0, 0.1),
            ("bn1.running_var", &[4], 1.0, 0.2),
            ("bn1.num_batches_tracked", &[], 0.0, 0.0),
            ("bn1.weight", &[4], 1.0, 0.2),
            ("logit_scale", &[], 100_f64.ln(), 0.0),
            ("visual.ln_pre.weight", &[4], 1.0, 0.2),
            ("visual.ln_pre.bias", &[4], 0.0, 0.1),
            ("mlp.c_fc.bias", &[4], 0.0, 0.1),
            ("visual.class_embedding", &[4], 0.0, 0.3),
            ("token_embedding.weight", &[9, 4], 0.0, 0.3),
            ("attn.in_proj_weight", &[12, 4], 0.0, 0.75),
            ("visual.proj", &[16, 4], 0.0, 0.25),
            ("visual.conv1.weight", &[5, 4, 2, 2], 0.0, 0.25),
            ("adapter.fc.0.weight", &[8, 64], 0.0, 0.125),
        ];
        for (name, shape, mean, deviation) in cases {
            let spread = Spread::of(name, shape);
            assert!((spread.mean - mean).abs() < 1e-12, "{name}");
            assert!((spread.deviation - deviation).abs() < 1e-12, "{name}");
        }
    }
}
