//! What can go wrong between features and scores, and with detector files.

use std::path::PathBuf;

use anomalens_backbones::{BackboneError, LayerId};
use anomalens_kernels::{EngineError, ShapeError};
use anomalens_onnx::OnnxError;
use anomalens_vision::{GeometryError, ImageError};
use thiserror::Error;

/// An error of a method or a detector file.
#[derive(Debug, Error)]
pub enum DetectorError {
    /// There is no method of this name.
    #[error("there is no method `{name}`{}; the methods are: {known}", suggestion(.nearest))]
    UnknownMethod {
        /// The name that was asked for.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
        /// Every name.
        known: String,
    },
    /// The name is that of a method that another one took in.
    #[error("`{former}` is part of the method `{present}` now, which is the default")]
    FormerMethod {
        /// The name that was asked for.
        former: &'static str,
        /// The method that took it in.
        present: &'static str,
    },
    /// The method's settings are impossible, or need something that is not there.
    #[error("{method} cannot be set up: {reason}")]
    Settings {
        /// The method.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A few-shot method was given no normal image.
    #[error("{0} learns from normal images, and none were given")]
    NoReferences(&'static str),
    /// A detector that does not keep its normal images apart was to get others.
    #[error("the normal images of a detector of {0} cannot be changed: fit it again with all")]
    FixedReferences(&'static str),
    /// A detector whose decisions one threshold cannot make.
    #[error("a detector of {method} cannot be calibrated: {reason}")]
    CannotCalibrate {
        /// The method.
        method: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Images that must be scored together are too few.
    #[error(
        "{method} scores images against each other and needs at least {needed} of them, not {found}"
    )]
    GroupTooSmall {
        /// The method.
        method: &'static str,
        /// How many it needs.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// The features lack a layer that the method uses.
    #[error("the features lack {0}, which the detector uses")]
    MissingLayer(LayerId),
    /// The method uses class tokens, and the network has none.
    #[error("the features of {0} have no class token, which the detector uses")]
    NoClassToken(LayerId),
    /// The features are of another width than the detector's.
    #[error("features of width {found} do not fit a detector for width {expected}")]
    Width {
        /// The detector's width.
        expected: usize,
        /// The features' width.
        found: usize,
    },
    /// A detector has no prompts for a class.
    #[error("the detector knows no class `{name}`{}; it knows: {known}", suggestion(.nearest))]
    UnknownClass {
        /// The class that was asked for.
        name: String,
        /// The most similar one.
        nearest: Option<String>,
        /// Every class.
        known: String,
    },
    /// A detector for several classes was used without choosing one.
    #[error("the detector is made for each class by itself; choose one of: {0}")]
    ClassNeeded(String),
    /// The instruction set asked for cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Vectors to compare do not have one width.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A detector file could not be read.
    #[error("cannot read the detector file {path}: {source}")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A detector file could not be written; what was there before is untouched.
    #[error("cannot write the detector file {path}: {source}; an older file there is unchanged")]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is no detector file, or a damaged one.
    #[error("{path} is not a usable detector file: {reason}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A detector was made with another backbone than the one at hand.
    #[error(
        "the detector was made with the backbone {expected} (SHA-256 {expected_sha256}), but the \
         weights given have SHA-256 {found_sha256}: use the same weights or fit the detector again"
    )]
    OtherBackbone {
        /// The backbone's name in the detector file.
        expected: String,
        /// Its hash in the detector file.
        expected_sha256: String,
        /// The hash of the weights at hand.
        found_sha256: String,
    },
    /// A method that is not trained was asked to be.
    #[error("{0} has no training; a detector of it is made by fitting")]
    NotTrained(&'static str),
    /// There is nothing to learn from.
    #[error("there are no {0} images to learn from")]
    NothingToLearn(&'static str),
    /// A training image cannot be used.
    #[error("a training image cannot be used: {0}")]
    TrainingImage(SourceError),
    /// A normal image cannot be read any more.
    #[error("a normal image cannot be used: {0}")]
    ReferenceImage(#[from] SourceError),
    /// A training mask cannot be used.
    #[error("the training mask {path} cannot be used: {reason}")]
    TrainingMask {
        /// The mask.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A checkpoint, log or cache of a training run cannot be read or written.
    #[error("training cannot use {path}: {source}")]
    TrainingFile {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// An image or map cannot be brought to the size that is wanted.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A detector cannot be written as a graph.
    #[error("a detector of {method} cannot be exported as a whole: {reason}")]
    NoGraph {
        /// The method.
        method: &'static str,
        /// Why.
        reason: String,
    },
    /// A graph cannot be built, written or run.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The backbone failed.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl DetectorError {
    /// The error for settings of `method` that are impossible.
    pub(crate) fn settings(method: &'static str, reason: impl ToString) -> Self {
        Self::Settings {
            method,
            reason: reason.to_string(),
        }
    }

    /// The error for a tensor of a detector of `method` that is not as it must be.
    pub(crate) fn tensor(method: &'static str, name: &str) -> Self {
        let reason = format!("the tensor `{name}` is missing or has an unusable shape");
        Self::Settings { method, reason }
    }
}

/// Why an image has no features.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The file cannot be read as an image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image has a size that the method cannot use.
    #[error("{path}: {source}")]
    Geometry {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: GeometryError,
    },
}

/// ` (did you mean NAME?)`, or nothing.
fn suggestion(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}
