//! `anomalens bench`: how good methods and their variants are, and how fast this machine is with
//! them. A time alone says little: the scripts in `benchmarks/` compare these with what else one would
//! run.

mod ablation;
mod cpu;
mod pipeline;
mod suite;
mod tradeoff;

use std::path::PathBuf;
use std::time::Instant;

use anomalens::backbones::{
    DEFAULT_WEIGHTS, Dpam, Embedding, Engine, FeatureRequest, ImageEncoder, LayerId, SelfAttention,
    TokenStage, test_inputs,
};
use anomalens::benchmark::BenchmarkError;
use anomalens::detectors::DEFAULT_METHOD;
use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{End, backbone, print_json, print_line, settings};

/// Measure methods on the data sets of a paper, variants of a method, or the speed of this machine
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    override_usage = "anomalens bench SUITE --root DIR -o DIR\n       \
                      anomalens bench <COMMAND>\n       anomalens bench --list"
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// List the suites (data sets that are measured together); `anomalens bench SUITE --help` shows
    /// the options
    #[arg(long)]
    list: bool,
    /// Print them as JSON
    #[arg(long, requires = "list")]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Time the image encoder alone, all blocks or stages
    Encoder {
        #[command(flatten)]
        common: Common,
        /// The architecture of random weights, with `--weights seeded:SEED`
        #[arg(long, value_name = "NAME")]
        arch: Option<String>,
        /// Also compute AnomalyCLIP's local stream, from a quarter of the blocks on
        #[arg(long)]
        dpam: bool,
        /// Side of the images, in pixels
        #[arg(long, default_value_t = 224)]
        size: usize,
        /// Images per batch; several numbers are measured one after the other
        #[arg(long, value_delimiter = ',', default_value = "1")]
        batch: Vec<usize>,
    },
    /// Measure the processor's arithmetic in each precision, and compare it with its peak
    Cpu {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Time the way from image files to scores and maps, in all and stage by stage
    Pipeline {
        #[command(flatten)]
        common: Common,
        /// The method; trained methods are measured with random parameters
        #[arg(long, value_name = "METHOD", default_value = DEFAULT_METHOD)]
        method: String,
        #[command(flatten)]
        settings: settings::Args,
        /// Images, or folders of images; the first two are the reference images
        #[arg(required = true)]
        images: Vec<PathBuf>,
    },
    /// Train variants of a method and measure them on the same data
    Ablation(ablation::Args),
    Tradeoff(tradeoff::Args),
    #[command(external_subcommand)]
    Suite(Vec<String>),
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    backbone: backbone::Args,
    /// Repetitions that are measured, after one that is not
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Common {
    /// The weights, of an architecture if they are random.
    fn weights(&self, arch: Option<&str>) -> Result<String> {
        let weights = self.backbone.one_or(DEFAULT_WEIGHTS)?;
        Ok(match arch {
            Some(arch) => format!("{weights}:{arch}"),
            None => weights.to_owned(),
        })
    }
}

pub(super) fn run(args: &Args) -> Result<End> {
    let Some(command) = &args.command else {
        return suite::list(args.json);
    };
    let (json, result) = match command {
        Command::Suite(words) => return suite::run(words),
        Command::Encoder {
            common,
            arch,
            dpam,
            size,
            batch,
        } => {
            let weights = common.weights(arch.as_deref())?;
            let mut results = encoder(common, &weights, *dpam, *size, batch)?;
            let result = match results.len() {
                1 => results.remove(0),
                _ => json!({ "batches": results }),
            };
            (common.json, result)
        }
        Command::Cpu { json } => (*json, cpu::measure()?),
        Command::Pipeline {
            common,
            method,
            settings,
            images,
        } => {
            let result = pipeline::measure(common, method, settings, images)?;
            (common.json, result)
        }
        Command::Ablation(args) => return ablation::run(args),
        Command::Tradeoff(args) => return tradeoff::run(args),
    };
    if json {
        print_json(result)?;
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

/// The time of the encoder alone, for each number of images in a batch.
fn encoder(
    common: &Common,
    weights: &str,
    dpam: bool,
    size: usize,
    batches: &[usize],
) -> Result<Vec<Value>> {
    let start = Instant::now();
    let backbone = common.backbone.open_named(weights)?;
    let open = start.elapsed().as_secs_f64();
    let encoder = backbone.encoder.as_ref();
    let request = FeatureRequest {
        attention: dpam.then(|| Dpam {
            first_block: (encoder.spec().blocks() / 4).max(1),
            attention: SelfAttention::Values,
            feed_forward: false,
        }),
        embedding: dpam.then_some(Embedding::Direct),
        ..FeatureRequest::layers(last_layer(encoder)).at(TokenStage::Projected)
    };
    let measure = |&batch: &usize| {
        // Of zeros some devices compute products faster than of what cameras see.
        let images = test_inputs(batch, size, size);
        let mut least = f64::INFINITY;
        let seconds = median(common.runs, || {
            let start = Instant::now();
            encoder.encode(&images, &request)?;
            least = least.min(start.elapsed().as_secs_f64() / batch as f64);
            Ok(())
        })? / batch as f64;
        // What a convolutional network computes is not known here.
        let gflops = (encoder.spec().blocks() > 0)
            .then(|| (flops(encoder, &request, size) / seconds / 1e9).round());
        Ok(json!({
            "arch": encoder.spec().name,
            "runs_as": backbone.runs_as.to_string(),
            "engine": match &backbone.runs_as.device {
                Some(device) => device,
                None => Engine::from_env()?.kernel_name(backbone.precision),
            },
            "threads": rayon::current_num_threads(),
            "batch": batch,
            "runs": common.runs,
            "open_seconds": rounded(open),
            "seconds": fine(seconds),
            "least_seconds": fine(least),
            "gflops": gflops,
            "peak_rss_mb": peak_memory()?,
        }))
    };
    batches.iter().map(measure).collect()
}

/// The last layer whose weights are there.
fn last_layer(encoder: &dyn ImageEncoder) -> Option<LayerId> {
    let mut layers = encoder.spec().layers.iter().rev().map(|layer| layer.id);
    layers.find(|&layer| encoder.check(&FeatureRequest::layers([layer])).is_ok())
}

/// Floating-point operations of a vision transformer's matrix products for one square image.
fn flops(encoder: &dyn ImageEncoder, request: &FeatureRequest, size: usize) -> f64 {
    let spec = encoder.spec();
    let (width, tokens) = (
        spec.layers.last().map_or(0, |layer| layer.dim) as f64,
        ((size / spec.multiple).pow(2) + 1) as f64,
    );
    let linear = 12.0 * width * width * tokens; // query, key, value, output; up and down four-fold
    let attention = 2.0 * tokens * tokens * width;
    let blocks = spec.blocks() as f64;
    // The local stream has attention and its output layer in its own blocks.
    let local = match request.attention {
        Some(dpam) => (spec.blocks() + 1 - dpam.first_block) as f64,
        None => 0.0,
    };
    2.0 * (blocks * (linear + attention) + local * (attention + width * width * tokens))
}

/// The median time of `runs` calls, after one that is not counted.
fn median(runs: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let [seconds] = medians(runs, || {
        let start = Instant::now();
        work()?;
        Ok([start.elapsed().as_secs_f64()])
    })?;
    Ok(seconds)
}

/// The medians of what `runs` calls give, after one that is not counted.
fn medians<const N: usize>(
    runs: usize,
    mut work: impl FnMut() -> Result<[f64; N]>,
) -> Result<[f64; N]> {
    work()?;
    let times = (0..runs.max(1))
        .map(|_| work())
        .collect::<Result<Vec<_>>>()?;
    Ok(std::array::from_fn(|i| {
        let mut times: Vec<f64> = times.iter().map(|times| times[i]).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}

/// To a microsecond.
fn fine(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The most memory that this process has had resident, in MB; only Linux reports it.
fn peak_memory() -> Result<Option<u64>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read the memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.map(|kib| kib / 1024))
}

/// An error of a run that keeps its results in a folder, with what to do about the folder.
fn with_advice(error: BenchmarkError) -> anyhow::Error {
    match &error {
        BenchmarkError::Results(_) => {
            anyhow::anyhow!("{error}; choose another folder with --output")
        }
        _ => error.into(),
    }
}
