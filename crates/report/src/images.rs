//! Images in a table, the highest score first, for templates/images.html: pictures, score, and what
//! a threshold makes of it. templates/report.js sorts the table and moves the threshold.

use anomalens_detectors::Calibration;
use anomalens_evaluation::ClassResult;
use anomalens_metrics::{Confusion, f1_max};
use anomalens_vision::DecodeOptions;
use rayon::prelude::*;

use crate::ReportContext;
use crate::choice::Standing;
use crate::figure::{Pictures, label};
use crate::page::three;
use crate::results::{Decider, ResultImage};

/// How many images the tables of a page list, and how many of these have pictures: with more, the
/// page would grow too large to open. Pictures take about 16 kB an image.
#[derive(Clone, Copy)]
pub(super) struct Share {
    pub(super) rows: usize,
    pub(super) pictures: usize,
}

impl Share {
    pub(super) const ALL: Self = Self {
        rows: 10_000,
        pictures: 2000,
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

/// The images of a class or of a folder.
pub(super) struct ImageTable<'a> {
    pub(super) name: &'a str,
    /// Images that have a score.
    pub(super) images: usize,
    /// Those that are listed, the highest score first.
    pub(super) rows: Vec<ImageRow<'a>>,
    pub(super) slider: Option<Slider>,
    /// Which images lack pictures or are not listed.
    left_out: &'static str,
}

/// An image.
pub(super) struct ImageRow<'a> {
    pub(super) name: &'a str,
    /// Its label, and whether it is labelled anomalous.
    pub(super) label: Option<(String, bool)>,
    pub(super) value: f32,
    /// One more than the images with a higher score.
    pub(super) rank: usize,
    /// Whether the threshold makes it anomalous; none if there is no threshold.
    pub(super) decision: Option<bool>,
    pub(super) probability: Option<f64>,
    /// Regions that were found, where they are counted.
    pub(super) regions: Option<usize>,
    pub(super) notes: &'a [String],
    /// None if there are too many images.
    pub(super) pictures: Option<Result<Pictures, String>>,
}

/// A threshold that can be moved.
pub(super) struct Slider {
    pub(super) lowest: f32,
    pub(super) highest: f32,
    pub(super) threshold: f32,
    /// What the threshold is at first.
    pub(super) origin: String,
    /// What the threshold makes of the images, in the words of templates/report.js.
    pub(super) sentence: String,
    /// The scores of all images, for the script: under `scores`, or under `normal` and `anomalous`.
    pub(super) data: Vec<(&'static str, String)>,
}

impl<'a> ImageTable<'a> {
    /// The images of a class; where not all fit, those that are most out of order.
    pub(super) fn of_class(class: &'a ClassResult, share: Share, context: &ReportContext) -> Self {
        let slider = Slider::labelled(class, context.calibration.as_ref());
        let mut standings = Standing::of_class(class);
        let images = standings.len();
        // The most out of order first, then the highest scores.
        standings.sort_by(|a, b| {
            let by_rank = || a.rank.cmp(&b.rank);
            b.wrongness().total_cmp(&a.wrongness()).then_with(by_rank)
        });
        standings.truncate(share.rows);
        let threshold = slider.as_ref().map(|slider| slider.threshold);
        let row = |(index, standing): (usize, Standing<'a>)| {
            let Standing {
                record, prediction, ..
            } = standing;
            let sample = &record.sample;
            let draw = || Pictures::small(sample, prediction, &context.decode);
            ImageRow {
                name: &sample.id,
                label: Some((label(sample), record.is_anomalous())),
                value: prediction.score,
                rank: standing.rank,
                decision: threshold.map(|threshold| prediction.score >= threshold),
                probability: None,
                regions: None,
                notes: &[],
                pictures: (index < share.pictures)
                    .then(|| draw().map_err(|error| error.to_string())),
            }
        };
        let standings: Vec<_> = standings.into_iter().enumerate().collect();
        let mut rows: Vec<ImageRow<'a>> = standings.into_par_iter().map(row).collect();
        rows.sort_by_key(|row| row.rank);
        Self {
            name: &class.class,
            images,
            rows,
            slider,
            left_out: "those that are least out of order",
        }
    }

    /// Images without labels; where not all fit, those with the highest scores.
    pub(super) fn of_results(
        images: &'a [ResultImage],
        share: Share,
        decider: Option<&Decider>,
        decode: &DecodeOptions,
    ) -> Self {
        let mut scored: Vec<(f32, &ResultImage)> = images
            .iter()
            .filter_map(|image| Some((image.score?, image)))
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let scores: Vec<f32> = scored.iter().map(|(score, _)| *score).collect();
        let listed = scored.iter().take(share.rows).enumerate();
        let row = |(index, &(score, image)): (usize, &(f32, &'a ResultImage))| {
            let draw = || Pictures::of_result(image, decode);
            let decided = || Some(score >= decider?.threshold);
            ImageRow {
                name: &image.name,
                label: None,
                value: score,
                rank: 1 + scores.partition_point(|other| other.total_cmp(&score).is_gt()),
                decision: image.anomalous.or_else(decided),
                probability: image.probability,
                regions: Some(image.regions.len()),
                notes: &image.notes,
                pictures: (index < share.pictures && image.has_pictures())
                    .then(|| draw().map_err(|error| error.to_string())),
            }
        };
        let listed: Vec<_> = listed.collect();
        Self {
            name: "",
            images: scored.len(),
            rows: listed.into_par_iter().map(row).collect(),
            slider: decider.and_then(|decider| Slider::plain(&scores, decider)),
            left_out: "those with the lowest scores",
        }
    }

    /// Whether some row has a value in this column.
    fn any(&self, has: impl Fn(&ImageRow) -> bool) -> bool {
        self.rows.iter().any(has)
    }

    pub(super) fn has_labels(&self) -> bool {
        self.any(|row| row.label.is_some())
    }

    pub(super) fn has_decisions(&self) -> bool {
        self.any(|row| row.decision.is_some())
    }

    pub(super) fn has_probabilities(&self) -> bool {
        self.any(|row| row.probability.is_some())
    }

    pub(super) fn has_regions(&self) -> bool {
        self.any(|row| row.regions.is_some())
    }

    pub(super) fn has_pictures(&self) -> bool {
        self.any(|row| row.pictures.is_some())
    }

    /// What the page leaves out so that it can be opened.
    pub(super) fn note(&self) -> Option<String> {
        let bare = self
            .rows
            .iter()
            .filter(|row| row.pictures.is_none())
            .count();
        let missing = self.images - self.rows.len();
        let left_out = match (self.has_pictures(), bare, missing) {
            (false, _, 0) | (true, 0, 0) => return None,
            (true, bare, 0) => format!("{bare} images have no pictures"),
            (false, _, missing) => format!("{missing} images are not listed"),
            (true, bare, missing) => {
                format!("{bare} images have no pictures and {missing} are not listed")
            }
        };
        let those = self.left_out;
        Some(format!("To keep this page small, {left_out}: {those}."))
    }
}

impl ImageRow<'_> {
    pub(super) fn exact_score(&self) -> String {
        exact(self.value)
    }

    pub(super) fn score(&self) -> String {
        three(self.value.into())
    }

    /// What the threshold makes of it.
    pub(super) fn decided(&self) -> &'static str {
        match self.decision {
            Some(true) => "anomalous",
            Some(false) => "normal",
            None => "",
        }
    }

    pub(super) fn probability(&self) -> String {
        self.probability.map(three).unwrap_or_default()
    }
}

/// A score as JavaScript reads it.
fn exact(score: f32) -> String {
    score.to_string().replace("inf", "Infinity")
}

fn join(scores: impl Iterator<Item = f32>) -> String {
    scores.map(exact).collect::<Vec<_>>().join(" ")
}

/// The lowest and the highest score, widened to `threshold`; none if there are not two different.
fn ends(scores: &[f32], threshold: f32) -> Option<(f32, f32)> {
    let finite = || scores.iter().copied().filter(|score| score.is_finite());
    let (lowest, highest) = (finite().reduce(f32::min)?, finite().reduce(f32::max)?);
    (lowest < highest && threshold.is_finite())
        .then(|| (lowest.min(threshold), highest.max(threshold)))
}

impl Slider {
    /// Over the images of a class; at first at the calibration's threshold or that of the highest F1.
    fn labelled(class: &ClassResult, calibration: Option<&Calibration>) -> Option<Self> {
        let (scores, labels) = class.scores();
        let best = || f1_max(&scores, &labels).ok().map(|best| best.threshold);
        let highest = || scores.iter().copied().reduce(f32::max);
        let (threshold, origin) = match (calibration, best()) {
            (Some(calibration), _) => (calibration.threshold, "the detector's own"),
            (None, Some(threshold)) => (threshold, "that of the highest F1"),
            (None, None) => (highest()?, "the highest score"),
        };
        let (lowest, highest) = ends(&scores, threshold)?;
        let of = |wanted: bool| {
            let images = scores.iter().zip(&labels);
            let images = images.filter(move |(_, label)| **label == wanted);
            join(images.map(|(score, _)| *score))
        };
        Some(Self {
            lowest,
            highest,
            threshold,
            origin: origin.to_owned(),
            sentence: sentence(Confusion::at(&scores, &labels, threshold).ok()?),
            data: vec![("normal", of(false)), ("anomalous", of(true))],
        })
    }

    /// Over images without labels.
    fn plain(scores: &[f32], decider: &Decider) -> Option<Self> {
        let threshold = decider.threshold;
        let (lowest, highest) = ends(scores, threshold)?;
        let called = scores.iter().filter(|score| **score >= threshold).count();
        Some(Self {
            lowest,
            highest,
            threshold,
            origin: decider.origin.clone(),
            sentence: format!("calls {called} of {} images anomalous", scores.len()),
            data: vec![("scores", join(scores.iter().copied()))],
        })
    }

    pub(super) fn shown(&self) -> String {
        three(self.threshold.into())
    }
}

fn sentence(confusion: Confusion) -> String {
    let Confusion {
        true_positives: found,
        false_positives: false_alarms,
        false_negatives: missed,
        true_negatives: passed,
    } = confusion;
    let share = |part: u64, all: u64| match all {
        0 => "undefined".to_owned(),
        _ => three(part as f64 / all as f64),
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
