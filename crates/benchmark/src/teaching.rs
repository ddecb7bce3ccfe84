//! Detectors that are learned from a data set of the suite once, and kept beside the results.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::BenchmarkError;
use anomalens_detectors::training::TrainEvent;
use anomalens_detectors::{DetectorFile, FitOptions, Method, Provenance};
use serde_json::json;

use crate::bench::{Bench, BenchEvent, Entrant, Stop, Watch};
use crate::cell::{digest, fingerprint};
use anomalens_evaluation::training_samples;

/// The folder of learned detectors, below that of the results.
const FOLDER: &str = "trained";

/// The setting that names what learning starts from.
const PROMPTS: &str = "prompts";

/// What was learned from whom in this run, so that a failure is not met twice.
#[derive(Default)]
pub(crate) struct Taught(HashMap<String, Result<PathBuf, String>>);

/// What a method is to learn from, with which settings.
pub(crate) struct Lesson {
    /// The file that it makes, without its folder.
    file: String,
    teacher: String,
    options: FitOptions,
    /// What was learned before, to go on from.
    start: Option<Box<Lesson>>,
}

impl Lesson {
    /// What tells it from others.
    pub(crate) fn identity(&self) -> &str {
        &self.file
    }

    fn title(&self, method: &Method) -> String {
        format!("{} learns from {}", method.name, self.teacher)
    }
}

impl Bench<'_> {
    /// What `entrant` must learn before it is measured on `data`.
    pub(crate) fn lesson(&self, entrant: &Entrant, data: &str) -> Result<Lesson, BenchmarkError> {
        let options = &entrant.options;
        let [first, second] = &self.teachers;
        let teacher = if data == first { second } else { first };
        let Some(target) = &entrant.tuned_on else {
            return self.lesson_from(entrant.method, teacher, options.clone(), None);
        };
        let mut tuning = options.clone();
        // Where all images are anomalous only masks tell what is normal.
        tuning.insert("global_weight".to_owned(), json!(0));
        let start = match options.contains_key(PROMPTS) {
            true => None,
            false => Some(self.lesson_from(entrant.method, teacher, options.clone(), None)?),
        };
        self.lesson_from(entrant.method, target, tuning, start)
    }

    fn lesson_from(
        &self,
        method: &Method,
        teacher: &str,
        options: FitOptions,
        start: Option<Lesson>,
    ) -> Result<Lesson, BenchmarkError> {
        let set = self.data_set(teacher)?;
        let classes: Vec<String> = set.classes.iter().map(|c| fingerprint(&set, c)).collect();
        let training = &self.training;
        let identity = json!({
            "method": method.name,
            "options": options,
            "start": start.as_ref().map(Lesson::identity),
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
                method.name,
                teacher.chars().map(plain).collect::<String>(),
                digest(&identity.to_string())
            ),
            teacher: teacher.to_owned(),
            options,
            start: start.map(Box::new),
        })
    }

    /// The detector file that `lesson` makes; it is learned if it is not there.
    pub(crate) fn teach(
        &self,
        taught: &mut Taught,
        method: &Method,
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
        method: &Method,
        lesson: &Lesson,
        watch: &mut Watch,
    ) -> Result<PathBuf, Stop> {
        let path = self.folder.join(FOLDER).join(&lesson.file);
        if path.is_file() {
            return Ok(path);
        }
        let mut options = lesson.options.clone();
        if let Some(start) = &lesson.start {
            let before = self.teach(taught, method, start, watch)?;
            let prompts = before.with_extension("training").join("prompts.pth");
            options.insert(PROMPTS.to_owned(), json!(prompts));
        }
        let data = self.data_set(&lesson.teacher)?;
        let samples = training_samples(&data, None, method.trains_on_all());
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
        let trained = method.train(&options, self.encoder, &samples, &training, &mut told)?;
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
