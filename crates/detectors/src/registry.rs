//! Every method by name: what it needs and how a detector of it is made or loaded.

use anomalens_backbones::{Grid, ImageEncoder, ImageFeatures};
use anomalens_vision::Image;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stream::encode_images;
use crate::training::{TrainOptions, Trained, TrainingSample, Watch};
use crate::{
    Detector, DetectorError, Looks, Setup, State, anomaly_dino, anomalyclip, inctrl, musc,
    self_similarity,
};
use anomalens_base::nearest;

/// What must be there before a method can score images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// Nothing but the images themselves.
    Nothing,
    /// Nothing, but normal images of the target tell what its scores mean.
    Optional,
    /// A few normal images of the target ("shots").
    NormalImages,
    /// To have been trained on auxiliary data.
    Training,
}

/// A method as the program lists it.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The name given on the command line.
    pub name: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    /// Authors, title, venue and year.
    pub paper: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// Whether it wants to know what the images show: its setting `class`.
    pub class: bool,
    fit: Fit,
    load: Load,
    training: Option<Training>,
    revise: Option<Revise>,
}

/// What a method that is trained offers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Training {
    pub(crate) train: Train,
    pub(crate) untrained: Untrained,
    pub(crate) variants: Variants,
    /// Whether it learns from the normal images that data sets set apart for training too, or
    /// from their test images alone.
    pub(crate) from_all: bool,
    /// Whether it cannot learn without normal images, with these settings.
    pub(crate) needs_normal: fn(&Value) -> bool,
}

/// One line of a table of ablations.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Its name, fit for a file.
    pub name: String,
    /// The settings that differ from the defaults.
    pub settings: FitOptions,
}

/// Makes a detector from settings and normal images.
type Fit = fn(&Value, &Shots) -> Result<Box<dyn Detector>, DetectorError>;

/// Learns a detector from settings and labelled auxiliary images.
type Train = fn(
    &Value,
    &dyn ImageEncoder,
    &[TrainingSample],
    &TrainOptions,
    &mut Watch,
) -> Result<Trained, DetectorError>;

/// Makes a detector with the initial values that the seed gives.
type Untrained = fn(&Value, &dyn ImageEncoder, u32) -> Result<Box<dyn Detector>, DetectorError>;

/// What the ablations of a method compare.
type Variants = fn(&dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError>;

/// Makes a detector with other shots: some added, those of some names taken out.
type Revise = fn(State, &Shots, &[String]) -> Result<Box<dyn Detector>, DetectorError>;

/// Makes a detector again from its saved state.
type Load = fn(State) -> Result<Box<dyn Detector>, DetectorError>;

/// Settings that replace a method's defaults, as a JSON object by name; empty for none.
pub type FitOptions = serde_json::Map<String, Value>;

const METHODS: [Method; 5] = [
    Method {
        name: anomaly_dino::NAME,
        summary: "few-shot: distance of each patch to the nearest patch of some normal images",
        paper: "Damm et al., AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with \
                DINOv2, WACV 2025",
        needs: Needs::NormalImages,
        class: false,
        fit: anomaly_dino::fit,
        load: anomaly_dino::load,
        training: None,
        revise: None,
    },
    Method {
        name: anomalyclip::NAME,
        summary: "zero-shot: two prompts or embeddings learned once from auxiliary data",
        paper: "Zhou et al., AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly \
                Detection, ICLR 2024",
        needs: Needs::Training,
        class: false,
        fit: anomalyclip::fit,
        load: anomalyclip::load,
        training: Some(anomalyclip::TRAINING),
        revise: None,
    },
    Method {
        name: inctrl::NAME,
        summary: "few-shot: residuals beside some normal images, weighed by heads learned once \
                  from auxiliary data",
        paper: "Zhu and Pang, Toward Generalist Anomaly Detection via In-context Residual \
                Learning with Few-shot Sample Prompts, CVPR 2024",
        needs: Needs::NormalImages,
        class: true,
        fit: inctrl::fit,
        load: inctrl::load,
        training: Some(inctrl::TRAINING),
        revise: Some(inctrl::revise),
    },
    Method {
        name: musc::NAME,
        summary: "batch zero-shot: unlabelled images score each other, no normal image needed",
        paper: "Li et al., MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation \
                with Mutual Scoring of the Unlabeled Images, ICLR 2024",
        needs: Needs::Nothing,
        class: false,
        fit: musc::fit,
        load: musc::load,
        training: None,
        revise: None,
    },
    Method {
        name: self_similarity::NAME,
        summary: "zero-shot: patches that are unlike the rest of their own image",
        paper: "Anomalens, docs/benchmarks/self-similarity.md",
        needs: Needs::Optional,
        class: false,
        fit: self_similarity::fit,
        load: self_similarity::load,
        training: None,
        revise: None,
    },
];

/// Every method, in the order of the documentation.
pub fn methods() -> &'static [Method] {
    &METHODS
}

/// The method `name`.
///
/// # Errors
/// [`DetectorError::UnknownMethod`] with the nearest name.
pub fn find(name: &str) -> Result<&'static Method, DetectorError> {
    METHODS
        .iter()
        .find(|method| method.name == name)
        .ok_or_else(|| DetectorError::UnknownMethod {
            name: name.to_owned(),
            nearest: nearest(name, METHODS.iter().map(|method| method.name)),
            known: METHODS.map(|method| method.name).join(", "),
        })
}

/// The method for a few normal images where none is named: `inctrl`, unless the encoder has a text
/// encoder beside it, with which `inctrl` must be trained first; then `anomaly-dino`.
///
/// # Errors
/// Those of opening the text encoder.
pub fn few_shot_default(encoder: &dyn ImageEncoder) -> Result<&'static Method, DetectorError> {
    find(match encoder.text()? {
        Some(_) => anomaly_dino::NAME,
        None => inctrl::NAME,
    })
}

impl Method {
    /// Makes a detector from normal images of the target; methods that need none take an empty
    /// slice.
    ///
    /// # Errors
    /// [`DetectorError::NoShots`], or [`DetectorError::Config`] for options that cannot be.
    pub fn fit(
        &self,
        options: &FitOptions,
        encoder: &dyn ImageEncoder,
        images: &[Shot],
    ) -> Result<Box<dyn Detector>, DetectorError> {
        if self.needs == Needs::NormalImages && images.is_empty() {
            return Err(DetectorError::NoShots(self.name));
        }
        (self.fit)(&Value::Object(options.clone()), &Shots { encoder, images })
    }

    /// Whether the method can be trained.
    pub fn is_trained(&self) -> bool {
        self.training.is_some()
    }

    /// The detector that training starts from, with initial values from `seed`: good for nothing
    /// but measuring time.
    ///
    /// # Errors
    /// [`DetectorError::NotTrained`] for methods without training, or [`DetectorError::Config`].
    pub fn untrained(
        &self,
        settings: &FitOptions,
        encoder: &dyn ImageEncoder,
        seed: u32,
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let training = self.training.ok_or(DetectorError::NotTrained(self.name))?;
        (training.untrained)(&Value::Object(settings.clone()), encoder, seed)
    }

    /// The variants of the method that its ablations compare, the defaults first.
    ///
    /// # Errors
    /// [`DetectorError::NotTrained`] for methods without training, or that of the backbone.
    pub fn variants(&self, encoder: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        let training = self.training.ok_or(DetectorError::NotTrained(self.name))?;
        (training.variants)(encoder)
    }

    /// Whether training wants the normal images that data sets set apart for training too.
    pub fn trains_on_all(&self) -> bool {
        self.training.is_some_and(|training| training.from_all)
    }

    /// The detector of `state` with the shots `add` too and without those named in `remove`.
    ///
    /// # Errors
    /// [`DetectorError::FixedShots`] for methods whose shots cannot be told apart,
    /// [`DetectorError::NoShots`] if none are left, [`DetectorError::Config`] for a name that is
    /// not there, or there twice.
    pub fn revise(
        &self,
        state: State,
        encoder: &dyn ImageEncoder,
        add: &[Shot],
        remove: &[String],
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let revise = self.revise.ok_or(DetectorError::FixedShots(self.name))?;
        let images = add;
        revise(state, &Shots { encoder, images }, remove)
    }

    /// Learns a detector from labelled auxiliary images; `watch` is told what happens. A run that
    /// was interrupted goes on from its last epoch.
    ///
    /// # Errors
    /// [`DetectorError::NotTrained`] for methods without training,
    /// [`DetectorError::NothingToLearn`] without normal or without anomalous images,
    /// [`DetectorError::TrainingImage`] for an image that cannot be used, and what goes wrong
    /// with the files of the run.
    pub fn train(
        &self,
        settings: &FitOptions,
        encoder: &dyn ImageEncoder,
        samples: &[TrainingSample],
        options: &TrainOptions,
        watch: &mut Watch,
    ) -> Result<Trained, DetectorError> {
        let training = self.training.ok_or(DetectorError::NotTrained(self.name))?;
        let settings = Value::Object(settings.clone());
        let needs_normal = (training.needs_normal)(&settings);
        for (anomalous, kind) in [(false, "normal"), (true, "anomalous")] {
            let are_there = samples.iter().any(|sample| sample.anomalous == anomalous);
            if !are_there && (anomalous || needs_normal) {
                return Err(DetectorError::NothingToLearn(kind));
            }
        }
        (training.train)(&settings, encoder, samples, options, watch)
    }

    /// Makes the detector again whose state was saved.
    ///
    /// # Errors
    /// [`DetectorError::Config`] if the state is not one of this method.
    pub fn load(&self, state: State) -> Result<Box<dyn Detector>, DetectorError> {
        (self.load)(state)
    }
}

/// One normal image of the target.
#[derive(Debug, Clone)]
pub struct Shot {
    /// What it is called.
    pub name: String,
    /// The image.
    pub image: Image,
}

/// The normal images that a method is fitted on, and the network that encodes them.
pub struct Shots<'a> {
    /// The network.
    pub encoder: &'a dyn ImageEncoder,
    /// The images.
    pub images: &'a [Shot],
}

impl Shots<'_> {
    /// The features of `images`, in as many `looks` at each; the first comes first.
    pub(crate) fn encode<'i>(
        &self,
        setup: &Setup,
        looks: Looks,
        images: impl IntoIterator<Item = &'i Image>,
    ) -> Result<Vec<ImageFeatures>, DetectorError> {
        encode_images(self.encoder, setup, looks, images)
    }
}

/// `defaults` with the settings of `options` in their place.
///
/// Unknown names are refused by the configuration itself (`deny_unknown_fields`).
pub(crate) fn configure<C: Serialize + DeserializeOwned>(
    method: &'static str,
    defaults: &C,
    options: &Value,
) -> Result<C, DetectorError> {
    let config = |error: serde_json::Error| DetectorError::Config {
        method,
        reason: error.to_string(),
    };
    let mut value = serde_json::to_value(defaults).map_err(config)?;
    if let (Value::Object(value), Value::Object(options)) = (&mut value, options) {
        value.extend(options.clone());
    }
    serde_json::from_value(value).map_err(config)
}

/// Checks that `features` have what `setup` asks for, in tokens of length `width`.
pub(crate) fn check_features(
    features: &ImageFeatures,
    setup: &Setup,
    width: usize,
) -> Result<Grid, DetectorError> {
    for &layer in &setup.request.layers {
        let map = features
            .map(layer)
            .ok_or(DetectorError::MissingLayer(layer))?;
        if map.dim != width {
            return Err(DetectorError::Width {
                expected: width,
                found: map.dim,
            });
        }
    }
    Ok(features.grid())
}
