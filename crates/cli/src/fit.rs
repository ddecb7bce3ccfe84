//! `anomalens fit`: a detector file from normal images.

use std::path::{Path, PathBuf};

use anomalens::datasets::{ImageFile, Sample, few_shot};
use anomalens::detectors::{
    BackboneRef, DEFAULT_METHOD, Detector, DetectorFile, FitContext, ImageSource, Method,
    MethodSettings, Need, Note, Provenance, ReferenceImage, find as find_method,
};
use anomalens::evaluation::run::source;
use anomalens::vision::{DecodeOptions, Image, NoteLog};
use anyhow::{Result, bail};
use serde_json::json;

use super::{
    End, backbone, command_line, data, decode, images, now, offer, print_json, print_line,
    print_note, settings,
};

/// Make a detector file from normal images
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    anomalens fit --normal good/ -o bolts.detector\n  \
    anomalens fit --trained tile.lens --normal good/ -o bolts.detector\n  \
    anomalens fit --detector bolts.detector --add more/ --remove 3.png -o bolts.detector")]
pub(super) struct Args {
    /// The method
    #[arg(long, value_name = "METHOD", default_value = DEFAULT_METHOD)]
    method: String,
    /// Normal images: files, folders, or patterns such as "good/*.png"
    #[arg(long, value_name = "PATH", num_args = 1..)]
    normal: Vec<PathBuf>,
    /// Normal images of a labelled data set: those of its training split (repeatable)
    #[arg(long, value_name = "LAYOUT:PATH", conflicts_with = "normal")]
    data: Vec<data::Reference>,
    /// A detector file to start from, whose normal images are changed; of methods that keep them
    /// apart, such as lens
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["method", "normal", "data", "shots", "settings", "trained"])]
    detector: Option<PathBuf>,
    /// Normal images to add to it: files, folders or patterns
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "detector")]
    add: Vec<PathBuf>,
    /// A normal image to remove from it, by its name (repeatable)
    #[arg(long, value_name = "NAME", requires = "detector")]
    remove: Vec<String>,
    /// Use only K of them, chosen at random; K of each data set
    #[arg(long, value_name = "K")]
    shots: Option<usize>,
    /// Seed by which they are chosen
    #[arg(long, default_value_t = 0, requires = "shots")]
    seed: u32,
    /// The detector file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    settings: settings::Args,
    #[command(flatten)]
    decode: decode::Args,
    #[command(flatten)]
    backbone: backbone::Args,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<End> {
    check_output(&args.output)?;
    if let Some(path) = &args.detector {
        return update(args, path);
    }
    let method = find_method(&args.method)?;
    let options = args.settings.options()?;
    let decode = args.decode.options();
    let draw = args.shots.map(|shots| (shots, args.seed));
    let normal = if args.data.is_empty() {
        normal_images(method, &options, &args.normal, draw, &decode)?
    } else {
        training_normals(method, &options, &args.data, draw, &decode)?
    };
    if normal.is_empty() && options.is_empty() && method.info().name == DEFAULT_METHOD {
        bail!("fit needs normal images: name them with --normal FOLDER");
    }
    let original = match args.backbone.is_open() && args.settings.trained()?.is_none() && !args.json
    {
        true => offer::original()?,
        false => None,
    };
    let original = original.and_then(|name| {
        let opened = args.backbone.open_named(name);
        let told = |error| {
            print_note(format!(
                "note: {error:#}; the weights in the program are used"
            ))
        };
        opened.map_err(told).ok()
    });
    let backbone = match original {
        Some(backbone) => args.backbone.with_companions(backbone, [method.info()])?,
        None => args.settings.open(&args.backbone, [method])?,
    };
    let encoder = backbone.encoder.as_ref();
    let detector = method.fit(&FitContext {
        trained: args.settings.trained()?,
        ..FitContext::new(&options, encoder).with_references(&normal)
    })?;
    tell_notes(detector.as_ref());
    let paths = args.normal.iter().map(|path| path.display().to_string());
    let sets = args.data.iter().map(data::Reference::to_string);
    let data: Vec<String> = paths.chain(sets).collect();
    let file = DetectorFile {
        backbone: BackboneRef::of(&backbone).used_by(detector.as_ref()),
        detector,
        provenance: provenance(data.join(" ")),
        calibration: None,
        levels: decode.levels,
    };
    file.save(&args.output)?;
    if args.json {
        return print_json(json!({
            "detector": args.output,
            "method": method.info().name,
            "backbone": file.backbone,
            "images": normal.len(),
            "config": file.detector.state().config,
            "notes": file.detector.notes(),
        }))
        .map(|()| End::Done);
    }
    let count = normal.len();
    let images = if count == 1 { "image" } else { "images" };
    print_line(format!(
        "{} detector from {count} normal {images} written to {}\nnow: anomalens detect IMAGES \
         --detector {}",
        method.info().name,
        args.output.display(),
        args.output.display()
    ))?;
    let choices = file.detector.notes().iter().filter(|note| is_choice(note));
    for choice in choices {
        print_line(format!("  {choice}"))?;
    }
    Ok(End::Done)
}

/// Changes the normal images of the detector at `path`.
fn update(args: &Args, path: &Path) -> Result<End> {
    if args.add.is_empty() && args.remove.is_empty() {
        bail!("nothing is to be changed: name images with --add PATH or --remove NAME");
    }
    let file = DetectorFile::load(path)?;
    let decode = args.decode.options_for(&file)?;
    let add = if args.add.is_empty() {
        vec![]
    } else {
        images::shots(&images::find(&args.add)?, &decode)?
    };
    let backbone = args.backbone.open_for(&file)?;
    let method = find_method(file.detector.method())?;
    let state = file.detector.state();
    let had_threshold = file.calibration.is_some();
    let settings = MethodSettings::new();
    let context = FitContext::new(&settings, backbone.encoder.as_ref()).with_references(&add);
    let detector = method.update_references(state, &context, &args.remove)?;
    tell_notes(detector.as_ref());
    let paths = args.add.iter().map(|path| format!("+{}", path.display()));
    let removed = args.remove.iter().map(|name| format!("-{name}"));
    let changes: Vec<String> = paths.chain(removed).collect();
    let file = DetectorFile {
        detector,
        backbone: file.backbone,
        provenance: provenance(format!("{} {}", file.provenance.data, changes.join(" "))),
        calibration: None,
        levels: decode.levels,
    };
    file.save(&args.output)?;
    let shots = file.detector.references();
    if args.json {
        print_json(json!({
            "detector": args.output,
            "method": method.info().name,
            "backbone": file.backbone,
            "shots": shots,
            "notes": file.detector.notes(),
        }))?;
    } else {
        print_line(format!(
            "{} detector with the normal images {} written to {}",
            method.info().name,
            shots.join(", "),
            args.output.display()
        ))?;
        if had_threshold {
            print_line("its threshold was for the images before: calibrate it again")?;
        }
    }
    Ok(End::Done)
}

/// Reads the normal images for `method`, all or `(shots, seed)` of them; none may be unusable.
pub(super) fn normal_images(
    method: &dyn Method,
    options: &MethodSettings,
    paths: &[PathBuf],
    draw: Option<(usize, u32)>,
    decode: &DecodeOptions,
) -> Result<Vec<ReferenceImage>> {
    let name = method.info().name;
    match (method.requirements(options).references, paths) {
        (Need::No | Need::Optional, []) => return Ok(vec![]),
        (Need::No, _) => bail!("{name} needs no normal images: leave --normal out"),
        (Need::Required, []) => {
            bail!("{name} needs normal images: name them with --normal FOLDER")
        }
        (Need::Required | Need::Optional, _) => {}
    }
    let mut files = images::find(paths)?;
    if let Some((shots, seed)) = draw {
        let all: Vec<&ImageFile> = files.iter().collect();
        files = few_shot(&all, shots, seed)?.into_iter().cloned().collect();
    }
    images::shots(&files, decode)
}

/// Reads the normal training images of data sets, all or `(shots, seed)` of each set.
fn training_normals(
    method: &dyn Method,
    options: &MethodSettings,
    sets: &[data::Reference],
    draw: Option<(usize, u32)>,
    decode: &DecodeOptions,
) -> Result<Vec<ReferenceImage>> {
    let name = method.info().name;
    if method.requirements(options).references == Need::No {
        bail!("{name} needs no normal images: leave --data out")
    }
    let (mut shots, notes) = (vec![], NoteLog::default());
    for (number, reference) in (1..).zip(sets) {
        let data = reference.open()?;
        let classes = data.classes.iter();
        let mut samples: Vec<&Sample> = classes.flat_map(|c| data.train_normals(c)).collect();
        if let Some((count, seed)) = draw {
            samples = few_shot(&samples, count, seed)?;
        }
        let images = samples.into_iter().map(|sample| {
            let name = match sets.len() > 1 {
                true => format!("{number}/{}", sample.id),
                false => sample.id.clone(),
            };
            (name, source(sample))
        });
        let note = |source: &ImageSource, image: &Image| notes.add(source.path(), image);
        shots.extend(ReferenceImage::read_all(images, decode, note)?);
    }
    decode::print_notes(&notes);
    if shots.is_empty() {
        bail!("the training split of --data has no normal images; `anomalens data check` says more")
    }
    Ok(shots)
}

/// Says on standard error what is odd about the images that `detector` was fitted on.
pub(super) fn tell_notes(detector: &dyn Detector) {
    for note in detector.notes().iter().filter(|note| !is_choice(note)) {
        print_note(format!("note: {note}"));
    }
}

fn is_choice(note: &Note) -> bool {
    matches!(note, Note::Chosen { .. })
}

/// Refuses an output that cannot be written before any work is done.
pub(super) fn check_output(path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!("{} is a folder; --output must name a file", path.display());
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!(
            "the folder {} does not exist; make it first",
            folder.display()
        );
    }
    Ok(())
}

/// Where a detector comes from that this command makes.
pub(super) fn provenance(data: String) -> Provenance {
    Provenance {
        command: command_line(),
        data,
        date: now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        losses: vec![],
    }
}
