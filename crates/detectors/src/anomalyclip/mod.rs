//! AnomalyCLIP (Zhou et al., "AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly
//! Detection", ICLR 2024): two learned prompts, "normal" and "damaged object", that are compared
//! with an image's embedding and its patches. Learned once on auxiliary data.
//!
//! ```text
//! config.rs      settings
//! prompt.rs      the learned prompts, or embeddings in their place
//! loss.rs        the loss that they are learned with
//! checkpoint.rs  the original's checkpoint files
//! ```
//!
//! The text side is needed for training only: a detector holds two embeddings.

mod checkpoint;
mod config;
#[cfg(test)]
mod goldens;
mod loss;
mod prompt;

use std::collections::BTreeMap;

use anomalens_backbones::{ImageEncoder, ImageFeatures};
use anomalens_vision::Map;
use candle_core::Tensor;
use serde_json::{Value, json};

pub use config::{Config, ImageScore, Normalisation, PromptKind};

use crate::detector::{Array, Detector, NormalRange, Scope, Scored, State};
use crate::registry::{Shots, check_features, configure};
use crate::training::{Adam, Record, Run, TrainOptions, Trained, TrainingSample, Watch, run};
use crate::{DetectorError, Setup};
use loss::{GlocalLoss, upsample};
use prompt::Prompts;

/// The method's name.
pub const NAME: &str = "anomalyclip";

/// Adam's settings in the paper's code.
const LEARNING_RATE: f64 = 1e-3;
const BETAS: [f64; 2] = [0.5, 0.999];
const EPOCHS: usize = 15;
const BATCH: usize = 8;

/// Part of the patches whose mean is the map's part of an image's score.
const TOP_FRACTION: f64 = 0.01;

/// A probability of one half separates normal from anomalous.
const RANGE: NormalRange = NormalRange {
    typical: 0.0,
    extreme: 0.5,
};

/// The two embeddings, ready to score images.
pub struct AnomalyClip {
    config: Config,
    setup: Setup,
    /// Normal, anomalous; each of length 1.
    texts: [Vec<f32>; 2],
}

/// A detector from a published prompt checkpoint (`prompts`).
pub(crate) fn fit(options: &Value, shots: &Shots) -> Result<Box<dyn Detector>, DetectorError> {
    let refuse = |reason: String| DetectorError::Config {
        method: NAME,
        reason,
    };
    let encoder = shots.encoder;
    let text = encoder.text_encoder()?;
    let mut config = configure(NAME, &Config::defaults(encoder, text.is_some()), options)?;
    let Some(path) = config.prompts.take() else {
        return Err(refuse(
            "it is learned from auxiliary data: make a detector with `anomalens train`, or name a \
             published prompt checkpoint with `--set prompts=epoch_15.pth`"
                .to_owned(),
        ));
    };
    let tensors = checkpoint::read(&path)?;
    let not_prompts = || {
        refuse(format!(
            "{} is no prompt checkpoint of AnomalyCLIP",
            path.display()
        ))
    };
    let [context, depth, deep] = checkpoint::sizes(&tensors).ok_or_else(not_prompts)?;
    (config.context_length, config.prompt_depth) = (context, depth);
    if depth > 1 {
        config.deep_tokens = deep;
    }
    let setup = config.setup()?;
    let prompts = Prompts::new(&config, text, encoder.embedding_width(), 0)?;
    for (name, var) in prompts.parameters() {
        let (_, tensor) = tensors
            .iter()
            .find(|(n, _)| *n == name)
            .ok_or_else(not_prompts)?;
        if tensor.dims() != var.dims() {
            return Err(refuse(format!(
                "`{name}` in {} has the shape {:?}, but the backbone needs {:?}: the prompts were \
                 learned with another backbone",
                path.display(),
                tensor.dims(),
                var.dims()
            )));
        }
        var.set(&tensor.to_dtype(candle_core::DType::F32)?)?;
    }
    Ok(Box::new(AnomalyClip::new(config, setup, &prompts)?))
}

/// Learns prompts from `samples`.
pub(crate) fn train(
    settings: &Value,
    encoder: &dyn ImageEncoder,
    samples: &[TrainingSample],
    options: &TrainOptions,
    watch: &mut Watch,
) -> Result<Trained, DetectorError> {
    let text = encoder.text_encoder()?;
    let defaults = Config::defaults(encoder, text.is_some());
    let config: Config = configure(NAME, &defaults, settings)?;
    let setup = config.setup()?;
    let patches = config.image_size as usize / encoder.patch();
    let prompts = Prompts::new(&config, text, encoder.embedding_width(), options.seed)?;
    let record = Record {
        blocks: setup.request.blocks.len(),
        patches: patches * patches,
        width: encoder.embedding_width(),
        embedding: encoder.embedding_width(),
    };
    let batch = options.batch.unwrap_or(BATCH).max(1);
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(prompts.parameters(), rate, BETAS)?;
    let learner = GlocalLoss {
        config: &config,
        prompts: &prompts,
        upsample: upsample(patches, config.image_size as usize)?,
    };
    let paths = samples.iter().map(|s| (&s.source.path, s.source.crop));
    let identity = json!({
        "method": NAME,
        "config": config,
        "backbone": encoder.name(),
        "batch": batch,
        "learning_rate": rate,
        "seed": options.seed,
        "samples": paths.collect::<Vec<_>>(),
    });
    let plan = Run {
        encoder,
        setup: &setup,
        record,
        samples,
        mask_side: config.image_size,
        epochs: options.epochs.unwrap_or(EPOCHS),
        batch,
        identity: identity.to_string(),
    };
    let (epochs, stopped) = run(&plan, &learner, &mut optimiser, options, watch)?;
    if let Prompts::Text(text) = &prompts
        && !epochs.is_empty()
    {
        text.write(&options.folder.join("prompts.pth"))?;
    }
    Ok(Trained {
        detector: Box::new(AnomalyClip::new(config.clone(), setup.clone(), &prompts)?),
        epochs,
        stopped,
    })
}

/// Makes the detector again from what [`Detector::state`] gave.
pub(crate) fn load(state: State) -> Result<Box<dyn Detector>, DetectorError> {
    let unusable = |reason: String| DetectorError::Config {
        method: NAME,
        reason,
    };
    let config: Config =
        serde_json::from_value(state.config).map_err(|e| unusable(e.to_string()))?;
    let setup = config.setup()?;
    let texts = state
        .tensors
        .get(TEXTS)
        .filter(|array| array.shape.len() == 2 && array.shape[0] == 2 && array.shape[1] > 0)
        .ok_or_else(|| {
            unusable(format!(
                "the tensor `{TEXTS}` is missing or has an unusable shape"
            ))
        })?;
    let (normal, anomalous) = texts.values.split_at(texts.shape[1]);
    Ok(Box::new(AnomalyClip {
        config,
        setup,
        texts: [normal.to_vec(), anomalous.to_vec()],
    }))
}

/// The name of the embeddings in a detector file.
const TEXTS: &str = "text_features";

impl AnomalyClip {
    fn new(config: Config, setup: Setup, prompts: &Prompts) -> Result<Self, DetectorError> {
        let features: Tensor = prompts.features()?;
        Ok(Self {
            config,
            setup,
            texts: [features.get(0)?.to_vec1()?, features.get(1)?.to_vec1()?],
        })
    }

    /// The probability that `vector` is anomalous.
    fn probability(&self, vector: &[f32]) -> f32 {
        let length = dot(vector, vector).sqrt();
        let [normal, anomalous] = self.texts.each_ref().map(|text| dot(vector, text) / length);
        let margin = (anomalous - normal) / self.config.temperature as f32;
        1.0 / (1.0 + (-margin).exp())
    }

    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let width = self.texts[0].len();
        let grid = check_features(image, &self.setup, width)?;
        let mut map = vec![0.0; grid.len()];
        for block in &self.setup.request.blocks {
            let tokens = image
                .block(*block)
                .ok_or(DetectorError::MissingBlock(*block))?;
            for (sum, token) in map.iter_mut().zip(tokens.patch_tokens.chunks_exact(width)) {
                *sum += self.probability(token) / self.config.blocks.len() as f32;
            }
        }
        let map = Map::new(grid.rows, grid.columns, map)?;
        let embedding = image.embedding.as_deref().ok_or(DetectorError::Width {
            expected: width,
            found: 0,
        })?;
        let whole = self.probability(embedding);
        let top = map.top_mean(TOP_FRACTION);
        Ok(Scored {
            score: match self.config.image_score {
                ImageScore::Embedding => whole,
                ImageScore::Map => top,
                ImageScore::Both => (whole + top) / 2.0,
            },
            map,
            range: RANGE,
        })
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Detector for AnomalyClip {
    fn method(&self) -> &'static str {
        NAME
    }

    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn scope(&self) -> Scope {
        Scope::Image
    }

    fn smoothing(&self) -> f64 {
        self.config.sigma / f64::from(self.config.image_size)
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let [normal, anomalous] = &self.texts;
        let texts = Array {
            shape: vec![2, normal.len()],
            values: [normal.as_slice(), anomalous].concat(),
        };
        State {
            config: serde_json::to_value(&self.config).unwrap_or_default(),
            tensors: BTreeMap::from([(TEXTS.to_owned(), texts)]),
        }
    }
}
