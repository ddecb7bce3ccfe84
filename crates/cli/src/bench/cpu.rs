//! What the processor's arithmetic gives: the kernels compared with loops on registers alone.

use std::time::{Duration, Instant};

use anomalens::backbones::{Engine, Precision, RunsAs};
use anomalens::kernels::{Epilogue, LayerNorm, LinearScratch, PackedLinear, Parallel, peak};
use anyhow::Result;
use serde_json::{Value, json};

use super::rounded;

/// A layer of ViT-L: tokens, inputs, outputs.
const LAYER: (usize, usize, usize) = (1370, 1024, 4096);

/// How long a layer is repeated.
const TIME: Duration = Duration::from_millis(500);

/// The instruction set in use, and for each precision the speed of a layer of ViT-L (layer norm,
/// product, GELU) on all threads.
pub(super) fn measure() -> Result<Value> {
    let engine = Engine::from_env()?;
    let threads = rayon::current_num_threads();
    let precisions = Precision::ALL.map(|precision| {
        let alone: Vec<Option<f64>> = rayon::broadcast(|_| peak(engine, precision));
        let peak: Option<f64> = alone.into_iter().sum();
        let gflops = layer(engine, precision)?;
        Ok(json!({
            "precision": precision.name(),
            "runs_as": format!("{}, {threads} thread{}", RunsAs::new(precision)?, if threads == 1 { "" } else { "s" }),
            "kernel": engine.kernel_name(precision),
            "gflops": gflops.round(),
            "peak_gflops": peak.map(f64::round),
            "share": peak.map(|peak| rounded(gflops / peak)),
        }))
    });
    let precisions = precisions.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "instructions": engine.isa().name(),
        "available": Engine::all().into_iter().map(|e| e.isa().name()).collect::<Vec<_>>(),
        "threads": threads,
        "precisions": precisions,
    }))
}

/// GFLOP/s of a layer, in the shortest of its runs.
fn layer(engine: Engine, precision: Precision) -> Result<f64> {
    let (tokens, inputs, outputs) = LAYER;
    let numbers = |count: usize| -> Vec<f32> {
        let numbers = (0..count).map(|i| (i as f32 * 0.61).sin());
        numbers.collect()
    };
    let layer = PackedLinear::new(
        engine,
        precision,
        &numbers(inputs * outputs),
        &numbers(outputs),
    )?;
    let norm = LayerNorm::new(&numbers(inputs), &numbers(inputs), 1e-5)?;
    let input = numbers(tokens * inputs);
    let mut output = vec![0.0; tokens * outputs];
    let mut scratch = LinearScratch::default();
    let (mut shortest, begin, mut runs) = (f64::MAX, Instant::now(), 0);
    while begin.elapsed() < TIME || runs < 3 {
        let start = Instant::now();
        layer.forward(
            &input,
            Some(&norm),
            &mut output,
            Epilogue::Gelu,
            &mut scratch,
            Parallel::Pool,
        );
        shortest = shortest.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok(2e-9 * (tokens * inputs * outputs) as f64 / shortest)
}
