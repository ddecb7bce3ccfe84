//! Every image of a class in a table, for templates/images.html: its score, what a threshold makes
//! of it, and pictures to open. templates/report.js sorts the table and moves the threshold.

use anomalens_detectors::Calibration;
use anomalens_metrics::{Confusion, f1_max};
use rayon::prelude::*;

use crate::ClassResult;
use crate::report::ReportContext;
use crate::report::choice::Standing;
use crate::report::figure::{Thumbnails, label};
use crate::report::page::three;

/// The images of a class.
pub(super) struct ImageTable<'a> {
    pub(super) class: &'a str,
    /// The highest score first.
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
}

impl<'a> ImageTable<'a> {
    /// With pictures of at most `pictures` images, those that are most out of order.
    pub(super) fn new(class: &'a ClassResult, pictures: usize, context: &ReportContext) -> Self {
        let slider = Slider::new(class, context.calibration.as_ref());
        let mut standings = Standing::of_class(class);
        standings.sort_by(|a, b| b.wrongness().total_cmp(&a.wrongness()));
        let row = |(index, standing): (usize, Standing<'a>)| {
            let sample = &standing.record.sample;
            let draw = || Thumbnails::draw(sample, standing.prediction, &context.limits);
            let score = standing.prediction.score;
            ImageRow {
                standing,
                decision: slider.as_ref().map(|slider| score >= slider.threshold),
                pictures: (index < pictures).then(|| draw().map_err(|error| error.to_string())),
            }
        };
        let standings: Vec<_> = standings.into_iter().enumerate().collect();
        let mut rows: Vec<ImageRow<'a>> = standings.into_par_iter().map(row).collect();
        rows.sort_by_key(|row| row.standing.rank);
        Self {
            class: &class.class,
            rows,
            slider,
        }
    }

    /// Images without pictures.
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

    /// The score as JavaScript reads it.
    pub(super) fn exact_score(&self) -> String {
        let score = self.standing.prediction.score;
        score.to_string().replace("inf", "Infinity")
    }

    pub(super) fn score(&self) -> String {
        three(self.standing.prediction.score.into())
    }
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
        Some(Self {
            lowest: lowest.min(threshold),
            highest: highest.max(threshold),
            threshold,
            origin,
            confusion: Confusion::at(&scores, &labels, threshold).ok()?,
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
