//! `anomalens bench ablation`: variants of a trained method, learned on the same images and measured
//! on the same data.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anomalens::base::write_atomic;
use anomalens::benchmark::ablation::{Ablation, AblationEvent, tables};
use anomalens::benchmark::suite as find_suite;
use anomalens::datasets::DataSet;
use anomalens::detectors::training::{TrainOptions, TrainingSample};
use anomalens::detectors::{Method, MethodSettings, Variant, find as find_method};
use anomalens::evaluation::{Fold, Resolution, RunOptions, Table, training_samples};
use anyhow::{Context, Result, bail};
use serde_json::json;

use super::suite;
use crate::data::Reference;
use crate::progress::{Progress, catch_interrupts, interrupted};
use crate::train::{CacheArg, Shown};
use crate::{End, backbone, command_line, print_json, print_line, settings};

/// Train variants of a method and measure them on the same data
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    anomalens bench ablation --train magnetic-tile:DIR --test sdd:DIR -o ablation\n  \
    anomalens bench ablation --root DATA --weights ViT-L-14-336px.pt -o ablation\n\n\
    The folder gets results.jsonl, a line as soon as a variant is measured, and ablation.md. A run \
    that was interrupted resumes when the same command is given again.")]
pub(super) struct Args {
    /// The method
    #[arg(long, value_name = "METHOD", default_value = "anomalyclip")]
    method: String,
    /// Labelled data to train on (repeatable)
    #[arg(
        long,
        value_name = "LAYOUT:PATH",
        required_unless_present = "root",
        requires = "test"
    )]
    train: Vec<Reference>,
    /// Labelled data to measure on (repeatable)
    #[arg(
        long,
        value_name = "LAYOUT:PATH",
        required_unless_present = "root",
        requires = "train"
    )]
    test: Vec<Reference>,
    /// The folder that holds the paper's data sets, to train on each and measure on the others,
    /// instead of --train and --test
    #[arg(long, value_name = "DIR", conflicts_with_all = ["train", "test"])]
    root: Option<PathBuf>,
    /// Train on all but part K of N equal parts of each data set, and measure on that part
    #[arg(long, value_name = "K/N")]
    part: Option<Fold>,
    /// Only these variants [default: all of the method's]
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        conflicts_with = "grid"
    )]
    only: Vec<String>,
    /// Variants of your own: a JSON file with an object of settings for each name
    #[arg(long, value_name = "FILE")]
    grid: Option<PathBuf>,
    /// Passes over the data [default: the method's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    epochs: Option<u16>,
    /// Images per training step [default: the method's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// Seed of initial values and of the order of images
    #[arg(long, default_value_t = 111)]
    seed: u32,
    /// Where to keep the backbone's features; on disk, variants that need the same ones share them
    #[arg(long, value_enum, default_value_t = CacheArg::Disk)]
    cache: CacheArg,
    /// Side of the square at which pixel metrics are computed, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    resolution: u32,
    /// Where to write results and checkpoints
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    settings: settings::Args,
    #[command(flatten)]
    backbone: backbone::Args,
    /// Print each result as a line of JSON
    #[arg(long)]
    json: bool,
}

/// Data to learn from, data to measure on, and where results go.
struct Plan {
    train: Vec<Reference>,
    test: Vec<Reference>,
    folder: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<End> {
    for plan in plans(args)? {
        measure(args, &plan)?;
    }
    Ok(End::Done)
}

/// What is asked for: one plan, or one for each train_on of the suite, in a folder of its own.
fn plans(args: &Args) -> Result<Vec<Plan>> {
    let Some(root) = &args.root else {
        return Ok(vec![Plan {
            train: args.train.clone(),
            test: args.test.clone(),
            folder: args.output.clone(),
        }]);
    };
    let suite = find_suite("ablation")?;
    let (mut found, mut missing) = (vec![], vec![]);
    for &name in suite.data {
        match suite::below(root, name) {
            Ok(data) => found.push((name, Reference::Given(data))),
            Err(reason) => missing.push(suite::absent(name, &reason)),
        }
    }
    if !missing.is_empty() {
        // Each is learned from or measured on by the others.
        bail!("{}", missing.join("\n"));
    }
    let plan = |train_on: &str| {
        let (train, test): (Vec<_>, Vec<_>) = found
            .iter()
            .cloned()
            .partition(|(name, _)| *name == train_on);
        let data = |part: Vec<(&str, Reference)>| part.into_iter().map(|(_, data)| data).collect();
        Plan {
            train: data(train),
            test: data(test),
            folder: args.output.join(format!("from-{train_on}")),
        }
    };
    Ok(suite.train_on.map(plan).into())
}

fn measure(args: &Args, plan: &Plan) -> Result<()> {
    let method = find_method(&args.method)?;
    let mut samples: Vec<TrainingSample> = vec![];
    for data in &plan.train {
        let all = method.require_trainer()?.trains_on_all();
        samples.extend(training_samples(&data.open()?, args.part, all));
    }
    let opened = plan.test.iter().map(Reference::open);
    let opened = opened.collect::<Result<Vec<DataSet>>>()?;
    let layouts: Vec<&str> = opened.iter().map(|data| data.layout.name).collect();
    // Distinguished by their paths only where the layout does not do it.
    let name = |(layout, data): (&&str, &Reference)| match layouts
        .iter()
        .filter(|other| *other == layout)
        .count()
    {
        1 => (*layout).to_owned(),
        _ => data.to_string(),
    };
    let names: Vec<String> = layouts.iter().zip(&plan.test).map(name).collect();
    let tests: Vec<(String, DataSet)> = names.into_iter().zip(opened).collect();
    let settings = args.settings.options()?;
    let backbone = args.backbone.open_for_methods([method])?;
    let variants = variants(args, method, backbone.encoder.as_ref())?;
    let identity = json!({
        "method": method.info().name,
        "settings": settings,
        "start": args.settings.trained()?,
        "backbone": backbone::identity(&backbone),
        "train": plan.train.iter().map(Reference::to_string).collect::<Vec<_>>(),
        "test": plan.test.iter().map(Reference::to_string).collect::<Vec<_>>(),
        "part": args.part.map(|part| part.to_string()),
        "epochs": args.epochs,
        "batch": args.batch,
        "seed": args.seed,
        "resolution": args.resolution,
    });
    let ablation = Ablation {
        method,
        settings,
        variants,
        start: args.settings.trained()?.map(Path::to_owned),
        encoder: backbone.encoder.as_ref(),
        samples: &samples,
        tests: &tests,
        training: TrainOptions {
            epochs: args.epochs.map(usize::from),
            batch: args.batch.map(usize::from),
            seed: args.seed,
            cache: args.cache.into(),
            backbone: backbone::identity(&backbone),
            ..TrainOptions::default()
        },
        measuring: RunOptions {
            resolution: Resolution::Square(args.resolution),
            only: args.part,
            ..RunOptions::default()
        },
        folder: plan.folder.clone(),
    };
    catch_interrupts();
    let mut training: Option<(String, Shown)> = None;
    let mut measuring: Option<(String, Progress)> = None;
    let records = ablation
        .run(&identity, &mut |event| match event {
            AblationEvent::Training(variant, event) => {
                if training.as_ref().is_none_or(|(name, _)| name != variant) {
                    training = Some((variant.to_owned(), Shown::new(variant, samples.len())));
                }
                let shown = training.as_mut().map(|(_, shown)| shown.take(event));
                shown.unwrap_or(ControlFlow::Continue(()))
            }
            AblationEvent::Measuring(data, done, total) => {
                if measuring.as_ref().is_none_or(|(name, _)| name != data) {
                    let bar = Progress::images(&format!("{} on {data}", method.info().name), total);
                    measuring = Some((data.to_owned(), bar));
                }
                if let Some((_, bar)) = &measuring {
                    bar.set(done as u64, Some(total as u64));
                }
                if interrupted() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            }
        })
        .map_err(super::with_advice)?;
    let records = records.context("interrupted; the same command resumes there")?;
    let tables: Vec<String> = tables(&records).iter().map(Table::markdown).collect();
    let tables = tables.join("\n");
    let text = format!(
        "# Variants of {}\n\nBackbone: {}; {} training images.\n\n    {}\n\n{tables}",
        method.info().name,
        backbone.name,
        samples.len(),
        command_line(),
    );
    let path = plan.folder.join("ablation.md");
    write_atomic(&path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    if args.json {
        for record in &records {
            print_json(record)?;
        }
    } else {
        print_line(tables)?;
        print_line(format!("table: {}", path.display()))?;
    }
    Ok(())
}

/// The variants that are asked for.
fn variants(
    args: &Args,
    method: &dyn Method,
    encoder: &dyn anomalens::backbones::ImageEncoder,
) -> Result<Vec<Variant>> {
    if let Some(path) = &args.grid {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let grid: std::collections::BTreeMap<String, MethodSettings> = serde_json::from_str(&text)
            .with_context(|| {
                format!(
                    "{} is not an object of settings for each name",
                    path.display()
                )
            })?;
        let variants = grid.into_iter();
        return Ok(variants
            .map(|(name, settings)| Variant { name, settings })
            .collect());
    }
    let mut variants = method.require_trainer()?.variants(encoder)?;
    let known: Vec<String> = variants.iter().map(|v| v.name.clone()).collect();
    if let Some(name) = args.only.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no variant `{name}`; there are {}",
            known.join(", ")
        );
    }
    if !args.only.is_empty() {
        variants.retain(|variant| args.only.contains(&variant.name));
    }
    Ok(variants)
}
