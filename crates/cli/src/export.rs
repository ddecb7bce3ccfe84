//! `anomalens export`: a detector as an ONNX file, which other programs run without this one.

use std::path::PathBuf;

use anomalens::detectors::{Check, DetectorFile, ExportOptions, Exported, Part, Port, export};
use anomalens::onnx::network::Size;
use anyhow::{Result, bail};
use serde_json::json;

use super::{End, backbone, print_json, print_line, print_note};

/// Write a detector as an ONNX file, which other programs run without this one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    anomalens export bolts.detector -o bolts.onnx\n  \
    anomalens export bolts.detector -o bolts.onnx --dynamic-batch --half\n  \
    anomalens export bolts.detector -o features.onnx --part encoder\n\
    docs/export.md shows how other programs run it.")]
pub(super) struct Args {
    /// The detector file
    #[arg(value_name = "DETECTOR")]
    detector: PathBuf,
    /// The ONNX file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What to write: all of it, or its networks alone [default: all, where the method allows it]
    #[arg(long, value_enum, value_name = "PART")]
    part: Option<PartName>,
    /// Size of the images that go in, in pixels [default: that of the detector]
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<Size>,
    /// Any number of images at once, not one
    #[arg(long)]
    dynamic_batch: bool,
    /// The networks in float16, for GPUs; half the size
    #[arg(long)]
    half: bool,
    /// Use operators that ONNX Runtime alone has: faster there, of no use elsewhere
    #[arg(long)]
    contrib: bool,
    /// The backbone, where it is not found by its name (repeatable)
    #[arg(long, value_name = "NAME|FILE")]
    weights: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PartName {
    /// Images in, features out
    Encoder,
    /// Images in, scores, maps and decisions out
    Detector,
}

fn size(text: &str) -> Result<Size, String> {
    let sides = text.split_once('x');
    let sides = sides.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match sides {
        Some((width @ 1..=8192, height @ 1..=8192)) => Ok(Size { height, width }),
        _ => Err("a size is WIDTHxHEIGHT in pixels, such as 448x448".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> Result<End> {
    super::fit::check_output(&args.output)?;
    if args.output == args.detector {
        bail!("--output names the detector file itself");
    }
    let file = DetectorFile::load(&args.detector)?;
    let backbone = backbone::open_exactly_for(&file, &args.weights)?;
    let options = ExportOptions {
        part: args.part.map(|part| match part {
            PartName::Encoder => Part::Encoder,
            PartName::Detector => Part::Detector,
        }),
        size: args.size,
        dynamic_batch: args.dynamic_batch,
        half: args.half,
        contrib: args.contrib,
    };
    let exported = export(&file, &backbone, &options, &args.output)?;
    if let Some(reason) = &exported.reason {
        print_note(format!("note: only the networks were written: {reason}"));
    }
    match args.json {
        true => print_json(as_json(args, &exported))?,
        false => tell(args, &exported)?,
    }
    Ok(End::Done)
}

fn tell(args: &Args, exported: &Exported) -> Result<()> {
    let megabytes = exported.bytes as f64 / 1e6;
    let float = if args.half { "float16" } else { "float32" };
    let beside = match exported.has_data_file {
        true => format!(", with {}.data beside it", args.output.display()),
        false => String::new(),
    };
    print_line(format!(
        "{}: {}, {megabytes:.1} MB, {float}{beside}",
        args.output.display(),
        match exported.part {
            Part::Encoder => "the networks alone",
            Part::Detector => "the whole detector",
        },
    ))?;
    let batch = if args.dynamic_batch { "batch" } else { "1" };
    let list = |ports: &[Port]| {
        let ports = ports.iter().map(|port| {
            let lengths = port.shape.iter().map(|length| format!(", {length}"));
            format!("{} [{batch}{}]", port.name, lengths.collect::<String>())
        });
        ports.collect::<Vec<_>>().join(", ")
    };
    print_line(format!("in: {}, bytes, RGB", list(&exported.inputs)))?;
    print_line(format!("out: {}", list(&exported.outputs)))?;
    match &exported.check {
        Check::Ran {
            runtime,
            score,
            cosine,
        } => {
            let score = score.map_or(String::new(), |score| {
                format!("the score differs by {score:.0e} of it, ")
            });
            print_line(format!(
                "checked with ONNX Runtime {runtime}: {score}smallest cosine {cosine:.6}"
            ))
        }
        Check::Read(reason) => print_line(format!("read back, but not run: {reason}")),
    }
}

fn as_json(args: &Args, exported: &Exported) -> serde_json::Value {
    let ports = |ports: &[Port]| {
        let ports = ports
            .iter()
            .map(|port| json!({ "name": port.name, "shape": port.shape }));
        ports.collect::<Vec<_>>()
    };
    json!({
        "file": args.output,
        "part": exported.part.name(),
        "reason": exported.reason,
        "bytes": exported.bytes,
        "data_file": exported.has_data_file,
        "inputs": ports(&exported.inputs),
        "outputs": ports(&exported.outputs),
        "check": match &exported.check {
            Check::Ran { runtime, score, cosine } => json!({
                "runtime": runtime, "score_difference": score, "smallest_cosine": cosine,
            }),
            Check::Read(reason) => json!({ "not_run": reason }),
        },
    })
}
