//! Measures methods on the data sets of a suite, cell by cell. A folder keeps what is done: a run
//! that was cancelled resumes there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use crate::BenchmarkError;
use anomalens_backbones::ImageEncoder;
use anomalens_backbones::weights::ContentHash;
use anomalens_datasets::{DataRef, DataSet};
use anomalens_detectors::training::{TrainEvent, TrainOptions};
use anomalens_detectors::{BackboneRef, DetectorFile, Method, MethodSettings, Need, Provenance};
use serde_json::{Value, json};

use crate::auxiliary::{AuxiliaryTraining, TrainedDetectors};
use crate::cell::{Cell, CellName, fingerprint};
use anomalens_evaluation::{Candidate, ResultFolder, RunOptions, evaluate};

/// Methods, data sets and all that their results follow from.
pub struct Bench<'a> {
    /// What is measured, for the folder to distinguish it from others.
    pub suite: &'a str,
    /// The data sets that are measured on, and what they are called.
    pub data: Vec<(String, DataRef)>,
    /// Further ones that are only learned from.
    pub auxiliary: Vec<(String, DataRef)>,
    /// The data set that methods learn from, and the one for measuring on the first.
    pub train_on: [String; 2],
    /// The methods.
    pub entries: Vec<Entry>,
    /// How methods learn; its folders and backbones are set here.
    pub training: TrainOptions,
    /// How they are measured.
    pub measuring: RunOptions,
    /// Where detectors come from that are learned here.
    pub provenance: Provenance,
    /// Where results and learned detectors are kept.
    pub folder: PathBuf,
}

/// The network that a method sees images with.
#[derive(Clone)]
pub struct Network {
    /// The network.
    pub encoder: Arc<dyn ImageEncoder>,
    /// What it is, for detector files and results.
    pub backbone: BackboneRef,
    /// What distinguishes its features from those of others.
    pub identity: String,
}

/// A method that takes part.
#[derive(Clone)]
pub struct Entry {
    /// The method.
    pub method: &'static dyn Method,
    /// Its network.
    pub network: Network,
    /// Settings that replace its defaults.
    pub options: MethodSettings,
    /// What was trained before: the method then needs no training here.
    pub trained: Option<PathBuf>,
    /// Numbers of normal images that it is given, if it needs any.
    pub shots: Vec<usize>,
    /// Seeds of their choice.
    pub seeds: Vec<u32>,
    /// The data set whose masks it learns from after its auxiliary training, of methods that are trained.
    pub tuned_on: Option<String>,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum BenchEvent<'a> {
    /// A method learns.
    Training {
        /// Which from what.
        title: &'a str,
        /// Images that it learns from.
        images: usize,
        /// How far it is.
        event: TrainEvent,
    },
    /// So many of so many scores on a class are there.
    Measuring {
        /// The method, the data set and the class.
        title: &'a str,
        /// Scores there are.
        done: usize,
        /// Scores there will be.
        total: usize,
    },
    /// Something could not be measured; the rest is measured all the same.
    Failed {
        /// What.
        title: &'a str,
        /// Why.
        reason: &'a str,
    },
}

/// The result of a run.
#[derive(Debug)]
pub struct BenchResult {
    /// The cells that were asked for and are there, in the order of data sets, classes and methods.
    pub cells: Vec<Cell>,
    /// How many classes each data set has.
    pub classes: BTreeMap<String, usize>,
    /// How many of them were there before.
    pub kept: usize,
    /// How many could not be measured.
    pub failures: usize,
    /// Whether the watcher broke off, so that some are missing.
    pub stopped: bool,
}

/// Why cells are not measured.
pub(crate) enum Stop {
    /// The watcher broke off.
    Cancelled,
    /// An error.
    Error(BenchmarkError),
}

impl<E: Into<BenchmarkError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Gets what happens; breaking off ends the run after the last finished cell.
pub(crate) type Watch<'w> = dyn FnMut(BenchEvent) -> ControlFlow<()> + 'w;

impl Bench<'_> {
    /// Measures what is not in the folder yet; if `watch` breaks off, only what is there is reported.
    ///
    /// # Errors
    /// [`BenchmarkError`] if the folder cannot be used. What goes wrong with one data set or method
    /// is reported as [`BenchEvent::Failed`] and does not stop the others.
    pub fn run(
        &self,
        watch: &mut dyn FnMut(BenchEvent) -> ControlFlow<()>,
    ) -> Result<BenchResult, BenchmarkError> {
        let identity = json!({ "suite": self.suite });
        let mut run = Running {
            bench: self,
            results: ResultFolder::open(&self.folder, &identity)?,
            files: self.entries.iter().map(Entry::files).collect(),
            detectors: TrainedDetectors::default(),
            keys: vec![],
            classes: BTreeMap::new(),
            kept: 0,
            failures: 0,
            stopped: false,
            watch,
        };
        for (name, _) in &self.data {
            run.data_set(name)?;
        }
        Ok(run.result())
    }

    /// The data set called `name`.
    pub(crate) fn data_set(&self, name: &str) -> Result<DataSet, BenchmarkError> {
        let mut all = self.data.iter().chain(&self.auxiliary);
        let found = all.find(|(known, _)| known == name);
        let (_, data) = found.ok_or_else(|| BenchmarkError::NoAuxiliaryData(name.to_owned()))?;
        Ok(DataSet::open(data)?)
    }

    /// All that the result of a cell follows from apart from its name.
    fn settings(
        &self,
        entry: &Entry,
        files: &[String],
        content: &str,
        auxiliary: Option<&AuxiliaryTraining>,
    ) -> Value {
        json!({
            "options": entry.options,
            "files": files,
            "learned": auxiliary.map(AuxiliaryTraining::identity),
            "backbone": entry.network.backbone,
            "version": env!("CARGO_PKG_VERSION"),
            "data": content,
            "resolution": self.measuring.resolution.to_string(),
            "only": self.measuring.only.map(|fold| fold.to_string()),
        })
    }
}

/// A run under way.
struct Running<'a, 'w> {
    bench: &'a Bench<'a>,
    results: ResultFolder<Cell>,
    /// Hashes of the files that are given to each entry.
    files: Vec<Vec<String>>,
    detectors: TrainedDetectors,
    /// The cells that were asked for.
    keys: Vec<String>,
    classes: BTreeMap<String, usize>,
    kept: usize,
    failures: usize,
    /// Whether the watcher broke off: what is there is collected, nothing is measured.
    stopped: bool,
    watch: &'w mut Watch<'w>,
}

/// Cells of one method on one class, which are measured in one pass.
struct Group<'a> {
    title: &'a str,
    entry: &'a Entry,
    data: &'a DataSet,
    auxiliary: Option<&'a AuxiliaryTraining>,
    cells: Vec<CellName>,
}

impl Running<'_, '_> {
    /// All cells of a data set.
    fn data_set(&mut self, name: &str) -> Result<(), BenchmarkError> {
        let bench = self.bench;
        let whole = match bench.data_set(name) {
            Ok(whole) => whole,
            Err(error) => {
                self.fail(name, 1, &error.to_string());
                return Ok(());
            }
        };
        self.classes.insert(name.to_owned(), whole.classes.len());
        let mut entries = vec![];
        for (entry, files) in bench.entries.iter().zip(self.files.clone()) {
            let auxiliary = entry
                .needs_training()
                .then(|| bench.auxiliary_training(entry, name));
            match auxiliary.transpose() {
                Ok(auxiliary) => entries.push((entry, files, auxiliary)),
                Err(error) => {
                    let title = format!("{} on {name}", entry.name());
                    self.fail(&title, 1, &error.to_string());
                }
            }
        }
        for class in &whole.classes {
            let data = only_class(&whole, class);
            let content = fingerprint(&data, class);
            for (entry, files, auxiliary) in &entries {
                let what = label(name, class, &whole);
                let title = format!("{} on {what}", entry.name());
                let settings = bench.settings(entry, files, &content, auxiliary.as_ref());
                let cells = entry.cells(name, class, &settings);
                self.group(Group {
                    title: &title,
                    entry,
                    data: &data,
                    auxiliary: auxiliary.as_ref(),
                    cells,
                })?;
            }
        }
        Ok(())
    }

    /// What is missing of a group; of what cannot be measured it says why.
    fn group(&mut self, mut group: Group) -> Result<(), BenchmarkError> {
        let count = group.cells.len();
        self.keys.extend(group.cells.iter().map(CellName::key));
        group
            .cells
            .retain(|cell| self.results.record(&cell.key()).is_none());
        self.kept += count - group.cells.len();
        if self.stopped {
            return Ok(());
        }
        let normals = |class: &String| group.data.train_normals(class).count();
        let available = group.data.classes.iter().map(normals).sum();
        let (cells, too_many): (Vec<_>, Vec<_>) = group
            .cells
            .into_iter()
            .partition(|cell| cell.shots.unwrap_or(0) <= available);
        group.cells = cells;
        if let Some(CellName {
            shots: Some(asked), ..
        }) = too_many.first()
        {
            let asked = *asked;
            let reason = anomalens_datasets::Error::TooManyShots { asked, available };
            self.fail(group.title, too_many.len(), &reason.to_string());
        }
        let (title, count) = (group.title, group.cells.len());
        if count == 0 {
            return Ok(());
        }
        match self.measure(group) {
            Ok(()) => {}
            Err(Stop::Cancelled) => self.stopped = true,
            // Nothing more could be kept.
            Err(Stop::Error(error @ BenchmarkError::Results(_))) => return Err(error),
            Err(Stop::Error(error)) => self.fail(title, count, &error.to_string()),
        }
        Ok(())
    }

    /// Measures the cells of `group` and keeps them.
    fn measure(&mut self, group: Group) -> Result<(), Stop> {
        let bench = self.bench;
        let Entry {
            method, options, ..
        } = group.entry;
        let mut trained = group.entry.trained.clone();
        let mut learned = None;
        if let Some(auxiliary) = group.auxiliary {
            let path = bench.train_once(&mut self.detectors, group.entry, auxiliary, self.watch)?;
            let requirements = method.requirements(options);
            match (requirements.references, requirements.class) {
                (Need::No, false) => learned = Some(DetectorFile::load(&path)?.detector),
                // A detector has the prompts of the classes that it was trained on; those of others are
                // made from what was learned.
                (Need::No, true) => {
                    let folder = path.with_extension("training");
                    let file = method.require_trainer()?.start_file(&folder);
                    trained = Some(file.filter(|file| file.is_file()).unwrap_or(path));
                }
                _ => trained = Some(path),
            }
        }
        let candidates: Vec<Candidate> = group
            .cells
            .iter()
            .map(|cell| match &learned {
                Some(detector) => Candidate::Ready(detector.as_ref()),
                None => Candidate::Method {
                    method: *method,
                    options: options.clone(),
                    trained: trained.clone(),
                    shots: cell.shots.unwrap_or(0),
                    seed: cell.seed,
                },
            })
            .collect();
        let (title, watch) = (group.title, &mut *self.watch);
        let evaluations = evaluate(
            group.entry.network.encoder.as_ref(),
            group.data,
            &candidates,
            &bench.measuring,
            &mut |done, total| watch(BenchEvent::Measuring { title, done, total }),
        )?;
        let evaluations = evaluations.ok_or(Stop::Cancelled)?;
        for (name, evaluation) in group.cells.into_iter().zip(evaluations) {
            for class in evaluation.classes {
                self.results
                    .add(Cell::new(name.clone(), class, evaluation.seconds))?;
            }
        }
        Ok(())
    }

    /// Reports that `cells` cells cannot be measured.
    fn fail(&mut self, title: &str, cells: usize, reason: &str) {
        self.failures += cells;
        self.stopped |= (self.watch)(BenchEvent::Failed { title, reason }).is_break();
    }

    fn result(self) -> BenchResult {
        let cells = self.keys.iter().filter_map(|key| self.results.record(key));
        BenchResult {
            cells: cells.cloned().collect(),
            classes: self.classes,
            kept: self.kept,
            failures: self.failures,
            stopped: self.stopped,
        }
    }
}

impl Entry {
    /// What it is called in the tables.
    fn name(&self) -> String {
        match &self.tuned_on {
            Some(data) => format!("{} tuned on {data}", self.method.info().name),
            None => self.method.info().name.to_owned(),
        }
    }

    /// The hashes of what was learned before: a file is known by what is in it. One that cannot be
    /// read is told of where it is used.
    fn files(&self) -> Vec<String> {
        let hashes = self.trained.iter().map(|path| ContentHash::of_path(path));
        hashes.flatten().map(|hash| hash.to_string()).collect()
    }

    /// Whether it can learn from images of which only the masks separate normal from anomalous.
    pub fn tunes_on_masks(&self) -> bool {
        let trainer = self.method.trainer();
        trainer.is_some_and(|trainer| trainer.mask_settings(&self.options).is_some())
    }

    /// Whether it must learn from another data set first.
    fn needs_training(&self) -> bool {
        let is_given = self.trained.is_some();
        let required = self.method.info().requirements.training == Need::Required;
        required && (self.tuned_on.is_some() || !is_given)
    }

    /// Its cells on a class: one for each number of shots and each seed, if they matter.
    fn cells(&self, data: &str, class: &str, settings: &Value) -> Vec<CellName> {
        let cell = |shots, seed| CellName {
            data: data.to_owned(),
            class: class.to_owned(),
            method: self.name(),
            shots,
            seed,
            settings: settings.clone(),
        };
        let references = self.method.requirements(&self.options).references;
        if references == Need::No {
            return vec![cell(None, 0)];
        }
        let some = self.shots.iter().filter(|&&shots| shots > 0);
        let some = some.flat_map(|&shots| self.seeds.iter().map(move |&seed| (shots, seed)));
        let some = some.map(|(shots, seed)| cell(Some(shots), seed));
        let without = references == Need::Optional && self.shots.contains(&0);
        without
            .then(|| cell(None, 0))
            .into_iter()
            .chain(some)
            .collect()
    }
}

/// What a class is called: its data set where that has no other.
fn label(data: &str, class: &str, whole: &DataSet) -> String {
    if whole.classes.len() > 1 {
        format!("{data}, {class}")
    } else {
        data.to_owned()
    }
}

/// `data` with one class alone.
fn only_class(data: &DataSet, class: &str) -> DataSet {
    let samples = data.samples.iter().filter(|sample| sample.class == class);
    DataSet {
        layout: data.layout,
        root: data.root.clone(),
        classes: vec![class.to_owned()],
        samples: samples.cloned().collect(),
        has_masks: data.has_masks,
    }
}
