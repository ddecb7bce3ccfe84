//! Every image of a class in a table, for templates/images.html: its score, what a threshold makes
//! of it, and pictures to open. templates/report.js sorts the table and moves the threshold.

use anomalens_detectors::Calibration;
use anomalens_metrics::{Confusion, f1_max};
use rayon::prelude::*;

use crate::ReportContext;
use crate::choice::Standing;
use crate::figure::{Thumbnails, label};
use crate::page::three;
use anomalens_evaluation::ClassResult;

/// How many images the tables of a report list, and of how many they have pictures: with more, it
/// would grow too large to open. Those that are most out of order come first.
#[derive(Clone, Copy)]
pub(super) struct Share {
    rows: usize,
    pictures: usize,
}

impl Share {
    pub(super) const WHOLE: Self = Self {
        rows: 10_000,
        pictures: 1000,
    };

    /// One of several equal parts.
    pub(super) fn part(self, parts: usize) -> Self {
        let parts = parts.max(1);
        Self {
            rows: self.rows / parts,
            pictures: self.pictures / parts,
        }
    }
}

/// The images of a class.
pub(super) struct ImageTable<'a> {
    pub(super) class: &'a str,
    /// Images of the class that have a score.
    pub(super) images: usize,
    /// Those that are listed, the highest score first.
    pub(super) rows: Vec<ImageRow<'a>>,
    pub(super) slider: Option<Slider>,
}

/// An image.
pub(super) struct ImageRow<'a> {
    pub(super) standing: Standing<'a>,
    /// Whether the threshold makes it anomalous; none if there is no threshold.
    pub(super) decision: Option<bool>,
    /// None if there are too many images.
    pub(super) pictures: Option<Result<Thumbnails, String>>,
}

/// A threshold that can be moved.
pub(super) struct Slider {
    pub(super) lowest: f32,
    pub(super) highest: f32,
    pub(super) threshold: f32,
    /// What the threshold is at first.
    pub(super) origin: &'static str,
    confusion: Confusion,
    /// The scores of all normal and of all anomalous images, for the script.
    pub(super) normal: String,
    pub(super) anomalous: String,
}

impl<'a> ImageTable<'a> {
    pub(super) fn new(class: &'a ClassResult, share: Share, context: &ReportContext) -> Self {
        let slider = Slider::new(class, context.calibration.as_ref());
        let mut standings = Standing::of_class(class);
        standings.sort_by(|a, b| b.wrongness().total_cmp(&a.wrongness()));
        let images = standings.len();
        standings.truncate(share.rows);
        let row = |(index, standing): (usize, Standing<'a>)| {
            let sample = &standing.record.sample;
            let draw = || Thumbnails::draw(sample, standing.prediction, &context.limits);
            let score = standing.prediction.score;
            ImageRow {
                standing,
                decision: slider.as_ref().map(|slider| score >= slider.threshold),
                pictures: (index < share.pictures)
                    .then(|| draw().map_err(|error| error.to_string())),
            }
        };
        let standings: Vec<_> = standings.into_iter().enumerate().collect();
        let mut rows: Vec<ImageRow<'a>> = standings.into_par_iter().map(row).collect();
        rows.sort_by_key(|row| row.standing.rank);
        Self {
            class: &class.class,
            images,
            rows,
            slider,
        }
    }

    /// Images that are not listed.
    pub(super) fn left_out(&self) -> usize {
        self.images - self.rows.len()
    }

    /// Listed images without pictures.
    pub(super) fn bare(&self) -> usize {
        let bare = self.rows.iter().filter(|row| row.pictures.is_none());
        bare.count()
    }
}

impl ImageRow<'_> {
    pub(super) fn id(&self) -> &str {
        &self.standing.record.sample.id
    }

    pub(super) fn is_anomalous(&self) -> bool {
        self.standing.record.is_anomalous()
    }

    pub(super) fn label(&self) -> String {
        label(&self.standing.record.sample)
    }

    pub(super) fn exact_score(&self) -> String {
        exact(self.standing.prediction.score)
    }

    pub(super) fn score(&self) -> String {
        three(self.standing.prediction.score.into())
    }
}

/// A score as JavaScript reads it.
fn exact(score: f32) -> String {
    score.to_string().replace("inf", "Infinity")
}

impl Slider {
    /// None if there are not two different scores.
    fn new(class: &ClassResult, calibration: Option<&Calibration>) -> Option<Self> {
        let (scores, labels) = class.scores();
        let finite = || scores.iter().copied().filter(|score| score.is_finite());
        let (lowest, highest) = (finite().reduce(f32::min)?, finite().reduce(f32::max)?);
        let best = || f1_max(&scores, &labels).ok().map(|best| best.threshold);
        let (threshold, origin) = match (calibration, best()) {
            (Some(calibration), _) => (calibration.threshold, "the detector's own"),
            (None, Some(threshold)) => (threshold, "that of the highest F1"),
            (None, None) => (highest, "the highest score"),
        };
        (lowest < highest && threshold.is_finite()).then_some(())?;
        let of = |wanted: bool| {
            let images = scores.iter().zip(&labels);
            let scores = images.filter(|(_, label)| **label == wanted);
            let scores: Vec<String> = scores.map(|(score, _)| exact(*score)).collect();
            scores.join(" ")
        };
        Some(Self {
            lowest: lowest.min(threshold),
            highest: highest.max(threshold),
            threshold,
            origin,
            confusion: Confusion::at(&scores, &labels, threshold).ok()?,
            normal: of(false),
            anomalous: of(true),
        })
    }

    pub(super) fn shown(&self) -> String {
        three(self.threshold.into())
    }

    /// What the threshold makes of the images, in the words of templates/report.js.
    pub(super) fn sentence(&self) -> String {
        let Confusion {
            true_positives: found,
            false_positives: false_alarms,
            false_negatives: missed,
            true_negatives: passed,
        } = self.confusion;
        let share = |part: u64, whole: u64| match whole {
            0 => "undefined".to_owned(),
            _ => three(part as f64 / whole as f64),
        };
        format!(
            "finds {found} of {} anomalous images and calls {false_alarms} of {} normal ones \
             anomalous: precision {}, recall {}, F1 {}",
            found + missed,
            false_alarms + passed,
            share(found, found + false_alarms),
            share(found, found + missed),
            share(2 * found, 2 * found + false_alarms + missed),
        )
    }
}
