//! Detectors that are learned from a data set of the suite once, and kept beside the results.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::BenchmarkError;
use anomalens_detectors::training::TrainEvent;
use anomalens_detectors::{DetectorFile, Method, MethodSettings, Provenance, TrainContext};
use serde_json::json;

use crate::bench::{Bench, BenchEvent, Entrant, Stop, Watch};
use crate::cell::{digest, fingerprint};
use anomalens_evaluation::training_samples;

/// The folder of learned detectors, below that of the results.
const FOLDER: &str = "trained";

/// What was learned from whom in this run, so that a failure is not met twice.
#[derive(Default)]
pub(crate) struct Taught(HashMap<String, Result<PathBuf, String>>);

/// What a method is to learn from, with which settings.
pub(crate) struct Lesson {
    /// The file that it makes, without its folder.
    file: String,
    teacher: String,
    options: MethodSettings,
    /// What it starts from, if not from random values.
    start: Option<Start>,
}

/// What training starts from.
enum Start {
    /// A file of the user.
    Given(PathBuf),
    /// What was learned before.
    Learned(Box<Lesson>),
}

impl Start {
    fn identity(&self) -> String {
        match self {
            Self::Given(path) => path.display().to_string(),
            Self::Learned(lesson) => lesson.identity().to_owned(),
        }
    }
}

impl Lesson {
    /// What tells it from others.
    pub(crate) fn identity(&self) -> &str {
        &self.file
    }

    fn title(&self, method: &dyn Method) -> String {
        format!("{} learns from {}", method.info().name, self.teacher)
    }
}

impl Bench<'_> {
    /// What `entrant` must learn before it is measured on `data`.
    pub(crate) fn lesson(&self, entrant: &Entrant, data: &str) -> Result<Lesson, BenchmarkError> {
        let options = &entrant.options;
        let [first, second] = &self.teachers;
        let teacher = if data == first { second } else { first };
        let given = || entrant.trained.clone().map(Start::Given);
        let plain = || self.lesson_from(entrant.method, teacher, options.clone(), given());
        let Some(target) = &entrant.tuned_on else {
            return plain();
        };
        // Where all images are anomalous only masks tell what is normal.
        let trainer = entrant.method.require_trainer()?;
        let tuning = trainer.mask_settings(options).unwrap_or(options.clone());
        let start = match given() {
            Some(given) => given,
            None => Start::Learned(Box::new(plain()?)),
        };
        self.lesson_from(entrant.method, target, tuning, Some(start))
    }

    fn lesson_from(
        &self,
        method: &dyn Method,
        teacher: &str,
        options: MethodSettings,
        start: Option<Start>,
    ) -> Result<Lesson, BenchmarkError> {
        let set = self.data_set(teacher)?;
        let classes: Vec<String> = set.classes.iter().map(|c| fingerprint(&set, c)).collect();
        let training = &self.training;
        let identity = json!({
            "method": method.info().name,
            "options": options,
            "start": start.as_ref().map(Start::identity),
            "backbone": self.backbone,
            "version": env!("CARGO_PKG_VERSION"),
            "data": classes,
            "training": [training.epochs, training.batch],
            "seed": training.seed,
        });
        let is_plain = |c: char| c.is_alphanumeric() || c == '-';
        let plain = |c: char| if is_plain(c) { c } else { '_' };
        Ok(Lesson {
            file: format!(
                "{}-{}-{}.detector",
                method.info().name,
                teacher.chars().map(plain).collect::<String>(),
                digest(&identity.to_string())
            ),
            teacher: teacher.to_owned(),
            options,
            start,
        })
    }

    /// The detector file that `lesson` makes; it is learned if it is not there.
    pub(crate) fn teach(
        &self,
        taught: &mut Taught,
        method: &dyn Method,
        lesson: &Lesson,
        watch: &mut Watch,
    ) -> Result<PathBuf, Stop> {
        if !taught.0.contains_key(&lesson.file) {
            let learned = match self.learn(taught, method, lesson, watch) {
                Err(Stop::BrokenOff) => return Err(Stop::BrokenOff),
                Err(Stop::Error(error)) => Err(error.to_string()),
                Ok(path) => Ok(path),
            };
            taught.0.insert(lesson.file.clone(), learned);
        }
        match &taught.0[&lesson.file] {
            Ok(path) => Ok(path.clone()),
            Err(reason) => Err(Stop::Error(BenchmarkError::Training {
                title: lesson.title(method),
                reason: reason.clone(),
            })),
        }
    }

    fn learn(
        &self,
        taught: &mut Taught,
        method: &dyn Method,
        lesson: &Lesson,
        watch: &mut Watch,
    ) -> Result<PathBuf, Stop> {
        let path = self.folder.join(FOLDER).join(&lesson.file);
        if path.is_file() {
            return Ok(path);
        }
        let trainer = method.require_trainer()?;
        let start = match &lesson.start {
            None => None,
            Some(Start::Given(path)) => Some(path.clone()),
            Some(Start::Learned(start)) => {
                let before = self.teach(taught, method, start, watch)?;
                trainer.start_file(&before.with_extension("training"))
            }
        };
        let data = self.data_set(&lesson.teacher)?;
        let samples = training_samples(&data, None, trainer.trains_on_all());
        let mut training = self.training.clone();
        training.folder = path.with_extension("training");
        let title = lesson.title(method);
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
            settings: &lesson.options,
            encoder: self.encoder,
            samples: &samples,
            start: start.as_deref(),
            options: &training,
        };
        let trained = trainer.train(&context, &mut told)?;
        if stopped {
            return Err(Stop::BrokenOff);
        }
        if let Some(reason) = trained.log.stopped {
            return Err(Stop::Error(BenchmarkError::Training { title, reason }));
        }
        let file = DetectorFile {
            detector: trained.detector,
            backbone: self.backbone.clone(),
            provenance: Provenance {
                data: lesson.teacher.clone(),
                losses: trained.log.epochs,
                ..self.provenance.clone()
            },
            calibration: None,
        };
        file.save(&path)?;
        Ok(path)
    }
}
