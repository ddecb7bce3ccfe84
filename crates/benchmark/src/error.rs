//! Why a table cannot be made.

use std::path::PathBuf;

use anomalens_base::did_you_mean;
use anomalens_detectors::DetectorError;
use anomalens_evaluation::{EvaluationError, ResultsError};
use anomalens_report::ReportError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    /// A data set cannot be used.
    #[error(transparent)]
    Data(#[from] anomalens_datasets::Error),
    /// A method failed.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// An evaluation failed.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// The folder of results cannot be used.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// A page cannot be made.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A file or folder cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// There is no suite of this name.
    #[error("there is no suite `{name}`{}; the suites are {known}", did_you_mean(nearest.as_deref()))]
    UnknownSuite {
        /// The name that was asked for.
        name: String,
        /// The most similar name, if one is similar.
        nearest: Option<String>,
        /// Every name.
        known: String,
    },
    /// A data set to train on is not among those that were found.
    #[error("the data set `{0}`, which methods are to be trained on, was not given")]
    NoAuxiliaryData(String),
    /// A method could not be trained on a data set of a suite.
    #[error("{title}: {reason}")]
    Training {
        /// Which method on which data.
        title: String,
        /// Why.
        reason: String,
    },
}
