//! `anomalens demo`: from images to a report, on real solar cells or, where these cannot be fetched,
//! on synthetic defects.

use std::path::PathBuf;

use anomalens::backbones::weights::{Registry, Store};
use anomalens::backbones::{Backbone, DEFAULT_WEIGHTS};
use anomalens::datasets::{DataRef, DataSet, Sample, Split};
use anomalens::detectors::methods::lens::Evidence;
use anomalens::detectors::{DEFAULT_METHOD, MethodSettings, find as find_method};
use anomalens::evaluation::{Candidate, Evaluation, RunOptions};
use anomalens::report::write_report;
use anyhow::{Context, Result, bail};
use serde_json::json;

use super::eval::{brief, context, evaluate_shown, warn_of_failures};
use super::progress::{Progress, catch_interrupts, interrupted};
use super::{End, backbone, data, print_json, print_line, sentence, table};

/// The data set of the demo, in the registry and as a layout.
const DATA: &str = "elpv";

/// The set of the demo where that is unavailable, and its name in results.
const SYNTHETIC: &str = "synthetic:textures,seed=1,materials=3,images=8,side=224";
const SYNTHETIC_NAME: &str = "synthetic defects";

/// Normal images that the few-shot detectors are given.
const SHOTS: [usize; 2] = [2, 8];

/// Seed of their choice.
const SEED: u32 = 0;

/// Of the test images every second one is scored, so that the demo takes about two minutes on two
/// cores.
const STEP: usize = 2;

/// Images of which the results are shown first.
const FIRST: usize = 100;

/// Show all steps on real solar-cell images; nothing else is needed
///
/// Fetches the ELPV data set (90 MB, once), finds defective solar cells with two and with eight
/// normal cells as reference and with none at all, prints how well that went, and writes a report
/// to look at. The results of 100 images come first, then those of all. Ctrl-C ends it with a report
/// of what was scored. Where the data set is unavailable, it uses synthetic defects on generated
/// textures.
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
    let backbone = args.backbone.open_or(DEFAULT_WEIGHTS)?;
    let (mut data, unavailable) = match solar_cells(args.full) {
        Ok(data) => (data, None),
        Err(error) => (SYNTHETIC.parse::<data::Reference>()?.open()?, Some(error)),
    };
    // Until here Ctrl-C ends the program at once; what was fetched is kept.
    catch_interrupts();
    data.samples = mixed(data.samples);
    let note = unavailable.map(|error| {
        // What follows lists the sources that were tried.
        let reason = sentence(&error);
        let reason = reason.lines().next().unwrap_or_default();
        format!(
            "The solar-cell images are unavailable: {}. This run uses synthetic defects on generated \
             textures instead: it shows how the program works, and its figures say little about real \
             defects. `anomalens models pull {DATA}` says more.",
            reason.trim_end_matches(':')
        )
    });
    if let Some(note) = &note {
        Progress::images("demo", 0).note(note);
    }
    let demo = Demo {
        args,
        backbone: &backbone,
        note,
        report: args.output.join("report.html"),
        images: tests(&data.samples),
    };
    let options = RunOptions {
        partial: true,
        ..RunOptions::default()
    };
    let candidates = candidates()?;
    let evaluate = |data: &DataSet| evaluate_shown(&backbone, data, &candidates, &options);
    let mut evaluations = vec![];
    if demo.images > FIRST {
        evaluations = evaluate(&first(&data, FIRST))?;
        if !interrupted() {
            demo.show(&mut evaluations, false)?;
        }
    }
    if !interrupted() {
        let all = evaluate(&data)?;
        // A run that was interrupted early has less than the first images gave.
        evaluations = match evaluations.is_empty() {
            true => all,
            false => evaluations.into_iter().zip(all).map(larger).collect(),
        };
    }
    if evaluations.iter().all(|e| e.images + e.failed == 0) {
        bail!("interrupted before the first image was scored; no report was written");
    }
    demo.show(&mut evaluations, true)?;
    warn_of_failures(&evaluations);
    Ok(match interrupted() {
        true => End::Incomplete,
        false => End::Done,
    })
}

/// What the results are shown with.
struct Demo<'a> {
    args: &'a Args,
    backbone: &'a Backbone,
    /// Why the images are not those of solar cells.
    note: Option<String>,
    report: PathBuf,
    /// Images to be scored.
    images: usize,
}

impl Demo<'_> {
    /// Writes the report and prints the results; JSON for all images only.
    fn show(&self, evaluations: &mut [Evaluation], last: bool) -> Result<()> {
        let (title, data) = match self.note {
            None => ("Anomalens demo: defective solar cells", DATA),
            Some(_) => (
                "Anomalens demo: synthetic defects on generated textures, not real ones",
                SYNTHETIC_NAME,
            ),
        };
        for evaluation in evaluations.iter_mut() {
            evaluation.data = data.to_owned();
        }
        let scored = evaluations.iter().map(|e| e.images + e.failed);
        let part = scored.min().filter(|scored| *scored < self.images);
        let part = part.map(|scored| match interrupted() {
            true => format!(
                "Interrupted: at least {scored} of {} images are scored.",
                self.images
            ),
            false => format!("First results: {scored} of {} images.", self.images),
        });
        let mut context = context(title.to_owned(), self.backbone, (data, 1));
        context.heading.notes = self.note.iter().chain(&part).cloned().collect();
        write_report(&self.report, evaluations, &context)?;
        if self.args.json {
            if last {
                print_json(json!({
                    "backbone": self.backbone.name,
                    "note": self.note,
                    "interrupted": interrupted(),
                    "results": evaluations.iter().map(brief).collect::<Vec<_>>(),
                    "report": self.report,
                }))?;
            }
            return Ok(());
        }
        print_line(table::evaluations(evaluations))?;
        if last {
            let published = table::published(data, 1);
            for text in self.note.iter().chain(&published) {
                print_line(text)?;
            }
            if self.note.is_none() && !self.args.full {
                print_line(
                    "every second test image was scored; `anomalens demo --full` scores all",
                )?;
            }
        }
        if let Some(part) = part {
            print_line(part)?;
        }
        print_line(format!("report: {}", self.report.display()))
    }
}

/// The evaluation of more images.
fn larger((first, all): (Evaluation, Evaluation)) -> Evaluation {
    if all.images < first.images {
        first
    } else {
        all
    }
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

/// The number of test images.
fn tests(samples: &[Sample]) -> usize {
    let tests = samples.iter().filter(|sample| sample.split == Split::Test);
    tests.count()
}

/// Puts the test images into an order in which the first of any number are taken evenly from all.
fn mixed(samples: Vec<Sample>) -> Vec<Sample> {
    let is_train = |sample: &Sample| sample.split == Split::Train;
    let (train, test): (Vec<_>, Vec<_>) = samples.into_iter().partition(is_train);
    // Steps of the golden ratio spread evenly however many there are.
    let mut test: Vec<_> = (0_u64..).zip(test).collect();
    test.sort_by_key(|(index, _)| index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let test = test.into_iter().map(|(_, sample)| sample);
    train.into_iter().chain(test).collect()
}

/// `data` with `count` of its test images.
fn first(data: &DataSet, count: usize) -> DataSet {
    let mut data = data.clone();
    let mut taken = 0;
    data.samples.retain(|sample| {
        taken += usize::from(sample.split == Split::Test);
        sample.split == Split::Train || taken <= count
    });
    data
}

/// Two and eight normal images as reference, and none: the images score each other.
fn candidates() -> Result<Vec<Candidate<'static>>> {
    let method = find_method(DEFAULT_METHOD)?;
    let candidate = |options, shots| Candidate::Method {
        method,
        options,
        trained: None,
        shots,
        seed: SEED,
    };
    let few = SHOTS.map(|shots| candidate(MethodSettings::new(), shots));
    let batch = candidate(Evidence::Batch.settings(), 0);
    Ok(few.into_iter().chain([batch]).collect())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anomalens::datasets::{Label, MaskSource};

    use super::*;

    #[test]
    fn the_first_images_are_a_fair_part_of_all() {
        let sample = |i: usize, split| Sample {
            id: i.to_string(),
            image: PathBuf::new(),
            crop: None,
            label: Label::Normal,
            defect_type: String::new(),
            class: String::new(),
            split,
            mask: MaskSource::Unknown,
        };
        let train = (0..5).map(|i| sample(i, Split::Train));
        let samples = mixed(
            train
                .chain((0..600).map(|i| sample(i, Split::Test)))
                .collect(),
        );
        assert_eq!(tests(&samples), 600);
        let ids: Vec<usize> = samples.iter().map(|s| s.id.parse().unwrap()).collect();
        assert_eq!(
            ids[..5],
            [0, 1, 2, 3, 4],
            "reference images are drawn as before"
        );
        for count in [20, FIRST, 300] {
            let half = ids[5..5 + count].iter().filter(|id| **id < 300).count();
            assert!(half.abs_diff(count / 2) <= 2, "{half} of {count}");
        }
    }
}
