//! `anomalens detect`: scores images and writes results, heat maps and overlays.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anomalens::backbones::Backbone;
use anomalens::detectors::{
    Calibration, Detector, DetectorError, DetectorFile, ImageSource, Needs, Outcome, Prediction,
    Scope, StreamOptions, few_shot_default, find as find_method, predict,
};
use anomalens::evaluation::picture::{Style, boxes, draw};
use anomalens::evaluation::{ResultFolder, ResultRecord};
use anomalens::vision::ColourMap;
use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::images::{self, ImageFile};
use super::progress::{Progress, catch_interrupts, interrupted};
use super::{End, backbone, fit, print_line, settings, table};

/// Score images and write heat maps
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    anomalens detect photos/                          no reference: each photo by itself\n  \
    anomalens detect photos/ --method musc            many photos of one thing score each other\n  \
    anomalens detect photos/ --normal good/           a few normal images of the same thing\n  \
    anomalens detect photos/ --detector bolts.detector")]
pub(super) struct Args {
    /// Images, or folders of images
    #[arg(required = true, value_name = "IMAGES|DIR")]
    images: Vec<PathBuf>,
    /// A detector file made by `anomalens fit`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "normal", "settings", "trained"])]
    detector: Option<PathBuf>,
    /// The method [default: that of `fit` with --normal, self-similarity without]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Normal images of the same thing: files or folders
    #[arg(long, value_name = "PATH", num_args = 1..)]
    normal: Vec<PathBuf>,
    /// What the images show, for a detector that is made for each class by itself
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Where to write results, heat maps and overlays
    #[arg(short, long, value_name = "DIR", default_value = "anomalens-results")]
    output: PathBuf,
    /// Write scores and regions only, no pictures
    #[arg(long)]
    no_pictures: bool,
    /// Colours of heat maps
    #[arg(long, value_enum, default_value_t = Colours::Inferno)]
    colours: Colours,
    #[command(flatten)]
    settings: settings::Args,
    #[command(flatten)]
    backbone: backbone::Args,
    /// Print each result as a line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Colours {
    /// Perceptually uniform, black to yellow
    Inferno,
    /// Blue to red, as in most papers' figures
    Jet,
}

pub(super) fn run(args: &Args) -> Result<End> {
    let files = images::find(&args.images)?;
    let (detector, backbone) = detector(args, files.len())?;
    catch_interrupts();
    let mut folder = ResultFolder::open(&args.output, &detector.identity())?;
    let done: HashSet<usize> = (0..files.len())
        .filter(|&i| folder.record(&files[i].path.to_string_lossy()).is_some())
        .collect();
    let sources: Vec<ImageSource> = files.iter().map(|f| f.path.clone().into()).collect();
    let progress = Progress::images("scoring", files.len());
    if !done.is_empty() {
        progress.note(&format!(
            "{} of {} are done already",
            done.len(),
            files.len()
        ));
    }

    let mut writer = Writer {
        args,
        files: &files,
        folder: &mut folder,
        calibration: detector.calibration.as_ref(),
        waiting: Vec::new(),
    };
    let mut failure = None;
    let mut count = done.len();
    let options = StreamOptions::default();
    let encoder = backbone.encoder.as_ref();
    let detectors = [detector.detector.as_ref()];
    let outcome = predict(
        encoder,
        &detectors,
        &sources,
        &done,
        &options,
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
            if interrupted() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    // What was scored is kept, whatever ended the run.
    let written = writer.flush();
    progress.finish();
    folder.write_table()?;
    outcome?;
    if let Some(error) = failure {
        return Err(error);
    }
    written?;
    report(args, &files, &folder, detector.calibration.as_ref())
}

/// The detector for images of `class`, where it must be told.
fn of_class(detector: Box<dyn Detector>, class: Option<&str>) -> Result<Box<dyn Detector>> {
    let Some(class) = class else {
        return match detector.classes() {
            [] | [_] => Ok(detector),
            several => Err(DetectorError::ClassNeeded(several.join(", ")).into()),
        };
    };
    let chosen = detector.for_class(class)?;
    chosen.context("the detector is the same for all classes: leave --class out")
}

/// The detector that the arguments name or describe, and its backbone.
fn detector(args: &Args, images: usize) -> Result<(DetectorFile, Backbone)> {
    if let Some(path) = &args.detector {
        let mut file = DetectorFile::load(path)?;
        file.detector = of_class(file.detector, args.class.as_deref())?;
        if file.detector.scope() != Scope::Image {
            require_company(images)?;
        }
        let backbone = args
            .backbone
            .open_for(&file)
            .with_context(|| format!("{} needs its backbone", path.display()))?;
        return Ok((file, backbone));
    }
    let named = match &args.method {
        Some(name) => Some(find_method(name)?),
        None if args.normal.is_empty() => Some(find_method("self-similarity")?),
        None => None,
    };
    if named.is_some_and(|method| method.needs == Needs::Nothing) {
        require_company(images)?;
    }
    let options = args.settings.options()?;
    let normal = fit::normal_images(named, &args.normal, None)?;
    let backbone = args.settings.open(&args.backbone)?;
    let encoder = backbone.encoder.as_ref();
    let method = named.map_or_else(|| few_shot_default(encoder), Ok)?;
    let detector = method.fit(&options, encoder, &normal)?;
    let detector = of_class(detector, args.class.as_deref())?;
    let data = match normal.len() {
        0 => "none".to_owned(),
        count => format!("{count} normal images"),
    };
    let (backbone_ref, provenance) = (fit::reference(&backbone), fit::provenance(data));
    Ok((
        DetectorFile {
            detector,
            backbone: backbone_ref,
            provenance,
            calibration: None,
        },
        backbone,
    ))
}

/// Images that are scored against each other must be several.
fn require_company(images: usize) -> Result<()> {
    if images < 2 {
        bail!(
            "one image has no others to be scored against: leave --method out, name normal images \
             with --normal, or give more images of the same thing"
        );
    }
    Ok(())
}

/// Outcomes that are drawn and written together, on all cores.
const WRITTEN_AT_ONCE: usize = 16;

/// Writes pictures and records as outcomes come in.
struct Writer<'a> {
    args: &'a Args,
    files: &'a [ImageFile],
    folder: &'a mut ResultFolder,
    calibration: Option<&'a Calibration>,
    waiting: Vec<Outcome>,
}

impl Writer<'_> {
    fn take(&mut self, outcome: Outcome) -> Result<()> {
        self.waiting.push(outcome);
        if self.waiting.len() >= WRITTEN_AT_ONCE {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<()> {
        let root = self.folder.root();
        let records: Vec<ResultRecord> = std::mem::take(&mut self.waiting)
            .into_par_iter()
            .map(|outcome| {
                let file = &self.files[outcome.image];
                match outcome.result {
                    Ok(prediction) => self.scored(root, file, &prediction),
                    Err(error) => Ok(failed(file, &error.to_string())),
                }
            })
            .collect::<Result<_>>()?;
        for record in records {
            self.folder.add(record)?;
        }
        Ok(())
    }

    /// The record of a scored image; its pictures are written first.
    fn scored(
        &self,
        root: &Path,
        file: &ImageFile,
        prediction: &Prediction,
    ) -> Result<ResultRecord> {
        let mut record = ResultRecord {
            image: file.path.to_string_lossy().into_owned(),
            score: Some(prediction.score),
            anomalous: self
                .calibration
                .map(|calibration| calibration.is_anomalous(prediction.score)),
            probability: self
                .calibration
                .and_then(|calibration| calibration.probability(prediction.score)),
            regions: boxes(prediction)?,
            heat_map: None,
            overlay: None,
            error: None,
        };
        if self.args.no_pictures {
            return Ok(record);
        }
        let options = StreamOptions::default();
        let image = match ImageSource::from(file.path.clone()).open(&options.limits.into()) {
            Ok(image) => image,
            Err(error) => return Ok(failed(file, &error.to_string())), // It changed meanwhile.
        };
        let colours = match self.args.colours {
            Colours::Inferno => ColourMap::Inferno,
            Colours::Jet => ColourMap::Jet,
        };
        let drawn = draw(
            &image,
            prediction,
            Style {
                colours,
                ..Style::default()
            },
        )?;
        let save = |kind: &str, picture: &anomalens::vision::Image| -> Result<String> {
            let name = Path::new(kind).join(format!("{}.png", file.name.display()));
            let path = root.join(&name);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make the folder {}", folder.display()))?;
            }
            picture.save_png(&path)?;
            Ok(name.to_string_lossy().into_owned())
        };
        record.heat_map = Some(save("heat-maps", &drawn.heat_map)?);
        record.overlay = Some(save("overlays", &drawn.overlay)?);
        Ok(record)
    }
}

/// The record of an image that cannot be used.
fn failed(file: &ImageFile, error: &str) -> ResultRecord {
    ResultRecord {
        image: file.path.to_string_lossy().into_owned(),
        score: None,
        anomalous: None,
        probability: None,
        regions: vec![],
        heat_map: None,
        overlay: None,
        error: Some(error.to_owned()),
    }
}

/// Tells what was found, and how the run ended.
fn report(
    args: &Args,
    files: &[ImageFile],
    folder: &ResultFolder,
    calibration: Option<&Calibration>,
) -> Result<End> {
    let records: Vec<&ResultRecord> = files
        .iter()
        .filter_map(|file| folder.record(&file.path.to_string_lossy()))
        .collect();
    let bad: Vec<&&ResultRecord> = records.iter().filter(|r| r.error.is_some()).collect();
    if args.json {
        for record in &records {
            print_line(serde_json::to_string(record)?)?;
        }
    } else {
        print_line(table::scores(&records, calibration.is_some()))?;
        if let Some(Calibration {
            threshold, rule, ..
        }) = calibration
        {
            let called = records.iter().filter(|r| r.anomalous == Some(true)).count();
            let decided = records.iter().filter(|r| r.anomalous.is_some()).count();
            print_line(format!(
                "{called} of {decided} images are anomalous: score {threshold} or higher ({rule})"
            ))?;
        }
        print_line(format!(
            "results, heat maps and overlays: {}",
            args.output.display()
        ))?;
    }
    for record in &bad {
        tell(record.error.as_deref().unwrap_or_default());
    }
    let missing = files.len() - records.len();
    if missing > 0 {
        tell(&format!(
            "interrupted: {} of {} images are done; the same command goes on from there",
            records.len(),
            files.len()
        ));
    }
    if !bad.is_empty() {
        tell(&format!(
            "{} of {} images could not be used",
            bad.len(),
            files.len()
        ));
    }
    Ok(if bad.is_empty() && missing == 0 {
        End::Done
    } else {
        End::Incomplete
    })
}

#[allow(clippy::print_stderr)] // Warnings belong there, in the program.
fn tell(text: &str) {
    eprintln!("{text}");
}
