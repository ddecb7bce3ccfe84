//! ACR (Li et al., "Zero-Shot Anomaly Detection via Batch Normalization", NeurIPS 2023): unlabelled images of
//! one thing are scored together. Batch norms that use their batch bring whatever most images show at a
//! place near a centre that was learned once on other things; the distance from it is the anomaly score.
//!
//! ```text
//! settings.rs    settings
//! network.rs     what is learned, and its loss
//! train.rs       tasks of one class and place
//! checkpoint.rs  the original's checkpoint files
//! ```
//!
//! It is the variant for MVTec AD of the published code (aodongli/zero-shot-ad-via-batch-norm at 54f1a60), "feature
//! SVDD". Some images with noise added, pseudo-anomalies, join each batch and its statistics. The noise
//! follows from a seed and the place, and images are taken in an order that follows from what they show, so
//! that the order of the files changes nothing. The original scales maps by the lowest and highest value of
//! all images of a class, which changes no ranking among them; ours are squared distances.

mod checkpoint;
#[cfg(test)]
mod goldens;
mod network;
mod settings;
mod train;

use std::ops::Range;

use anomalens_backbones::{FeatureMap, ImageEncoder, ImageFeatures};
use anomalens_vision::Map;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

pub use settings::Settings;

use crate::components::canonical::in_canonical_order;
use crate::components::convnet::Phase;
use crate::detector::{Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::random::{generator, normal};
use crate::training::{Learned, TrainProgress, Trained};
use crate::{
    Choice, DefaultWeights, DetectorError, FitContext, Method, MethodInfo, MethodSettings, Need,
    Requirements, TrainContext, Trainer, Variant,
};
use network::Network;

/// The method's name.
pub const NAME: &str = "acr";

/// Fewer images have no statistics.
const NEEDED: usize = 2;

/// Features that go through the network at once.
const ROWS: usize = 4096;

/// Quantile of the distances of all images from where on places are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.98;

/// The method.
pub struct Acr;

impl Method for Acr {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "batch zero-shot: batch norms bring what most images show near a centre \
                      trained once on auxiliary data",
            paper: "Li et al., Zero-Shot Anomaly Detection via Batch Normalization, NeurIPS 2023",
            requirements: Requirements {
                references: Need::No,
                training: Need::Required,
                joint: true,
                class: false,
            },
            backbones: "convolutional networks, Wide ResNet-50-2 in the paper; transformers",
            weights: DefaultWeights::Convolutional,
            several_networks: false,
        }
    }

    /// A detector from what was learned.
    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let learned = context.trained.map(Learned::read).transpose()?;
        let checked = configured(context.settings, learned.as_ref(), context.encoder)?;
        let Some(learned) = learned else {
            return Err(DetectorError::settings(
                NAME,
                "it is learned from auxiliary data: train it, or name a checkpoint (`ckpt_50.pt`)",
            ));
        };
        let network = checkpoint::network(|name| learned.tensor(name))?;
        check_width(&network, context.encoder, &checked.settings)?;
        Ok(Box::new(AcrDetector::new(checked, network)?))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked = Checked::load(&state)?;
        let network = checkpoint::network(|name| state.take_tensor(name))?;
        Ok(Box::new(AcrDetector { checked, network }))
    }

    fn trainer(&self) -> Option<&dyn Trainer> {
        Some(self)
    }
}

impl Trainer for Acr {
    fn train(
        &self,
        context: &TrainContext<'_>,
        progress: &mut TrainProgress<'_>,
    ) -> Result<Trained, DetectorError> {
        train::train(context, progress)
    }

    fn untrained(
        &self,
        context: &FitContext<'_>,
        seed: u32,
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let checked = configured(context.settings, None, context.encoder)?;
        let layer = context.encoder.spec().layer(checked.settings.layer()?)?;
        let network = Network::new(&checked.settings.sizes(layer.dim), seed)?;
        Ok(Box::new(AcrDetector::new(checked, network)?))
    }

    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        let variant = |name: &str, settings: serde_json::Value| Variant {
            name: name.to_owned(),
            settings: settings.as_object().cloned().unwrap_or_default(),
        };
        Ok(vec![
            variant("default", serde_json::json!({})),
            variant("one-class", serde_json::json!({ "one_class": true })),
        ])
    }

    /// Its normal images are what it learns from.
    fn trains_on_all(&self) -> bool {
        true
    }
}

/// The settings that were `learned` with, or the defaults for `encoder`, with those `given` in their place.
fn configured(
    given: &MethodSettings,
    learned: Option<&Learned<Settings>>,
    encoder: &dyn ImageEncoder,
) -> Result<Checked<Settings>, DetectorError> {
    let mut settings = Learned::configure(learned, || Settings::defaults(encoder), given)?;
    settings.resolve(encoder);
    Checked::new(settings)
}

/// Refuses a network that was learned on features of another backbone or layer.
fn check_width(
    network: &Network,
    encoder: &dyn ImageEncoder,
    settings: &Settings,
) -> Result<(), DetectorError> {
    let (spec, layer) = (encoder.spec(), settings.layer()?);
    let (expected, found) = (network.width(), spec.layer(layer)?.dim);
    if expected == found {
        return Ok(());
    }
    let reason = format!(
        "it was trained on features of {expected} numbers, but those of {} after {layer} have \
         {found}: use the backbone that it was trained with",
        spec.name
    );
    Err(DetectorError::settings(NAME, reason))
}

/// The network, ready to score images together.
struct AcrDetector {
    checked: Checked<Settings>,
    network: Network,
}

impl AcrDetector {
    /// With the sizes that the network has.
    fn new(checked: Checked<Settings>, network: Network) -> Result<Self, DetectorError> {
        let settings = Settings {
            layers: Choice::Given(network.layers()),
            output: network.output(),
            ..checked.settings
        };
        Ok(Self {
            checked: Checked::new(settings)?,
            network,
        })
    }

    fn score_in_order(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let layer = settings.layer()?;
        let maps = images.iter().map(|image| {
            profile.check(image, self.network.width())?;
            image.map(layer).ok_or(DetectorError::MissingLayer(layer))
        });
        let maps: Vec<&FeatureMap> = maps.collect::<Result<_, DetectorError>>()?;
        let (Some(first), NEEDED..) = (maps.first(), maps.len()) else {
            return Err(DetectorError::GroupTooSmall {
                method: NAME,
                needed: NEEDED,
                found: images.len(),
            });
        };
        let grid = first.grid;
        if let Some(other) = maps.iter().find(|map| map.grid != grid) {
            let reason = format!(
                "images are compared place by place, and one has {} of them, another {}",
                grid.len(),
                other.grid.len()
            );
            return Err(DetectorError::settings(NAME, reason));
        }
        let distances = self.distances(&maps)?;
        let range = NormalRange::of(distances.concat(), UPPER_QUANTILE);
        let side = settings.framing().side() as usize;
        let scored = (0..images.len()).map(|image| {
            let values = distances.iter().map(|place| place[image]).collect();
            let map = Map::new(grid.rows, grid.columns, values)?;
            let large = profile.enlargement.apply(&map, side, side, 1.0)?;
            Ok(Scored {
                score: large.range().map_or(f32::NAN, |(_, highest)| highest),
                map,
                range,
            })
        });
        scored.collect()
    }

    /// Of each place, the squared distances of all images.
    fn distances(&self, maps: &[&FeatureMap]) -> Result<Vec<Vec<f32>>, DetectorError> {
        let places = maps.first().map_or(0, |map| map.grid.len());
        let rows = maps.len() + self.checked.settings.pseudo(maps.len());
        let at_once = (ROWS / rows).max(1);
        let mut all = vec![];
        for start in (0..places).step_by(at_once) {
            let batches = self.batches(maps, start..(start + at_once).min(places))?;
            let distances = self.network.distances(&batches, Phase::Batch)?;
            all.extend(distances.narrow(1, 0, maps.len())?.to_vec2()?);
        }
        Ok(all)
    }

    /// The batches of `places`, `[places, rows, width]`: all images, then pseudo-anomalies.
    fn batches(&self, maps: &[&FeatureMap], places: Range<usize>) -> Result<Tensor, DetectorError> {
        let settings = &self.checked.settings;
        let (width, pseudo) = (self.network.width(), settings.pseudo(maps.len()));
        let batch = |place: usize| -> Vec<f32> {
            let tokens = maps.iter().flat_map(|map| {
                let token = map.tokens.get(place * width..(place + 1) * width);
                token.unwrap_or_default()
            });
            let mut rows: Vec<f32> = tokens.copied().collect();
            let mut random = generator(settings.seed, place as u32);
            let noise = normal(pseudo * width, settings.noise, &mut random);
            let made: Vec<f32> = rows.iter().zip(noise).map(|(x, noise)| x + noise).collect();
            rows.extend(made);
            rows
        };
        let shape = (places.len(), maps.len() + pseudo, width);
        let rows: Vec<Vec<f32>> = places.into_par_iter().map(batch).collect();
        Ok(Tensor::from_vec(rows.concat(), shape, &Device::Cpu)?)
    }
}

impl Detector for AcrDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        in_canonical_order(images, |images| self.score_in_order(images))
    }

    fn state(&self) -> State {
        self.checked.state(checkpoint::arrays(&self.network))
    }
}
