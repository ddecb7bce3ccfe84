//! `anomalens train`: a detector learned from labelled auxiliary data.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anomalens::backbones::{DEFAULT_COMPANION, WHOLE_WEIGHTS};
use anomalens::detectors::training::{
    Cache, EpochLog, TrainEvent, TrainLog, TrainOptions, Trained, TrainingSample,
};
use anomalens::detectors::{
    BackboneRef, DefaultWeights, DetectorFile, FitContext, Need, Provenance, TrainContext, Trainer,
    find as find_method,
};
use anomalens::evaluation::{Fold, training_samples};
use anomalens::report::{ReportContext, write_loss_curve, write_report};
use anomalens::vision::Preprocessed;
use anyhow::{Context, Result, bail};
use serde_json::json;

use super::eval::context;
use super::progress::{Progress, catch_interrupts, interrupted};
use super::{End, backbone, data, fit, print_json, print_line, settings};

/// Train a detector on labelled auxiliary data
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    anomalens train --method anomalyclip --data magnetic-tile:DIR -o tile.detector\n  \
    anomalens train --method anomalyclip --weights ViT-L-14-336px.pt --data folder:MVTEC -o f\n  \
    anomalens train --method lens --data magnetic-tile:DIR -o tile.lens\n\n\
    A run that was interrupted resumes from its last epoch when the same command is given again.")]
pub(super) struct Args {
    /// The method
    #[arg(long, value_name = "METHOD", default_value = "anomalyclip")]
    method: String,
    /// Labelled data to train on: its test images; with lens, inctrl, regad and acr also its normal
    /// training images (repeatable)
    #[arg(long, value_name = "LAYOUT:PATH", required = true)]
    data: Vec<data::Reference>,
    /// Leave out part K of N equal parts of each data set, to be measured later with `eval --only K/N`
    #[arg(long, value_name = "K/N")]
    leave_out: Option<Fold>,
    /// The detector file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Where checkpoints and the log of losses go [default: the output's name with `.training`]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Passes over the data [default: the method's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    epochs: Option<u16>,
    /// Images per training step [default: the method's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// The optimiser's learning rate [default: the method's]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Seed of initial values and of the order of images
    #[arg(long, default_value_t = 111)]
    seed: u32,
    /// Where to keep the backbone's features, so that later epochs need not compute them again
    #[arg(long, value_enum, default_value_t = CacheArg::Memory)]
    cache: CacheArg,
    #[command(flatten)]
    settings: settings::Args,
    #[command(flatten)]
    backbone: backbone::Args,
    /// Write a report with the losses to this HTML file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum CacheArg {
    /// In memory
    Memory,
    /// In a file next to the checkpoints, until the run is done
    Disk,
    /// Nowhere: encode every image in every epoch
    Off,
}

impl From<CacheArg> for Cache {
    fn from(cache: CacheArg) -> Self {
        match cache {
            CacheArg::Memory => Self::Memory,
            CacheArg::Disk => Self::Disk,
            CacheArg::Off => Self::Off,
        }
    }
}

/// Finds out before any data is listed whether the backbone has what the method learns from.
fn check_backbone(
    context: &FitContext<'_>,
    trainer: &dyn Trainer,
    names: [&str; 2],
    seed: u32,
) -> Result<()> {
    let encoder = context.encoder;
    let side = encoder.spec().multiple;
    let detector = trainer.untrained(context, seed)?;
    let image = Preprocessed {
        height: side,
        width: side,
        values: vec![0.0; 3 * side * side],
    };
    let [method, backbone] = names;
    let encoded = detector.input().encode(encoder, &[image]);
    encoded.map(drop).with_context(|| {
        format!(
            "{method} cannot be trained on {backbone}; name another backbone with --weights \
             ({WHOLE_WEIGHTS} has all blocks)"
        )
    })
}

pub(super) fn run(args: &Args) -> Result<End> {
    let method = find_method(&args.method)?;
    let info = method.info();
    let Some(trainer) = method.trainer() else {
        bail!(
            "{} is not trained; `anomalens fit` makes a detector of it",
            info.name
        );
    };
    let settings = args.settings.options()?;
    fit::check_output(&args.output)?;
    if args
        .learning_rate
        .is_some_and(|rate| !(rate > 0.0 && rate.is_finite()))
    {
        bail!("--learning-rate must be above 0");
    }
    let folder = args.folder.clone().unwrap_or_else(|| {
        let mut name = args.output.clone().into_os_string();
        name.push(".training");
        name.into()
    });
    let backbone = args.backbone.open_or(match info.weights {
        DefaultWeights::Convolutional => DEFAULT_COMPANION,
        DefaultWeights::Clip(name) => name,
        _ => WHOLE_WEIGHTS,
    })?;
    let probe = FitContext {
        settings: &settings,
        encoder: backbone.encoder.as_ref(),
        references: &[],
        class: None,
        trained: None,
    };
    check_backbone(&probe, trainer, [info.name, &backbone.name], args.seed)?;
    let mut samples: Vec<TrainingSample> = vec![];
    for data in &args.data {
        let data = data.open()?;
        samples.extend(training_samples(
            &data,
            args.leave_out,
            trainer.trains_on_all(),
        ));
    }
    let options = TrainOptions {
        epochs: args.epochs.map(usize::from),
        batch: args.batch.map(usize::from),
        learning_rate: args.learning_rate,
        seed: args.seed,
        cache: args.cache.into(),
        folder: folder.clone(),
        backbone: backbone::identity(&backbone),
        ..TrainOptions::default()
    };
    catch_interrupts();
    let mut shown = Shown::new("encoding", samples.len());
    let training = TrainContext {
        settings: &settings,
        encoder: backbone.encoder.as_ref(),
        samples: &samples,
        start: args.settings.trained()?,
        options: &options,
    };
    let trained = trainer.train(&training, &mut |event| shown.take(event));
    shown.finish();
    let Trained { detector, log } = trained?;
    let costs = log.costs();
    let TrainLog {
        epochs, stopped, ..
    } = log;
    let last = match (&stopped, epochs.last()) {
        (Some(reason), None) => bail!("{reason}: no epoch was finished, nothing is kept"),
        (Some(reason), Some(_)) if reason == "interrupted" => bail!(
            "interrupted after epoch {}; the same command resumes from there",
            epochs.len()
        ),
        (_, last) => last.context("there was no epoch")?,
    };
    let data: Vec<String> = args.data.iter().map(data::Reference::to_string).collect();
    let file = DetectorFile {
        detector,
        backbone: BackboneRef::of(&backbone),
        provenance: Provenance {
            losses: epochs.clone(),
            ..fit::provenance(data.join(" "))
        },
        calibration: None,
        levels: Default::default(),
    };
    file.save(&args.output)?;
    let curve = folder.join("loss.svg");
    write_loss_curve(&curve, &epochs)?;
    if let Some(path) = &args.report {
        let title = format!("{} learned from {}", info.name, data.join(" "));
        let context = ReportContext {
            losses: epochs.clone(),
            ..context(title, &backbone, ("", 0))
        };
        write_report(path, &[], &context)?;
    }
    if args.json {
        print_json(json!({
            "detector": args.output,
            "method": info.name,
            "backbone": backbone.name,
            "images": samples.len(),
            "epochs": epochs,
            "stopped": stopped,
            "folder": folder,
            "seconds": costs.map(|(kept, _)| kept),
            "seconds_without_cache": costs.map(|(_, again)| again),
        }))?;
    } else {
        print_line(format!(
            "{} after {} epochs on {} images, loss {:.4}: {}",
            info.name,
            epochs.len(),
            samples.len(),
            last.loss,
            args.output.display()
        ))?;
        if let Some((kept, again)) = costs {
            print_line(format!(
                "{kept:.1} s with features computed once; with every image encoded again in every \
                 epoch {again:.1} s, {:.1} times as long",
                again / kept
            ))?;
        }
        print_line(format!("losses: {}", curve.display()))?;
        if let Some(path) = &args.report {
            print_line(format!("report: {}", path.display()))?;
        }
        if info.requirements.references != Need::No {
            print_line(format!(
                "now: anomalens fit --method {} --trained {} --normal DIR -o FILE",
                info.name,
                args.output.display()
            ))?;
        }
    }
    if let Some(reason) = stopped {
        bail!("{reason}; the detector is that of epoch {}", last.epoch);
    }
    Ok(End::Done)
}

/// Shows what happens in a training run.
pub(super) struct Shown {
    encoding: Progress,
    steps: Option<Progress>,
}

impl Shown {
    pub(super) fn new(name: &str, images: usize) -> Self {
        Self {
            encoding: Progress::images(name, images),
            steps: None,
        }
    }

    /// Shows `event`; breaks off when Ctrl-C was pressed.
    pub(super) fn take(&mut self, event: TrainEvent) -> ControlFlow<()> {
        match event {
            TrainEvent::CacheSize {
                cache,
                bytes,
                images,
            } => self.encoding.note(&format!(
                "features of {images} images take {:.1} MB {}",
                bytes as f64 / 1e6,
                match cache {
                    Cache::Disk => "on disk",
                    Cache::Memory | Cache::Off => "of memory",
                }
            )),
            TrainEvent::Encoded(done) => self.encoding.set(done as u64, None),
            TrainEvent::Resumed(epochs) => {
                let note = format!("going on after epoch {epochs}");
                self.encoding.note(&note);
            }
            TrainEvent::Step {
                epoch,
                step,
                steps: of,
            } => {
                let bar = self.steps.get_or_insert_with(|| {
                    self.encoding.finish();
                    Progress::images(&format!("epoch {epoch}"), of)
                });
                bar.set(step as u64, None);
            }
            TrainEvent::Epoch(log) => {
                if let Some(bar) = self.steps.take() {
                    bar.finish();
                    bar.note(&line(&log));
                }
            }
        }
        if interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    pub(super) fn finish(&self) {
        self.encoding.finish();
    }
}

/// An epoch for people.
fn line(log: &EpochLog) -> String {
    let parts: Vec<String> = log
        .parts
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    format!(
        "epoch {}: loss {:.4} ({}), {:.1} s",
        log.epoch,
        log.loss,
        parts.join(", "),
        log.seconds
    )
}
