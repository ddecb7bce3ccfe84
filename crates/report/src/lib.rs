//! The pages: evaluations, results and tables, each as one HTML file that needs no network and no
//! other file. Its script sorts tables and moves thresholds; without it all else is there.
//!
//! ```text
//! page.rs       the page of evaluations, for templates/report.html
//! results.rs    the page of images without labels, for templates/results.html
//! tables.rs     tables alone, for templates/tables.html
//! frame.rs      what all pages have in common, for templates/frame.html (report.css, report.js)
//! found.rs      how many defects are found at a rate of false alarms
//! images.rs     images in tables, with a threshold to move, for templates/images.html
//! choice.rs     which images are shown in the galleries
//! figure.rs     an image, its heat map, mask and regions, as pictures in data: addresses
//! plots.rs      axes, and the histogram of scores, for templates/histogram.svg
//! curves.rs     ROC, precision-recall and per-region-overlap curves, for templates/curve.svg
//! reliability.rs  a calibrated detector's decisions and probabilities, for templates/reliability.svg
//! losses.rs     losses of a training run, for templates/losses.svg
//! ```

mod choice;
mod curves;
mod error;
mod figure;
mod found;
mod frame;
mod images;
mod losses;
mod page;
mod plots;
mod reliability;
mod results;
mod tables;

use std::path::Path;

use anomalens_detectors::Calibration;
use anomalens_detectors::training::EpochLog;
use anomalens_evaluation::Evaluation;
use anomalens_evaluation::published::Published;
use anomalens_vision::DecodeOptions;

use crate::frame::write_page;
use crate::page::Page;
pub use error::ReportError;
pub use losses::write_loss_curve;
pub use results::{Decider, ResultImage, ResultsContext, write_results_report};
pub use tables::{Heading, tables_page};

/// What a report says besides the evaluations.
#[derive(Debug, Clone)]
pub struct ReportContext {
    /// The title and how the report was made.
    pub heading: Heading,
    /// SHA-256 of the backbone's weights.
    pub backbone_sha256: String,
    /// Papers' figures on the same data, shown with ours.
    pub published: Vec<Published>,
    /// The losses of the detector's training, where it was trained.
    pub losses: Vec<EpochLog>,
    /// The detector's calibration, whose decisions are shown.
    pub calibration: Option<Calibration>,
    /// How image files are decoded; images that are shown are read again.
    pub decode: DecodeOptions,
}

/// Writes the report on `evaluations`, or on a training run alone, to `path`; an existing file is
/// replaced only when the new one is complete. An image that cannot be read any more is named in its
/// figure's place.
///
/// # Errors
/// [`ReportError::Write`] with the path, or [`ReportError::Page`].
pub fn write_report(
    path: &Path,
    evaluations: &[Evaluation],
    context: &ReportContext,
) -> Result<(), ReportError> {
    write_page(path, &Page::new(evaluations, context))
}
