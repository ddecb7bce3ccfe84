//! Every kernel of this machine against plain loops in float64, over odd sizes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::attention::{Attention, AttentionOutput, AttentionScratch};
use crate::engine::every_kernel;
use crate::format::Format;
use crate::linear::{LinearScratch, PackedLinear};
use crate::product::Epilogue;
use crate::request::SelfAttention;
use crate::rows::LayerNorm;
use crate::search::PackedVectors;
use crate::{Engine, Isa, Parallel, Precision};

/// Numbers of a normal-like distribution, the same every time.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next() + next() + next()).collect()
}

/// The lowest cosine between rows of `found` and `expected`.
fn cosine(found: &[f32], expected: &[f64], width: usize) -> f64 {
    let rows = found.chunks_exact(width).zip(expected.chunks_exact(width));
    rows.map(|(found, expected)| {
        let found: Vec<f64> = found.iter().map(|&x| f64::from(x)).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(&found, expected) / (dot(&found, &found) * dot(expected, expected)).sqrt()
    })
    .fold(1.0, f64::min)
}

/// Checks `found` as closely as the format allows.
pub(crate) fn check(name: &str, format: Format, found: &[f32], expected: &[f64], width: usize) {
    let size = expected.iter().fold(1e-3_f64, |size, x| size.max(x.abs()));
    let errors = found
        .iter()
        .zip(expected)
        .map(|(&f, e)| (f64::from(f) - e).abs() / size);
    let worst = errors.fold(
        0.0,
        |worst, x| if x > worst || x.is_nan() { x } else { worst },
    );
    let (error, least) = match format {
        Format::F32 => (1e-5, 1.0 - 1e-9),
        Format::F16 => (6e-3, 0.9999),
        Format::Bf16 => (2e-2, 0.9999),
        Format::Int8 | Format::Int16 => (6e-2, 0.999),
    };
    assert!(worst < error, "{name}: error {worst}");
    if width > 4 {
        let cosine = cosine(found, expected, width);
        assert!(cosine > least, "{name}: cosine {cosine}");
    }
}

fn gelu(x: f64) -> f64 {
    // The error function by its series, which loses its digits where erf is one anyway.
    let t = (x / std::f64::consts::SQRT_2).clamp(-5.0, 5.0);
    let (mut term, mut sum) = (t, t);
    for n in 1..200 {
        term *= -t * t / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 * x * (1.0 + (2.0 / std::f64::consts::PI.sqrt() * sum).clamp(-1.0, 1.0))
}

fn normalised(row: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let count = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = row
        .iter()
        .map(|&x| (f64::from(x) - mean).powi(2))
        .sum::<f64>()
        / count;
    let scale = 1.0 / (variance + 1e-5).sqrt();
    let value =
        |i: usize| (f64::from(row[i]) - mean) * scale * f64::from(weight[i]) + f64::from(bias[i]);
    (0..row.len()).map(|i| value(i) as f32).collect()
}

#[test]
fn linear_layers_agree_with_plain_loops() {
    let shapes = [
        (1, 1, 1),
        (3, 5, 7),
        (13, 33, 31),
        (14, 64, 32),
        (15, 129, 33),
        (29, 257, 65),
        (33, 384, 70),
        (257, 100, 48),
        (500, 1030, 40),
    ];
    let mut scratch = LinearScratch::default();
    for kernel in every_kernel() {
        for (rows, inputs, outputs) in shapes {
            let weight = numbers(outputs * inputs, 1);
            let bias = numbers(outputs, 2);
            let input: Vec<f32> = numbers(rows * inputs, 3)
                .iter()
                .map(|x| 3.0 * x + 0.1)
                .collect();
            let residual = numbers(rows * outputs, 4);
            let (gamma, beta) = (numbers(inputs, 5), numbers(inputs, 6));
            let norm = LayerNorm::new(&gamma, &beta, 1e-5).unwrap();
            let layer = PackedLinear::with_kernel(kernel, &weight, &bias).unwrap();
            for (epilogue, norm, parallel) in [
                (Epilogue::Store, None, Parallel::Pool),
                (Epilogue::Gelu, Some(&norm), Parallel::Serial),
                (Epilogue::QuickGelu, None, Parallel::Serial),
                (Epilogue::Add, Some(&norm), Parallel::Pool),
                (Epilogue::Relu, None, Parallel::Serial),
                (Epilogue::AddRelu, None, Parallel::Serial),
            ] {
                let mut found = residual.clone();
                layer.forward(&input, norm, &mut found, epilogue, &mut scratch, parallel);
                let mut expected = vec![];
                for row in 0..rows {
                    let x = &input[row * inputs..(row + 1) * inputs];
                    let x = norm.map_or(x.to_vec(), |_| normalised(x, &gamma, &beta));
                    for column in 0..outputs {
                        let w = &weight[column * inputs..(column + 1) * inputs];
                        let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
                        let sum = products.sum::<f64>() + f64::from(bias[column]);
                        expected.push(match epilogue {
                            Epilogue::Store | Epilogue::SwiGlu => sum,
                            Epilogue::Gelu => gelu(sum),
                            Epilogue::QuickGelu => sum / (1.0 + (-1.702 * sum).exp()),
                            Epilogue::Add => sum + f64::from(residual[row * outputs + column]),
                            Epilogue::Relu => sum.max(0.0),
                            // Most of these sums are beyond 6: see the tests of convolutions.
                            Epilogue::Relu6 => sum.clamp(0.0, 6.0),
                            Epilogue::AddRelu => {
                                (sum + f64::from(residual[row * outputs + column])).max(0.0)
                            }
                        });
                    }
                }
                let name = format!("{} {rows} x {inputs} x {outputs} {epilogue:?}", kernel.name);
                check(&name, kernel.format, &found, &expected, outputs);
            }
        }
    }
}

#[test]
fn inputs_above_a_lowest_number_are_held_twice_as_fine() {
    let mut scratch = LinearScratch::default();
    for kernel in every_kernel() {
        for (rows, inputs, outputs) in [(1, 1, 1), (3, 5, 7), (15, 129, 33), (29, 1027, 65)] {
            // Whole numbers up to 127, which 8 bits hold as they are.
            let mut weight: Vec<f32> = numbers(outputs * inputs, 1)
                .iter()
                .map(|x| (80.0 * x).round())
                .collect();
            weight.chunks_mut(inputs).for_each(|row| row[0] = 127.0);
            let bias = numbers(outputs, 2);
            let input: Vec<f32> = numbers(rows * inputs, 3)
                .iter()
                .map(|&x| gelu(4.0 * f64::from(x)) as f32)
                .collect();
            let expected: Vec<f64> = (0..rows * outputs)
                .map(|i| {
                    let x = &input[i / outputs * inputs..][..inputs];
                    let w = &weight[i % outputs * inputs..][..inputs];
                    let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
                    products.sum::<f64>() + f64::from(bias[i % outputs])
                })
                .collect();
            let layer = || PackedLinear::with_kernel(kernel, &weight, &bias).unwrap();
            let mut run = |layer: PackedLinear| {
                let mut found = vec![0.0; rows * outputs];
                let (last, serial) = (Epilogue::Store, Parallel::Serial);
                layer.forward(&input, None, &mut found, last, &mut scratch, serial);
                found
            };
            let (plain, above) = (run(layer()), run(layer().above(-0.17)));
            let name = format!("{} {rows} x {inputs} x {outputs}", kernel.name);
            check(&name, kernel.format, &above, &expected, outputs);
            let error = |found: &[f32]| {
                let pairs = found.iter().zip(&expected);
                let squares = pairs.map(|(&found, x)| (f64::from(found) - x).powi(2));
                squares.sum::<f64>().sqrt()
            };
            match kernel.format {
                Format::Int8 if outputs > 7 => {
                    assert!(error(&above) < 0.6 * error(&plain), "{name}");
                }
                Format::Int8 => {}
                _ => assert_eq!(plain, above, "{name}"),
            }
        }
    }
}

#[test]
fn attention_agrees_with_plain_loops() {
    let shapes = [
        (1, 1, 4),
        (5, 2, 8),
        (33, 3, 64),
        (67, 1, 80),
        (131, 2, 64),
        (50, 1, 17),
    ];
    let mut scratch = AttentionScratch::default();
    for kernel in every_kernel() {
        if kernel.format == Format::Int8 || kernel.input != kernel.format {
            continue;
        }
        for (tokens, heads, head_width) in shapes {
            let width = heads * head_width;
            let qkv: Vec<f32> = numbers(tokens * 3 * width, 7)
                .iter()
                .map(|x| 3.0 * x)
                .collect();
            let attention = Attention::with_kernel(kernel, heads, head_width);
            for parallel in [Parallel::Serial, Parallel::Pool] {
                let kinds = [
                    None,
                    Some(SelfAttention::Values),
                    Some(SelfAttention::Keys),
                    Some(SelfAttention::Queries),
                ];
                let mut found = vec![vec![0.0; tokens * width]; 4];
                let mut outputs: Vec<_> = kinds
                    .into_iter()
                    .zip(&mut found)
                    .map(|(own, to)| AttentionOutput { own, to })
                    .collect();
                attention.forward(&qkv, &mut outputs, &mut scratch, parallel);
                for (found, (query, key)) in found.iter().zip([(0, 1), (2, 2), (1, 1), (0, 0)]) {
                    let expected = plain_attention(&qkv, tokens, heads, head_width, query, key);
                    let name = format!(
                        "{} {tokens} x {heads} x {head_width} {query}{key}",
                        kernel.name
                    );
                    check(&name, kernel.format, found, &expected, width);
                }
            }
        }
    }
}

#[test]
fn swiglu_agrees_with_plain_loops() {
    let mut scratch = LinearScratch::default();
    for kernel in every_kernel() {
        for (rows, inputs, middle) in [(1, 3, 16), (13, 33, 48), (31, 100, 16), (15, 64, 80)] {
            let weight = numbers(2 * middle * inputs, 1);
            let bias = numbers(2 * middle, 2);
            let input: Vec<f32> = numbers(rows * inputs, 3).iter().map(|x| 3.0 * x).collect();
            let layer = PackedLinear::with_kernel(kernel, &weight, &bias).unwrap();
            let mut found = vec![0.0; rows * middle];
            layer.forward(
                &input,
                None,
                &mut found,
                Epilogue::SwiGlu,
                &mut scratch,
                Parallel::Pool,
            );
            let sum = |row: usize, column: usize| {
                let x = &input[row * inputs..][..inputs];
                let w = &weight[column * inputs..][..inputs];
                let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
                products.sum::<f64>() + f64::from(bias[column])
            };
            let expected: Vec<f64> = (0..rows * middle)
                .map(|i| {
                    let (row, column) = (i / middle, i % middle);
                    let gate = sum(row, column / 16 * 32 + column % 16);
                    let value = sum(row, column / 16 * 32 + column % 16 + 16);
                    gate / (1.0 + (-gate).exp()) * value
                })
                .collect();
            let name = format!("{} {rows} x {inputs} x {middle}", kernel.name);
            check(&name, kernel.format, &found, &expected, middle);
        }
    }
}

fn plain_attention(
    qkv: &[f32],
    tokens: usize,
    heads: usize,
    head_width: usize,
    query: usize,
    key: usize,
) -> Vec<f64> {
    let width = heads * head_width;
    let mut output = vec![0.0; tokens * width];
    for head in 0..heads {
        let at = |token: usize, part: usize, i: usize| {
            f64::from(qkv[token * 3 * width + part * width + head * head_width + i])
        };
        for token in 0..tokens {
            let score = |other: usize| {
                let products = (0..head_width).map(|i| at(token, query, i) * at(other, key, i));
                products.sum::<f64>() / (head_width as f64).sqrt()
            };
            let scores: Vec<f64> = (0..tokens).map(score).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let powers: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = powers.iter().sum();
            for i in 0..head_width {
                let sum: f64 = (0..tokens)
                    .map(|other| powers[other] * at(other, 2, i))
                    .sum();
                output[token * width + head * head_width + i] = sum / total;
            }
        }
    }
    output
}

#[test]
fn results_do_not_depend_on_threads_or_on_other_rows() {
    let (inputs, outputs) = (96, 80);
    let weight = numbers(outputs * inputs, 1);
    let bias = numbers(outputs, 2);
    let input = numbers(61 * inputs, 3);
    let mut scratch = LinearScratch::default();
    for kernel in every_kernel() {
        let layer = PackedLinear::with_kernel(kernel, &weight, &bias).unwrap();
        let mut run = |input: &[f32], parallel| {
            let mut output = vec![0.0; input.len() / inputs * outputs];
            layer.forward(
                input,
                None,
                &mut output,
                Epilogue::Store,
                &mut scratch,
                parallel,
            );
            output
        };
        let all = run(&input, Parallel::Serial);
        assert_eq!(all, run(&input, Parallel::Pool), "{}", kernel.name);
        let some = run(&input[..17 * inputs], Parallel::Serial);
        assert_eq!(all[..17 * outputs], some, "{}", kernel.name);
    }
}

#[test]
fn large_and_small_numbers_keep_their_precision() {
    let (rows, inputs, outputs) = (9, 256, 32);
    for kernel in every_kernel() {
        for size in [1e-15_f32, 1e-4, 1e4, 1e15] {
            let weight: Vec<f32> = numbers(outputs * inputs, 1)
                .iter()
                .map(|x| x * size)
                .collect();
            let input: Vec<f32> = numbers(rows * inputs, 2).iter().map(|x| x * size).collect();
            let layer = PackedLinear::with_kernel(kernel, &weight, &vec![0.0; outputs]).unwrap();
            let mut found = vec![0.0; rows * outputs];
            let scratch = &mut LinearScratch::default();
            layer.forward(
                &input,
                None,
                &mut found,
                Epilogue::Store,
                scratch,
                Parallel::Serial,
            );
            let dot = |row: usize, column: usize| -> f64 {
                let x = &input[row * inputs..(row + 1) * inputs];
                let w = &weight[column * inputs..(column + 1) * inputs];
                x.iter()
                    .zip(w)
                    .map(|(&x, &w)| f64::from(x) * f64::from(w))
                    .sum()
            };
            let expected: Vec<f64> = (0..rows * outputs)
                .map(|i| dot(i / outputs, i % outputs))
                .collect();
            assert!(
                cosine(&found, &expected, outputs) > 0.999,
                "{} at {size}: {}",
                kernel.name,
                cosine(&found, &expected, outputs)
            );
        }
    }
}

#[test]
fn layer_norms_agree_with_plain_loops() {
    let scratch = &mut LinearScratch::default();
    for engine in Engine::all() {
        for width in [1, 7, 16, 33, 384] {
            let input = numbers(5 * width, 1);
            let (weight, bias) = (numbers(width, 2), numbers(width, 3));
            let norm = LayerNorm::new(&weight, &bias, 1e-5).unwrap();
            let mut found = vec![0.0; input.len()];
            crate::layer_norm(engine, &norm, &input, &mut found, scratch, Parallel::Serial);
            for (found, row) in found.chunks_exact(width).zip(input.chunks_exact(width)) {
                for (found, expected) in found.iter().zip(normalised(row, &weight, &bias)) {
                    assert!((found - expected).abs() < 1e-5, "{engine:?} {width}");
                }
            }
        }
    }
}

#[test]
fn engines_have_names() {
    for isa in Isa::ALL {
        assert_eq!(isa.name().parse::<Isa>().unwrap(), isa);
    }
    assert!("sse9".parse::<Isa>().is_err());
    assert!(Engine::new(Isa::Portable).is_ok());
    assert_eq!(Engine::all()[0], Engine::detect());
}

#[test]
#[cfg(target_arch = "x86_64")]
fn float16_sums_are_about_as_exact_as_bfloat16_operands() {
    use crate::kernel::{AVX512_BF16, AVX512_F16};
    let kernels = every_kernel();
    if !["avx512 float16", "avx512 bfloat16"]
        .iter()
        .all(|name| kernels.iter().any(|kernel| kernel.name == *name))
    {
        return;
    }
    let (rows, inputs, outputs) = (14, 4096, 64);
    // Numbers around zero, and with one product far larger than the others, whose sum is then
    // carried along in the rounding of all that follow it.
    for (large, limit) in [(1.0, 1.0), (100.0, 1.2)] {
        let weight = numbers(outputs * inputs, 1);
        let mut input = numbers(rows * inputs, 2);
        input.chunks_mut(inputs).for_each(|row| row[0] *= large);
        let error = |kernel| {
            let layer = PackedLinear::with_kernel(kernel, &weight, &[0.0; 64]).unwrap();
            let mut found = vec![0.0; rows * outputs];
            let scratch = &mut LinearScratch::default();
            layer.forward(
                &input,
                None,
                &mut found,
                Epilogue::Store,
                scratch,
                Parallel::Serial,
            );
            let squares = found.iter().enumerate().map(|(i, &found)| {
                let x = &input[i / outputs * inputs..][..inputs];
                let w = &weight[i % outputs * inputs..][..inputs];
                let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
                (f64::from(found) - products.sum::<f64>()).powi(2)
            });
            squares.sum::<f64>().sqrt()
        };
        let (half, brain) = (error(&AVX512_F16), error(&AVX512_BF16));
        assert!(
            half < limit * brain,
            "one {large} times as large: {half} and {brain}"
        );
    }
}

/// Every call that a wrong length could lead beyond the end of a slice.
#[test]
fn lengths_that_do_not_fit_are_refused() {
    let (weight, bias) = (numbers(8 * 40, 1), numbers(40, 2));
    let vectors = numbers(6 * 8, 3);
    type Case<'a> = (&'a str, Box<dyn Fn(Engine, Precision) + 'a>);
    let linear = |inputs: usize, norm: usize, outputs: usize, last: Epilogue| {
        let (weight, bias) = (&weight, &bias);
        move |engine, precision| {
            let layer = PackedLinear::new(engine, precision, weight, bias).unwrap();
            let ones = vec![1.0; norm];
            let norm = (norm > 0).then(|| LayerNorm::new(&ones, &ones, 1e-5).unwrap());
            let (input, mut output) = (vec![0.5; inputs], vec![0.0; outputs]);
            let scratch = &mut LinearScratch::default();
            let serial = Parallel::Serial;
            layer.forward(&input, norm.as_ref(), &mut output, last, scratch, serial);
        }
    };
    let attention = |qkv: usize, output: usize| {
        move |engine, precision| {
            let attention = Attention::new(engine, precision, 2, 4);
            let mut to = vec![0.0; output];
            let outputs = &mut [AttentionOutput {
                own: None,
                to: &mut to,
            }];
            let scratch = &mut AttentionScratch::default();
            attention.forward(&vec![0.5; qkv], outputs, scratch, Parallel::Serial);
        }
    };
    let norm = |width: usize, input: usize, output: usize| {
        move |engine, _| {
            let norm = LayerNorm::new(&vec![1.0; width], &vec![0.0; width], 1e-5).unwrap();
            let (input, mut output) = (vec![0.5; input], vec![0.0; output]);
            let scratch = &mut LinearScratch::default();
            crate::layer_norm(
                engine,
                &norm,
                &input,
                &mut output,
                scratch,
                Parallel::Serial,
            );
        }
    };
    let search = |queries: usize| {
        let vectors = &vectors;
        move |engine, precision| {
            let packed = PackedVectors::new(engine, precision, vectors, 8).unwrap();
            packed.nearest(&vec![0.5; queries], 2, Parallel::Serial);
        }
    };
    let store = Epilogue::Store;
    let fit: Vec<Case> = vec![
        ("layer", Box::new(linear(16, 8, 80, store))),
        ("attention", Box::new(attention(48, 16))),
        ("attention of fewer queries", Box::new(attention(48, 8))),
        ("norm", Box::new(norm(8, 16, 16))),
        ("search", Box::new(search(16))),
    ];
    let wrong: Vec<Case> = vec![
        (
            "norm narrower than the layer",
            Box::new(linear(16, 1, 80, store)),
        ),
        (
            "norm wider than the layer",
            Box::new(linear(16, 9, 80, store)),
        ),
        ("broken rows of a layer", Box::new(linear(15, 8, 80, store))),
        ("output too short", Box::new(linear(16, 8, 79, store))),
        ("output too long", Box::new(linear(16, 0, 81, store))),
        (
            "gates in broken panels",
            Box::new(linear(16, 0, 40, Epilogue::SwiGlu)),
        ),
        ("broken rows of attention", Box::new(attention(47, 16))),
        ("more queries than tokens", Box::new(attention(48, 24))),
        ("broken rows of queries", Box::new(attention(48, 15))),
        ("norm's output too short", Box::new(norm(8, 16, 8))),
        ("broken rows of a norm", Box::new(norm(8, 15, 15))),
        ("broken queries", Box::new(search(15))),
    ];
    let runs = |case: &Case, engine, precision| {
        catch_unwind(AssertUnwindSafe(|| case.1(engine, precision))).is_ok()
    };
    for engine in Engine::all() {
        for precision in Precision::ALL {
            for case in &fit {
                assert!(
                    runs(case, engine, precision),
                    "{engine:?} {precision} {}",
                    case.0
                );
            }
            for case in &wrong {
                assert!(
                    !runs(case, engine, precision),
                    "{engine:?} {precision} {}",
                    case.0
                );
            }
        }
    }
}

#[test]
fn layer_norms_without_numbers_or_of_two_widths_are_errors() {
    for (weight, bias) in [(0, 0), (3, 0), (3, 2), (3, 4)] {
        let norm = LayerNorm::new(&vec![1.0; weight], &vec![0.0; bias], 1e-5);
        assert!(norm.is_err(), "{weight} {bias}");
    }
}
