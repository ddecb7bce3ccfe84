//! Weights made from a seed and their names: any architecture without a download, for tests and
//! benchmarks. The rule is that of the golden files (tests/goldens/README.md): FNV-1a of
//! `SEED:NAME` starts a splitmix64 sequence, whose 24 upper bits are spread evenly around a mean
//! and with a standard deviation that follow from the name.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// The tensor `name` of `shape` from `seed`, float32.
///
/// # Errors
/// Those of the tensor library.
pub fn seeded_tensor(seed: u64, name: &str, shape: &[usize]) -> candle_core::Result<Tensor> {
    let (mean, deviation) = spread(name, shape);
    let start = fnv(format!("{seed}:{name}").as_bytes());
    let count = shape.iter().product::<usize>() as u64;
    let values: Vec<f32> = (0..count)
        .into_par_iter()
        .map(|i| {
            let even = (splitmix(start, i) >> 40) as f64 / f64::from(1 << 24);
            (mean + deviation * ((2.0 * even - 1.0) * 3.0_f64.sqrt())) as f32
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Mean and standard deviation of the tensor `name`.
fn spread(name: &str, shape: &[usize]) -> (f64, f64) {
    let base = name.rsplit('.').next().unwrap_or(name);
    let fan_in: usize = shape.iter().skip(1).product();
    let by = |side: usize| (side.max(1) as f64).sqrt().recip();
    let side = |axis: usize| shape.get(axis).copied().unwrap_or(1);
    match base {
        "running_mean" => (0.0, 0.1),
        "running_var" => (1.0, 0.2),
        "weight" if shape.len() == 1 => (1.0, 0.2),
        "logit_scale" => (100.0_f64.ln(), 0.0),
        _ if name.split('.').any(|part| part.starts_with("ln_")) => (0.0, 0.1),
        "bias" | "in_proj_bias" => (0.0, 0.1),
        "class_embedding" | "positional_embedding" => (0.0, 0.3),
        _ if name == "token_embedding.weight" => (0.0, 0.3),
        "in_proj_weight" => (0.0, 1.5 * by(side(1))),
        "proj" | "text_projection" => (0.0, by(side(0))),
        _ => (0.0, by(fan_in)),
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Number `i` of the sequence.
fn splitmix(start: u64, i: u64) -> u64 {
    let z = start.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_rule() {
        assert_eq!(fnv(b"7:visual.proj"), 0x79fc_7266_69bc_a739);
        for (seed, name, shape, expected) in [
            (
                7,
                "x",
                &[4, 1][..],
                [1.698_615_1, -0.243_951_22, -0.056_732_32, -0.056_812_01],
            ),
            (
                21,
                "adapter.fc.0.weight",
                &[1, 64],
                [-0.156_945_24, -0.095_691_04, -0.078_299_3, 0.121_481_92],
            ),
        ] {
            let tensor = seeded_tensor(seed, name, shape).unwrap();
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            for (value, expected) in values.iter().zip(expected) {
                assert!((value - expected).abs() < 1e-7, "{name}: {value} {expected}");
            }
        }
    }
}
