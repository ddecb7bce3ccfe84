//! The curves of one class as inline SVG: ROC and precision-recall of the images, per-region overlap
//! of the pixels.

use anomalens_metrics::{CurvePoint, DEFAULT_FPR_LIMIT, precision_recall_curve, roc_curve, thin};
use askama::Template;
use askama::filters::HtmlSafe;

use crate::page::three;
use crate::plots::{Tick, UNIT_SQUARE, UnitSquare, number, svg};
use anomalens_evaluation::ClassResult;

/// Nearer points of a curve look the same; a part of its width and height.
const CURVE_TOLERANCE: f64 = 0.003;

/// A curve of the image or pixel scores.
#[derive(Template)]
#[template(path = "curve.svg")]
pub(super) struct CurvePlot {
    title: String,
    /// The area under it, with its name.
    pub(super) area: String,
    across_name: &'static str,
    up_name: &'static str,
    across: Vec<Tick>,
    up: Vec<Tick>,
    /// The path of what chance reaches.
    chance: String,
    points: String,
}

impl HtmlSafe for CurvePlot {}

impl CurvePlot {
    /// The ROC curve, or why there is none.
    pub(super) fn roc(class: &ClassResult) -> Result<Self, String> {
        let (scores, labels) = class.scores();
        let curve = roc_curve(&scores, &labels).map_err(|error| error.to_string())?;
        Ok(Self {
            title: format!("ROC curve of {}", class.class),
            area: area("AUROC", class.metrics.image_auroc),
            across_name: "false-positive rate",
            up_name: "true-positive rate",
            ..Self::new(&curve, 1.0, [0.0, 1.0])
        })
    }

    /// The precision-recall curve, or why there is none.
    pub(super) fn precision_recall(class: &ClassResult) -> Result<Self, String> {
        let (scores, labels) = class.scores();
        let curve = precision_recall_curve(&scores, &labels).map_err(|error| error.to_string())?;
        // The last point calls every image anomalous.
        let anomalous = curve.last().map_or(0.0, |point| point.precision);
        Ok(Self {
            title: format!("Precision-recall curve of {}", class.class),
            area: area("AP", class.metrics.image_ap),
            across_name: "recall",
            up_name: "precision",
            ..Self::new(&curve, 1.0, [anomalous; 2])
        })
    }

    /// The per-region-overlap curve of the pixels, where there is one.
    pub(super) fn pro(class: &ClassResult) -> Option<Self> {
        let limit = DEFAULT_FPR_LIMIT;
        Some(Self {
            title: format!("Per-region-overlap curve of {}", class.class),
            area: area("AUPRO", class.metrics.aupro),
            across_name: "false-positive rate",
            up_name: "per-region overlap",
            ..Self::new(class.pro_curve.as_ref()?, limit, [0.0, limit])
        })
    }

    /// The plot of a curve up to `width`, 1 high; chance goes straight between two heights.
    fn new<P: CurvePoint>(curve: &[P], width: f64, chance: [f64; 2]) -> Self {
        let UnitSquare { mut across, up } = UNIT_SQUARE;
        across.from.0 *= width;
        across.to.0 *= width;
        let tolerance = [width, 1.0].map(|side| side * CURVE_TOLERANCE);
        let place = |x: f64, y: f64| format!("{},{}", svg(across.at(x)), svg(up.at(y)));
        let points = thin(curve.iter().copied(), tolerance)
            .into_iter()
            .map(|point| {
                let (x, y) = point.position();
                place(x, y)
            });
        let [left, right] = chance;
        Self {
            title: String::new(),
            area: String::new(),
            across_name: "",
            up_name: "",
            across: across.ticks(width / 5.0, number),
            up: up.ticks(0.2, number),
            chance: format!("M{}L{}", place(0.0, left), place(width, right)),
            points: points.collect::<Vec<_>>().join(" "),
        }
    }
}

fn area(name: &str, value: Option<f64>) -> String {
    let value = value.map_or_else(|| "undefined".to_owned(), three);
    format!("{name} {value}")
}
