//! The front door: a method and its backbone as one value that scores images.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anomalens_backbones::weights::Store;
use anomalens_backbones::{Backbone, BackboneOptions, DEFAULT_WEIGHTS, Precision};
use anomalens_datasets::{find_images, path_text};
use anomalens_detectors::{
    BackboneRef, Calibration, DEFAULT_METHOD, Detector, DetectorFile, ExportOptions, Exported,
    FitContext, ImageSource, MethodInfo, MethodSettings, Provenance, ReferenceImage, Scope,
    Settings, StreamOptions, default_weights, export, find, predict,
};
use anomalens_evaluation::{Labelled, calibrate, is_result_folder};
use anomalens_metrics::Rule;
use anomalens_onnx::{Device, Devices, open_on};
use anomalens_vision::{DecodeOptions, Image};

use crate::{Error, Inspection};

/// Which method, settings and backbone a detector is made with. All have defaults.
#[derive(Debug, Clone)]
pub struct Builder {
    method: String,
    settings: MethodSettings,
    weights: Vec<String>,
    precision: Option<Precision>,
    devices: Devices,
    class: Option<String>,
    trained: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            method: DEFAULT_METHOD.to_owned(),
            settings: MethodSettings::new(),
            weights: vec![],
            precision: None,
            devices: Devices::Cpu,
            class: None,
            trained: None,
        }
    }
}

impl Builder {
    /// The method's name, one of [`methods`](crate::detectors::methods()); `lens` by default.
    #[must_use]
    pub fn method(mut self, name: &str) -> Self {
        self.method = name.to_owned();
        self
    }

    /// The method and all its settings.
    #[must_use]
    pub fn settings<S: Settings>(mut self, settings: &S) -> Self {
        self.method = S::METHOD.to_owned();
        self.settings = settings.to_json();
        self
    }

    /// One setting by its name, as on the command line.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// The backbone: a name in the registry or the path of a weight file. By default it is the small
    /// one that is part of the library, or what the method needs ([`MethodInfo::weights`]). Others are
    /// fetched into the cache when they are first used.
    #[must_use]
    pub fn weights(mut self, weights: &str) -> Self {
        self.weights = vec![weights.to_owned()];
        self
    }

    /// A further backbone beside that of [`weights`](Self::weights), for methods that join what several
    /// networks see; by default the second one in the library.
    #[must_use]
    pub fn and_weights(mut self, weights: &str) -> Self {
        self.weights.push(weights.to_owned());
        self
    }

    /// How exactly the backbone computes; by default as its weights are made for, or in half
    /// precision.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// What computes the backbone: by default the processor, by the kernels of this library.
    #[must_use]
    pub fn devices(mut self, devices: Devices) -> Self {
        self.devices = devices;
        self
    }

    /// What the images show, for methods whose prompts name it.
    #[must_use]
    pub fn class(mut self, class: &str) -> Self {
        self.class = Some(class.to_owned());
        self
    }

    /// What was trained on auxiliary data before: a detector file or a published checkpoint.
    #[must_use]
    pub fn trained(mut self, file: impl Into<PathBuf>) -> Self {
        self.trained = Some(file.into());
        self
    }

    /// Makes the detector without any normal image.
    ///
    /// # Errors
    /// [`Error`], among others for a method that needs normal images.
    pub fn build(self) -> Result<AnomalyDetector, Error> {
        self.fit(&[])
    }

    /// Makes the detector from the normal images in `folder` and below: the same images in the same
    /// order as `anomalens fit --normal FOLDER`, so that the detector is the same. Folders that hold
    /// results are left out.
    ///
    /// # Errors
    /// [`Error`], among others for a folder without images, for a part of it that cannot be searched
    /// and for an image that cannot be read.
    pub fn fit_dir(self, folder: impl AsRef<Path>) -> Result<AnomalyDetector, Error> {
        let found = find_images(&[folder.as_ref().to_owned()], &is_result_folder)?;
        if let Some((path, reason)) = found.problems.into_iter().next() {
            return Err(Error::NotSearched { path, reason });
        }
        let images = found.images.into_iter();
        let images = images.map(|file| (path_text(&file.name), file.path.into()));
        self.fit(&ReferenceImage::read_all(
            images,
            &DecodeOptions::default(),
            |_, _| {},
        )?)
    }

    /// Makes the detector from normal images that are in memory.
    ///
    /// # Errors
    /// [`Error`], among others for settings that are impossible.
    pub fn fit(self, references: &[ReferenceImage]) -> Result<AnomalyDetector, Error> {
        let method = find(&self.method)?;
        let options = BackboneOptions {
            precision: self.precision,
            activation: None,
            ..BackboneOptions::default()
        };
        let devices = self.devices.resolve();
        let backbone = open_all(&devices, &self.weights, options, method.info())?;
        let detector = method.fit(&FitContext {
            class: self.class.as_deref(),
            trained: self.trained.as_deref(),
            ..FitContext::new(&self.settings, backbone.encoder.as_ref()).with_references(references)
        })?;
        let file = DetectorFile {
            backbone: BackboneRef::of(&backbone).used_by(detector.as_ref()),
            detector,
            provenance: Provenance {
                command: "the library".to_owned(),
                data: format!("{} normal images in memory", references.len()),
                date: now(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                losses: vec![],
            },
            calibration: None,
            levels: Default::default(),
        };
        Ok(AnomalyDetector { file, backbone })
    }
}

/// A detector that is ready to score images.
///
/// ```
/// # fn main() -> Result<(), anomalens::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # std::env::set_current_dir(&folder).unwrap();
/// # "textures,materials=1,images=3,side=112".parse::<anomalens::synthetic::Spec>().unwrap().write("set".as_ref()).unwrap();
/// # std::fs::rename("set/weave-001/train/good", "good").unwrap();
/// # std::fs::rename("set/weave-001/test/good/0000.png", "photo.png").unwrap();
/// use anomalens::{AnomalyDetector, vision::Image};
///
/// let detector = AnomalyDetector::builder().fit_dir("good/")?;
/// let result = detector.predict(&Image::open("photo.png")?)?;
/// println!("{}: {} regions", result.score(), result.regions()?.len());
/// result.overlay()?.save_png("overlay.png")?;
/// detector.save("bolts.detector")?;
/// let again = AnomalyDetector::load("bolts.detector")?; // the same bits
/// assert_eq!(again.predict(&Image::open("photo.png")?)?.score(), result.score());
/// # Ok(())
/// # }
/// ```
pub struct AnomalyDetector {
    file: DetectorFile,
    backbone: Backbone,
}

impl AnomalyDetector {
    /// A builder with the default method and backbone.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Reads a detector file and opens its backbone.
    ///
    /// # Errors
    /// [`Error`] for a file that is no detector, and for a backbone that is unavailable.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_on(path, &Devices::Cpu)
    }

    /// The same, its backbone computed on `devices`: the file is the same for all of them.
    ///
    /// # Errors
    /// [`Error`] for a file that is no detector, and for a backbone or a device that is unavailable.
    pub fn load_on(path: impl AsRef<Path>, devices: &Devices) -> Result<Self, Error> {
        let devices = devices.resolve();
        let file = DetectorFile::load(path.as_ref())?;
        let backbone = open_again(&devices, &file, false)?;
        Ok(Self { file, backbone })
    }

    /// Writes the detector with its calibration to `path`; an existing file is replaced in one step.
    ///
    /// # Errors
    /// [`Error`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(self.file.save(path.as_ref())?)
    }

    /// Writes the detector as an ONNX file that runs without this library, and checks it at once against
    /// its own results in float32 ([`detectors::export`](crate::detectors::export)).
    ///
    /// # Errors
    /// [`Error`] for methods and sizes that cannot be exported, with the reason.
    pub fn export(
        &self,
        path: impl AsRef<Path>,
        options: &ExportOptions,
    ) -> Result<Exported, Error> {
        let exact = open_again(&[], &self.file, true)?;
        Ok(export(&self.file, &exact, options, path.as_ref())?)
    }

    /// How image files that it scores are decoded ([`Image::open_with`]): as those that it was
    /// made from, which matters with samples of more than 8 bits.
    pub fn decode_options(&self) -> DecodeOptions {
        self.file.decode_options()
    }

    /// Scores one image.
    ///
    /// # Errors
    /// [`Error`] for an image whose size the method cannot use, and with a method that scores
    /// images jointly.
    pub fn predict(&self, image: &Image) -> Result<Inspection, Error> {
        let inspections = self.predict_all(std::slice::from_ref(image))?;
        inspections.into_iter().next().ok_or(Error::NotScored)
    }

    /// Scores `images`, in their order; the results are those of one by one, unless the method
    /// scores images jointly.
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn predict_all(&self, images: &[Image]) -> Result<Vec<Inspection>, Error> {
        let images: Vec<Arc<Image>> = images.iter().cloned().map(Arc::new).collect();
        let sources: Vec<ImageSource> = images.iter().cloned().map(in_memory).collect();
        let mut results: Vec<Option<Inspection>> = images.iter().map(|_| None).collect();
        let mut failed = None;
        predict(
            self.backbone.encoder.as_ref(),
            &[self.detector()],
            &sources,
            &HashSet::new(),
            &StreamOptions::default(),
            &mut |outcome| match outcome.result {
                Ok(prediction) => {
                    let image = images[outcome.image].clone();
                    let calibration = self.file.calibration.clone();
                    results[outcome.image] = Some(Inspection::new(image, prediction, calibration));
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        match failed {
            Some(error) => Err(Error::Source(error)),
            None => results
                .into_iter()
                .map(|r| r.ok_or(Error::NotScored))
                .collect(),
        }
    }

    /// Chooses the threshold of decisions by `rule` from `normal` images that the detector was not
    /// made from, and from `anomalous` ones if there are any.
    ///
    /// # Errors
    /// [`Error`] for too few images for the rule, and with a method that scores images jointly.
    pub fn calibrate(
        &mut self,
        normal: &[Image],
        anomalous: &[Image],
        rule: Rule,
    ) -> Result<&Calibration, Error> {
        let images = normal.iter().chain(anomalous).cloned().map(Arc::new);
        let labelled = Labelled {
            sources: images.map(in_memory).collect(),
            labels: (0..normal.len() + anomalous.len())
                .map(|i| i >= normal.len())
                .collect(),
        };
        let chosen = calibrate(
            self.backbone.encoder.as_ref(),
            self.detector(),
            &labelled,
            rule,
            &StreamOptions::default(),
            &mut |_, _| ControlFlow::Continue(()),
        )?
        .ok_or(Error::NotScored)?;
        Ok(self.file.calibration.insert(Calibration {
            rule,
            threshold: chosen.threshold.value,
            probability: chosen.probability,
            normal: normal.len(),
            anomalous: anomalous.len(),
            data: "images in memory".to_owned(),
            date: now(),
        }))
    }

    /// How the threshold was chosen, if it was.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.file.calibration.as_ref()
    }

    /// The method's name.
    pub fn method(&self) -> &'static str {
        self.detector().method()
    }

    /// Whether images are scored against each other, so that one alone has no score.
    pub fn is_joint(&self) -> bool {
        self.detector().scope() != Scope::Single
    }

    /// The network that encodes the images.
    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    fn detector(&self) -> &dyn Detector {
        self.file.detector.as_ref()
    }
}

fn in_memory(image: Arc<Image>) -> ImageSource {
    ImageSource::Memory {
        name: "an image in memory".to_owned(),
        image,
    }
}

fn open(devices: &[Device], weights: &str, options: BackboneOptions) -> Result<Backbone, Error> {
    let store = Store::from_env().map_err(anomalens_backbones::OpenError::from)?;
    open_on(devices, weights, options, &store, &|_| ()).map_err(Error::Backbone)
}

/// The backbones of a detector file; in float32 whatever it was made with if that is wanted.
fn open_again(devices: &[Device], file: &DetectorFile, exact: bool) -> Result<Backbone, Error> {
    let open = |made_with: &BackboneRef| {
        let options = BackboneOptions {
            precision: Some(made_with.precision),
            activation: made_with.activation,
            exact,
        };
        open(devices, &made_with.name, options)
    };
    let companions = file.backbone.companions.iter().map(open);
    let backbone = open(&file.backbone)?.beside(companions.collect::<Result<_, _>>()?);
    file.check_backbone(&BackboneRef::of(&backbone))?;
    Ok(backbone)
}

/// The backbones with these names, or those in the library.
fn open_all(
    devices: &[Device],
    names: &[String],
    options: BackboneOptions,
    method: &MethodInfo,
) -> Result<Backbone, Error> {
    let names: Vec<&str> = match names {
        [] => default_weights([method]),
        [_, _, ..] if !method.several_networks => return Err(Error::OneBackbone(method.name)),
        names => names.iter().map(String::as_str).collect(),
    };
    let mut opened = names.into_iter().map(|name| open(devices, name, options));
    let first = opened
        .next()
        .unwrap_or_else(|| open(devices, DEFAULT_WEIGHTS, options))?;
    Ok(first.beside(opened.collect::<Result<_, _>>()?))
}

/// Now, in UTC, to the second.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
}
