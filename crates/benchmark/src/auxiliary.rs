//! Detectors that are learned from a data set of the suite once, and kept beside the results.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::BenchmarkError;
use anomalens_detectors::training::TrainEvent;
use anomalens_detectors::{DetectorFile, Method, MethodSettings, Provenance, TrainContext};
use serde_json::json;

use crate::bench::{Bench, BenchEvent, Entry, Stop, Watch};
use crate::cell::{digest, fingerprint};
use anomalens_evaluation::training_samples;

/// The folder of learned detectors, below that of the results.
const FOLDER: &str = "trained";

/// What was learned from whom in this run, so that a failure is not met twice.
#[derive(Default)]
pub(crate) struct TrainedDetectors(HashMap<String, Result<PathBuf, String>>);

/// What a method is to learn from, with which settings.
pub(crate) struct AuxiliaryTraining {
    /// The file that it makes, without its folder.
    file: String,
    train_on: String,
    options: MethodSettings,
    /// What it starts from, if not from random values.
    start: Option<Start>,
}

/// What training starts from.
enum Start {
    /// A file of the user.
    Given(PathBuf),
    /// What was learned before.
    Learned(Box<AuxiliaryTraining>),
}

impl Start {
    fn identity(&self) -> String {
        match self {
            Self::Given(path) => path.display().to_string(),
            Self::Learned(auxiliary) => auxiliary.identity().to_owned(),
        }
    }
}

impl AuxiliaryTraining {
    /// What distinguishes it from others.
    pub(crate) fn identity(&self) -> &str {
        &self.file
    }

    fn title(&self, method: &dyn Method) -> String {
        format!("{} learns from {}", method.info().name, self.train_on)
    }
}

impl Bench<'_> {
    /// What `entry` must learn before it is measured on `data`.
    pub(crate) fn auxiliary_training(
        &self,
        entry: &Entry,
        data: &str,
    ) -> Result<AuxiliaryTraining, BenchmarkError> {
        let options = &entry.options;
        let [first, second] = &self.train_on;
        let train_on = if data == first { second } else { first };
        let given = || entry.trained.clone().map(Start::Given);
        let plain = || self.auxiliary_training_on(entry, train_on, options.clone(), given());
        let Some(target) = &entry.tuned_on else {
            return plain();
        };
        // Where all images are anomalous only masks say what is normal.
        let trainer = entry.method.require_trainer()?;
        let tuning = trainer.mask_settings(options).unwrap_or(options.clone());
        let start = match given() {
            Some(given) => given,
            None => Start::Learned(Box::new(plain()?)),
        };
        self.auxiliary_training_on(entry, target, tuning, Some(start))
    }

    fn auxiliary_training_on(
        &self,
        entry: &Entry,
        train_on: &str,
        options: MethodSettings,
        start: Option<Start>,
    ) -> Result<AuxiliaryTraining, BenchmarkError> {
        let set = self.data_set(train_on)?;
        let classes: Vec<String> = set.classes.iter().map(|c| fingerprint(&set, c)).collect();
        let training = &self.training;
        let identity = json!({
            "method": entry.method.info().name,
            "options": options,
            "start": start.as_ref().map(Start::identity),
            "backbone": entry.network.backbone,
            "version": env!("CARGO_PKG_VERSION"),
            "data": classes,
            "training": [training.epochs, training.batch],
            "seed": training.seed,
        });
        let is_plain = |c: char| c.is_alphanumeric() || c == '-';
        let plain = |c: char| if is_plain(c) { c } else { '_' };
        Ok(AuxiliaryTraining {
            file: format!(
                "{}-{}-{}.detector",
                entry.method.info().name,
                train_on.chars().map(plain).collect::<String>(),
                digest(&identity.to_string())
            ),
            train_on: train_on.to_owned(),
            options,
            start,
        })
    }

    /// The detector file that `auxiliary` makes; it is learned if it is not there.
    pub(crate) fn train_once(
        &self,
        detectors: &mut TrainedDetectors,
        entry: &Entry,
        auxiliary: &AuxiliaryTraining,
        watch: &mut Watch,
    ) -> Result<PathBuf, Stop> {
        if !detectors.0.contains_key(&auxiliary.file) {
            let learned = match self.train(detectors, entry, auxiliary, watch) {
                Err(Stop::Cancelled) => return Err(Stop::Cancelled),
                Err(Stop::Error(error)) => Err(error.to_string()),
                Ok(path) => Ok(path),
            };
            detectors.0.insert(auxiliary.file.clone(), learned);
        }
        match &detectors.0[&auxiliary.file] {
            Ok(path) => Ok(path.clone()),
            Err(reason) => Err(Stop::Error(BenchmarkError::Training {
                title: auxiliary.title(entry.method),
                reason: reason.clone(),
            })),
        }
    }

    fn train(
        &self,
        detectors: &mut TrainedDetectors,
        entry: &Entry,
        auxiliary: &AuxiliaryTraining,
        watch: &mut Watch,
    ) -> Result<PathBuf, Stop> {
        let path = self.folder.join(FOLDER).join(&auxiliary.file);
        if path.is_file() {
            return Ok(path);
        }
        let trainer = entry.method.require_trainer()?;
        let start = match &auxiliary.start {
            None => None,
            Some(Start::Given(path)) => Some(path.clone()),
            Some(Start::Learned(start)) => {
                let before = self.train_once(detectors, entry, start, watch)?;
                trainer.start_file(&before.with_extension("training"))
            }
        };
        let data = self.data_set(&auxiliary.train_on)?;
        let samples = training_samples(&data, None, trainer.trains_on_all());
        let mut training = self.training.clone();
        training.folder = path.with_extension("training");
        training.backbone.clone_from(&entry.network.identity);
        let title = auxiliary.title(entry.method);
        let mut stopped = false;
        let mut told = |event: TrainEvent| {
            let flow = watch(BenchEvent::Training {
                title: &title,
                images: samples.len(),
                event,
            });
            stopped |= flow.is_break();
            flow
        };
        let context = TrainContext {
            settings: &auxiliary.options,
            encoder: entry.network.encoder.as_ref(),
            samples: &samples,
            start: start.as_deref(),
            options: &training,
        };
        let trained = trainer.train(&context, &mut told)?;
        if stopped {
            return Err(Stop::Cancelled);
        }
        if let Some(reason) = trained.log.stopped {
            return Err(Stop::Error(BenchmarkError::Training { title, reason }));
        }
        let file = DetectorFile {
            detector: trained.detector,
            backbone: entry.network.backbone.clone(),
            provenance: Provenance {
                data: auxiliary.train_on.clone(),
                losses: trained.log.epochs,
                ..self.provenance.clone()
            },
            calibration: None,
            levels: Default::default(),
        };
        file.save(&path)?;
        Ok(path)
    }
}
