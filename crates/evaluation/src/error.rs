//! What can go wrong in an evaluation.

use std::path::PathBuf;
use std::sync::Arc;

use anomalens_detectors::{DetectorError, SourceError};
use anomalens_metrics::MetricError;
use anomalens_vision::{GeometryError, ImageError};
use thiserror::Error;

use crate::ResultsError;

/// An error that ends an evaluation; a single unreadable image does not.
#[derive(Debug, Error)]
pub enum EvaluationError {
    /// The data set cannot be used.
    #[error(transparent)]
    Data(#[from] anomalens_datasets::Error),
    /// A method failed.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// A normal image that was drawn as a shot cannot be used.
    #[error(transparent)]
    Shot(#[from] SourceError),
    /// An image to calibrate with cannot be used.
    #[error("an image to calibrate with cannot be used: {0}; mend it or take it out")]
    Calibration(Arc<SourceError>),
    /// A mask cannot be read.
    #[error(transparent)]
    Mask(#[from] ImageError),
    /// A map or mask cannot be brought to the size that is wanted.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The metrics cannot be computed from what was found.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// A mask does not fit its image.
    #[error(
        "the mask {mask} is {mask_width} x {mask_height} pixels, but its image {image} is \
         {image_width} x {image_height}: `anomalens data check` lists every such pair"
    )]
    MaskSize {
        /// The mask file.
        mask: PathBuf,
        /// Its width.
        mask_width: u32,
        /// Its height.
        mask_height: u32,
        /// The image file.
        image: PathBuf,
        /// Its width.
        image_width: u32,
        /// Its height.
        image_height: u32,
    },
    /// The report cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// There is no suite of this name.
    #[error("there is no suite `{name}`{}; the suites are {known}", nearest.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)")))]
    UnknownSuite {
        /// The name that was asked for.
        name: String,
        /// The most similar name, if one is similar.
        nearest: Option<&'static str>,
        /// Every name.
        known: String,
    },
    /// A data set that methods are to learn from is not among those that were found.
    #[error("there is no `{0}` to learn from: give it with --data, or others with --teachers")]
    NoTeacher(String),
    /// A method could not learn from a data set of a suite.
    #[error("{title}: {reason}")]
    Learning {
        /// Which from what.
        title: String,
        /// Why.
        reason: String,
    },
    /// The folder of results cannot be used.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// The report's page cannot be made.
    #[error("cannot make the report: {0}")]
    Page(#[from] askama::Error),
}
