//! Why a detector is not exported.

use std::path::PathBuf;

use anomalens_backbones::BackboneError;
use anomalens_onnx::OnnxError;
use anomalens_vision::GeometryError;
use thiserror::Error;

use crate::DetectorError;

/// An error of an export.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The detector, or its network, cannot be a graph.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// A size that the networks do not take.
    #[error(
        "the size {width}x{height} does not fit: {network} takes sides that are multiples of {multiple}"
    )]
    Size {
        /// Columns that were asked for.
        width: usize,
        /// Rows.
        height: usize,
        /// The network.
        network: String,
        /// What both sides must be multiples of.
        multiple: usize,
    },
    /// A detector whose size is fixed by what it cuts out of images.
    #[error(
        "the detector cuts {side}x{side} pixels out of the middle of each image, so that there is \
         no other size: leave --size out, or fit it again with another `image_size`"
    )]
    FixedSize {
        /// The side of what it cuts out.
        side: usize,
    },
    /// The path names no file.
    #[error("{0} names no file")]
    NoName(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {path}: {source}; an older file there is unchanged")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// What was written gives something else than this program.
    #[error(
        "the exported file gives other results than this program ({what}), and was not kept{advice}"
    )]
    Differs {
        /// What differs, and how much.
        what: String,
        /// What helps.
        advice: &'static str,
    },
}

impl From<OnnxError> for ExportError {
    fn from(error: OnnxError) -> Self {
        Self::Detector(error.into())
    }
}

impl From<BackboneError> for ExportError {
    fn from(error: BackboneError) -> Self {
        Self::Detector(error.into())
    }
}

impl From<GeometryError> for ExportError {
    fn from(error: GeometryError) -> Self {
        Self::Detector(error.into())
    }
}
