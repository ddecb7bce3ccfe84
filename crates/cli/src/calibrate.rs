//! `anomalens calibrate`: the threshold of a detector's decisions, from images that it was not made
//! from.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anomalens::datasets::Sample;
use anomalens::detectors::{Calibration, DetectorFile, Need, StreamOptions, find as find_method};
use anomalens::evaluation::{Calibrated, Fold, Labelled, calibrate};
use anomalens::metrics::{BOUND_CONFIDENCE, Class, Confusion, Guarantee, Rule};
use anyhow::{Context, Result, bail};
use clap::ArgGroup;
use serde_json::json;

use super::fit::check_output;
use super::progress::{Progress, catch_interrupts, interrupted};
use super::{End, backbone, data, decode, images, now, print_json, print_line, print_note};

/// The rate that is kept where no rule is given and there are normal images alone: 19 of them are
/// enough.
const DEFAULT_RATE: f64 = 0.05;

/// Choose the threshold of a detector's decisions from images that it was not made from
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("images").required(true)))]
#[command(after_help = "Examples:\n  \
    anomalens calibrate --detector bolts.detector --normal more-good/ --rule fpr=0.01\n  \
    anomalens calibrate --detector bolts.detector --data folder:bolts/ --rule recall=0.95\n  \
    anomalens calibrate --detector bolts.detector --data folder:bolts/ --rule cost=20:1 -o line-3.detector")]
pub(super) struct Args {
    /// The detector file
    #[arg(long, value_name = "FILE")]
    detector: PathBuf,
    /// Labelled images: the test images of a data set
    #[arg(long, value_name = "LAYOUT:PATH", group = "images")]
    data: Option<data::Reference>,
    /// Use only this class (repeatable) [default: all]
    #[arg(long, value_name = "NAME", requires = "data")]
    class: Vec<String>,
    /// Use part K of N equal parts of each class, so that `eval --only` can measure another
    #[arg(long, value_name = "K/N", requires = "data")]
    only: Option<Fold>,
    /// Normal images that the detector was not made from: files, folders or patterns
    #[arg(long, value_name = "PATH", num_args = 1.., group = "images")]
    normal: Vec<PathBuf>,
    /// What the threshold is for: f1, fpr=RATE, recall=RATE or cost=MISS:ALARM [default: f1, or
    /// fpr=0.05 with --normal]
    #[arg(long)]
    rule: Option<Rule>,
    /// The detector file to write [default: the one given]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    decode: decode::Args,
    #[command(flatten)]
    backbone: backbone::Args,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<End> {
    let output = args.output.as_ref().unwrap_or(&args.detector);
    check_output(output)?;
    let mut file = DetectorFile::load(&args.detector)?;
    Calibration::require_possible(file.detector.as_ref())?;
    let (images, given) = labelled(args, &file)?;
    let rule = args.rule.unwrap_or(match args.data {
        Some(_) => Rule::F1,
        None => Rule::FalsePositiveRate(DEFAULT_RATE),
    });
    if args.data.is_none() && rule.needs_labels() {
        bail!("the rule {rule} needs labelled images: give them with --data, or choose fpr=RATE");
    }
    let backbone = args.backbone.open_for(&file)?;
    let stream = StreamOptions {
        decode: args.decode.options_for(&file)?,
        ..StreamOptions::default()
    };
    catch_interrupts();
    let progress = Progress::images(
        &format!("scoring with {}", file.detector.method()),
        images.sources.len(),
    );
    let calibrated = calibrate(
        backbone.encoder.as_ref(),
        file.detector.as_ref(),
        &images,
        rule,
        &stream,
        &mut |done, _| {
            progress.set(done as u64, None);
            match interrupted() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        },
    );
    progress.finish();
    decode::print_notes(&stream.notes);
    let calibrated = calibrated?.context("interrupted; the detector file is as it was")?;
    let anomalous = images.labels.iter().filter(|&&label| label).count();
    let calibration = Calibration {
        rule,
        threshold: calibrated.threshold.value,
        probability: calibrated.probability,
        normal: images.labels.len() - anomalous,
        anomalous,
        data: given,
        date: now(),
    };
    file.calibration = Some(calibration.clone());
    file.levels = stream.decode.levels;
    file.save(output)?;
    if args.json {
        print_json(json!({
            "detector": output,
            "calibration": calibration,
            "on_these_images": calibrated.confusion,
            "guarantee": calibrated.threshold.guarantee,
            "warnings": calibrated.warnings,
        }))?;
    } else {
        tell(&calibration, &calibrated)?;
        print_line(format!("written to {}", output.display()))?;
    }
    Ok(End::Done)
}

/// The images to calibrate with, and what was given to find them.
fn labelled(args: &Args, file: &DetectorFile) -> Result<(Labelled, String)> {
    let Some(reference) = &args.data else {
        let given: Vec<String> = args
            .normal
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        let given = given.join(" ");
        if file.provenance.data.trim_end_matches('/') == given.trim_end_matches('/') {
            bail!(
                "the detector was made from {given}, whose images score lower than others: give \
                 normal images that it has not seen"
            );
        }
        let files = images::find(&args.normal)?;
        let sources = files.into_iter().map(|file| file.path.into()).collect();
        return Ok((Labelled::normal(sources), given));
    };
    let data = reference.open()?;
    for class in &args.class {
        data.class(class)?;
    }
    let requirements = find_method(file.detector.method())?.info().requirements;
    let of_one =
        requirements.references == Need::Required || !file.detector.references().is_empty();
    if of_one && args.class.is_empty() && data.classes.len() > 1 {
        bail!(
            "the detector was made from normal images of one thing, and {reference} has {} classes: \
             choose with --class: {}",
            data.classes.len(),
            data.classes.join(", ")
        );
    }
    let wanted = |class: &&String| args.class.is_empty() || args.class.contains(class);
    let samples = data.classes.iter().filter(wanted).flat_map(|class| {
        let test = data.test(class).enumerate();
        let held = test.filter(|(index, _)| args.only.is_none_or(|fold| fold.holds(*index)));
        held.map(|(_, sample)| sample).collect::<Vec<&Sample>>()
    });
    Ok((Labelled::samples(samples), reference.to_string()))
}

/// Prints what was chosen and what it promises.
fn tell(calibration: &Calibration, calibrated: &Calibrated) -> Result<()> {
    let Calibration {
        rule,
        threshold,
        normal,
        anomalous,
        ..
    } = calibration;
    print_line(format!(
        "threshold {threshold} ({rule}), from {normal} normal and {anomalous} anomalous images"
    ))?;
    print_line(format!("on these: {}", decisions(&calibrated.confusion)))?;
    if let Some(guarantee) = &calibrated.threshold.guarantee {
        print_line(promise(guarantee))?;
    }
    if let Some(platt) = &calibration.probability {
        let half = -platt.offset / platt.slope;
        print_line(format!("probability one half at score {half:.4}"))?;
    }
    for warning in &calibrated.warnings {
        warn(warning);
    }
    Ok(())
}

/// Right and wrong decisions in words; a class without images is left out.
pub(super) fn decisions(confusion: &Confusion) -> String {
    let anomalous = confusion.true_positives + confusion.false_negatives;
    let normal = confusion.false_positives + confusion.true_negatives;
    let found = format!(
        "{} of {anomalous} anomalous images found",
        confusion.true_positives
    );
    let alarms = format!(
        "{} of {normal} normal ones called anomalous",
        confusion.false_positives
    );
    match (anomalous, normal) {
        (0, _) => format!(
            "{} of {normal} normal images called anomalous",
            confusion.false_positives
        ),
        (_, 0) => found,
        _ => format!("{found}, {alarms}"),
    }
}

/// What holds for later images.
fn promise(guarantee: &Guarantee) -> String {
    let what = match guarantee.class {
        Class::Normal => "normal images called anomalous",
        Class::Anomalous => "anomalous images missed",
    };
    let percent = |share: f64| format!("{:.2}%", 100.0 * share);
    format!(
        "on later ones: at most {} of {what} on average, at most {} with a probability of {:.0}%",
        percent(guarantee.expected),
        percent(guarantee.bound),
        100.0 * BOUND_CONFIDENCE
    )
}

fn warn(text: &str) {
    print_note(format!("warning: {text}"));
}
