//! Fits and scores candidates on every class of a data set.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anomalens_backbones::ImageEncoder;
use anomalens_datasets::{DataSet, Sample, few_shot};
use anomalens_detectors::{
    Detector, FitContext, ImageSource, Method, MethodSettings, Need, Prediction, ReferenceImage,
    StreamOptions, predict,
};

use crate::measure::class_result;
use crate::pixels::Resolution;
use crate::training::Fold;
use crate::{ClassResult, Evaluation, EvaluationError, ImageRecord, Metrics};

/// Who takes part.
pub enum Candidate<'a> {
    /// A method, fitted anew for each class.
    Method {
        /// The method.
        method: &'static dyn Method,
        /// Settings that replace its defaults.
        options: MethodSettings,
        /// What was trained before, for methods that start from it.
        trained: Option<PathBuf>,
        /// How many normal images it is given, if it needs any.
        shots: usize,
        /// Seed of their choice.
        seed: u32,
    },
    /// A detector that was fitted before.
    Ready(&'a dyn Detector),
}

/// How an evaluation is run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// At which size pixel metrics are computed.
    pub resolution: Resolution,
    /// Whether the images set apart for training are scored too: only for candidates that have
    /// learned nothing from them.
    pub whole: bool,
    /// Whether AUPIMO is computed too.
    pub aupimo: bool,
    /// Whether each defect type and each region is measured by itself too.
    pub breakdown: bool,
    /// The part of the test images that is scored, if not all are.
    pub only: Option<Fold>,
    /// The ids of the normal images that methods are given, of all classes; none to draw them.
    pub listed_shots: Option<Vec<String>>,
    /// Whether a run that is broken off gives the results of what was scored until then.
    pub partial: bool,
    /// Batches and limits.
    pub stream: StreamOptions,
}

impl RunOptions {
    /// The images of `class` that are scored.
    fn samples<'a>(&self, data: &'a DataSet, class: &str) -> Vec<&'a Sample> {
        let train = data.train_normals(class).filter(|_| self.whole);
        let test = data.test(class).enumerate();
        let test = test.filter(|(index, _)| self.only.is_none_or(|fold| fold.holds(*index)));
        train.chain(test.map(|(_, sample)| sample)).collect()
    }
}

/// Evaluates all `candidates` on the test images of `data`; those that want the same input share
/// one pass through the network. `progress` gets the number of images that are done, before the first
/// image of each class and after each image; if it breaks off, the evaluation ends: without a result, or, with [`RunOptions::partial`], with that
/// of the images that were scored.
///
/// # Errors
/// [`EvaluationError`], among others if a class has fewer normal images than shots are asked for.
pub fn evaluate(
    encoder: &dyn ImageEncoder,
    data: &DataSet,
    candidates: &[Candidate],
    options: &RunOptions,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Vec<Evaluation>>, EvaluationError> {
    let images = data
        .classes
        .iter()
        .map(|class| options.samples(data, class).len());
    let total = images.sum::<usize>() * candidates.len();
    let mut done = 0;
    let mut classes: Vec<Vec<ClassResult>> = candidates.iter().map(|_| Vec::new()).collect();
    let mut durations = vec![Duration::ZERO; candidates.len()];
    for class in &data.classes {
        let fitted = candidates
            .iter()
            .zip(&mut durations)
            .map(|(candidate, duration)| {
                let start = Instant::now();
                let fitted = candidate.fit(encoder, data, class, options);
                *duration += start.elapsed();
                fitted
            })
            .collect::<Result<Vec<Fitted>, _>>()?;
        if progress(done, total).is_break() {
            if options.partial {
                break;
            }
            return Ok(None);
        }
        let detectors: Vec<&dyn Detector> = fitted.iter().map(Fitted::get).collect();
        let samples = options.samples(data, class);
        let sources: Vec<ImageSource> = samples.iter().map(|sample| source(sample)).collect();
        let mut records: Vec<Vec<Option<Result<Prediction, String>>>> = candidates
            .iter()
            .map(|_| samples.iter().map(|_| None).collect())
            .collect();
        let mut stopped = false;
        let spent = predict(
            encoder,
            &detectors,
            &sources,
            &HashSet::new(),
            &options.stream,
            &mut |outcome| {
                records[outcome.detector][outcome.image] =
                    Some(outcome.result.map_err(|error| error.to_string()));
                done += 1;
                let flow = progress(done, total);
                stopped = flow.is_break();
                flow
            },
        )?;
        if stopped && !options.partial {
            return Ok(None);
        }
        for (i, records) in records.into_iter().enumerate() {
            durations[i] += spent[i];
            let images = samples
                .iter()
                .zip(records)
                .filter_map(|(&sample, record)| {
                    Some(ImageRecord {
                        sample: sample.clone(),
                        prediction: record?,
                    })
                })
                .collect();
            classes[i].push(class_result(class, images, data.has_masks, options)?);
        }
        if stopped {
            break;
        }
    }
    let results =
        candidates
            .iter()
            .zip(classes)
            .zip(durations)
            .map(|((candidate, classes), duration)| {
                candidate.summary(data.layout.name, classes, duration.as_secs_f64())
            });
    Ok(Some(results.collect()))
}

/// A candidate ready for one class.
enum Fitted<'a> {
    Anew(Box<dyn Detector>),
    Ready(&'a dyn Detector),
}

impl Fitted<'_> {
    fn get(&self) -> &dyn Detector {
        match self {
            Self::Anew(detector) => detector.as_ref(),
            Self::Ready(detector) => *detector,
        }
    }
}

impl<'a> Candidate<'a> {
    /// The name of its method.
    pub fn name(&self) -> &str {
        match self {
            Self::Method { method, .. } => method.info().name,
            Self::Ready(detector) => detector.method(),
        }
    }

    fn fit(
        &self,
        encoder: &dyn ImageEncoder,
        data: &DataSet,
        class: &str,
        run: &RunOptions,
    ) -> Result<Fitted<'a>, EvaluationError> {
        match self {
            Self::Ready(detector) => Ok(match detector.for_class(class)? {
                Some(detector) => Fitted::Anew(detector),
                None => Fitted::Ready(*detector),
            }),
            Self::Method {
                method,
                options,
                trained,
                shots,
                seed,
            } => {
                let normals: Vec<&Sample> = data.train_normals(class).collect();
                let references = method.requirements(options).references;
                let shots = match (references, &run.listed_shots) {
                    (Need::No, _) => vec![],
                    (Need::Optional | Need::Required, None) => few_shot(&normals, *shots, *seed)?,
                    (Need::Optional | Need::Required, Some(listed)) => normals
                        .into_iter()
                        .filter(|sample| listed.contains(&sample.id))
                        .collect(),
                };
                let shots = shots.into_iter();
                let shots = shots.map(|sample| (sample.id.clone(), source(sample)));
                let shots = ReferenceImage::read_all(shots, &run.stream.decode, |_, _| {})?;
                let detector = method.fit(&FitContext {
                    class: Some(class),
                    trained: trained.as_deref(),
                    ..FitContext::new(options, encoder).with_references(&shots)
                })?;
                Ok(Fitted::Anew(match detector.for_class(class)? {
                    Some(detector) => detector,
                    None => detector,
                }))
            }
        }
    }

    fn summary(&self, data: &str, classes: Vec<ClassResult>, seconds: f64) -> Evaluation {
        let (shots, seed) = match self {
            Self::Ready(_) => (None, 0),
            Self::Method {
                method,
                options,
                shots,
                seed,
                ..
            } => {
                let uses_shots = method.requirements(options).references != Need::No;
                let shots = (uses_shots && *shots > 0).then_some(*shots);
                (shots, *seed)
            }
        };
        let scored: usize = classes
            .iter()
            .map(|class| class.normal + class.anomalous)
            .sum();
        let all: usize = classes.iter().map(|class| class.images.len()).sum();
        Evaluation {
            data: data.to_owned(),
            method: self.name().to_owned(),
            shots,
            seed,
            metrics: Metrics::mean(classes.iter().map(|class| &class.metrics)),
            images: scored,
            failed: all - scored,
            seconds,
            classes,
        }
    }
}

/// Where a sample's pixels are.
pub fn source(sample: &Sample) -> ImageSource {
    ImageSource::File {
        path: sample.image.clone(),
        crop: sample
            .crop
            .map(|crop| [crop.x, crop.y, crop.width, crop.height]),
    }
}
