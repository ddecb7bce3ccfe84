//! How long the search for nearest neighbours takes, compared with candle's matrix product:
//!
//!     cargo run --release -p anomalens-detectors --example search_speed -- QUERIES VECTORS WIDTH RUNS
//!
//! (256 16384 384 9 without arguments.) Prints JSON: seconds of each, and how far the similarities
//! of the narrower formats are off. `benchmarks/search_peers.py` compares it with NumPy and PyTorch.

#![allow(clippy::print_stdout)] // It is a program.

use std::time::Instant;

use anomalens_kernels::{Engine, PackedVectors, Parallel, Precision};
use candle_core::{D, Device, Tensor};
use serde_json::json;

/// How many neighbours are looked for, as the memory banks do.
const CANDIDATES: usize = 4;

/// Rows of candle's blocks; a whole matrix would be slower.
const BLOCK_ROWS: usize = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<usize> = std::env::args()
        .skip(1)
        .map(|argument| argument.parse())
        .collect::<Result<_, _>>()?;
    let argument = |i: usize, default: usize| arguments.get(i).copied().unwrap_or(default);
    let (count, size) = (argument(0, 256), argument(1, 16_384));
    let (width, runs) = (argument(2, 384), argument(3, 9));
    let (queries, vectors) = (unit(count, width, 1), unit(size, width, 2));

    let (candle, exact) = {
        let queries = Tensor::from_slice(&queries, (count, width), &Device::Cpu)?;
        let vectors = Tensor::from_slice(&vectors, (size, width), &Device::Cpu)?;
        median(runs, || highest_by_candle(&queries, &vectors))?
    };
    let engine = Engine::from_env()?;
    let mut seconds = json!({ "candle-f32": candle });
    let mut differences = json!({});
    for (name, precision) in [
        ("f32", Precision::F32),
        ("half", Precision::Half),
        ("int8", Precision::Int8),
    ] {
        let packed = PackedVectors::new(engine, precision, &vectors, width)?;
        let nearest = || Ok(packed.nearest(&queries, CANDIDATES, Parallel::Pool));
        let (time, found) = median(runs, nearest)?;
        let nearest = found
            .chunks(CANDIDATES.min(size).max(1))
            .map(|found| found[0]);
        let off = nearest.zip(&exact).map(|(a, b)| (a.similarity - b).abs());
        seconds[name] = json!(time);
        differences[name] = json!(off.fold(0.0, f32::max));
    }
    let result = json!({
        "queries": count,
        "vectors": size,
        "width": width,
        "threads": rayon::current_num_threads(),
        "engine": engine.isa().name(),
        "seconds": seconds,
        "largest_difference": differences,
    });
    println!("{result}");
    Ok(())
}

/// The highest similarity of each query by whole products of blocks.
fn highest_by_candle(queries: &Tensor, vectors: &Tensor) -> candle_core::Result<Vec<f32>> {
    let rows = vectors.dim(0)?;
    let mut best: Option<Tensor> = None;
    for start in (0..rows).step_by(BLOCK_ROWS) {
        let block = vectors.narrow(0, start, BLOCK_ROWS.min(rows - start))?;
        let highest = queries.matmul(&block.t()?)?.max(D::Minus1)?;
        best = Some(match best {
            Some(best) => best.maximum(&highest)?,
            None => highest,
        });
    }
    best.map_or(Ok(vec![]), |best| best.to_vec1())
}

/// The median time of `runs` calls after one that is not counted, and the last result.
fn median<T>(
    runs: usize,
    mut work: impl FnMut() -> candle_core::Result<T>,
) -> candle_core::Result<(f64, T)> {
    let mut last = work()?;
    let mut times = Vec::new();
    for _ in 0..runs.max(1) {
        let start = Instant::now();
        last = work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], last))
}

/// Generated rows of length 1.
fn unit(count: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut rows: Vec<f32> = (0..count * width).map(|_| next()).collect();
    for row in rows.chunks_mut(width) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    rows
}
