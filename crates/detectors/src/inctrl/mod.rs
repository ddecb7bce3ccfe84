//! InCTRL (Zhu and Pang, "Toward Generalist Anomaly Detection via In-context Residual Learning
//! with Few-shot Sample Prompts", CVPR 2024): residuals between an image and a few normal images,
//! of its patches and of its embedding, and a prior from prompts, weighed by heads that are
//! learned once on auxiliary data.
//!
//! ```text
//! config.rs      settings
//! residual.rs    patch-level residuals
//! text.rs        the text prior
//! model.rs       what is learned: network.rs, the paper's adapter and heads, or power_mean.rs
//! units.rs       what the power mean measures residuals in
//! shots.rs       what a detector keeps of its shots
//! train.rs       episodes and loss; layout.rs: the reference's mixed-up batches
//! checkpoint.rs  what was trained, from our files and the original's
//! ```
//!
//! The original encodes shots and prompts again for every image; here that is done once, when
//! the detector is made.

mod checkpoint;
mod config;
#[cfg(test)]
mod goldens;
mod layout;
mod model;
mod network;
mod power_mean;
mod residual;
mod shots;
mod text;
mod train;
mod units;

use std::collections::BTreeMap;

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::{ImageEncoder, ImageFeatures};
use anomalens_vision::Map;
use candle_core::{Device, Tensor};
use serde_json::Value;

pub use config::{Config, Head, Preprocessing};
pub use layout::BatchLayout;

use crate::detector::{Array, Detector, Scope, Scored, State};
use crate::registry::{Shots, Training, Variant, check_features, configure};
use crate::{DetectorError, Looks, Setup};
use checkpoint::Learned;
use model::Model;
use network::{Evidence, Network, Phase, Sizes};
use residual::Compared;
use shots::{Kept, References};
use units::Residuals;

/// The method's name.
pub const NAME: &str = "inctrl";

/// The name of the prompts' embeddings in a detector file.
const TEXTS: &str = "text_features";

/// What the registry knows of its training.
pub(crate) const TRAINING: Training = Training {
    train: train::train,
    untrained,
    variants,
    from_all: true,
    needs_normal: |_| true,
};

/// The learned parts, and the shots and prompts that images are compared with.
pub struct InCtrl {
    config: Config,
    setup: Setup,
    model: Model,
    /// Normal, anomalous; each of length 1. None without the text prior.
    texts: Option<[Vec<f32>; 2]>,
    references: References,
}

/// A detector from what was trained and a few normal images.
pub(crate) fn fit(options: &Value, shots: &Shots) -> Result<Box<dyn Detector>, DetectorError> {
    let encoder = shots.encoder;
    let text = encoder.text()?;
    let path = options.get("trained").and_then(Value::as_str);
    let learned = path.map(|path| Learned::read(path.as_ref())).transpose()?;
    let defaults = learned.as_ref().and_then(|learned| learned.config.clone());
    let defaults = defaults.unwrap_or_else(|| Config::defaults(encoder, text.is_some()));
    let config: Config = configure(NAME, &defaults, options)?;
    let learned = match (learned, config.head) {
        (Some(learned), _) => learned,
        (None, Head::PowerMean) => Learned::built_in(),
        (None, Head::Network) => {
            return Err(refuse(
                "it is learned from auxiliary data first: name a file of `anomalens train \
                 --method inctrl`, or a published checkpoint, with `--trained FILE`; \
                 `head=\"power-mean\"` with `text_prior=false` needs none",
            ));
        }
    };
    let detector = InCtrl::new(config, learned.model()?, text, encoder)?;
    Ok(Box::new(detector.with(shots, &[])?))
}

/// A detector that has learned nothing and has no shots yet, but its prompts.
fn untrained(
    settings: &Value,
    encoder: &dyn ImageEncoder,
    seed: u32,
) -> Result<Box<dyn Detector>, DetectorError> {
    let text = encoder.text()?;
    let defaults = Config::defaults(encoder, text.is_some());
    let config: Config = configure(NAME, &defaults, settings)?;
    let model = Model::new(&config, config.sizes(encoder), seed)?;
    Ok(Box::new(InCtrl::new(config, model, text, encoder)?))
}

/// Parts are switched off where shots are at hand, not in training.
fn variants(_: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
    Err(refuse(
        "its parts are switched off when it is measured: `anomalens eval --method inctrl --trained \
         FILE --set text_prior=false`, likewise `image_residual`, `patch_residual` and `max_term`",
    ))
}

/// Makes the detector again from what [`Detector::state`] gave.
pub(crate) fn load(state: State) -> Result<Box<dyn Detector>, DetectorError> {
    Ok(Box::new(InCtrl::load(state)?))
}

/// The same detector with other shots: those of `shots` added, those named in `remove` taken out.
pub(crate) fn revise(
    state: State,
    shots: &Shots,
    remove: &[String],
) -> Result<Box<dyn Detector>, DetectorError> {
    Ok(Box::new(InCtrl::load(state)?.with(shots, remove)?))
}

/// The error for settings that cannot be.
fn refuse(reason: impl Into<String>) -> DetectorError {
    DetectorError::Config {
        method: NAME,
        reason: reason.into(),
    }
}

/// The error for a tensor of a file that is not as it must be.
fn unusable(name: &str) -> DetectorError {
    refuse(format!(
        "the tensor `{name}` is missing or has an unusable shape"
    ))
}

/// Refuses a model that was trained with another network or another size of images.
fn check_fit(
    config: &Config,
    network: &Network,
    encoder: &dyn ImageEncoder,
) -> Result<(), DetectorError> {
    let sizes = network.sizes();
    let Sizes {
        embedding: width,
        patches,
        ..
    } = config.sizes(encoder);
    if sizes.embedding != width {
        return Err(refuse(format!(
            "it was trained on embeddings of {} numbers, but those of {} have {width}: use the \
             backbone that it was trained with",
            sizes.embedding,
            encoder.spec().name
        )));
    }
    if sizes.patches != patches {
        return Err(refuse(format!(
            "it was trained on images of {} patches, but an image of {} pixels has {patches}: \
             leave `image_size` as it was in training",
            sizes.patches, config.image_size
        )));
    }
    Ok(())
}

impl InCtrl {
    fn new(
        config: Config,
        model: Model,
        text: Option<ClipText>,
        encoder: &dyn ImageEncoder,
    ) -> Result<Self, DetectorError> {
        let mut config = Config {
            trained: None,
            ..config
        };
        config.head = match &model {
            Model::Network(network) => {
                check_fit(&config, network, encoder)?;
                config.adapter_width = network.sizes().middle;
                Head::Network
            }
            Model::PowerMean(_) => Head::PowerMean,
        };
        let texts = match (config.text_prior, text) {
            (false, _) => None,
            (true, Some(text)) => Some(text::embeddings(&text, &config.class)?),
            (true, None) => {
                return Err(refuse(
                    "`text_prior` needs a backbone with a text encoder; this one has none",
                ));
            }
        };
        Ok(Self {
            setup: config.setup()?,
            config,
            model,
            texts,
            references: References::default(),
        })
    }

    fn load(mut state: State) -> Result<Self, DetectorError> {
        let config: Config =
            serde_json::from_value(state.config).map_err(|e| refuse(e.to_string()))?;
        let model = checkpoint::model(&mut |name| {
            let Array { shape, values } = state.tensors.remove(name)?;
            Tensor::from_vec(values, shape, &Device::Cpu).ok()
        })?;
        let texts = match (config.text_prior, state.tensors.remove(TEXTS)) {
            // What `train` leaves behind has no class yet.
            (false, _) | (true, None) => None,
            (true, Some(texts)) if texts.shape.len() == 2 && texts.shape[0] == 2 => {
                let (normal, anomalous) = texts.values.split_at(texts.shape[1]);
                Some([normal.to_vec(), anomalous.to_vec()])
            }
            (true, Some(_)) => return Err(unusable(TEXTS)),
        };
        Ok(Self {
            setup: config.setup()?,
            references: References::load(&mut state.tensors, &config)?,
            model,
            texts,
            config,
        })
    }

    fn with(self, shots: &Shots, remove: &[String]) -> Result<Self, DetectorError> {
        let mut kept = self.references.into_shots();
        for name in remove {
            if kept.remove(name).is_none() {
                let names: Vec<&str> = kept.keys().map(String::as_str).collect();
                return Err(refuse(format!(
                    "there is no shot `{name}`; the shots are: {}",
                    names.join(", ")
                )));
            }
        }
        for shot in shots.images {
            let (setup, looks) = (&self.setup, self.config.looks);
            let views = shots.encode(setup, looks, &self.config.views.of(&shot.image))?;
            let new = Kept::new(&views, &self.config, &self.model)?;
            if kept.insert(shot.name.clone(), new).is_some() {
                return Err(refuse(format!(
                    "there are two shots called `{}`: remove the one that is there, or rename \
                     the file",
                    shot.name
                )));
            }
        }
        if kept.is_empty() {
            return Err(DetectorError::NoShots(NAME));
        }
        Ok(Self {
            references: References::new(kept, self.config.views())?,
            ..self
        })
    }

    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let References {
            mean: Some(mean),
            banks,
            ..
        } = &self.references
        else {
            return Err(DetectorError::NoShots(NAME));
        };
        let grid = check_features(image, &self.setup, banks[0].width())?;
        let compared = Compared::of(image, &self.config)?;
        let mut map = residual::map(&compared.patches, banks)?;
        let (score, unit) = match &self.model {
            Model::Network(network) => {
                let evidence = self.evidence(image, &map, mean)?;
                let scores = network.scores(&evidence, &self.config, Phase::Scoring)?;
                (scores.anomaly, 1.0)
            }
            Model::PowerMean(head) => {
                let (means, wholes) = (&compared.means, self.references.wholes());
                let blocks = self.config.blocks.len();
                let own = self.config.own(&compared.patches)?;
                let residuals = Residuals::new(&units::row(&map)?, own, means, wholes, blocks);
                let unit = self.references.unit;
                let ratios = Tensor::new(&[residuals.ratios(unit)], &Device::Cpu)?;
                (head.scores(&self.config.parts(&ratios)?)?, unit.patches)
            }
        };
        map.iter_mut().for_each(|residual| *residual /= unit);
        Ok(Scored {
            score: score.get(0)?.to_scalar()?,
            map: Map::new(grid.rows, grid.columns, map)?,
            range: self.references.range.in_units_of(unit),
        })
    }

    /// What the networks say of one image with patch residuals `map`.
    fn evidence(
        &self,
        image: &ImageFeatures,
        map: &[f32],
        references: &Tensor,
    ) -> Result<Evidence, DetectorError> {
        let embedding = image.embedding.as_deref().unwrap_or_default();
        let text = self.texts.as_ref();
        let text = text.map_or(0.0, |texts| text::score(embedding, texts));
        Ok(Evidence {
            text: Tensor::new(&[text], &Device::Cpu)?,
            map: Tensor::new(map, &Device::Cpu)?.unsqueeze(0)?,
            embedding: shots::embedding(image)?,
            references: references.clone(),
        })
    }
}

impl Detector for InCtrl {
    fn method(&self) -> &'static str {
        NAME
    }

    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn looks(&self) -> Looks {
        self.config.looks
    }

    fn scope(&self) -> Scope {
        Scope::Image
    }

    fn shots(&self) -> Vec<&str> {
        self.references.names().collect()
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let mut tensors: BTreeMap<String, Array> = BTreeMap::new();
        tensors.extend(checkpoint::arrays(&self.model));
        tensors.extend(self.references.arrays(&self.config.blocks));
        if let Some([normal, anomalous]) = &self.texts {
            let texts = Array {
                shape: vec![2, normal.len()],
                values: [normal.as_slice(), anomalous].concat(),
            };
            tensors.insert(TEXTS.to_owned(), texts);
        }
        State {
            config: serde_json::to_value(&self.config).unwrap_or_default(),
            tensors,
        }
    }
}
