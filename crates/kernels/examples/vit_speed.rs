//! Seconds per image of whole networks with made-up weights, for comparison with other engines.
//!
//!     cargo run --release -p anomalens-kernels --example vit_speed -- \
//!         [dinov2-s|clip|anomalyclip [f32|half|int8 [THREADS [BATCH [RUNS]]]]]
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use anomalens_kernels::{
    AttentionKind, BlockWeights, Engine, Epilogue, Images, LinearWeights, LocalStream, NormWeights,
    Precision, Vit, VitConfig, VitWeights,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize, default: &'static str| {
        arguments.get(i).map_or(default, String::as_str).to_owned()
    };
    let name = argument(0, "dinov2-s");
    let (width, blocks, heads, side, local) = match name.as_str() {
        "dinov2-s" => (384, 12, 6, 224, None),
        "clip" => (1024, 24, 16, 518, None),
        "anomalyclip" => (1024, 24, 16, 518, Some(6)),
        other => return Err(format!("no network `{other}`").into()),
    };
    let precision = match argument(1, "half").as_str() {
        "f32" => Precision::F32,
        "half" => Precision::Half,
        "int8" => Precision::Int8,
        other => return Err(format!("no precision `{other}`").into()),
    };
    let threads: usize = argument(2, "1").parse()?;
    let batch: usize = argument(3, "1").parse()?;
    let runs: usize = argument(4, "20").parse()?;

    let config = VitConfig {
        heads,
        patch: 14,
        epsilon: 1e-5,
        activation: if width == 384 {
            Epilogue::Gelu
        } else {
            Epilogue::QuickGelu
        },
        local: local.map(|from| LocalStream {
            from,
            kind: AttentionKind::Vv,
        }),
    };
    let numbers = |count: usize, size: f32| -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.61).sin() * size).collect()
    };
    let zeros = vec![0.0; 4 * width];
    let ones = vec![1.0; width];
    let weights = numbers(4 * width * width, 0.03);
    let linear = |inputs: usize, outputs: usize| LinearWeights {
        weight: &weights[..inputs * outputs],
        bias: &zeros[..outputs],
    };
    let norm = NormWeights {
        weight: &ones,
        bias: &zeros[..width],
    };
    let block = BlockWeights {
        norm1: norm,
        qkv: linear(width, 3 * width),
        output: linear(width, width),
        scale1: None,
        norm2: norm,
        up: linear(width, 4 * width),
        down: linear(4 * width, width),
        scale2: None,
    };
    let weights = VitWeights {
        patch: linear(3 * 14 * 14, width),
        class_token: &ones,
        norm: Some(norm),
        blocks: vec![block; blocks],
    };
    let engine = Engine::from_env()?;
    let start = Instant::now();
    let vit = Vit::new(engine, precision, config, &weights)?;
    let packing = start.elapsed().as_secs_f64();
    let positions = numbers((1 + (side / 14) * (side / 14)) * width, 0.1);
    let pixels = numbers(batch * 3 * side * side, 1.0);
    let images = Images {
        pixels: &pixels,
        height: side,
        width: side,
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?;
    let mut seconds = vec![];
    for _ in 0..=runs {
        let start = Instant::now();
        let tokens = pool.install(|| vit.encode(images, &positions, &[blocks]))?;
        seconds.push(start.elapsed().as_secs_f64() / batch as f64);
        assert!(tokens[0].tokens[0].is_finite());
    }
    // The first run finds no workspace.
    let mut seconds = seconds.split_off(1);
    seconds.sort_by(f64::total_cmp);
    println!(
        "{name} {}, {threads} thread(s), batch {batch}: median {:.4} s, shortest {:.4} s; packed in {packing:.2} s",
        engine.kernel_name(precision),
        seconds[seconds.len() / 2],
        seconds[0]
    );
    Ok(())
}
