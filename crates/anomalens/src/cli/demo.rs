//! `anomalens demo`: the whole way on real solar-cell images.

use std::path::PathBuf;

use anomalens::backbones::weights::{Registry, Store};
use anomalens::datasets::{DataRef, DataSet, Split};
use anomalens::detectors::{FitOptions, find as find_method};
use anomalens::evaluation::report::write_report;
use anomalens::evaluation::{Contestant, Evaluation, RunOptions};
use anyhow::{Context, Result};
use serde_json::json;

use super::eval::{brief, context, evaluate_shown, warn_of_failures};
use super::{End, backbone, print_line, table};

/// The data set of the demo, in the registry and as a layout.
const DATA: &str = "elpv";

/// Normal images that the few-shot detectors are given.
const SHOTS: [usize; 2] = [2, 8];

/// Seed of their choice.
const SEED: u32 = 0;

/// Of the test images every second one is scored, so that the demo takes about two minutes on two
/// cores.
const STEP: usize = 2;

/// Show the whole way on real solar-cell images; nothing else is needed
///
/// Fetches a small backbone and the ELPV data set (together about 190 MB, once), finds defective
/// solar cells with two and with eight normal cells as reference and with none at all, prints how
/// well that went, and writes a report to look at.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write the report
    #[arg(short, long, value_name = "DIR", default_value = "anomalens-demo")]
    output: PathBuf,
    /// Score all test images instead of every second one
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    backbone: backbone::Args,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<End> {
    std::fs::create_dir_all(&args.output)
        .with_context(|| format!("cannot make the folder {}", args.output.display()))?;
    let report = args.output.join("report.html");
    let backbone = args.backbone.open()?;
    let located = backbone::pull(&Store::from_env()?, Registry::builtin().find(DATA)?)?;
    let reference = format!("{DATA}:{}", located.path.display());
    let mut data = DataSet::open(&reference.parse::<DataRef>()?)?;
    if !args.full {
        keep_some(&mut data);
    }
    let evaluations = evaluate_shown(&backbone, &data, &contestants()?, &RunOptions::default())?;
    let title = "Anomalens demo: defective solar cells".to_owned();
    let context = context(title, &backbone, DATA);
    write_report(&report, &evaluations, &context)?;
    if args.json {
        print_line(json!({
            "backbone": backbone.name,
            "results": evaluations.iter().map(brief).collect::<Vec<_>>(),
            "report": report,
        }))?;
    } else {
        tell(&evaluations)?;
        if !args.full {
            print_line("every second test image was scored; `anomalens demo --full` scores all")?;
        }
        print_line(format!("report: {}", report.display()))?;
    }
    warn_of_failures(&evaluations);
    Ok(End::Done)
}

/// Leaves every second test image in `data`, and all training images.
fn keep_some(data: &mut DataSet) {
    let mut tests = 0..;
    data.samples.retain(|sample| {
        sample.split == Split::Train || tests.next().is_some_and(|i: usize| i.is_multiple_of(STEP))
    });
}

/// Two and eight shots, and none at all.
fn contestants() -> Result<Vec<Contestant<'static>>> {
    let few_shot = find_method("anomaly-dino")?;
    let zero_shot = find_method("musc")?;
    let method = |method, shots| Contestant::Method {
        method,
        options: FitOptions::new(),
        shots,
        seed: SEED,
    };
    Ok(SHOTS
        .iter()
        .map(|&k| method(few_shot, k))
        .chain([method(zero_shot, 0)])
        .collect())
}

fn tell(evaluations: &[Evaluation]) -> Result<()> {
    print_line(table::evaluations(evaluations))?;
    match table::published(DATA) {
        Some(published) => print_line(published),
        None => Ok(()),
    }
}
