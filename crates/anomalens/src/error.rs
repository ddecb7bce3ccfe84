//! Why an image has no result.

use std::path::PathBuf;
use std::sync::Arc;

use anomalens_backbones::OpenError;
use anomalens_detectors::{DetectorError, ExportError, SourceError};
use anomalens_evaluation::EvaluationError;
use anomalens_vision::{GeometryError, ImageError};

/// Everything that can go wrong at the front door.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image cannot be read or written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image has a shape that is too extreme.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// An image cannot be scored.
    #[error(transparent)]
    Source(Arc<SourceError>),
    /// The backbone is unavailable.
    #[error(transparent)]
    Backbone(Box<OpenError>),
    /// The method or the detector file cannot be used.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// The detector cannot be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The calibration is impossible.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// A folder of normal images is missing or holds none.
    #[error(transparent)]
    Folder(#[from] anomalens_datasets::Error),
    /// A part of a folder of normal images cannot be searched.
    #[error("cannot search {}: {reason}", path.display())]
    NotSearched {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Several backbones are named for a method that uses one.
    #[error("{0} uses one backbone: name one")]
    OneBackbone(&'static str),
    /// The method gave no result for an image.
    #[error("the method gave no score for an image")]
    NotScored,
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        Self::Source(Arc::new(error))
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        Self::Backbone(Box::new(error))
    }
}
