//! What a calibrated detector decided on a class, and its reliability diagram as inline SVG: how
//! frequent anomalous images are among those of similar probability.

use anomalens_detectors::Calibration;
use anomalens_metrics::{Confusion, Reliability};
use askama::Template;
use askama::filters::HtmlSafe;

use crate::page::three;
use crate::plots::{Tick, UNIT_SQUARE, UnitSquare, number, svg};
use anomalens_evaluation::{ClassResult, Decisions};

/// The decisions on one class.
pub(super) struct Decided {
    pub(super) sentence: String,
    pub(super) plot: Option<ReliabilityPlot>,
}

impl Decided {
    /// None if no image has a score.
    pub(super) fn new(class: &ClassResult, calibration: &Calibration) -> Option<Self> {
        let Decisions {
            class,
            confusion,
            reliability,
        } = Decisions::of(class, calibration).ok()?;
        let Confusion {
            true_positives,
            false_positives,
            false_negatives,
            true_negatives,
        } = confusion;
        let Calibration {
            threshold, rule, ..
        } = calibration;
        Some(Self {
            sentence: format!(
                "Decisions of the detector: {threshold} or higher is anomalous ({rule}, chosen \
                 from {} normal and {} anomalous images of {}). That finds {true_positives} of {} \
                 anomalous images and calls {false_positives} of {} normal ones anomalous.",
                calibration.normal,
                calibration.anomalous,
                calibration.data,
                true_positives + false_negatives,
                false_positives + true_negatives,
            ),
            plot: reliability.map(|reliability| ReliabilityPlot::new(class, &reliability)),
        })
    }
}

/// The reliability diagram.
#[derive(Template)]
#[template(path = "reliability.svg")]
pub(super) struct ReliabilityPlot {
    class: String,
    pub(super) brier: String,
    pub(super) expected_error: String,
    across: Vec<Tick>,
    up: Vec<Tick>,
    dots: Vec<Dot>,
}

/// Images of similar probability.
struct Dot {
    x: String,
    y: String,
    radius: String,
    images: usize,
}

impl HtmlSafe for ReliabilityPlot {}

impl ReliabilityPlot {
    fn new(class: String, reliability: &Reliability) -> Self {
        const LARGEST: f64 = 12.0;
        const SMALLEST: f64 = 2.0;
        let UnitSquare { across, up } = UNIT_SQUARE;
        let images: usize = reliability.bins.iter().map(|bin| bin.images).sum();
        let dots = reliability.bins.iter().map(|bin| {
            let share = bin.images as f64 / images as f64;
            Dot {
                x: svg(across.at(bin.probability)),
                y: svg(up.at(bin.anomalous)),
                radius: svg((LARGEST * share.sqrt()).max(SMALLEST)),
                images: bin.images,
            }
        });
        Self {
            class,
            brier: three(reliability.brier),
            expected_error: three(reliability.expected_error),
            across: across.ticks(0.2, number),
            up: up.ticks(0.2, number),
            dots: dots.collect(),
        }
    }
}
