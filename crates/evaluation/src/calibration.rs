//! Chooses a detector's threshold from images that it was not made from, and measures how good its
//! decisions and probabilities are on others.

use std::collections::HashSet;
use std::ops::ControlFlow;

use anomalens_backbones::ImageEncoder;
use anomalens_datasets::{Label, Sample};
use anomalens_detectors::{Calibration, Detector, ImageSource, StreamOptions, predict};
use anomalens_metrics::{Confusion, MetricError, Platt, Reliability, Rule, Threshold};
use serde::Serialize;

use crate::run::source;
use crate::{ClassResult, EvaluationError};

/// With fewer images of a class, a threshold or a curve fitted to them says little of others.
const FEW: usize = 20;

/// Images with known labels: where they are, and whether they are anomalous.
#[derive(Debug, Clone, Default)]
pub struct Labelled {
    /// The images.
    pub sources: Vec<ImageSource>,
    /// `true` for anomalous ones.
    pub labels: Vec<bool>,
}

impl Labelled {
    /// Normal images.
    pub fn normal(sources: Vec<ImageSource>) -> Self {
        let labels = vec![false; sources.len()];
        Self { sources, labels }
    }

    /// Samples of a data set.
    pub fn samples<'a>(samples: impl Iterator<Item = &'a Sample>) -> Self {
        let (sources, labels) = samples
            .map(|sample| (source(sample), sample.label == Label::Anomalous))
            .unzip();
        Self { sources, labels }
    }
}

/// What was chosen, and what can be said of it.
#[derive(Debug, Clone)]
pub struct Calibrated {
    /// The threshold.
    pub threshold: Threshold,
    /// From score to probability; none without labelled images of both classes.
    pub probability: Option<Platt>,
    /// The decisions on the images themselves.
    pub confusion: Confusion,
    /// What to be careful about, in full sentences.
    pub warnings: Vec<String>,
}

/// Scores `images` with `detector` and chooses a threshold by `rule`. `progress` gets the
/// number of scored images and that of all after each image; if it breaks off, there is no result.
///
/// # Errors
/// [`EvaluationError`]: a detector that cannot be calibrated, an image that cannot be used, or too
/// few images for the rule.
pub fn calibrate(
    encoder: &dyn ImageEncoder,
    detector: &dyn Detector,
    images: &Labelled,
    rule: Rule,
    stream: &StreamOptions,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Calibrated>, EvaluationError> {
    Calibration::require_possible(detector)?;
    rule.require_possible(&images.labels)?;
    let mut scores = vec![0.0; images.sources.len()];
    let (mut done, mut failed) = (0, None);
    predict(
        encoder,
        &[detector],
        &images.sources,
        &HashSet::new(),
        stream,
        &mut |outcome| {
            done += 1;
            match outcome.result {
                Ok(prediction) => scores[outcome.image] = prediction.score,
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            progress(done, images.sources.len())
        },
    )?;
    if let Some(error) = failed {
        return Err(EvaluationError::Calibration(error));
    }
    if done < images.sources.len() {
        return Ok(None);
    }
    Ok(Some(choose(&scores, &images.labels, rule)?))
}

fn choose(scores: &[f32], labels: &[bool], rule: Rule) -> Result<Calibrated, MetricError> {
    let threshold = Threshold::choose(scores, labels, rule)?;
    let anomalous = labels.iter().filter(|&&label| label).count();
    let mut warnings = vec![];
    let mut probability = None;
    if anomalous > 0 && anomalous < labels.len() {
        for (class, images) in [
            ("anomalous", anomalous),
            ("normal", labels.len() - anomalous),
        ] {
            if images < FEW {
                warnings.push(format!(
                    "{images} {class} images are few: threshold and probability may be far off on \
                     others; give {FEW} or more"
                ));
            }
        }
        match Platt::fit(scores, labels) {
            Ok(platt) => probability = Some(platt),
            Err(error) => warnings.push(error.to_string()),
        }
    }
    Ok(Calibrated {
        confusion: Confusion::at(scores, labels, threshold.value)?,
        threshold,
        probability,
        warnings,
    })
}

/// What a calibrated detector decided on the images of a class.
#[derive(Debug, Clone, Serialize)]
pub struct Decisions {
    /// The class.
    pub class: String,
    /// Right and wrong decisions.
    #[serde(flatten)]
    pub confusion: Confusion,
    /// How the probabilities agree with the labels, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reliability: Option<Reliability>,
}

impl Decisions {
    /// The decisions on the images that have a score.
    ///
    /// # Errors
    /// [`MetricError`] if none has, or a score is NaN.
    pub fn of(class: &ClassResult, calibration: &Calibration) -> Result<Self, MetricError> {
        let (scores, labels) = class.scores();
        let probabilities: Option<Vec<f64>> = scores
            .iter()
            .map(|&score| calibration.probability(score))
            .collect();
        let reliability = probabilities.map(|p| Reliability::of(&p, &labels));
        Ok(Self {
            class: class.class.clone(),
            confusion: Confusion::at(&scores, &labels, calibration.threshold)?,
            reliability: reliability.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_images_and_odd_labels_are_reported() {
        let few = |images: usize, class: &str| {
            format!(
                "{images} {class} images are few: threshold and probability may be far off on \
                 others; give 20 or more"
            )
        };
        let cases: [(&str, usize, usize, f32, Vec<String>); 4] = [
            ("enough", 20, 20, 1.0, vec![]),
            ("few anomalous", 30, 3, 1.0, vec![few(3, "anomalous")]),
            (
                "few of both",
                2,
                3,
                1.0,
                vec![few(3, "anomalous"), few(2, "normal")],
            ),
            (
                "labels the wrong way",
                20,
                20,
                -1.0,
                vec![MetricError::NotRising.to_string()],
            ),
        ];
        for (name, normal, anomalous, sign, expected) in cases {
            let labels: Vec<bool> = (0..normal + anomalous).map(|i| i >= normal).collect();
            let scores: Vec<f32> = (0..labels.len()).map(|i| sign * i as f32).collect();
            let chosen = choose(&scores, &labels, Rule::F1).unwrap();
            assert_eq!(chosen.warnings, expected, "{name}");
            assert_eq!(chosen.probability.is_some(), sign > 0.0, "{name}");
        }
    }
}
