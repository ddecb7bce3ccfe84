//! `anomalens bench`: how fast this machine is with it. A time alone says little: the scripts in
//! `benchmarks/` set these beside what else one would run.

mod cpu;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anomalens::backbones::{
    Dpam, Embedding, Engine, FeatureRequest, ImageEncoder, SelfAttention, TokenStage,
};
use anomalens::detectors::{FitOptions, ImageSource, StreamOptions, find as find_method, predict};
use anomalens::vision::{Image, Limits};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::{End, backbone, images, print_line};

/// Measure the speed of this machine
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The image encoder alone, all blocks
    Encoder {
        #[command(flatten)]
        common: Common,
        /// The architecture of made-up weights, with `--weights seeded:SEED`
        #[arg(long, value_name = "NAME")]
        arch: Option<String>,
        /// With AnomalyCLIP's local stream from a quarter of the blocks on
        #[arg(long)]
        dpam: bool,
        /// Side of the images, in pixels
        #[arg(long, default_value_t = 224)]
        size: usize,
        /// Images at once
        #[arg(long, default_value_t = 1)]
        batch: usize,
    },
    /// The processor's arithmetic in each precision, beside the most that it can do
    Cpu {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// From image files to scores with anomaly-dino, two shots
    Pipeline {
        #[command(flatten)]
        common: Common,
        /// Images, or folders of images; the first two serve as shots
        #[arg(required = true)]
        images: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    backbone: backbone::Args,
    /// Measured repetitions, after one that is not
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<End> {
    let (json, result) = match &args.command {
        Command::Encoder {
            common,
            arch,
            dpam,
            size,
            batch,
        } => {
            let weights = match arch {
                Some(arch) => format!("{}:{arch}", common.backbone.weights()),
                None => common.backbone.weights().to_owned(),
            };
            let result = encoder(common, &weights, *dpam, *size, *batch)?;
            (common.json, result)
        }
        Command::Cpu { json } => (*json, cpu::measure()?),
        Command::Pipeline { common, images } => (common.json, pipeline(common, images)?),
    };
    if json {
        print_line(result)?;
    } else if let Value::Object(values) = result {
        for (name, value) in values {
            match value {
                Value::Array(rows) if rows.iter().any(Value::is_object) => {
                    rows.iter().try_for_each(print_line)?;
                }
                value => print_line(format!("{name}: {value}"))?,
            }
        }
    }
    Ok(End::Done)
}

fn encoder(common: &Common, weights: &str, dpam: bool, size: usize, batch: usize) -> Result<Value> {
    let backbone = common.backbone.open_named(weights)?;
    let encoder = backbone.encoder.as_ref();
    let images = Tensor::zeros((batch, 3, size, size), DType::F32, &Device::Cpu)?;
    let request = FeatureRequest {
        dpam: dpam.then(|| Dpam {
            first_block: (encoder.blocks() / 4).max(1),
            attention: SelfAttention::Values,
        }),
        embedding: dpam.then_some(Embedding::Direct),
        ..FeatureRequest::blocks([encoder.blocks()]).at(TokenStage::Projected)
    };
    let seconds = median(common.runs, || {
        encoder.encode(&images, &request)?;
        Ok(())
    })? / batch as f64;
    let gflops = flops(encoder, &request, size) / seconds / 1e9;
    Ok(json!({
        "arch": encoder.name(),
        "engine": Engine::from_env()?.kernel_name(backbone.precision),
        "threads": rayon::current_num_threads(),
        "batch": batch,
        "runs": common.runs,
        "seconds": rounded(seconds),
        "gflops": gflops.round(),
        "peak_rss_mb": peak_memory()?,
    }))
}

/// Floating-point operations of a vision transformer's matrix products for one square image.
fn flops(encoder: &dyn ImageEncoder, request: &FeatureRequest, size: usize) -> f64 {
    let (width, tokens) = (
        encoder.width() as f64,
        ((size / encoder.patch()).pow(2) + 1) as f64,
    );
    let linear = 12.0 * width * width * tokens; // query, key, value, output; up and down four-fold
    let attention = 2.0 * tokens * tokens * width;
    let blocks = encoder.blocks() as f64;
    // The local stream has attention and its output layer in its own blocks.
    let local = match request.dpam {
        Some(dpam) => (encoder.blocks() + 1 - dpam.first_block) as f64,
        None => 0.0,
    };
    2.0 * (blocks * (linear + attention) + local * (attention + width * width * tokens))
}

fn pipeline(common: &Common, paths: &[PathBuf]) -> Result<Value> {
    let files = images::find(paths)?;
    let [first, second, ..] = files.as_slice() else {
        bail!("at least two images are needed")
    };
    let shots = [first, second]
        .map(|file| Image::open(&file.path, &Limits::default()))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let backbone = common.backbone.open()?;
    let encoder = backbone.encoder.as_ref();
    let detector = find_method("anomaly-dino")?.fit(&FitOptions::new(), encoder, &shots)?;
    let sources: Vec<ImageSource> = files.into_iter().map(|file| file.path.into()).collect();
    let (skip, options) = (Default::default(), StreamOptions::default());
    let seconds = median(common.runs, || {
        predict(
            encoder,
            &[detector.as_ref()],
            &sources,
            &skip,
            &options,
            &mut |outcome| {
                // A file that cannot be used would make the rest look fast.
                if outcome.result.is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(())
    })?;
    Ok(json!({
        "pipeline": "decode, preprocess, encode, score (anomaly-dino, 2 shots)",
        "threads": rayon::current_num_threads(),
        "images": sources.len(),
        "runs": common.runs,
        "seconds": rounded(seconds / sources.len() as f64),
        "images_per_second": rounded(sources.len() as f64 / seconds),
        "peak_rss_mb": peak_memory()?,
    }))
}

/// The median time of `runs` calls, after one that is not counted.
fn median(runs: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut times = (0..runs.max(1))
        .map(|_| {
            let start = Instant::now();
            work()?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The most memory that this process has had resident, in MB; only Linux tells.
fn peak_memory() -> Result<Option<u64>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read the memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.map(|kib| kib / 1024))
}
