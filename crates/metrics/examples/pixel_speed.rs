//! Times the pixel-level metrics on generated maps and prints, as JSON, seconds (by the clock and of
//! the processor) and peak memory; AUPIMO has times of its own, after the memory was read.
//!
//! `pixel_speed [MAPS] [SIZE] [FILE|unkept]`: MAPS maps (default 400) of SIZE x SIZE pixels (default
//! 512). FILE receives maps and masks for `benchmarks/metrics_peer.py`: the numbers of maps, rows and
//! columns as little-endian u32, then all scores as f32, then all masks as bytes 0 and 1. With
//! `unkept` in its place no map is kept: each is made twice, which `making` times alone.
#![allow(
    clippy::print_stdout,
    reason = "printing the result is what the program is for"
)]

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Instant;

use anomalens_metrics::{Aupimo, MetricError, PimoOptions, PixelMetrics, PixelOptions, ScoredMask};
use rayon::prelude::*;
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let maps: u32 = arguments.next().map_or(Ok(400), |text| text.parse())?;
    let size: u32 = arguments.next().map_or(Ok(512), |text| text.parse())?;
    let file = arguments.next();
    if file.as_deref() == Some("unkept") {
        return unkept(maps, size);
    }

    let data: Vec<(Vec<f32>, Vec<bool>)> = (0..maps).map(|map| made_up(map, size)).collect();
    if let Some(path) = file {
        write_raw(&path, maps, size, &data)?;
    }
    let side = size as usize;
    let scored = data
        .iter()
        .map(|(scores, mask)| ScoredMask::new(side, side, &**scores, &**mask))
        .collect::<Result<Vec<_>, _>>()?;

    let result = measure(maps, size, |map| Ok(scored[map].clone()))?;
    println!("{result:#}");
    Ok(())
}

/// The same with maps that are made when they are wanted.
fn unkept(maps: u32, size: u32) -> Result<(), Box<dyn Error>> {
    let side = size as usize;
    let made = |map: usize| {
        let (scores, mask) = made_up(map as u32, size);
        ScoredMask::new(side, side, scores, mask)
    };
    let (anomalous, making) = timed(|| {
        let twice = (0..2 * maps).into_par_iter().map(|map| map % maps);
        twice
            .filter(|&map| made_up(map, size).1.contains(&true))
            .count()
    });
    let mut result = measure(maps, size, made)?;
    result["anomalous_maps"] = (anomalous / 2).into();
    result["making"] = making;
    println!("{result:#}");
    Ok(())
}

/// All metrics over the maps that `map` gives, with what they took.
fn measure<'a>(
    maps: u32,
    size: u32,
    map: impl Fn(usize) -> Result<ScoredMask<'a>, MetricError> + Sync,
) -> Result<Value, Box<dyn Error>> {
    let count = maps as usize;
    let (metrics, time) =
        timed(|| PixelMetrics::compute_each(count, &map, &PixelOptions::default()));
    let metrics = metrics?;
    let memory = peak_memory_kibibytes().map(|kibibytes| kibibytes * 1024 / 1_000_000);
    let (aupimo, aupimo_time) =
        timed(|| Aupimo::compute_each(count, &map, &PimoOptions::default()));
    Ok(json!({
        "maps": maps,
        "rows": size,
        "columns": size,
        "regions": metrics.regions,
        "anomalous_pixels": metrics.anomalous_pixels,
        "auroc": metrics.auroc?,
        "average_precision": metrics.average_precision?,
        "f1_max": metrics.f1_max?.value,
        "aupro": metrics.aupro?,
        "aupro_200_steps": metrics.aupro_200_steps?,
        "seconds": time["seconds"],
        "cpu_seconds": time["cpu_seconds"],
        "peak_memory_megabytes": memory,
        "aupimo": aupimo?.mean,
        "aupimo_seconds": aupimo_time["seconds"],
        "aupimo_cpu_seconds": aupimo_time["cpu_seconds"],
    }))
}

/// A result with the seconds that it took, by the clock and of the processor.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Value) {
    let (start, cpu_start) = (Instant::now(), cpu_seconds());
    let result = work();
    let (seconds, cpu_end) = (start.elapsed().as_secs_f64(), cpu_seconds());
    let cpu_seconds = cpu_end.zip(cpu_start).map(|(end, start)| end - start);
    (
        result,
        json!({"seconds": seconds, "cpu_seconds": cpu_seconds}),
    )
}

/// A map of slow waves and noise, raised over the blobs of its mask; every fourth is normal.
fn made_up(seed: u32, size: u32) -> (Vec<f32>, Vec<bool>) {
    let mut random = SplitMix(u64::from(seed));
    let side = f64::from(size);
    let blobs: Vec<[f64; 3]> = (0..seed % 4)
        .map(|_| {
            [
                random.unit() * side,
                random.unit() * side,
                (0.02 + 0.1 * random.unit()) * side,
            ]
        })
        .collect();
    let phase = random.unit() * std::f64::consts::TAU;
    let pixels = (0..size).flat_map(|row| (0..size).map(move |column| (row, column)));
    pixels
        .map(|(row, column)| {
            let (y, x) = (f64::from(row), f64::from(column));
            let depth = blobs
                .iter()
                .map(|[centre_y, centre_x, radius]| {
                    1.0 - (y - centre_y).hypot(x - centre_x) / radius
                })
                .fold(f64::NEG_INFINITY, f64::max);
            let wave = (9.0 * y / side + phase).sin() * (7.0 * x / side - phase).cos();
            let score = 0.3 + 0.1 * wave + 0.2 * random.unit() + 0.3 * (depth + 0.5).max(0.0);
            (score as f32, depth > 0.0)
        })
        .unzip()
}

/// The SplitMix64 generator (Steele, Lea, Flood 2014).
struct SplitMix(u64);

impl SplitMix {
    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn write_raw(
    path: &str,
    maps: u32,
    size: u32,
    data: &[(Vec<f32>, Vec<bool>)],
) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for number in [maps, size, size] {
        file.write_all(&number.to_le_bytes())?;
    }
    for score in data.iter().flat_map(|(scores, _)| scores) {
        file.write_all(&score.to_le_bytes())?;
    }
    for &anomalous in data.iter().flat_map(|(_, mask)| mask) {
        file.write_all(&[u8::from(anomalous)])?;
    }
    file.flush()
}

/// Peak resident memory of this process; known on Linux only.
fn peak_memory_kibibytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Processor time of all threads of this process so far; known on Linux only.
fn cpu_seconds() -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // User and system time are fields 14 and 15; the name, field 2, may itself hold blanks.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(11);
    let ticks = times.next()?.parse::<f64>().ok()? + times.next()?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}
