//! Which weights a command uses, and how it shows that they are fetched.

use anomalens::backbones::weights::{Entry, Located, PullEvent, Store};
use anomalens::backbones::{Backbone, DEFAULT_WEIGHTS, Precision};
use anomalens::detectors::DetectorFile;
use anyhow::{Result, bail};

use super::progress::Progress;

/// Which backbone to use, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Backbone: a name from `anomalens models list`, or a weight file [default: that of the
    /// detector file, or else the one in the program]
    #[arg(long, value_name = "NAME|FILE")]
    weights: Option<String>,
    /// How exactly the backbone computes; half and int8 are faster and take less memory [default:
    /// that of the detector file, or else half, int8 for the one in the program]
    #[arg(long, value_name = "f32|half|int8")]
    precision: Option<Precision>,
}

impl Args {
    /// The weights that are meant where no detector file names any.
    pub(super) fn weights(&self) -> &str {
        self.weights.as_deref().unwrap_or(DEFAULT_WEIGHTS)
    }

    /// Opens the backbone, pulling it if it is not here.
    pub(super) fn open(&self) -> Result<Backbone> {
        self.open_named(self.weights())
    }

    /// The same with other weights.
    pub(super) fn open_named(&self, weights: &str) -> Result<Backbone> {
        let backbone = open(weights, self.precision.unwrap_or_default())?;
        if let Some(precision) = self.precision.filter(|&p| p != backbone.precision) {
            bail!(
                "{} computes with --precision {} alone; name another backbone with --weights for \
                 {precision}",
                backbone.name,
                backbone.precision
            );
        }
        Ok(backbone)
    }

    /// Opens the backbone of a detector file, which must be what it was made with.
    pub(super) fn open_for(&self, detector: &DetectorFile) -> Result<Backbone> {
        let made_with = &detector.backbone;
        if let Some(precision) = self.precision.filter(|&p| p != made_with.precision) {
            bail!(
                "the detector was made with --precision {}, its scores would not be comparable \
                 with {precision}; leave --precision out, or fit the detector again",
                made_with.precision
            );
        }
        let weights = self.weights.as_deref().unwrap_or(&made_with.name);
        let backbone = open(weights, made_with.precision)?;
        detector.check_backbone(&backbone.sha256.to_string())?;
        Ok(backbone)
    }
}

/// What tells `backbone` from others that give other features.
pub(super) fn identity(backbone: &Backbone) -> String {
    format!("{} {}", backbone.sha256, backbone.precision)
}

/// Opens the backbone `weights`, pulling it if it is not here; those in the program have a
/// precision of their own.
pub(super) fn open(weights: &str, precision: Precision) -> Result<Backbone> {
    let progress = Progress::bytes(weights);
    let backbone = Backbone::open(weights, precision, &Store::from_env()?, &|event| {
        show(&progress, event)
    });
    progress.finish();
    Ok(backbone?)
}

/// Pulls a weight file or data package.
pub(super) fn pull(store: &Store, entry: &Entry) -> Result<Located> {
    let progress = Progress::bytes(&entry.name);
    let located = store.pull(entry, &|event| show(&progress, event));
    progress.finish();
    Ok(located?)
}

fn show(progress: &Progress, event: PullEvent<'_>) {
    match event {
        PullEvent::Waiting => progress.note("another process is fetching it; waiting"),
        PullEvent::Trying { source } => progress.note(&format!("fetching from {source}")),
        PullEvent::Bytes { done, total } => progress.set(done, total),
    }
}
