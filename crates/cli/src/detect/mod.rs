//! `anomalens detect`: scores images and writes results, heat maps and overlays.
//!
//! ```text
//! detector.rs  which detector
//! plan.rs      which images, and which of their results are still true
//! writer.rs    pictures, maps and records as images are scored
//! page.rs      the page of `--report`
//! summary.rs   what is printed at the end
//! ```

mod detector;
mod page;
mod plan;
mod summary;
mod writer;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anomalens::detectors::{
    Calibration, DEFAULT_METHOD, DetectorFile, ImageSource, StreamOptions, predict,
};
use anomalens::evaluation::picture::LONGER_SIDE;
use anomalens::evaluation::{ResultFolder, ResultsError, write_table};
use anyhow::{Context, Result, anyhow, bail};

use crate::images::{self, Listing};
use crate::progress::{Progress, catch_interrupts, interrupted};
use crate::{End, backbone, decode, settings};
use plan::Plan;
use writer::Writer;

/// Score images and write heat maps
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    anomalens detect photos/                          no reference: each photo by itself\n  \
    anomalens detect photos/ --set evidence=batch     many photos of one thing score each other\n  \
    anomalens detect photos/ --normal good/           a few normal images of the same thing\n  \
    anomalens detect photos/ --detector bolts.detector\n  \
    find . -name '*.png' | anomalens detect -         names on standard input")]
pub(crate) struct Args {
    /// Images, or folders of images; `-` reads their names from standard input
    #[arg(required_unless_present = "list", value_name = "IMAGES|DIR")]
    images: Vec<PathBuf>,
    /// A file with the name of an image or folder on each line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// A detector file made by `anomalens fit`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "normal", "settings", "trained"])]
    detector: Option<PathBuf>,
    /// The method
    #[arg(long, value_name = "METHOD", default_value = DEFAULT_METHOD)]
    method: String,
    /// Normal images of the same class: files, folders, or patterns such as "good/*.png"
    #[arg(long, value_name = "PATH", num_args = 1..)]
    normal: Vec<PathBuf>,
    /// The class that the images show, for detectors that differ from class to class
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Call images anomalous whose score is at least this [default: the detector's calibration]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, value_parser = finite)]
    threshold: Option<f32>,
    /// Where to write results, heat maps and overlays
    #[arg(short, long, value_name = "DIR", default_value = "anomalens-results")]
    output: PathBuf,
    /// Score all images again, whatever the output folder holds
    #[arg(long)]
    fresh: bool,
    /// Write scores and regions only, no pictures
    #[arg(long)]
    no_pictures: bool,
    /// Colours of heat maps
    #[arg(long, value_enum, default_value_t = Colours::Inferno)]
    colours: Colours,
    /// Longer side of heat maps and overlays in pixels; those of larger images are reduced to it
    #[arg(long, value_name = "PIXELS", default_value_t = LONGER_SIDE,
          value_parser = clap::value_parser!(u32).range(16..=65_536))]
    max_side: u32,
    /// Write the anomaly maps as float32 at the size of the images
    #[arg(long, value_enum, value_name = "FORMAT")]
    maps: Option<MapFormat>,
    /// Write report.html: all images by score, with their pictures
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    settings: settings::Args,
    #[command(flatten)]
    decode: decode::Args,
    #[command(flatten)]
    backbone: backbone::Args,
    /// Print each result as a line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Colours {
    /// Perceptually uniform, black to yellow
    Inferno,
    /// Blue to red, as in most papers' figures
    Jet,
}

impl Colours {
    fn name(self) -> &'static str {
        match self {
            Self::Inferno => "inferno",
            Self::Jet => "jet",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum MapFormat {
    /// NumPy's format
    Npy,
    /// TIFF with one float32 channel
    Tiff,
}

impl MapFormat {
    fn ending(self) -> &'static str {
        match self {
            Self::Npy => "npy",
            Self::Tiff => "tiff",
        }
    }
}

fn finite(text: &str) -> Result<f32, String> {
    let number: Option<f32> = text.parse().ok();
    let finite = number.filter(|number| number.is_finite());
    finite.ok_or_else(|| format!("`{text}` is not a number"))
}

/// Where decisions come from.
enum Decide<'a> {
    /// There is no threshold.
    No,
    /// `--threshold`.
    At(f32),
    /// The detector's own calibration.
    Calibrated(&'a Calibration),
}

impl<'a> Decide<'a> {
    fn new(args: &Args, detector: &'a DetectorFile) -> Self {
        match (args.threshold, &detector.calibration) {
            (Some(threshold), _) => Self::At(threshold),
            (None, Some(calibration)) => Self::Calibrated(calibration),
            (None, None) => Self::No,
        }
    }

    /// The threshold, and where it comes from.
    fn threshold(&self) -> Option<(f32, String)> {
        match self {
            Self::No => None,
            Self::At(threshold) => Some((*threshold, "--threshold".to_owned())),
            Self::Calibrated(calibration) => {
                Some((calibration.threshold, calibration.rule.to_string()))
            }
        }
    }

    fn is_anomalous(&self, score: f32) -> Option<bool> {
        match self {
            Self::No => None,
            Self::At(threshold) => Some(score >= *threshold),
            Self::Calibrated(calibration) => Some(calibration.is_anomalous(score)),
        }
    }

    fn probability(&self, score: f32) -> Option<f64> {
        match self {
            Self::Calibrated(calibration) => calibration.probability(score),
            Self::No | Self::At(_) => None,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<End> {
    let listing = list_images(args)?;
    let (detector, backbone) = detector::detector(args, listing.files.len())?;
    let decode = args.decode.options_for(&detector)?;
    let decide = Decide::new(args, &detector);
    catch_interrupts();
    let mut folder = open_folder(args, &detector)?;
    let plan = Plan::new(args, &detector, &listing, &mut folder)?;
    let progress = Progress::images(
        &format!("scoring with {}", detector.detector.method()),
        listing.files.len(),
    );
    let done: HashSet<usize> = plan.done();
    if !done.is_empty() {
        progress.note(&format!(
            "{} of {} are done already",
            done.len(),
            listing.files.len()
        ));
    }
    for (path, error) in &listing.problems {
        folder.add(writer::failed(path, error.clone()))?;
    }
    let sources: Vec<ImageSource> = plan.images.iter().map(|i| i.path.clone().into()).collect();
    let mut writer = Writer::new(args, decode, &plan, &mut folder);
    let mut failure = None;
    let mut count = done.len();
    let outcome = predict(
        backbone.encoder.as_ref(),
        &[detector.detector.as_ref()],
        &sources,
        &done,
        &StreamOptions {
            decode,
            keep_pixels: true,
            ..StreamOptions::default()
        },
        &mut |outcome| {
            if done.contains(&outcome.image) {
                return ControlFlow::Continue(()); // Scored again only as a member of its group.
            }
            count += 1;
            progress.set(count as u64, None);
            if let Err(error) = writer.take(outcome) {
                failure = Some(error);
                return ControlFlow::Break(());
            }
            match interrupted() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        },
    );
    // What was scored is kept, whatever ended the run.
    let written = writer.flush();
    progress.finish();
    let finished = finish(&mut folder, &plan, &listing, &decide);
    outcome?;
    if let Some(error) = failure {
        return Err(error);
    }
    written?;
    finished?;
    if args.report {
        page::write(args, decode, &listing, &folder, &detector, &decide)?;
    }
    summary::print(args, &listing, &plan, &folder, &decide)
}

/// The images that the arguments name; results of earlier runs among them are left out.
fn list_images(args: &Args) -> Result<Listing> {
    let from_input = args.images.iter().any(|path| path == Path::new("-"));
    let mut paths: Vec<PathBuf> = args.images.clone();
    paths.retain(|path| path != Path::new("-"));
    if from_input {
        paths.extend(images::names_in(Path::new("-"))?);
    }
    if let Some(list) = &args.list {
        if from_input && list == Path::new("-") {
            bail!("standard input is named twice: leave out `-` or --list");
        }
        paths.extend(images::names_in(list)?);
    }
    if paths.is_empty() {
        bail!("the list names no image");
    }
    images::list(&paths, Some(&args.output))
}

/// The folder of results, emptied with `--fresh`.
fn open_folder(args: &Args, detector: &DetectorFile) -> Result<ResultFolder> {
    let identity = detector.identity();
    let opened = match args.fresh {
        true => ResultFolder::open_fresh(&args.output, &identity).map(|(folder, gone)| {
            plan::remove_pictures(&folder, &gone);
            folder
        }),
        false => ResultFolder::open(&args.output, &identity),
    };
    opened.map_err(|error| match error {
        ResultsError::OtherRun(_) => anyhow!(
            "{error}; choose another folder with --output, or replace what is there with --fresh"
        ),
        error => anyhow!("{error}; choose another folder with --output"),
    })
}

/// Brings the results to the present state: the images of this run in its order, decided by its
/// threshold.
fn finish(
    folder: &mut ResultFolder,
    plan: &Plan,
    listing: &Listing,
    decide: &Decide,
) -> Result<()> {
    folder.retain(&plan.keys(listing))?;
    folder.update(|record| {
        record.anomalous = record.score.and_then(|score| decide.is_anomalous(score));
        record.probability = record.score.and_then(|score| decide.probability(score));
    })?;
    write_table(folder)?;
    folder.finish()?;
    for record in folder.records() {
        for file in record.files() {
            let path = folder.root().join(file);
            path.metadata()
                .with_context(|| format!("{} was removed during the run", path.display()))?;
        }
    }
    Ok(())
}
