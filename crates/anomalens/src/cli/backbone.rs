//! Which weights a command uses, and how it shows that they are fetched.

use anomalens::backbones::Backbone;
use anomalens::backbones::weights::{Entry, Located, PullEvent, Store};
use anyhow::Result;

use super::progress::Progress;

/// The backbone that is used where none is named: it can be had without an account.
pub(super) const DEFAULT_WEIGHTS: &str = "dinov2-s-focus";

/// Which backbone to use.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Backbone: a name from `anomalens models list`, or a weight file
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_WEIGHTS)]
    pub(super) weights: String,
}

/// Opens the backbone `weights`, pulling it if it is not here.
pub(super) fn open(weights: &str) -> Result<Backbone> {
    let progress = Progress::bytes(weights);
    let backbone = Backbone::open(weights, &Store::from_env()?, &|event| {
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
