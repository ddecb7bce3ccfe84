//! The result of an evaluation.

use anomalens_datasets::{Label, Sample};
use anomalens_detectors::Prediction;
use anomalens_metrics::ProPoint;
use serde::{Deserialize, Serialize};

use crate::Breakdown;

/// How one candidate did on one data set. Serialised without the images, as `eval --json` and
/// `demo --json` print it.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// The data set's layout.
    pub data: String,
    /// The method.
    pub method: String,
    /// How many normal images it was given; none for methods that need none and for detectors
    /// that were fitted elsewhere.
    pub shots: Option<usize>,
    /// The seed that the normal images were drawn with.
    pub seed: u32,
    /// Means over the classes.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Images scored.
    pub images: usize,
    /// Images that could not be used.
    pub failed: usize,
    /// Time for fitting and scoring, as if the candidate had run alone.
    pub seconds: f64,
    /// Each class by itself.
    pub classes: Vec<ClassResult>,
}

/// One class of a data set.
#[derive(Debug, Clone, Serialize)]
pub struct ClassResult {
    /// The class.
    pub class: String,
    /// Its metrics.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Normal images scored.
    pub normal: usize,
    /// Anomalous images scored.
    pub anomalous: usize,
    /// What could not be computed, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub undefined: Vec<String>,
    /// Each defect type and each region by itself, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breakdown: Option<Breakdown>,
    /// The per-region-overlap curve, where `metrics.aupro` is defined.
    #[serde(skip)]
    pub pro_curve: Option<Vec<ProPoint>>,
    /// Every image.
    #[serde(skip)]
    pub images: Vec<ImageRecord>,
}

impl ClassResult {
    /// The scores and labels (`true` = anomalous) of the images that have a score.
    pub fn scores(&self) -> (Vec<f32>, Vec<bool>) {
        let images = self.images.iter();
        images
            .filter_map(|record| Some((record.score()?, record.is_anomalous())))
            .unzip()
    }
}

/// The metrics; `None` where one is not defined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Area under the ROC curve of the image scores.
    pub image_auroc: Option<f64>,
    /// Average precision of the image scores.
    pub image_ap: Option<f64>,
    /// Highest F1 of the image scores.
    pub image_f1_max: Option<f64>,
    /// Area under the ROC curve of all pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pixel_auroc: Option<f64>,
    /// Average precision of all pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pixel_ap: Option<f64>,
    /// Highest F1 of all pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pixel_f1_max: Option<f64>,
    /// Exact area under the per-region-overlap curve up to a false-positive rate of 0.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aupro: Option<f64>,
    /// The same as the papers approximate it, with 200 thresholds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aupro_200_steps: Option<f64>,
    /// Mean area under the per-image overlap curve at false-positive rates of 1e-5 to 1e-4, where it
    /// was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aupimo: Option<f64>,
}

/// A metric's title and where it is found.
pub type Column = (&'static str, fn(&Metrics) -> Option<f64>);

/// Metrics of the image scores, as tables show them.
pub const IMAGE_COLUMNS: [Column; 3] = [
    ("image AUROC", |m| m.image_auroc),
    ("image AP", |m| m.image_ap),
    ("image F1-max", |m| m.image_f1_max),
];

/// Metrics of the maps.
pub const PIXEL_COLUMNS: [Column; 4] = [
    ("pixel AUROC", |m| m.pixel_auroc),
    ("pixel AP", |m| m.pixel_ap),
    ("AUPRO", |m| m.aupro),
    ("AUPRO 200", |m| m.aupro_200_steps),
];

/// The metric of the maps that is computed where it is asked for.
pub const AUPIMO_COLUMN: Column = ("AUPIMO", |m| m.aupimo);

/// Those that papers give.
pub const PUBLISHED_COLUMNS: [Column; 4] = [
    IMAGE_COLUMNS[0],
    IMAGE_COLUMNS[1],
    PIXEL_COLUMNS[0],
    PIXEL_COLUMNS[3],
];

impl Metrics {
    /// The mean of each metric over classes, unweighted; `None` if one class lacks it, for a mean
    /// over some classes would pass for one over all.
    pub fn mean<'a>(classes: impl Iterator<Item = &'a Self>) -> Self {
        let classes: Vec<&Self> = classes.collect();
        let mean = |metric: fn(&Metrics) -> Option<f64>| {
            let values: Option<Vec<f64>> = classes.iter().map(|metrics| metric(metrics)).collect();
            values
                .filter(|v| !v.is_empty())
                .map(|v| v.iter().sum::<f64>() / v.len() as f64)
        };
        Self {
            image_auroc: mean(|m| m.image_auroc),
            image_ap: mean(|m| m.image_ap),
            image_f1_max: mean(|m| m.image_f1_max),
            pixel_auroc: mean(|m| m.pixel_auroc),
            pixel_ap: mean(|m| m.pixel_ap),
            pixel_f1_max: mean(|m| m.pixel_f1_max),
            aupro: mean(|m| m.aupro),
            aupro_200_steps: mean(|m| m.aupro_200_steps),
            aupimo: mean(|m| m.aupimo),
        }
    }
}

/// What was said of one image.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// The image and its label.
    pub sample: Sample,
    /// The prediction, or the sentence that says why there is none.
    pub prediction: Result<Prediction, String>,
}

impl ImageRecord {
    /// Whether the image is labelled anomalous.
    pub fn is_anomalous(&self) -> bool {
        self.sample.label == Label::Anomalous
    }

    /// The score, if there is one.
    pub fn score(&self) -> Option<f32> {
        self.prediction
            .as_ref()
            .ok()
            .map(|prediction| prediction.score)
    }
}
