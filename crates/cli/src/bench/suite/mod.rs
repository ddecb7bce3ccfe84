//! `anomalens bench SUITE`: methods over the data sets of a paper, ours compared with the published
//! figures.
//!
//! ```text
//! data.rs      the data sets that are here, and what is reported of the others
//! networks.rs  which network each method sees images with, and what it has learned
//! features.rs  where features are kept
//! shown.rs     what is shown meanwhile
//! ```

mod data;
mod features;
mod networks;
mod shown;

use std::path::PathBuf;
use std::sync::Arc;

use anomalens::backbones::FeatureCache;
use anomalens::benchmark::{
    Bench, BenchResult, Cell, Entry, Suite, Written, suite, suites, write_tables,
};
use anomalens::detectors::training::{Cache, TrainOptions};
use anomalens::detectors::{Method, MethodSettings, find as find_method};
use anomalens::evaluation::{Fold, Resolution, RunOptions, Table};
use anomalens::report::Heading;
use anyhow::{Result, bail};
use clap::Parser;

use crate::data::Reference;
use crate::progress::catch_interrupts;
use crate::{
    End, backbone, command_line, fit, now, print_json, print_line, print_note, settings, table,
};
use data::{DataSets, train_on};
pub(super) use data::{absent, below};
use features::{feature_cache, tell_usage};
use shown::BenchShown;

/// Measure methods on the data sets of a paper, and compare them with the published figures
#[derive(Debug, Parser)]
#[command(
    bin_name = "anomalens bench",
    max_term_width = 100,
    after_help = "Examples:\n  \
    anomalens bench local --root DATA -o local\n  \
    anomalens bench anomalyclip-industrial --root DATA -o industrial\n  \
    anomalens bench local --data folder:bolts --method inctrl --shots 4 -o bolts\n\n\
    The folder gets results.jsonl, a line for each method, class, number of shots and seed as soon as \
    it is measured, and tables.md, tables.csv and tables.html. A run that was interrupted resumes \
    when the same command is given again; what is measured already is not measured again.\n\n\
    `--set METHOD.NAME=VALUE` changes a setting of one method, `--set NAME=VALUE` of all. Each method \
    has the backbone of its paper where none is named; `--weights METHOD=FILE` names it for one \
    method, `--weights FILE` for all, `--trained METHOD=FILE` what one has learned."
)]
pub(super) struct Args {
    /// The suite; `anomalens bench --list` shows them
    #[arg(value_parser = |name: &str| suite(name))]
    suite: &'static Suite,
    /// The folder that holds the data sets, each in a folder with the name of its layout or another
    /// usual name
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Use this data set instead of the suite's of the same layout, or in addition (repeatable)
    #[arg(long, value_name = "LAYOUT:PATH")]
    data: Vec<Reference>,
    /// The methods [default: the suite's]
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    method: Vec<String>,
    /// Number of normal images for methods that use them [default: the suite's]
    #[arg(long, value_name = "K", value_delimiter = ',',
          value_parser = clap::value_parser!(u32))]
    shots: Vec<u32>,
    /// Seeds by which they are chosen [default: the suite's]
    #[arg(long, value_name = "SEED", value_delimiter = ',')]
    seed: Vec<u32>,
    /// The data set that trained methods are trained on; a second one is used where the first is
    /// measured [default: the suite's]
    #[arg(long, value_name = "DATA")]
    train_on: Vec<String>,
    /// Passes over the training data [default: the method's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    epochs: Option<u16>,
    /// Score part K of N equal parts of the test images of each class
    #[arg(long, value_name = "K/N")]
    only: Option<Fold>,
    /// Side of the square at which pixel metrics are computed, in pixels, or `original` for the size
    /// of each mask [default: the suite's]
    #[arg(long, value_name = "PIXELS|original")]
    resolution: Option<Resolution>,
    /// Where to keep the backbone's features for other methods, seeds and runs, or `off`
    /// [default: `features` in the cache]
    #[arg(long, value_name = "DIR|off")]
    feature_cache: Option<String>,
    /// Largest size of that folder, in GB; the features not used for longest are deleted first
    #[arg(long, value_name = "GB", default_value_t = 20.0)]
    feature_cache_size: f64,
    /// Where to write results, tables and trained detectors
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    settings: settings::Args,
    #[command(flatten)]
    backbone: backbone::Args,
    /// Print each row of the tables as a line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs what stands after `bench`, a suite's name first.
pub(super) fn run(words: &[String]) -> Result<End> {
    let program = "anomalens bench".to_owned();
    let args = Args::try_parse_from([&program].into_iter().chain(words));
    measure(&args.unwrap_or_else(|error| error.exit()))
}

/// Shows every suite.
pub(super) fn list(json: bool) -> Result<End> {
    let mut rows = vec![];
    for suite in suites() {
        if json {
            print_json(suite)?;
        }
        rows.push(vec![
            suite.name.to_owned(),
            suite.summary.to_owned(),
            suite.data.join(", "),
        ]);
    }
    if !json {
        print_line(table::align(&["suite", "what", "data sets"], rows))?;
    }
    Ok(End::Done)
}

fn measure(args: &Args) -> Result<End> {
    let suite = args.suite;
    let (methods, train_on) = (methods(args)?, train_on(args)?);
    let cache = feature_cache(args)?;
    let learns = methods.iter().any(|method| method.trainer().is_some());
    let wanted: &[String] = if learns { &train_on } else { &[] };
    let DataSets {
        found,
        auxiliary,
        missing,
    } = DataSets::find(args, wanted)?;
    for note in &missing {
        print_note(note);
    }
    if found.is_empty() {
        bail!(
            "no data set of the suite is here: name their folder with --root, or one with --data"
        );
    }
    let (entries, mut notes) = entries(args, &methods, cache.as_ref())?;
    let backbones = networks::title(&entries);
    let unopened = notes.len();
    let bench = Bench {
        suite: suite.name,
        data: found,
        auxiliary,
        train_on,
        entries,
        training: TrainOptions {
            epochs: args.epochs.map(usize::from),
            seed: TRAINING_SEED,
            cache: Cache::Memory,
            ..TrainOptions::default()
        },
        measuring: RunOptions {
            resolution: args
                .resolution
                .unwrap_or(Resolution::Square(suite.resolution)),
            only: args.only,
            ..RunOptions::default()
        },
        provenance: fit::provenance(String::new()),
        folder: args.output.clone(),
    };
    catch_interrupts();
    let mut shown = BenchShown::default();
    let result = bench
        .run(&mut |event| shown.take(event))
        .map_err(super::with_advice)?;
    if let Some(cache) = &cache {
        tell_usage(cache);
    }
    if result.kept > 0 {
        let BenchResult { kept, cells, .. } = &result;
        print_note(format!(
            "{kept} of {} results were there already",
            cells.len()
        ));
    }
    notes.splice(0..0, missing);
    notes.extend(shown.failures);
    if result.stopped {
        notes.push("interrupted: some results are missing".to_owned());
    }
    let whole = unopened == 0;
    let end = report(args, backbones, notes, whole, &result)?;
    if result.stopped {
        bail!("interrupted; the tables hold what is there, and the same command resumes there");
    }
    Ok(end)
}

/// Seed of initial values and of the order of images in training, as in the papers' code.
const TRAINING_SEED: u32 = 111;

/// The methods that are asked for; settings must be of them.
fn methods(args: &Args) -> Result<Vec<&'static dyn Method>> {
    let (suite, all) = (args.suite, args.settings.options()?);
    let methods: Vec<&str> = match args.method.as_slice() {
        [] => suite.methods.to_vec(),
        given => given.iter().map(String::as_str).collect(),
    };
    let owned = |name: &str| name.split_once('.').map(|(method, _)| method.to_owned());
    for method in all.keys().filter_map(|name| owned(name)) {
        if !methods.contains(&method.as_str()) {
            bail!(
                "a setting is for `{method}`, which takes no part: {}",
                methods.join(", ")
            );
        }
    }
    let chosen = methods.iter().map(|name| find_method(name));
    Ok(chosen.collect::<Result<_, _>>()?)
}

/// `methods` with their networks, and which of them cannot take part, and why.
fn entries(
    args: &Args,
    methods: &[&'static dyn Method],
    cache: Option<&Arc<FeatureCache>>,
) -> Result<(Vec<Entry>, Vec<String>)> {
    let (suite, all) = (args.suite, args.settings.options()?);
    let trained = networks::by_method(args.settings.all_trained(), methods)?;
    let mut networks = networks::Networks::new(args, methods, cache)?;
    let mut notes = vec![];
    let mut entries = vec![];
    for (&method, trained) in methods.iter().zip(trained) {
        let name = method.info().name;
        let network = match networks.open(method, trained.as_deref()) {
            Ok(network) => network,
            Err(error) => {
                let note = format!("{name} takes no part: {error:#}");
                print_note(&note);
                notes.push(note);
                continue;
            }
        };
        let mut options = MethodSettings::new();
        for (setting, value) in &all {
            match setting.split_once('.') {
                Some((owner, setting)) if owner == name => {
                    options.insert(setting.to_owned(), value.clone());
                }
                Some(_) => {}
                None => {
                    options.insert(setting.clone(), value.clone());
                }
            }
        }
        entries.push(Entry {
            method,
            network,
            options,
            trained,
            shots: match args.shots.as_slice() {
                [] => suite.shots.to_vec(),
                given => given.iter().map(|&shots| shots as usize).collect(),
            },
            seeds: match args.seed.as_slice() {
                [] => suite.seeds.to_vec(),
                given => given.to_vec(),
            },
            tuned_on: None,
        });
    }
    if entries.is_empty() {
        bail!("no method can take part: {}", notes.join("; "));
    }
    if let Some(data) = suite.tuning {
        let tuned = entries.iter().filter(|entry| entry.tunes_on_masks());
        let tuned: Vec<Entry> = tuned
            .map(|entry| Entry {
                tuned_on: Some(data.to_owned()),
                ..entry.clone()
            })
            .collect();
        entries.extend(tuned);
    }
    Ok((entries, notes))
}

/// Writes the tables and prints them.
fn report(
    args: &Args,
    backbone: String,
    notes: Vec<String>,
    all_took_part: bool,
    result: &BenchResult,
) -> Result<End> {
    let heading = Heading {
        title: format!("Suite {}", args.suite.name),
        command: command_line(),
        date: now(),
        program: format!("anomalens {}", env!("CARGO_PKG_VERSION")),
        backbone,
        notes,
    };
    let Written {
        tables,
        lines,
        paths,
    } = write_tables(&args.output, &heading, result)?;
    if args.json {
        for line in &lines {
            print_json(line)?;
        }
    } else {
        for Table {
            title,
            columns,
            rows,
        } in tables
        {
            let titles: Vec<&str> = columns.iter().map(String::as_str).collect();
            let dash = |cell: String| {
                if cell.is_empty() {
                    "-".to_owned()
                } else {
                    cell
                }
            };
            let rows = rows
                .into_iter()
                .map(|row| row.into_iter().map(dash).collect());
            print_line(format!(
                "{title}\n{}\n",
                table::align(&titles, rows.collect())
            ))?;
        }
        for path in paths {
            print_line(format!("tables: {}", path.display()))?;
        }
    }
    let unread = |cell: &&Cell| cell.failed > 0;
    for Cell { name, failed, .. } in result.cells.iter().filter(unread) {
        print_note(format!(
            "{} on {}, {}: {failed} images have no score",
            name.method, name.data, name.class
        ));
    }
    let whole =
        all_took_part && result.failures == 0 && !result.cells.iter().any(|cell| cell.failed > 0);
    Ok(if whole { End::Done } else { End::Incomplete })
}
