//! Why a synthetic set cannot be described, made or written.

use std::io;
use std::path::PathBuf;

use anomalens_vision::{GeometryError, ImageError};

/// Everything that can go wrong in this crate; each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum SyntheticError {
    /// A text that describes no synthetic set.
    #[error("`{given}` describes no synthetic set: {reason}")]
    Spec {
        /// The text.
        given: String,
        /// What is wrong with it, as a clause.
        reason: String,
    },
    /// A folder to draw on does not exist or holds no images.
    #[error("there are no images in {} to draw defects on", folder.display())]
    NoNormalImages {
        /// The folder.
        folder: PathBuf,
    },
    /// A set would be written over something.
    #[error("{} exists and is not empty: name a new folder", path.display())]
    OutputExists {
        /// The folder or file.
        path: PathBuf,
    },
    /// The folder of normal images cannot be listed.
    #[error(transparent)]
    Data(#[from] anomalens_datasets::Error),
    /// An image cannot be read or encoded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image cannot have the size asked for.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A file or folder cannot be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl SyntheticError {
    pub(crate) fn reading(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::io("read", path, source)
    }

    pub(crate) fn writing(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::io("write", path, source)
    }

    fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.into(),
            source,
        }
    }
}
