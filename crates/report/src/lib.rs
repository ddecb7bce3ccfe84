//! The report: evaluations as one HTML file that needs no network and no other file. Its script
//! sorts tables and moves thresholds; without it all else is there.
//!
//! ```text
//! page.rs       what the page says, for templates/report.html (its looks: report.css)
//! plots.rs      axes, and the histogram of scores, for templates/histogram.svg
//! curves.rs     ROC, precision-recall and per-region-overlap curves, for templates/curve.svg
//! reliability.rs  a calibrated detector's decisions and probabilities, for templates/reliability.svg
//! losses.rs     losses of a training run, for templates/losses.svg
//! choice.rs     which images are shown in the galleries
//! images.rs     all images in tables, with a threshold to move, for templates/images.html (report.js)
//! tables.rs     tables alone, for templates/tables.html
//! figure.rs     an image, its heat map and mask, as pictures in data: addresses
//! ```

mod choice;
mod curves;
mod error;
mod figure;
mod images;
mod losses;
mod page;
mod plots;
mod reliability;
mod tables;

use std::path::Path;

use anomalens_base::write_atomic;
use anomalens_detectors::Calibration;
use anomalens_detectors::training::EpochLog;
use anomalens_vision::Limits;
use askama::Template;

use crate::page::Page;
use anomalens_evaluation::Evaluation;
use anomalens_evaluation::published::Published;
pub use error::ReportError;
pub use losses::write_loss_curve;
pub use tables::{Heading, tables_page};

/// What a report tells beside the evaluations.
#[derive(Debug, Clone)]
pub struct ReportContext {
    /// The heading.
    pub title: String,
    /// The exact command line that made the evaluations.
    pub command: String,
    /// When, as RFC 3339.
    pub date: String,
    /// Name and version of the program.
    pub program: String,
    /// Name of the backbone.
    pub backbone: String,
    /// SHA-256 of the backbone's weights.
    pub backbone_sha256: String,
    /// Papers' figures on the same data, shown beside ours.
    pub published: Vec<Published>,
    /// The losses of the detector's training, where it was trained.
    pub losses: Vec<EpochLog>,
    /// The detector's calibration, whose decisions are shown.
    pub calibration: Option<Calibration>,
    /// What an image file may cost; images that are shown are read again.
    pub limits: Limits,
}

/// Writes the report on `evaluations`, or on a training run alone, to `path`; an existing file is replaced only when the new
/// one is complete. An image that cannot be read any more is named in its figure's place.
///
/// # Errors
/// [`ReportError::Write`] with the path, or [`ReportError::Page`].
pub fn write_report(
    path: &Path,
    evaluations: &[Evaluation],
    context: &ReportContext,
) -> Result<(), ReportError> {
    let page = Page::new(evaluations, context).render()?;
    write_atomic(path, page.as_bytes()).map_err(|source| ReportError::Write {
        path: path.to_owned(),
        source,
    })
}
