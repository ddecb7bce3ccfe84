//! What a method is: a name, what it needs, and how a detector of it is made.
//!
//! A method owns everything that is its own, the names of its settings included. Callers hand over
//! what they have (images, class, a file that was trained before); a method takes what it uses.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anomalens_backbones::{
    DEFAULT_COMPANION, DEFAULT_WEIGHTS, EMBEDDED, ImageEncoder, ImageFeatures, WHOLE_WEIGHTS,
};
use anomalens_vision::{DecodeOptions, Image};
use serde::{Deserialize, Serialize};

use crate::pipeline::encode_images;
use crate::training::{TrainOptions, TrainProgress, Trained, TrainingSample};
use crate::{
    Detector, DetectorError, ImageSource, InputSpec, MethodSettings, SourceError, State, Tta,
};

/// Whether a method uses something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// It has no use for it.
    No,
    /// It works without, and better or otherwise with it.
    Optional,
    /// It cannot do without.
    Required,
}

/// What must be there before a method can score images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirements {
    /// A few normal images of the target.
    pub references: Need,
    /// Training on auxiliary data, once.
    pub training: Need,
    /// Whether unlabelled images are scored against each other by default, so that one alone has
    /// no score.
    pub joint: bool,
    /// Whether its prompts say what the images show.
    pub class: bool,
}

/// A method as it is listed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MethodInfo {
    /// The name given on the command line.
    pub name: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    /// Authors, title, venue and year.
    pub paper: &'static str,
    /// What it needs.
    pub requirements: Requirements,
    /// The backbones that it works with.
    pub backbones: &'static str,
    /// The backbone that it takes where none is named.
    pub weights: DefaultWeights,
    /// Whether it joins what several networks see.
    pub several_networks: bool,
}

/// Which backbone is taken where none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultWeights {
    /// The transformer in the program, which was cut short.
    InProgram,
    /// A transformer with all its blocks.
    AllBlocks,
    /// A convolutional network.
    Convolutional,
    /// The CLIP of this name, with its text encoder.
    Clip(&'static str),
}

/// The names of the weights that `methods` take together where none is named, the first network's
/// first.
pub fn default_weights<'m>(methods: impl IntoIterator<Item = &'m MethodInfo>) -> Vec<&'static str> {
    let methods: Vec<&MethodInfo> = methods.into_iter().collect();
    let any = |weights| methods.iter().any(|method| method.weights == weights);
    let clip = methods.iter().find_map(|method| match method.weights {
        DefaultWeights::Clip(name) => Some(name),
        _ => None,
    });
    let first = match clip {
        Some(name) => name,
        None if any(DefaultWeights::AllBlocks) => WHOLE_WEIGHTS,
        None if any(DefaultWeights::Convolutional) && !any(DefaultWeights::InProgram) => {
            DEFAULT_COMPANION
        }
        None => DEFAULT_WEIGHTS,
    };
    // Nothing is fetched that was not asked for.
    let joins = methods.iter().any(|method| method.several_networks) && !EMBEDDED.is_empty();
    let companion = joins.then_some(DEFAULT_COMPANION);
    [first].into_iter().chain(companion).collect()
}

/// A way to separate anomalous from normal images, before it has seen any.
pub trait Method: Sync {
    /// Its name and what it needs.
    fn info(&self) -> &'static MethodInfo;

    /// What it needs with these settings.
    fn requirements(&self, _settings: &MethodSettings) -> Requirements {
        self.info().requirements
    }

    /// Makes a detector.
    ///
    /// # Errors
    /// [`DetectorError::NoReferences`], or [`DetectorError::Settings`] for settings that are
    /// impossible or need something that is not there.
    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError>;

    /// Makes the detector again whose state was saved.
    ///
    /// # Errors
    /// [`DetectorError::Settings`] if the state is not one of this method.
    fn load(&self, state: State) -> Result<Box<dyn Detector>, DetectorError>;

    /// How it is trained on auxiliary data, for methods that can be.
    fn trainer(&self) -> Option<&dyn Trainer> {
        None
    }

    /// The detector of `state` with the reference images of `context` too and without those named
    /// in `remove`.
    ///
    /// # Errors
    /// [`DetectorError::FixedReferences`] for methods that do not keep them apart,
    /// [`DetectorError::NoReferences`] if none are left, [`DetectorError::Settings`] for a name
    /// that is not there, or there twice.
    fn update_references(
        &self,
        _state: State,
        _context: &FitContext<'_>,
        _remove: &[String],
    ) -> Result<Box<dyn Detector>, DetectorError> {
        Err(DetectorError::FixedReferences(self.info().name))
    }
}

impl dyn Method + '_ {
    /// How it is trained.
    ///
    /// # Errors
    /// [`DetectorError::NotTrained`] for methods without training.
    pub fn require_trainer(&self) -> Result<&dyn Trainer, DetectorError> {
        let name = self.info().name;
        self.trainer().ok_or(DetectorError::NotTrained(name))
    }
}

impl fmt::Debug for dyn Method + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

/// Training on labelled auxiliary images.
pub trait Trainer: Sync {
    /// Learns a detector; `progress` is called with what happens. A run that was interrupted
    /// resumes from its last epoch.
    ///
    /// # Errors
    /// [`DetectorError::NothingToLearn`] without normal or without anomalous images,
    /// [`DetectorError::TrainingImage`] for an image that cannot be used, and what goes wrong
    /// with the files of the run.
    fn train(
        &self,
        context: &TrainContext<'_>,
        progress: &mut TrainProgress<'_>,
    ) -> Result<Trained, DetectorError>;

    /// The detector that training starts from, with random values from `seed`: good for nothing
    /// but measuring time.
    ///
    /// # Errors
    /// [`DetectorError::Settings`].
    fn untrained(
        &self,
        context: &FitContext<'_>,
        seed: u32,
    ) -> Result<Box<dyn Detector>, DetectorError>;

    /// The variants that ablations compare, the defaults first.
    ///
    /// # Errors
    /// That of the backbone, or [`DetectorError::Settings`] if there are none.
    fn variants(&self, encoder: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError>;

    /// Whether it learns from the normal images that data sets set apart for training too, or
    /// from their test images alone.
    fn trains_on_all(&self) -> bool;

    /// `settings` for data of which only the masks separate normal from anomalous; none if it learns
    /// nothing from masks.
    fn mask_settings(&self, _settings: &MethodSettings) -> Option<MethodSettings> {
        None
    }

    /// `settings` for a detector that will score images of `classes`.
    fn class_settings(&self, settings: MethodSettings, _classes: &[&str]) -> MethodSettings {
        settings
    }

    /// The file in the folder of a run that later training starts from; none if it cannot.
    fn start_file(&self, _folder: &Path) -> Option<PathBuf> {
        None
    }
}

/// One line of a table of ablations.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Its name, fit for a file.
    pub name: String,
    /// The settings that differ from the defaults.
    pub settings: MethodSettings,
}

/// One normal image of the target, in memory or in a file.
#[derive(Debug, Clone)]
pub struct ReferenceImage {
    /// What it is called.
    pub name: String,
    source: ImageSource,
    decode: DecodeOptions,
}

/// Bytes of normal images that [`ReferenceImage::read_all`] keeps in memory.
const IN_MEMORY: usize = 512 << 20;

/// References that are encoded together.
const TOGETHER: usize = 8;

impl ReferenceImage {
    /// One in memory.
    pub fn new(name: impl Into<String>, image: impl Into<Arc<Image>>) -> Self {
        let name = name.into();
        let source = ImageSource::Memory {
            name: name.clone(),
            image: image.into(),
        };
        Self {
            name,
            source,
            decode: DecodeOptions::default(),
        }
    }

    /// Images by their names. Each is decoded, so that a damaged one is told before work begins, and
    /// shown to `seen`; what does not fit into 512 MB is read again when it is needed.
    ///
    /// # Errors
    /// [`SourceError`] with what is wrong with a file.
    pub fn read_all(
        images: impl IntoIterator<Item = (String, ImageSource)>,
        decode: &DecodeOptions,
        mut seen: impl FnMut(&ImageSource, &Image),
    ) -> Result<Vec<Self>, SourceError> {
        let mut bytes = 0;
        let one = |(name, source): (String, ImageSource)| {
            let image = source.open(decode)?;
            seen(&source, &image);
            bytes += image.as_bytes().len();
            if bytes <= IN_MEMORY {
                return Ok(Self::new(name, image));
            }
            Ok(Self {
                name,
                source,
                decode: *decode,
            })
        };
        images.into_iter().map(one).collect()
    }

    /// Its pixels.
    ///
    /// # Errors
    /// [`SourceError`] for a file that changed since it was read.
    pub fn open(&self) -> Result<Arc<Image>, SourceError> {
        self.source.open(&self.decode)
    }
}

/// What a detector is made from.
#[derive(Clone, Copy)]
pub struct FitContext<'a> {
    /// Settings that replace the method's defaults.
    pub settings: &'a MethodSettings,
    /// The network.
    pub encoder: &'a dyn ImageEncoder,
    /// Normal images of the target; none for methods that need none.
    pub references: &'a [ReferenceImage],
    /// What the images show, where it is known.
    pub class: Option<&'a str>,
    /// What was trained before: a detector file of [`Trainer::train`] or a published checkpoint.
    pub trained: Option<&'a Path>,
}

impl<'a> FitContext<'a> {
    /// No references, no class and nothing trained.
    pub fn new(settings: &'a MethodSettings, encoder: &'a dyn ImageEncoder) -> Self {
        Self {
            settings,
            encoder,
            references: &[],
            class: None,
            trained: None,
        }
    }

    /// The same with these normal images.
    pub fn with_references(self, references: &'a [ReferenceImage]) -> Self {
        Self { references, ..self }
    }

    /// What the images show, unless a setting says it.
    pub(crate) fn open_class(&self) -> Option<&'a str> {
        self.class.filter(|_| !self.settings.contains_key("class"))
    }

    /// The reference images for `method`, which needs some.
    pub(crate) fn require_references(
        &self,
        method: &'static str,
    ) -> Result<&'a [ReferenceImage], DetectorError> {
        match self.references {
            [] => Err(DetectorError::NoReferences(method)),
            some => Ok(some),
        }
    }

    /// Calls `each` with the features of every one of `references`, in their order. Only a few are in
    /// memory at any time.
    pub(crate) fn each_reference<'r>(
        &self,
        input: &InputSpec,
        references: impl IntoIterator<Item = &'r ReferenceImage>,
        mut each: impl FnMut(ImageFeatures) -> Result<(), DetectorError>,
    ) -> Result<(), DetectorError> {
        let mut references = references.into_iter().peekable();
        while references.peek().is_some() {
            let opened = references.by_ref().take(TOGETHER).map(ReferenceImage::open);
            let opened = opened.collect::<Result<Vec<_>, _>>()?;
            let features = self.encode(input, Tta::default(), opened.iter().map(Arc::as_ref))?;
            features.into_iter().try_for_each(&mut each)?;
        }
        Ok(())
    }

    /// The features of `images`, view after view of each batch; those of the first view come
    /// first.
    pub(crate) fn encode<'i>(
        &self,
        input: &InputSpec,
        tta: Tta,
        images: impl IntoIterator<Item = &'i Image>,
    ) -> Result<Vec<ImageFeatures>, DetectorError> {
        encode_images(self.encoder, input, tta, images)
    }
}

/// What a detector is trained on.
#[derive(Clone, Copy)]
pub struct TrainContext<'a> {
    /// Settings that replace the method's defaults.
    pub settings: &'a MethodSettings,
    /// The network, which does not learn.
    pub encoder: &'a dyn ImageEncoder,
    /// Labelled auxiliary images.
    pub samples: &'a [TrainingSample],
    /// A published checkpoint, or a [`Trainer::start_file`], to start from.
    pub start: Option<&'a Path>,
    /// How it is trained.
    pub options: &'a TrainOptions,
}

impl TrainContext<'_> {
    /// Length of the tokens that `input` asks for.
    pub(crate) fn width(&self, input: &InputSpec) -> Result<usize, DetectorError> {
        match input.request.layers.first() {
            Some(&layer) => Ok(self.encoder.spec().layer(layer)?.dim),
            None => Ok(0),
        }
    }

    /// Refuses samples without anomalous ones, or without normal ones where these are needed.
    pub(crate) fn require_samples(&self, needs_normal: bool) -> Result<(), DetectorError> {
        for (anomalous, label) in [(false, "normal"), (true, "anomalous")] {
            let are_there = self.samples.iter().any(|s| s.anomalous == anomalous);
            if !are_there && (anomalous || needs_normal) {
                return Err(DetectorError::NothingToLearn(label));
            }
        }
        Ok(())
    }
}
