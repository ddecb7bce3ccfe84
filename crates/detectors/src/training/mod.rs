//! Learning from labelled auxiliary data: what every trained method needs.
//!
//! ```text
//! sample.rs    labelled images and their masks
//! store.rs     features of the frozen backbone, computed once, in memory or on disk
//! optimiser.rs what moves parameters: adam.rs, sgd.rs
//! map_loss.rs  what maps cost at every pixel
//! layers.rs    parameters by name, and layers that have a gradient
//! learned.rs   what was trained before
//! episodes.rs  images with a few normal images of their class
//! random.rs    shuffling and initial values from a seed
//! checkpoint.rs checkpoints after every epoch, the log of losses
//! run.rs       the loop over epochs
//! ```

mod adam;
mod checkpoint;
mod episodes;
mod layers;
mod learned;
pub(crate) mod map_loss;
mod optimiser;
pub(crate) mod random;
mod run;
mod sample;
mod sgd;
mod store;

pub(crate) use adam::Adam;
pub use checkpoint::EpochLog;
pub(crate) use episodes::{Episodes, STEPS, focal};
pub(crate) use layers::{Linear, Parameters, attention, initial};
pub(crate) use learned::Learned;
pub(crate) use optimiser::Optimiser;
pub(crate) use run::{Learner, Losses, Run, run, shuffled_batches};
pub use run::{TrainEvent, TrainLog, TrainOptions, TrainProgress, Trained};
pub use sample::TrainingSample;
pub(crate) use sample::fingerprint;
pub(crate) use sgd::Sgd;
pub use store::Cache;
pub(crate) use store::{Batch, FeatureStore, Record};
