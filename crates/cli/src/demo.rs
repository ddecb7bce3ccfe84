//! `anomalens demo`: the whole way on real solar-cell images, or, where these cannot be fetched,
//! on drawn defects.

use std::path::PathBuf;

use anomalens::backbones::ImageEncoder;
use anomalens::backbones::weights::{Registry, Store};
use anomalens::datasets::{DataRef, DataSet, Split};
use anomalens::detectors::{FitOptions, few_shot_default, find as find_method};
use anomalens::evaluation::{Contestant, RunOptions};
use anomalens::report::write_report;
use anyhow::{Context, Result};
use serde_json::json;

use super::eval::{brief, context, evaluate_shown, warn_of_failures};
use super::progress::Progress;
use super::{End, backbone, data, print_line, sentence, table};

/// The data set of the demo, in the registry and as a layout.
const DATA: &str = "elpv";

/// The set of the demo where that cannot be had, and its name in results.
const DRAWN: &str = "synthetic:textures,seed=1,materials=3,images=8,side=224";
const DRAWN_NAME: &str = "drawn defects";

/// Normal images that the few-shot detectors are given.
const SHOTS: [usize; 2] = [2, 8];

/// Seed of their choice.
const SEED: u32 = 0;

/// Of the test images every second one is scored, so that the demo takes about two minutes on two
/// cores.
const STEP: usize = 2;

/// Show the whole way on real solar-cell images; nothing else is needed
///
/// Fetches the ELPV data set (90 MB, once), finds defective solar cells with two and with eight
/// normal cells as reference and with none at all, prints how well that went, and writes a report
/// to look at. Where the data set cannot be had, defects drawn on generated textures take its place.
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
    let (data, drawn) = match solar_cells(args.full) {
        Ok(data) => (data, None),
        Err(error) => (DRAWN.parse::<data::Reference>()?.open()?, Some(error)),
    };
    let note = drawn.map(|error| {
        // What follows tells which sources were tried.
        let reason = sentence(&error);
        let reason = reason.lines().next().unwrap_or_default();
        format!(
            "The solar-cell images cannot be had: {}. This run is on defects drawn on generated \
             textures instead: it shows the way, and its figures say little about real defects. \
             `anomalens models pull {DATA}` tells more.",
            reason.trim_end_matches(':')
        )
    });
    if let Some(note) = &note {
        Progress::images("demo", 0).note(note);
    }
    let mut evaluations = evaluate_shown(
        &backbone,
        &data,
        &contestants(backbone.encoder.as_ref())?,
        &RunOptions::default(),
    )?;
    let context = if note.is_some() {
        for evaluation in &mut evaluations {
            evaluation.data = DRAWN_NAME.to_owned();
        }
        let title = "Anomalens demo: drawn defects on generated textures, not real ones";
        context(title.to_owned(), &backbone, DRAWN_NAME)
    } else {
        let title = "Anomalens demo: defective solar cells".to_owned();
        context(title, &backbone, DATA)
    };
    write_report(&report, &evaluations, &context)?;
    if args.json {
        print_line(json!({
            "backbone": backbone.name,
            "note": note,
            "results": evaluations.iter().map(brief).collect::<Vec<_>>(),
            "report": report,
        }))?;
    } else {
        print_line(table::evaluations(&evaluations))?;
        if let Some(note) = &note {
            print_line(note)?;
        } else if let Some(published) = table::published(DATA) {
            print_line(published)?;
        }
        if note.is_none() && !args.full {
            print_line("every second test image was scored; `anomalens demo --full` scores all")?;
        }
        print_line(format!("report: {}", report.display()))?;
    }
    warn_of_failures(&evaluations);
    Ok(End::Done)
}

/// The images of solar cells, fetched if they are not here; every second of the test, or all.
fn solar_cells(all: bool) -> Result<DataSet> {
    let located = backbone::pull(&Store::from_env()?, Registry::builtin().find(DATA)?)?;
    let reference = format!("{DATA}:{}", located.path.display());
    let mut data = DataSet::open(&reference.parse::<DataRef>()?)?;
    if !all {
        keep_some(&mut data);
    }
    Ok(data)
}

/// Leaves every second test image in `data`, and all training images.
fn keep_some(data: &mut DataSet) {
    let mut tests = 0..;
    data.samples.retain(|sample| {
        sample.split == Split::Train || tests.next().is_some_and(|i: usize| i.is_multiple_of(STEP))
    });
}

/// Two and eight shots, and none at all.
fn contestants(encoder: &dyn ImageEncoder) -> Result<Vec<Contestant<'static>>> {
    let few_shot = few_shot_default(encoder)?;
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
