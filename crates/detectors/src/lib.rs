//! Anomaly-detection methods: features in, anomaly scores and maps out.
//!
//! ```text
//! detector.rs      the `Detector` trait, `Scored`, `Scope`
//! setup.rs         what a method wants from a backbone: preprocessing, blocks
//! registry.rs      every method by name: what it needs, how it is fitted and loaded
//! calibration.rs   the threshold of decisions, scores as probabilities
//! file.rs          the detector file: save, load, refuse what is wrong
//! stream.rs        image files -> features, batch after batch, decoding beside encoding
//! predict.rs       a backbone and detectors together: image files -> predictions
//! training/        learning from auxiliary data
//! tokens.rs        tokens made comparable
//! views.rs         a shot in several views
//! nearest.rs       nearest neighbours in sets of tokens
//! looks.rs         a second look at images, moved by half a patch
//! own_image.rs     how unlike the rest of its own image a patch is
//! anomaly_dino/    AnomalyDINO: few-shot, nearest normal patch
//! anomalyclip/     AnomalyCLIP: zero-shot, learned prompts
//! inctrl/          InCTRL: few-shot, residuals weighed by heads that are learned once
//! musc/            MuSc: batch zero-shot, images score each other
//! self_similarity/ zero-shot: patches that are unlike the rest of their own image
//! ```
//!
//! A new method is one new folder and one line in `registry.rs`.

pub mod anomaly_dino;
pub mod anomalyclip;
mod calibration;
mod detector;
mod error;
mod file;
pub mod inctrl;
mod looks;
pub mod musc;
mod nearest;
mod own_image;
mod predict;
mod registry;
pub mod self_similarity;
mod setup;
mod stream;
#[cfg(test)]
mod testing;
mod tokens;
pub mod training;
mod views;

pub use calibration::Calibration;
pub use detector::{Array, Detector, NormalRange, Scope, Scored, State};
pub use error::{DetectorError, SourceError};
pub use file::{BackboneRef, DetectorFile, FORMAT_VERSION, Provenance};
pub use looks::Looks;
pub use predict::{Outcome, Prediction, predict};
pub use registry::{
    FitOptions, Method, Needs, Shot, Shots, Variant, few_shot_default, find, methods,
};
pub use setup::Setup;
pub use stream::{Encoded, ImageSize, ImageSource, StreamOptions, stream_features};
pub use views::Views;
