//! The metrics of scored images: of a class, and of each defect type in it.

use std::collections::BTreeSet;

use anomalens_detectors::Prediction;
use anomalens_metrics::{MetricError, ProPoint, auroc, average_precision, f1_max};
use serde::Serialize;

use crate::pixels::{Pixels, RegionResult};
use crate::run::RunOptions;
use crate::{ClassResult, EvaluationError, ImageRecord, Metrics};

/// An image and what was predicted of it.
pub(crate) type Scored<'a> = (&'a ImageRecord, &'a Prediction);

/// A class taken apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Breakdown {
    /// Each defect type compared with all normal images.
    pub defect_types: Vec<DefectTypeResult>,
    /// The score from which on a pixel counts as found: where the pixels' F1 is highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pixel_threshold: Option<f32>,
    /// Each region of the masks.
    pub regions: Vec<RegionResult>,
}

/// One defect type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DefectTypeResult {
    /// What the anomaly is called.
    pub defect_type: String,
    /// Its images that were scored.
    pub images: usize,
    /// Metrics over these and the normal images.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// The metrics of one class.
pub(crate) fn class_result(
    class: &str,
    images: Vec<ImageRecord>,
    has_masks: bool,
    options: &RunOptions,
) -> Result<ClassResult, EvaluationError> {
    let scored: Vec<Scored<'_>> = images
        .iter()
        .filter_map(|r| Some((r, r.prediction.as_ref().ok()?)))
        .collect();
    let anomalous = scored.iter().filter(|(r, _)| r.is_anomalous()).count();
    let measured = Measured::of(&scored, has_masks, options)?;
    let breakdown = match options.breakdown {
        true => Some(Breakdown::of(&scored, has_masks, options, &measured)?),
        false => None,
    };
    Ok(ClassResult {
        class: class.to_owned(),
        metrics: measured.metrics,
        normal: scored.len() - anomalous,
        anomalous,
        undefined: measured.undefined,
        breakdown,
        pro_curve: measured.pro_curve,
        images,
    })
}

/// Metrics, and why some are undefined.
#[derive(Default)]
struct Measured {
    metrics: Metrics,
    undefined: Vec<String>,
    /// Where the pixels' F1 is highest.
    pixel_threshold: Option<f32>,
    pro_curve: Option<Vec<ProPoint>>,
}

impl Measured {
    fn of(
        scored: &[Scored<'_>],
        has_masks: bool,
        options: &RunOptions,
    ) -> Result<Self, EvaluationError> {
        let scores: Vec<f32> = scored.iter().map(|(_, p)| p.score).collect();
        let labels: Vec<bool> = scored.iter().map(|(r, _)| r.is_anomalous()).collect();
        let mut measured = Self::default();
        let image_f1 = f1_max(&scores, &labels).map(|f1| f1.value);
        measured.metrics.image_auroc = measured.defined("image AUROC", auroc(&scores, &labels));
        measured.metrics.image_ap =
            measured.defined("image AP", average_precision(&scores, &labels));
        measured.metrics.image_f1_max = measured.defined("image F1-max", image_f1);
        let pixels = Pixels::new(scored, options);
        if has_masks && !pixels.is_empty() {
            measured.add_pixels(&pixels, options)?;
        }
        Ok(measured)
    }

    fn add_pixels(
        &mut self,
        pixels: &Pixels<'_>,
        options: &RunOptions,
    ) -> Result<(), EvaluationError> {
        let found = pixels.metrics()?;
        self.pixel_threshold = found.f1_max.as_ref().ok().map(|f1| f1.threshold);
        // It is undefined for the reason that AUPRO is.
        self.pro_curve = found.pro_curve.ok();
        let f1 = found.f1_max.map(|f1| f1.value);
        self.metrics.pixel_auroc = self.defined("pixel AUROC", found.auroc);
        self.metrics.pixel_ap = self.defined("pixel AP", found.average_precision);
        self.metrics.pixel_f1_max = self.defined("pixel F1-max", f1);
        self.metrics.aupro = self.defined("AUPRO", found.aupro);
        self.metrics.aupro_200_steps = self.defined("AUPRO (200 steps)", found.aupro_200_steps);
        if options.aupimo {
            let found = pixels.aupimo()?;
            if let Ok(aupimo) = &found
                && aupimo.is_rough
            {
                let [low, high] = aupimo.fpr_reached;
                self.undefined.push(format!(
                    "AUPIMO is rough: {} thresholds lie between the false-positive rates {low:.2e} \
                     and {high:.2e}, the nearest to its bounds; larger maps or more normal images \
                     make it finer",
                    aupimo.points
                ));
            }
            self.metrics.aupimo = self.defined("AUPIMO", found.map(|aupimo| aupimo.mean));
        }
        Ok(())
    }

    /// The value, or none with the reason noted.
    fn defined(&mut self, name: &str, value: Result<f64, MetricError>) -> Option<f64> {
        value
            .map_err(|error| self.undefined.push(format!("{name}: {error}")))
            .ok()
    }
}

impl Breakdown {
    /// The mean part of the regions of `defect_type` that was found, and how many there are.
    pub fn overlap(&self, defect_type: &str) -> Option<(f64, usize)> {
        let regions = self.regions.iter();
        let of_type = regions.filter(|region| region.defect_type == defect_type);
        let shares: Vec<f64> = of_type
            .map(|region| region.found as f64 / region.area as f64)
            .collect();
        let count = shares.len();
        (count > 0).then(|| (shares.iter().sum::<f64>() / count as f64, count))
    }

    /// Takes the class apart whose metrics are `all`.
    fn of(
        scored: &[Scored<'_>],
        has_masks: bool,
        options: &RunOptions,
        all: &Measured,
    ) -> Result<Self, EvaluationError> {
        let type_of = |(record, _): &Scored<'_>| match record.is_anomalous() {
            true => Some(record.sample.defect_type.clone()),
            false => None,
        };
        let types: BTreeSet<String> = scored.iter().filter_map(type_of).collect();
        let types = types.into_iter().map(|defect_type| {
            let compared: Vec<Scored<'_>> = scored
                .iter()
                .filter(|image| type_of(image).is_none_or(|other| other == defect_type))
                .copied()
                .collect();
            Ok(DefectTypeResult {
                images: compared.iter().filter(|(r, _)| r.is_anomalous()).count(),
                metrics: Measured::of(&compared, has_masks, options)?.metrics,
                defect_type,
            })
        });
        Ok(Self {
            defect_types: types.collect::<Result<_, EvaluationError>>()?,
            pixel_threshold: all.pixel_threshold,
            regions: match all.pixel_threshold {
                Some(threshold) => Pixels::new(scored, options).regions(threshold)?,
                None => vec![],
            },
        })
    }
}
