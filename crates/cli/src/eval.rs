//! `anomalens eval`: metrics of a method or detector on a labelled data set, and the report.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anomalens::backbones::Backbone;
use anomalens::benchmark::Spread;
use anomalens::datasets::{DataSet, Sample, few_shot, read_shots, write_shots};
use anomalens::detectors::{
    Calibration, DEFAULT_METHOD, DetectorFile, Need, StreamOptions, find as find_method,
};
use anomalens::evaluation::published;
use anomalens::evaluation::{
    Candidate, Decisions, Evaluation, Fold, Resolution, RunOptions, evaluate,
};
use anomalens::report::{Heading, ReportContext, write_report};
use anomalens::vision::DecodeOptions;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::progress::{Progress, catch_interrupts, interrupted};
use super::{
    End, backbone, calibrate, command_line, data, decode, now, print_line, print_note, settings,
    table,
};

/// Measure a method or detector on a labelled data set
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    anomalens eval --shots 2,4,8 --seed 0,1,2 --data elpv:DIR --report r.html")]
pub(super) struct Args {
    /// The labelled data set; `anomalens data list` shows the layouts. With `,mask-threshold=N` at the
    /// end, only mask values above N count as defect
    #[arg(long, value_name = "LAYOUT:PATH")]
    data: data::Reference,
    /// Measure only this class (repeatable) [default: all]
    #[arg(long, value_name = "NAME")]
    class: Vec<String>,
    /// The method, or several separated by commas, which get the same normal images
    #[arg(
        long,
        value_name = "METHOD",
        value_delimiter = ',',
        default_value = DEFAULT_METHOD
    )]
    method: Vec<String>,
    /// A detector file made by `anomalens fit`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "shots", "seed", "settings", "trained"])]
    detector: Option<PathBuf>,
    /// Number of normal images for methods that use them; several numbers separated by commas make
    /// several runs
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "2")]
    shots: Vec<usize>,
    /// Seed by which they are chosen; several make several runs
    #[arg(long, value_name = "SEED", value_delimiter = ',', default_value = "0")]
    seed: Vec<u32>,
    /// Use the normal images listed in this file, one id per line, instead of choosing them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["detector", "shots", "seed"])]
    shots_list: Option<PathBuf>,
    /// Write the ids of the chosen normal images to this file, for `--shots-list`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["detector", "shots_list"])]
    save_shots: Option<PathBuf>,
    /// Score the training images too, for methods that need no normal images
    #[arg(long)]
    whole: bool,
    /// Score part K of N equal parts of the test images, such as the part that training left out
    #[arg(long, value_name = "K/N", conflicts_with = "whole")]
    only: Option<Fold>,
    /// Side of the square at which pixel metrics are computed, in pixels, or `original` for the size
    /// of each mask
    #[arg(long, value_name = "PIXELS|original", default_value_t)]
    resolution: Resolution,
    /// Compute AUPIMO too: overlap per image at false-positive rates of 1e-5 to 1e-4
    #[arg(long)]
    aupimo: bool,
    /// Report the metrics of each defect type, and how much of each region is found
    #[arg(long)]
    breakdown: bool,
    /// Show the published figures of this data set, where the layout does not say which it is: mpdd,
    /// btad, ...
    #[arg(long, value_name = "NAME")]
    published: Option<String>,
    /// Write a report to this HTML file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    settings: settings::Args,
    #[command(flatten)]
    decode: decode::Args,
    #[command(flatten)]
    backbone: backbone::Args,
    /// Print each run as a line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<End> {
    let mut data = args.data.open()?;
    for class in &args.class {
        data.class(class)?;
    }
    data.classes
        .retain(|class| args.class.is_empty() || args.class.contains(class));
    let name = published_name(args.published.as_deref(), data.layout.name)?;
    let saved = args
        .detector
        .as_deref()
        .map(DetectorFile::load)
        .transpose()?;
    let candidates = match &saved {
        Some(file) => vec![Candidate::Ready(file.detector.as_ref())],
        None => candidates(args, &data)?,
    };
    let backbone = match &saved {
        Some(file) => args.backbone.open_for(file)?,
        None => {
            let methods = candidates.iter().filter_map(|candidate| match candidate {
                Candidate::Method { method, .. } => Some(*method),
                Candidate::Ready(_) => None,
            });
            args.settings.open(&args.backbone, methods)?
        }
    };
    let decode = match &saved {
        Some(file) => args.decode.options_for(file)?,
        None => args.decode.options(),
    };
    let options = RunOptions {
        resolution: args.resolution,
        aupimo: args.aupimo,
        breakdown: args.breakdown,
        whole: args.whole,
        only: args.only,
        listed_shots: args
            .shots_list
            .as_deref()
            .map(|path| {
                let shots = read_shots(path, &data)?;
                Ok::<_, anyhow::Error>(shots.iter().map(|shot| shot.id.clone()).collect())
            })
            .transpose()?,
        stream: StreamOptions {
            decode,
            ..StreamOptions::default()
        },
        ..RunOptions::default()
    };
    let evaluations = evaluate_shown(&backbone, &data, &candidates, &options)?;
    decode::print_notes(&options.stream.notes);
    let calibration = saved.as_ref().and_then(|file| file.calibration.as_ref());
    let decisions = calibration
        .map(|calibration| decisions(&evaluations, calibration))
        .unwrap_or_default();
    let count = data.classes.len();
    if let Some(path) = &args.report {
        let title = title(&data);
        let losses = saved.as_ref().map(|file| file.provenance.losses.clone());
        let context = ReportContext {
            losses: losses.unwrap_or_default(),
            calibration: calibration.cloned(),
            decode,
            ..context(title, &backbone, (name, count))
        };
        write_report(path, &evaluations, &context)?;
    }
    if args.json {
        for evaluation in &evaluations {
            let mut line = serde_json::to_value(evaluation)?;
            line["backbone"] = json!(backbone.name);
            line["report"] = json!(args.report);
            if let Some(calibration) = calibration {
                line["calibration"] = json!(calibration);
                line["decisions"] = json!(decisions);
            }
            line["published"] = json!(published::comparable(name, count).collect::<Vec<_>>());
            print_line(line)?;
        }
    } else {
        print_line(table::evaluations(&evaluations))?;
        for line in spreads(&evaluations) {
            print_line(line)?;
        }
        for decided in &decisions {
            print_line(decision_line(decided, decisions.len() > 1))?;
        }
        for evaluation in &evaluations {
            if let Some(types) = table::defect_types(evaluation) {
                print_line(format!("\n{types}"))?;
            }
        }
        let classes = match evaluations.as_slice() {
            [only] if published::class_count(name).unwrap_or(count) > 1 => {
                Some(table::classes(only, name))
            }
            _ => None,
        };
        for text in classes.into_iter().chain(table::published(name, count)) {
            print_line(format!("\n{text}"))?;
        }
        if let Some(path) = &args.report {
            print_line(format!("report: {}", path.display()))?;
        }
    }
    warn_of_failures(&evaluations);
    let whole = evaluations.iter().all(|evaluation| evaluation.failed == 0);
    Ok(if whole { End::Done } else { End::Incomplete })
}

/// What the calibrated detector decided on each class that has scores.
fn decisions(evaluations: &[Evaluation], calibration: &Calibration) -> Vec<Decisions> {
    let classes = evaluations
        .iter()
        .flat_map(|evaluation| &evaluation.classes);
    let decided = classes.map(|class| Decisions::of(class, calibration));
    decided.filter_map(Result::ok).collect()
}

/// Decisions and probabilities of a class in words.
fn decision_line(decided: &Decisions, with_class: bool) -> String {
    let class = match with_class {
        true => format!("{}, ", decided.class),
        false => String::new(),
    };
    let reliability = decided.reliability.as_ref().map(|reliability| {
        format!(
            "; Brier score {:.3}, calibration error {:.3}",
            reliability.brier, reliability.expected_error
        )
    });
    format!(
        "{class}decisions: {}{}",
        calibrate::decisions(&decided.confusion),
        reliability.unwrap_or_default()
    )
}

/// The name under which figures are published for the data: the one `given`, or the layout's.
fn published_name<'a>(given: Option<&'a str>, layout: &'a str) -> Result<&'a str> {
    let Some(name) = given else {
        return Ok(layout);
    };
    let known = published::data_sets();
    if !known.contains(&name) {
        bail!(
            "no figures are stored for `{name}`; they are for {}",
            known.join(", ")
        );
    }
    Ok(name)
}

/// A candidate for every number of shots and every seed, or one for a list of shots.
fn candidates(args: &Args, data: &DataSet) -> Result<Vec<Candidate<'static>>> {
    let of = args
        .method
        .iter()
        .map(|name| contestants_of(name, args, data));
    Ok(of
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

fn contestants_of(name: &str, args: &Args, data: &DataSet) -> Result<Vec<Candidate<'static>>> {
    let method = find_method(name)?;
    let info = method.info();
    let options = args.settings.options()?;
    // Of several methods, it is meant for those that are trained.
    let trained = args.settings.trained()?.map(Path::to_owned);
    let trained = trained.filter(|_| method.trainer().is_some() || args.method.len() == 1);
    let one = |shots, seed| Candidate::Method {
        method,
        options: options.clone(),
        trained: trained.clone(),
        shots,
        seed,
    };
    let references = method.requirements(&options).references;
    if references == Need::No || (args.shots == [0] && references == Need::Optional) {
        return Ok(vec![one(0, 0)]);
    }
    if args.whole {
        bail!(
            "{} draws its normal images from the training images: leave --whole out",
            info.name
        );
    }
    if args.shots.contains(&0) && references == Need::Required {
        bail!(
            "{} needs at least one normal image: --shots 1 or more",
            info.name
        );
    }
    if let Some(path) = &args.shots_list {
        let listed = read_shots(path, data)?;
        let of = |class: &&String| listed.iter().filter(|shot| shot.class == **class).count();
        let least = data
            .classes
            .iter()
            .min_by_key(of)
            .map_or(0, |class| of(&class));
        if least == 0 {
            bail!("{} names no normal image of some class", path.display());
        }
        return Ok(vec![one(least, 0)]);
    }
    if let Some(path) = &args.save_shots {
        let ([shots], [seed]) = (args.shots.as_slice(), args.seed.as_slice()) else {
            bail!("--save-shots keeps one draw: give one number with --shots and one with --seed");
        };
        let mut drawn: Vec<&Sample> = vec![];
        for class in &data.classes {
            let normals: Vec<&Sample> = data.train_normals(class).collect();
            drawn.extend(few_shot(&normals, *shots, *seed)?);
        }
        write_shots(path, &drawn)?;
    }
    Ok(args
        .shots
        .iter()
        .flat_map(|&shots| args.seed.iter().map(move |&seed| (shots, seed)))
        .map(|(shots, seed)| one(shots, seed))
        .collect())
}

/// Evaluates under a progress bar; Ctrl-C ends it.
pub(super) fn evaluate_shown(
    backbone: &Backbone,
    data: &DataSet,
    candidates: &[Candidate],
    options: &RunOptions,
) -> Result<Vec<Evaluation>> {
    catch_interrupts();
    let mut methods: Vec<&str> = candidates.iter().map(Candidate::name).collect();
    methods.dedup();
    let name = format!("{} on {}", methods.join(", "), data.layout.name);
    let progress = Progress::images(&name, 0);
    let encoder = backbone.encoder.as_ref();
    let evaluations = evaluate(encoder, data, candidates, options, &mut |done, total| {
        progress.set(done as u64, Some(total as u64));
        if interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    progress.finish();
    evaluations?.context("interrupted; an evaluation has no partial result")
}

/// The title of a report: which folder, read as which layout.
fn title(data: &DataSet) -> String {
    let root = std::path::absolute(&data.root);
    let root = root.as_deref().unwrap_or(&data.root);
    let folder = root.file_name().unwrap_or(root.as_os_str());
    let (folder, layout) = (folder.to_string_lossy(), data.layout.name);
    if folder == layout {
        format!("Anomalens on {layout}")
    } else {
        format!("Anomalens on {folder} ({layout})")
    }
}

/// What the report says besides the evaluations of so many classes of `data`.
pub(super) fn context(
    title: String,
    backbone: &Backbone,
    (data, classes): (&str, usize),
) -> ReportContext {
    ReportContext {
        heading: Heading {
            title,
            command: command_line(),
            date: now(),
            program: format!("anomalens {}", env!("CARGO_PKG_VERSION")),
            backbone: format!("{} ({})", backbone.name, backbone.encoder.spec().name),
            notes: vec![],
        },
        backbone_sha256: backbone.sha256.to_string(),
        published: published::comparable(data, classes).cloned().collect(),
        losses: vec![],
        calibration: None,
        decode: DecodeOptions::default(),
    }
}

/// Mean and standard deviation over the seeds, a line for each number of shots with several.
fn spreads(evaluations: &[Evaluation]) -> Vec<String> {
    let mut kinds: Vec<(&str, Option<usize>)> = evaluations
        .iter()
        .map(|e| (e.method.as_str(), e.shots))
        .collect();
    kinds.dedup();
    let line = |(method, shots): (&str, Option<usize>)| {
        let same = |e: &&Evaluation| (e.method.as_str(), e.shots) == (method, shots);
        let runs: Vec<&Evaluation> = evaluations.iter().filter(same).collect();
        let spread = |name: &str, metric: fn(&Evaluation) -> Option<f64>| {
            let values: Option<Vec<f64>> = runs.iter().map(|run| metric(run)).collect();
            let Spread { mean, deviation } = Spread::of(&values?)?;
            Some(format!("{name} {mean:.3} ± {:.3}", deviation?))
        };
        let parts: Vec<String> = [
            spread("image AUROC", |e| e.metrics.image_auroc),
            spread("image AP", |e| e.metrics.image_ap),
            spread("pixel AUROC", |e| e.metrics.pixel_auroc),
            spread("AUPRO", |e| e.metrics.aupro),
        ]
        .into_iter()
        .flatten()
        .collect();
        let shots = shots?;
        (!parts.is_empty()).then(|| {
            let (seeds, parts) = (runs.len(), parts.join(", "));
            format!("{method}, {shots} shots, {seeds} seeds: {parts}")
        })
    };
    kinds.into_iter().filter_map(line).collect()
}

/// Reports on standard error which images could not be used.
pub(super) fn warn_of_failures(evaluations: &[Evaluation]) {
    let Some(first) = evaluations.first() else {
        return;
    };
    for class in &first.classes {
        for record in &class.images {
            if let Err(reason) = &record.prediction {
                let reason = decode::with_option(reason);
                print_note(format!("not scored: {}: {reason}", record.sample.id));
            }
        }
        for reason in &class.undefined {
            print_note(format!("{}: {reason}", class.class));
        }
    }
}

/// An evaluation as `demo` prints it.
pub(super) fn brief(evaluation: &Evaluation) -> Value {
    json!({
        "data": evaluation.data,
        "method": evaluation.method,
        "shots": evaluation.shots,
        "seed": evaluation.seed,
        "image_auroc": evaluation.metrics.image_auroc,
        "image_ap": evaluation.metrics.image_ap,
        "images": evaluation.images,
        "seconds": evaluation.seconds,
    })
}
