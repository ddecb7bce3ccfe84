//! Variants of a trained method, each learned on the same images and measured on the same data
//! sets. A folder keeps what is done: a cancelled run resumes there.

use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::BenchmarkError;
use anomalens_backbones::ImageEncoder;
use anomalens_datasets::DataSet;
use anomalens_detectors::training::{TrainEvent, TrainOptions, Trained, TrainingSample};
use anomalens_detectors::{Detector, Method, MethodSettings, TrainContext, Variant};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use anomalens_evaluation::results::Record;
use anomalens_evaluation::table::fraction;
use anomalens_evaluation::{
    Candidate, Metrics, PUBLISHED_COLUMNS, ResultFolder, RunOptions, Table, evaluate,
};

/// What is compared on what.
pub struct Ablation<'a> {
    /// The method.
    pub method: &'static dyn Method,
    /// Settings of all variants; a variant's own take their place.
    pub settings: MethodSettings,
    /// The variants.
    pub variants: Vec<Variant>,
    /// A checkpoint that training starts from.
    pub start: Option<PathBuf>,
    /// The network.
    pub encoder: &'a dyn ImageEncoder,
    /// The images that are learned from.
    pub samples: &'a [TrainingSample],
    /// The data sets that are measured on, and what they are called.
    pub tests: &'a [(String, DataSet)],
    /// How each is trained; its folders are set here.
    pub training: TrainOptions,
    /// How each is measured.
    pub measuring: RunOptions,
    /// Where checkpoints and results are kept.
    pub folder: PathBuf,
}

/// The result of a variant on one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AblationRecord {
    /// The variant.
    pub variant: String,
    /// The settings that differ from the defaults.
    pub settings: MethodSettings,
    /// The data set.
    pub data: String,
    /// The loss in the last epoch.
    pub loss: Option<f64>,
    /// Why training ended early, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Means over the classes.
    #[serde(flatten)]
    pub metrics: Metrics,
}

impl Record for AblationRecord {
    fn key(&self) -> String {
        key(&self.variant, &self.data)
    }
}

fn key(variant: &str, data: &str) -> String {
    format!("{variant} on {data}")
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum AblationEvent<'a> {
    /// A variant is trained.
    Training(&'a str, TrainEvent),
    /// So many of so many scores on a data set are there.
    Measuring(&'a str, usize, usize),
}

/// A variant that is trained.
struct Learned<'a> {
    variant: &'a Variant,
    trained: Trained,
}

impl Ablation<'_> {
    /// Trains and measures every variant that is not in the folder yet; `identity` says what its
    /// results depend on apart from the variants. None if `watch` breaks off.
    ///
    /// # Errors
    /// [`BenchmarkError`], among others if the folder holds results of something else.
    pub fn run(
        &self,
        identity: &Value,
        watch: &mut dyn FnMut(AblationEvent) -> ControlFlow<()>,
    ) -> Result<Option<Vec<AblationRecord>>, BenchmarkError> {
        let mut results: ResultFolder<AblationRecord> = ResultFolder::open(&self.folder, identity)?;
        let features = self.folder.join("features");
        std::fs::create_dir_all(&features).map_err(|source| BenchmarkError::Write {
            path: features.clone(),
            source,
        })?;
        let missing = |results: &ResultFolder<AblationRecord>, variant: &Variant, data: &str| {
            results.record(&key(&variant.name, data)).is_none()
        };
        let names: Vec<&str> = self.tests.iter().map(|(name, _)| name.as_str()).collect();
        let mut learned: Vec<Learned> = vec![];
        for variant in &self.variants {
            if !names.iter().any(|data| missing(&results, variant, data)) {
                continue;
            }
            let options = TrainOptions {
                folder: self.folder.join(&variant.name),
                features: Some(features.clone()),
                ..self.training.clone()
            };
            let mut interrupted = false;
            let context = TrainContext {
                settings: &self.settings(variant)?,
                encoder: self.encoder,
                samples: self.samples,
                start: self.start.as_deref(),
                options: &options,
            };
            let trained = self
                .method
                .require_trainer()?
                .train(&context, &mut |event| {
                    let flow = watch(AblationEvent::Training(&variant.name, event));
                    interrupted |= flow.is_break();
                    flow
                })?;
            if interrupted {
                return Ok(None);
            }
            learned.push(Learned { variant, trained });
        }
        for (name, data) in self.tests {
            let mut left: Vec<&Learned> = learned
                .iter()
                .filter(|one| missing(&results, one.variant, name))
                .collect();
            // Those that want the same features at once, so that few results are ever lost.
            while let Some(first) = left.first() {
                let input = first.trained.detector.input().clone();
                let same = |one: &&Learned| one.trained.detector.input().join(&input).is_some();
                let (group, others): (Vec<_>, Vec<_>) = left.into_iter().partition(same);
                left = others;
                let Some(records) = self.measure(name, data, &group, watch)? else {
                    return Ok(None);
                };
                for record in records {
                    results.add(record)?;
                }
            }
        }
        let done = std::fs::remove_dir_all(&features);
        done.map_err(|source| BenchmarkError::Write {
            path: features,
            source,
        })?;
        let order = |record: &&AblationRecord| {
            let variants = self.variants.iter();
            let place = variants.take_while(|variant| variant.name != record.variant);
            (
                names.iter().position(|name| *name == record.data),
                place.count(),
            )
        };
        let mut records: Vec<&AblationRecord> = results.records().collect();
        records.sort_by_key(order);
        Ok(Some(records.into_iter().cloned().collect()))
    }

    /// The settings of `variant` over the common ones; a multi-class method gets the names of the
    /// classes that it is measured on.
    fn settings(&self, variant: &Variant) -> Result<MethodSettings, BenchmarkError> {
        let mut settings = self.settings.clone();
        settings.extend(variant.settings.clone());
        let classes = self.tests.iter().flat_map(|(_, data)| &data.classes);
        let classes: Vec<&str> = classes.map(String::as_str).collect();
        let trainer = self.method.require_trainer()?;
        Ok(trainer.class_settings(settings, &classes))
    }

    fn measure(
        &self,
        name: &str,
        data: &DataSet,
        group: &[&Learned],
        watch: &mut dyn FnMut(AblationEvent) -> ControlFlow<()>,
    ) -> Result<Option<Vec<AblationRecord>>, BenchmarkError> {
        let detectors: Vec<&dyn Detector> = group
            .iter()
            .map(|one| one.trained.detector.as_ref())
            .collect();
        let candidates: Vec<Candidate> = detectors.iter().map(|&d| Candidate::Ready(d)).collect();
        let evaluations = evaluate(
            self.encoder,
            data,
            &candidates,
            &self.measuring,
            &mut |done, total| watch(AblationEvent::Measuring(name, done, total)),
        )?;
        let records = evaluations.map(|evaluations| {
            let pairs = group.iter().zip(evaluations);
            pairs.map(|(one, evaluation)| AblationRecord {
                variant: one.variant.name.clone(),
                settings: one.variant.settings.clone(),
                data: name.to_owned(),
                loss: one.trained.log.epochs.last().map(|epoch| epoch.loss),
                stopped: one.trained.log.stopped.clone(),
                metrics: evaluation.metrics,
            })
        });
        Ok(records.map(Iterator::collect))
    }
}

/// The records as tables, one for each data set.
pub fn tables(records: &[AblationRecord]) -> Vec<Table> {
    let mut tables: Vec<Table> = vec![];
    for record in records {
        if tables.last().is_none_or(|table| table.title != record.data) {
            let titles = PUBLISHED_COLUMNS.map(|(title, _)| title);
            let columns = [&["variant", "settings", "loss"][..], &titles].concat();
            tables.push(Table::new(&record.data, &columns));
        }
        let settings: Vec<String> = record
            .settings
            .iter()
            .map(|(name, value)| format!("`{name}={value}`"))
            .collect();
        let stopped = record.stopped.as_deref().map_or("", |_| " (stopped)");
        let head = [
            record.variant.clone(),
            settings.join(" "),
            format!("{}{stopped}", fraction(record.loss)),
        ];
        let metrics = PUBLISHED_COLUMNS.iter();
        let metrics = metrics.map(|(_, metric)| fraction(metric(&record.metrics)));
        if let Some(table) = tables.last_mut() {
            table.rows.push(head.into_iter().chain(metrics).collect());
        }
    }
    tables
}
