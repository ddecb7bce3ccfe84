//! Learning from labelled auxiliary data: what every trained method needs.
//!
//! ```text
//! sample.rs    labelled images and their masks
//! store.rs     features of the frozen backbone, computed once, in memory or on disk
//! adam.rs      the optimiser, whose state can be saved
//! random.rs    shuffling and initial values from a seed
//! progress.rs  checkpoints after every epoch, the log of losses
//! run.rs       the loop over epochs
//! ```

mod adam;
mod progress;
pub(crate) mod random;
mod run;
mod sample;
mod store;

pub(crate) use adam::Adam;
pub use progress::EpochLog;
pub(crate) use run::{Learner, Losses, Run, run, shuffled_batches};
pub use run::{TrainEvent, TrainLog, TrainOptions, Trained, Watch};
pub(crate) use sample::fingerprint;
pub use sample::{TrainingMask, TrainingSample};
pub use store::Cache;
pub(crate) use store::{Batch, FeatureStore, Record};
