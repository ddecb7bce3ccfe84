//! What the page says, in the words and numbers that `templates/report.html` prints.

use askama::Template;

use crate::ReportContext;
use crate::choice::{Standing, most_anomalous, most_wrong_anomalous, most_wrong_normal};
use crate::curves::CurvePlot;
use crate::figure::{Legend, Pictures, label};
use crate::found::{Found, RATES};
use crate::frame::Frame;
use crate::images::{ImageTable, Share};
use crate::losses::LossPlot;
use crate::plots::HistogramPlot;
use crate::reliability::Decided;
use anomalens_evaluation::published::Published;
use anomalens_evaluation::{ClassResult, Evaluation, Metrics};

/// The page.
#[derive(Template)]
#[template(path = "report.html")]
pub(super) struct Page<'a> {
    frame: Frame<'a>,
    context: &'a ReportContext,
    columns: Columns,
    runs: Vec<Run<'a>>,
    compared: Vec<Compared<'a>>,
    losses: Option<LossPlot>,
}

/// Which metrics the tables have.
struct Columns {
    image: &'static [Column],
    pixel: &'static [Column],
}

/// A metric's heading and where it is found.
type Column = (&'static str, fn(&Metrics) -> Option<f64>);

const IMAGE_COLUMNS: [Column; 3] = [
    ("AUROC", |m| m.image_auroc),
    ("AP", |m| m.image_ap),
    ("F1-max", |m| m.image_f1_max),
];

const PIXEL_COLUMNS: [Column; 5] = [
    ("AUROC", |m| m.pixel_auroc),
    ("AP", |m| m.pixel_ap),
    ("F1-max", |m| m.pixel_f1_max),
    ("AUPRO", |m| m.aupro),
    ("AUPRO\n200 steps", |m| m.aupro_200_steps),
];

/// The metrics that published figures have.
const COMPARED_COLUMNS: [Column; 4] = [
    ("Image AUROC", |m| m.image_auroc),
    ("Image AP", |m| m.image_ap),
    ("Pixel AUROC", |m| m.pixel_auroc),
    ("AUPRO\n200 steps", |m| m.aupro_200_steps),
];

impl Columns {
    /// The values of a row; none where a metric is undefined.
    fn values(&self, metrics: &Metrics) -> Vec<Option<String>> {
        let columns = self.image.iter().chain(self.pixel);
        columns
            .map(|(_, metric)| metric(metrics).map(three))
            .collect()
    }
}

/// One evaluation.
struct Run<'a> {
    /// Which one, counted from 1.
    place: usize,
    evaluation: &'a Evaluation,
    title: String,
    /// Defects found in all classes together, each at its own threshold.
    found: Vec<Found>,
    /// Classes and what is undefined in them.
    undefined: Vec<(&'a str, &'a str)>,
    classes: Vec<Class<'a>>,
    galleries: Vec<Gallery<'a>>,
    tables: Vec<ImageTable<'a>>,
    legend: Legend,
    /// Images that could not be used, and why.
    failed: Vec<(&'a str, &'a str)>,
}

/// One class of an evaluation.
struct Class<'a> {
    result: &'a ClassResult,
    /// Defects found, at each of [`RATES`].
    found: Vec<Found>,
    /// What each is a curve of, and the curve.
    curves: Vec<(&'static str, Result<CurvePlot, String>)>,
    histogram: Result<HistogramPlot, String>,
    decided: Option<Decided>,
}

/// Some images of an evaluation.
struct Gallery<'a> {
    heading: &'static str,
    figures: Vec<Figure<'a>>,
    /// What stands here if there is no such image.
    without: &'static str,
}

/// One image of a gallery.
struct Figure<'a> {
    standing: Standing<'a>,
    pictures: Result<Pictures, String>,
}

/// One row of the comparison with published figures.
struct Compared<'a> {
    data: &'a str,
    method: &'a str,
    shots: String,
    /// As [`COMPARED_COLUMNS`] orders them.
    metrics: Vec<Option<String>>,
    /// Where it was published; `None` if it is ours.
    source: Option<String>,
}

impl<'a> Page<'a> {
    pub(super) fn new(evaluations: &'a [Evaluation], context: &'a ReportContext) -> Self {
        let has_masks = evaluations.iter().any(has_masks);
        Self {
            frame: Frame::with_script(&context.heading),
            context,
            columns: Columns {
                image: &IMAGE_COLUMNS,
                pixel: if has_masks { &PIXEL_COLUMNS } else { &[] },
            },
            runs: (1..)
                .zip(evaluations)
                .map(|(place, evaluation)| {
                    let share = Share::ALL.part(evaluations.len());
                    Run::new(place, evaluation, share, context)
                })
                .collect(),
            compared: compared(evaluations, &context.published),
            losses: LossPlot::new(&context.losses),
        }
    }
}

impl Page<'_> {
    /// Whether some run says more of its classes than its summary.
    fn has_classes(&self) -> bool {
        self.runs.iter().any(Run::has_classes)
    }
}

/// Whether anomalous pixels of some image are known.
fn has_masks(evaluation: &Evaluation) -> bool {
    let mut images = evaluation.classes.iter().flat_map(|class| &class.images);
    images.any(|record| record.sample.mask.is_marked())
}

impl<'a> Run<'a> {
    fn new(
        place: usize,
        evaluation: &'a Evaluation,
        share: Share,
        context: &ReportContext,
    ) -> Self {
        let standings = Standing::of_all(evaluation);
        let gallery = |heading, without, chosen: Vec<Standing<'a>>| Gallery {
            heading,
            without,
            figures: chosen
                .into_iter()
                .map(|standing| Figure::new(standing, context))
                .collect(),
        };
        let galleries = vec![
            gallery(
                "Most anomalous images",
                "No image has a score.",
                most_anomalous(&standings),
            ),
            gallery(
                "Normal images with the highest scores",
                "No normal image has a score.",
                most_wrong_normal(&standings),
            ),
            gallery(
                "Anomalous images with the lowest scores",
                "No anomalous image has a score.",
                most_wrong_anomalous(&standings),
            ),
        ];
        let images = evaluation.classes.iter().flat_map(|class| &class.images);
        let failed = images.filter_map(|record| {
            Some((
                record.sample.id.as_str(),
                record.prediction.as_ref().err()?.as_str(),
            ))
        });
        let mut ranges = standings.iter().map(|standing| standing.prediction.range);
        let range = ranges
            .next()
            .filter(|first| ranges.all(|range| range == *first));
        let classes: Vec<Class> = evaluation
            .classes
            .iter()
            .map(|class| Class::new(class, context))
            .collect();
        Self {
            place,
            evaluation,
            title: title(evaluation),
            found: Found::together(classes.iter().map(|class| &class.found)),
            undefined: undefined(evaluation),
            classes,
            galleries,
            tables: {
                let share = share.part(evaluation.classes.len());
                let classes = evaluation.classes.iter();
                classes
                    .map(|class| ImageTable::of_class(class, share, context))
                    .collect()
            },
            legend: Legend::new(range, has_masks(evaluation)),
            failed: failed.collect(),
        }
    }

    /// Whether its classes say more than the summary.
    fn has_classes(&self) -> bool {
        self.classes.len() > 1
    }

    fn seconds(&self) -> String {
        format!("{:.1}", self.evaluation.seconds)
    }
}

/// What distinguishes this evaluation from others.
fn title(evaluation: &Evaluation) -> String {
    let Evaluation {
        data, method, seed, ..
    } = evaluation;
    match evaluation.shots {
        Some(1) => format!("{method} on {data}, 1 shot, seed {seed}"),
        Some(shots) => format!("{method} on {data}, {shots} shots, seed {seed}"),
        None => format!("{method} on {data}"),
    }
}

/// What is undefined in which class.
fn undefined(evaluation: &Evaluation) -> Vec<(&str, &str)> {
    let classes = evaluation.classes.iter();
    classes
        .flat_map(|class| {
            class
                .undefined
                .iter()
                .map(|reason| (&*class.class, reason.as_str()))
        })
        .collect()
}

impl<'a> Class<'a> {
    fn new(result: &'a ClassResult, context: &ReportContext) -> Self {
        let of_pixels =
            CurvePlot::pro(result).map(|plot| ("Per-region-overlap curve of the pixels", Ok(plot)));
        let of_images = [
            ("ROC curve of the images", CurvePlot::roc(result)),
            (
                "Precision-recall curve of the images",
                CurvePlot::precision_recall(result),
            ),
        ];
        Self {
            result,
            found: RATES.map(|rate| Found::of_class(result, rate)).to_vec(),
            curves: of_images.into_iter().chain(of_pixels).collect(),
            histogram: HistogramPlot::new(result),
            decided: context
                .calibration
                .as_ref()
                .and_then(|calibration| Decided::new(result, calibration)),
        }
    }
}

impl<'a> Figure<'a> {
    fn new(standing: Standing<'a>, context: &ReportContext) -> Self {
        let (sample, prediction) = (&standing.record.sample, standing.prediction);
        let pictures = Pictures::large(sample, prediction, &context.decode);
        Self {
            standing,
            pictures: pictures.map_err(|error| error.to_string()),
        }
    }

    fn id(&self) -> &str {
        &self.standing.record.sample.id
    }

    fn is_anomalous(&self) -> bool {
        self.standing.record.is_anomalous()
    }

    /// The image's label, and what the anomaly is called.
    fn label(&self) -> String {
        label(&self.standing.record.sample)
    }

    fn score(&self) -> String {
        three(self.standing.prediction.score.into())
    }

    /// Where the image stands among those of the other label.
    fn order(&self) -> String {
        let Standing { passed, others, .. } = self.standing;
        if self.is_anomalous() {
            format!("{passed} of {others} normal images score higher")
        } else {
            format!("{passed} of {others} anomalous images score lower")
        }
    }
}

/// Our figures and the published ones, data set by data set; nothing where none are published.
fn compared<'a>(evaluations: &'a [Evaluation], published: &'a [Published]) -> Vec<Compared<'a>> {
    if published.is_empty() {
        return vec![];
    }
    let values = |metrics: &Metrics| {
        let columns = COMPARED_COLUMNS.iter();
        columns
            .map(|(_, metric)| metric(metrics).map(three))
            .collect()
    };
    let ours = evaluations.iter().map(|evaluation| Compared {
        data: &evaluation.data,
        method: &evaluation.method,
        shots: shots(evaluation.shots),
        metrics: values(&evaluation.metrics),
        source: None,
    });
    let theirs = published.iter().map(|figure| Compared {
        data: &figure.data,
        method: &figure.method,
        shots: shots(figure.shots),
        metrics: values(&figure.metrics()),
        source: Some(figure.origin()),
    });
    let mut rows: Vec<Compared> = ours.chain(theirs).collect();
    rows.sort_by_key(|row| row.data);
    rows
}

fn shots(shots: Option<usize>) -> String {
    shots.map_or_else(|| "none".to_owned(), |shots| shots.to_string())
}

/// A number as the report prints it.
pub(super) fn three(value: f64) -> String {
    format!("{value:.3}")
}
