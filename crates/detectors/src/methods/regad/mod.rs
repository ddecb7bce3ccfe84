//! RegAD (Huang et al., "Registration based Few-Shot Anomaly Detection", ECCV 2022): a network learns on
//! normal images of many classes to bring an image into register with another one of its class. What it
//! makes of a few normal images of a new class, in 22 forms each, has a normal distribution at each place; the
//! anomaly score of a place is the Mahalanobis distance from it, as in PaDiM.
//!
//! ```text
//! settings.rs      settings
//! network.rs       what is learned: stages of a ResNet-18 with transformers, encoder, predictor
//! transformer.rs   the nine kinds of spatial transformers
//! augmentation.rs  the 22 forms of a normal image
//! references.rs    what a detector keeps of its normal images
//! train.rs         batches and loss
//! checkpoint.rs    what was trained, from our files, and from and to the original's
//! ```
//!
//! The network learns as a whole, so it is part of the detector, which asks a backbone for the pixels alone.
//! Distributions are those of `components/few_gaussian.rs`: in place of 448 x 448 numbers for each place, the
//! maps of the normal images are kept. The original chooses the epoch by its results on the test images;
//! here it is the last one. It scales scores by the lowest and the highest of all test images; ours are
//! distances.

mod augmentation;
mod checkpoint;
#[cfg(test)]
mod goldens;
mod network;
mod references;
mod settings;
mod train;
mod transformer;

use std::path::{Path, PathBuf};

use anomalens_backbones::{Grid, ImageEncoder, ImageFeatures, LayerId};
use anomalens_vision::{Alignment, Border, Map};
use candle_core::{Device, Tensor};

pub use settings::Settings;
pub use transformer::Transformer;

use crate::components::by_name;
use crate::components::convnet::{Phase, to_vec};
use crate::components::joined::{Cells, finest};
use crate::detector::{Detector, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::{Learned, TrainProgress, Trained};
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _, TrainContext, Trainer, Tta, Variant,
};
use network::{Network, WIDTH};
use references::References;
use settings::SIGMA;

/// The method's name.
pub const NAME: &str = "regad";

/// The original's kind of checkpoint in the folder of a training run.
const CHECKPOINT: &str = "regad_model.pt";

/// The method.
pub struct Regad;

impl Method for Regad {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "few-shot: distance of each place from a few normal images in many forms, by a network \
                      that learned to register images of other classes",
            paper: "Huang et al., Registration based Few-Shot Anomaly Detection, ECCV 2022",
            requirements: Requirements {
                references: Need::Required,
                training: Need::Required,
                joint: false,
                class: false,
            },
            backbones: "trained from a ResNet-18; then it has a network of its own",
            weights: DefaultWeights::Convolutional,
            several_networks: false,
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        context.require_references(NAME)?;
        let learned = context.trained.map(Learned::<Settings>::read).transpose()?;
        let settings = Learned::configure(learned.as_ref(), Settings::default, context.settings)?;
        let checked = Checked::new(settings)?;
        let learned = learned.ok_or_else(|| {
            refuse(
                "it learns to register images of other classes first: train it, or name a published \
                 checkpoint; `padim` needs neither",
            )
        })?;
        let network = checkpoint::network(&checked.settings, &mut |name| learned.tensor(name))?;
        let detector = RegadDetector {
            checked,
            network,
            references: References::default(),
        };
        Ok(Box::new(detector.with(context, &[])?))
    }

    fn load(&self, state: State) -> Result<Box<dyn Detector>, DetectorError> {
        Ok(Box::new(RegadDetector::load(state)?))
    }

    fn trainer(&self) -> Option<&dyn Trainer> {
        Some(self)
    }

    fn update_references(
        &self,
        state: State,
        context: &FitContext<'_>,
        remove: &[String],
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let detector = RegadDetector::load(state)?;
        Ok(Box::new(detector.with(context, remove)?))
    }
}

impl Trainer for Regad {
    fn train(
        &self,
        context: &TrainContext<'_>,
        progress: &mut TrainProgress<'_>,
    ) -> Result<Trained, DetectorError> {
        train::train(context, progress)
    }

    /// A detector that has learned nothing, not even what a ResNet-18 knows, and has no references yet.
    fn untrained(
        &self,
        context: &FitContext<'_>,
        seed: u32,
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let checked = Checked::new(Settings::default().replaced_by(context.settings)?)?;
        let width = stem(context.encoder).unwrap_or(WIDTH);
        let network = Network::initial(checked.settings.sizes(width), seed, |_| None);
        Ok(Box::new(RegadDetector {
            network: network.map_err(|name| DetectorError::tensor(NAME, &name))?,
            references: References::default(),
            checked,
        }))
    }

    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        Err(refuse(
            "it has no ablations but the kinds of transformers, which the setting `transformer` chooses",
        ))
    }

    fn trains_on_all(&self) -> bool {
        true
    }

    fn start_file(&self, folder: &Path) -> Option<PathBuf> {
        Some(folder.join(CHECKPOINT))
    }
}

/// The network that training starts from: a ResNet-18 whose transformers change nothing.
fn network_of(
    encoder: &dyn ImageEncoder,
    settings: &Settings,
    seed: u32,
) -> Result<Network, DetectorError> {
    // Whose blocks are more, or of another kind, would be cut short.
    const DEEPER: [&str; 2] = ["layer1.2.conv1.weight", "layer1.0.conv3.weight"];
    let refused = || {
        refuse(format!(
            "its training starts from the weights of a ResNet-18, and {} is none: name their file with \
             --weights",
            encoder.spec().name
        ))
    };
    let checkpoint = encoder.checkpoint().ok_or_else(refused)?;
    let width = stem(encoder).ok_or_else(refused)?;
    if DEEPER.iter().any(|name| checkpoint.contains(name)) {
        return Err(refused());
    }
    let mut missing = None;
    let network = Network::initial(settings.sizes(width), seed, |parameter| {
        let name = parameter.name.strip_prefix("STN.")?;
        if name.starts_with("stn") {
            return None;
        }
        let tensor = checkpoint.tensor(name, &parameter.shape, &Device::Cpu);
        tensor.map_err(|error| missing = Some(error)).ok()
    });
    match (network, missing) {
        (Ok(network), None) => Ok(network),
        _ => Err(refused()),
    }
}

/// Channels of the first convolution of a residual network.
fn stem(encoder: &dyn ImageEncoder) -> Option<usize> {
    let shape = encoder.checkpoint()?.shape("conv1.weight")?;
    shape.first().copied().filter(|&width| width > 0)
}

/// The network, and the normal images that others are compared with.
struct RegadDetector {
    checked: Checked<Settings>,
    network: Network,
    references: References,
}

/// The error for settings that cannot be.
fn refuse(reason: impl ToString) -> DetectorError {
    DetectorError::settings(NAME, reason)
}

/// Images `[images, 3, side, side]` from their pixels, `[images, places, 3]`.
fn pixels(tokens: &Tensor, side: usize) -> candle_core::Result<Tensor> {
    let images = tokens.dim(0)?;
    let planes = tokens.transpose(1, 2)?.contiguous()?;
    planes.reshape((images, 3, side, side))
}

/// What the network makes of an image, `[1, 3, side, side]`: the stages, moved back, as tokens.
fn seen(image: &Tensor, network: &Network) -> Result<Vec<Cells<'static>>, DetectorError> {
    let registered = network.register(image, Phase::Scoring)?;
    let moved_back = registered.moved_back()?.ok_or_else(|| {
        refuse("a transformer of the network maps an image to a line, which cannot be undone")
    })?;
    let stages = moved_back.iter().map(|stage| {
        let (_, width, rows, columns) = stage.dims4()?;
        Ok(Cells {
            tokens: to_vec(&stage.permute((0, 2, 3, 1))?)?.into(),
            grid: Grid { rows, columns },
            width,
        })
    });
    stages.collect()
}

/// The map at the size of what the network saw, whose highest value is the image's score.
fn smoothed(map: &Map, side: usize) -> Result<Map, DetectorError> {
    let large = map.resize(side, side, Alignment::Edges)?;
    Ok(large.smooth_with(SIGMA, Border::EdgeTwice)?)
}

impl RegadDetector {
    fn load(mut state: State) -> Result<Self, DetectorError> {
        let checked = Checked::<Settings>::load(&state)?;
        let network = checkpoint::load(&checked.settings, &mut state)?;
        let (settings, sizes) = (&checked.settings, network.sizes());
        Ok(Self {
            references: References::load(&mut state, settings, sizes)?,
            network,
            checked,
        })
    }

    /// The same with the references of `context` and without those named in `remove`.
    fn with(mut self, context: &FitContext<'_>, remove: &[String]) -> Result<Self, DetectorError> {
        let mut kept = std::mem::take(&mut self.references).by_name;
        let Checked { settings, profile } = &self.checked;
        by_name::remove(NAME, &mut kept, remove)?;
        let count = kept.len() + context.references.len();
        references::check_memory(count, settings.max_memory, self.network.sizes())?;
        for reference in context.references {
            let (name, image) = (&reference.name, reference.open()?);
            by_name::check_new(NAME, &kept, name)?;
            let features = context.encode(&profile.input, Tta::default(), [&*image])?;
            let image = features.first().ok_or(DetectorError::NoReferences(NAME))?;
            let maps = references::maps(&self.image(image)?, &self.network)?;
            kept.insert(name.clone(), maps);
        }
        if kept.is_empty() {
            return Err(DetectorError::NoReferences(NAME));
        }
        Ok(Self {
            references: References::new(kept, settings, self.network.sizes())?,
            ..self
        })
    }

    /// The pixels of an image, `[1, 3, side, side]`.
    fn image(&self, features: &ImageFeatures) -> Result<Tensor, DetectorError> {
        let map = features.map(LayerId::PIXELS);
        let map = map.ok_or(DetectorError::MissingLayer(LayerId::PIXELS))?;
        let side = self.checked.settings.image_size as usize;
        let tokens = Tensor::from_slice(&map.tokens, (1, map.grid.len(), map.dim), &Device::Cpu)?;
        Ok(pixels(&tokens, side)?)
    }

    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let References {
            statistics: Some(statistics),
            range,
            ..
        } = &self.references
        else {
            return Err(DetectorError::NoReferences(NAME));
        };
        let stages = seen(&self.image(image)?, &self.network)?;
        let grid = finest(&stages);
        let squared = statistics.squared_distances(&stages);
        let squared = squared.ok_or_else(|| DetectorError::tensor(NAME, "references"))?;
        let distances = squared.into_iter().map(|square| square.sqrt() as f32);
        let map = Map::new(grid.rows, grid.columns, distances.collect())?;
        let large = smoothed(&map, self.checked.settings.image_size as usize)?;
        Ok(Scored {
            score: large.range().map_or(f32::NAN, |(_, highest)| highest),
            map,
            range: *range,
        })
    }
}

impl Detector for RegadDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn references(&self) -> Vec<&str> {
        let names = self.references.by_name.keys();
        names.map(String::as_str).collect()
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let network = checkpoint::arrays(&self.network);
        self.checked.state(network.chain(self.references.arrays()))
    }
}
