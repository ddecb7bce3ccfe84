//! Detectors that are learned from a data set of the suite once, and kept beside the results.

use std::collections::HashMap;
use std::path::PathBuf;

use anomalens_detectors::training::TrainEvent;
use anomalens_detectors::{DetectorFile, FitOptions, Method, Provenance};
use serde_json::json;

use super::bench::{Bench, BenchEvent, Stop, Watch};
use super::cell::{digest, fingerprint};
use crate::{EvaluationError, training_samples};

/// The folder of learned detectors, below that of the results.
const FOLDER: &str = "trained";

/// What was learned from whom in this run, so that a failure is not met twice.
#[derive(Default)]
pub(super) struct Taught(HashMap<String, Result<PathBuf, String>>);

/// What a method is to learn from.
pub(super) struct Lesson {
    /// The file that it makes, without its folder.
    file: String,
    teacher: String,
}

impl Lesson {
    /// What tells it from others.
    pub(super) fn identity(&self) -> &str {
        &self.file
    }

    fn title(&self, method: &Method) -> String {
        format!("{} learns from {}", method.name, self.teacher)
    }
}

impl Bench<'_> {
    /// What `method` must learn before it is measured on `data`.
    pub(super) fn lesson(
        &self,
        method: &Method,
        options: &FitOptions,
        data: &str,
    ) -> Result<Lesson, EvaluationError> {
        let [first, second] = &self.teachers;
        let teacher = if data == first { second } else { first };
        let set = self.data_set(teacher)?;
        let classes: Vec<String> = set.classes.iter().map(|c| fingerprint(&set, c)).collect();
        let training = &self.training;
        let identity = json!({
            "method": method.name,
            "options": options,
            "backbone": self.backbone,
            "version": env!("CARGO_PKG_VERSION"),
            "data": classes,
            "training": [training.epochs, training.batch],
            "seed": training.seed,
        });
        let plain = |c: char| {
            if c.is_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        };
        Ok(Lesson {
            file: format!(
                "{}-{}-{}.detector",
                method.name,
                teacher.chars().map(plain).collect::<String>(),
                digest(&identity.to_string())
            ),
            teacher: teacher.clone(),
        })
    }

    /// The detector file that `lesson` makes; it is learned if it is not there.
    pub(super) fn teach(
        &self,
        taught: &mut Taught,
        method: &Method,
        options: &FitOptions,
        lesson: &Lesson,
        watch: &mut Watch,
    ) -> Result<PathBuf, Stop> {
        if !taught.0.contains_key(&lesson.file) {
            let learned = match self.learn(method, options, lesson, watch) {
                Err(Stop::BrokenOff) => return Err(Stop::BrokenOff),
                Err(Stop::Error(error)) => Err(error.to_string()),
                Ok(path) => Ok(path),
            };
            taught.0.insert(lesson.file.clone(), learned);
        }
        match &taught.0[&lesson.file] {
            Ok(path) => Ok(path.clone()),
            Err(reason) => Err(Stop::Error(EvaluationError::Learning {
                title: lesson.title(method),
                reason: reason.clone(),
            })),
        }
    }

    fn learn(
        &self,
        method: &Method,
        options: &FitOptions,
        lesson: &Lesson,
        watch: &mut Watch,
    ) -> Result<PathBuf, Stop> {
        let path = self.folder.join(FOLDER).join(&lesson.file);
        if path.is_file() {
            return Ok(path);
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
        let trained = method.train(options, self.encoder, &samples, &training, &mut told)?;
        if stopped {
            return Err(Stop::BrokenOff);
        }
        if let Some(reason) = trained.log.stopped {
            return Err(Stop::Error(EvaluationError::Learning { title, reason }));
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
