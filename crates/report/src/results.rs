//! The page of images that have scores but no labels, for templates/results.html.

use std::path::{Path, PathBuf};

use anomalens_detectors::ImageSource;
use anomalens_evaluation::picture::AnomalousArea;
use anomalens_vision::DecodeOptions;
use askama::Template;

use crate::figure::Legend;
use crate::frame::{Frame, write_page};
use crate::images::{ImageTable, Share};
use crate::page::three;
use crate::plots::HistogramPlot;
use crate::{Heading, ReportError};

/// One image of a page of results.
#[derive(Debug, Clone, Default)]
pub struct ResultImage {
    /// What the image is called on the page.
    pub name: String,
    /// The anomaly score; none if the image could not be scored.
    pub score: Option<f32>,
    /// The decision, where there is one.
    pub anomalous: Option<bool>,
    /// The probability that the image is anomalous, where it is known.
    pub probability: Option<f64>,
    /// Regions that look anomalous, in pixels of the image.
    pub regions: Vec<AnomalousArea>,
    /// Where the image is read again for its picture, with the part that the network saw. None shows
    /// no picture of it.
    pub source: Option<ImageSource>,
    /// The file of its heat map, which shows the same part.
    pub heat_map: Option<PathBuf>,
    /// The file of the heat map laid over the image. Boxes of the regions are drawn over it.
    pub overlay: Option<PathBuf>,
    /// Why the image could not be scored.
    pub error: Option<String>,
    /// What is doubtful about the image, such as that it is blank.
    pub notes: Vec<String>,
}

impl ResultImage {
    pub(super) fn has_pictures(&self) -> bool {
        self.source.is_some() || self.heat_map.is_some() || self.overlay.is_some()
    }
}

/// The threshold of decisions: an image is anomalous where `score >= threshold`.
#[derive(Debug, Clone, PartialEq)]
pub struct Decider {
    /// The threshold.
    pub threshold: f32,
    /// Where it comes from, such as `fpr=0.01, from 40 normal images of good/`.
    pub origin: String,
}

/// What a page of results says besides the images.
#[derive(Debug, Clone)]
pub struct ResultsContext {
    /// The title and how the page was made. Its notes stand below the counts.
    pub heading: Heading,
    /// What scored the images: the method and its reference images, in words.
    pub detector: String,
    /// The threshold, if there is one.
    pub decider: Option<Decider>,
    /// How images are decoded, which are read again for their pictures.
    pub decode: DecodeOptions,
}

/// Writes the page of `images`, the highest score first, to `path`; an existing file is replaced only
/// when the new one is complete. At most 10,000 images are listed and 2,000 have pictures, those with
/// the highest scores; the page gives the number of the others. A picture that cannot be read is
/// named in its place.
///
/// # Errors
/// [`ReportError::Write`] with the path, or [`ReportError::Page`].
pub fn write_results_report(
    path: &Path,
    images: &[ResultImage],
    context: &ResultsContext,
) -> Result<(), ReportError> {
    write_page(path, &Page::new(images, context))
}

/// The page.
#[derive(Template)]
#[template(path = "results.html")]
struct Page<'a> {
    frame: Frame<'a>,
    context: &'a ResultsContext,
    table: ImageTable<'a>,
    histogram: Result<HistogramPlot, String>,
    /// Images that were called anomalous, of how many; none without decisions.
    called: Option<(usize, usize)>,
    /// Images that could not be scored, and why.
    failed: Vec<(&'a str, &'a str)>,
    /// Images with notes.
    flagged: Vec<&'a ResultImage>,
    legend: Legend,
}

impl<'a> Page<'a> {
    fn new(images: &'a [ResultImage], context: &'a ResultsContext) -> Self {
        let decider = context.decider.as_ref();
        let scores: Vec<f32> = images.iter().filter_map(|image| image.score).collect();
        let decide = |image: &ResultImage| {
            let by_threshold = || Some(image.score? >= decider?.threshold);
            image.anomalous.or_else(by_threshold)
        };
        let decisions: Vec<bool> = images.iter().filter_map(decide).collect();
        let failed = images.iter().filter(|image| image.score.is_none());
        Self {
            frame: Frame::with_script(&context.heading),
            table: ImageTable::of_results(images, Share::ALL, decider, &context.decode),
            histogram: HistogramPlot::unlabelled(&scores, decider.map(|d| d.threshold)),
            called: (!decisions.is_empty()).then(|| {
                let called = decisions.iter().filter(|anomalous| **anomalous);
                (called.count(), decisions.len())
            }),
            failed: failed
                .map(|image| {
                    let reason = image.error.as_deref().unwrap_or("no reason is known");
                    (image.name.as_str(), reason)
                })
                .collect(),
            flagged: images
                .iter()
                .filter(|image| !image.notes.is_empty())
                .collect(),
            legend: Legend::new(None, false),
            context,
        }
    }

    /// The threshold with its origin.
    fn threshold(&self) -> Option<(String, &str)> {
        let decider = self.context.decider.as_ref()?;
        Some((three(decider.threshold.into()), &decider.origin))
    }
}
