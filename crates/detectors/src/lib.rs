//! Anomaly-detection methods: features in, anomaly scores and maps out.
//!
//! ```text
//! method.rs     the traits `Method` and `Trainer`: what a method needs, how it is fitted
//! registry.rs   every method by name
//! settings.rs   settings: typed in Rust, JSON outside
//! detector.rs   the trait `Detector`, `Scored`, `Scope`
//! input.rs      what a method wants from a backbone: preprocessing, blocks
//! file/         the detector file: save, load, refuse what is wrong
//! note.rs       what the user should know about images
//! calibration.rs the threshold of decisions, scores as probabilities
//! pipeline/     images -> features -> predictions; test-time augmentation
//! components/   what several methods are made of
//! export/       detectors as ONNX files
//! training/     learning from auxiliary data
//! methods/      one folder for each method
//! ```
//!
//! A new method is one new folder and one line in `registry.rs`.

mod calibration;
mod components;
mod detector;
mod error;
mod export;
mod file;
mod input;
mod method;
pub mod methods;
mod note;
mod pipeline;
mod registry;
mod settings;
#[cfg(test)]
mod testing;
pub mod training;

pub use calibration::Calibration;
pub use components::graph::GraphScored;
pub use components::reference_augmentation::ReferenceAugmentation;
pub use detector::{
    Array, Detector, Enlargement, NormalRange, Profile, Scope, Scored, Smoothing, State,
};
pub use error::{DetectorError, SourceError};
pub use export::{Check, ExportError, ExportOptions, Exported, Part, Port, export};
pub use file::{BackboneRef, DetectorFile, FORMAT_VERSION, Provenance};
pub use input::{InputSpec, Normalisation};
pub use method::{
    DefaultWeights, FitContext, Method, MethodInfo, Need, ReferenceImage, Requirements,
    TrainContext, Trainer, Variant, default_weights,
};
pub use note::Note;
pub use pipeline::{
    Encoded, ImageSize, ImageSource, Outcome, Prediction, StreamOptions, Tta, predict,
    stream_features,
};
pub use registry::{DEFAULT_METHOD, find, methods};
pub use settings::{Choice, MethodSettings, Settings};
