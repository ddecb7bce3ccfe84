//! AnomalyCLIP (Zhou et al., "AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly
//! Detection", ICLR 2024): two learned prompts, "normal" and "damaged object", that are compared
//! with an image's embedding and its patches. Learned once on auxiliary data.
//!
//! ```text
//! config.rs      settings
//! prompt.rs      the learned prompts, or embeddings in their place
//! loss.rs        the loss that they are learned with
//! map_loss.rs    its part that looks at pixels, with its gradient
//! checkpoint.rs  the original's checkpoint files
//! variants.rs    what its ablations compare
//! ```
//!
//! The text side is needed for training only: a detector holds two embeddings, or two for each
//! class where the class's own name is in the prompts.

mod checkpoint;
mod config;
#[cfg(test)]
mod goldens;
mod loss;
mod map_loss;
mod prompt;
mod variants;

use std::collections::BTreeMap;

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::{ImageEncoder, ImageFeatures};
use anomalens_vision::Map;
use serde_json::{Value, json};

pub use config::{Config, ImageScore, Normalisation, PromptKind};

use crate::detector::{Array, Detector, NormalRange, Scope, Scored, State};
use crate::registry::{Shots, Training, check_features, configure};
use crate::tokens::dot;
use crate::training::{
    Adam, Record, Run, TrainOptions, Trained, TrainingMask, TrainingSample, Watch, fingerprint,
    run, shuffled_batches,
};
use crate::{DetectorError, Setup};
use checkpoint::Saved;
use loss::GlocalLoss;
use map_loss::Upsampling;
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

/// What the registry knows of its training.
pub(crate) const TRAINING: Training = Training {
    train,
    untrained,
    variants: variants::variants,
    from_all: false,
    // Masks tell normal pixels too.
    needs_normal: |settings| settings.get("global_weight").and_then(Value::as_f64) != Some(0.0),
};

/// The embeddings, ready to score images.
pub struct AnomalyClip {
    config: Config,
    setup: Setup,
    /// Normal, anomalous, each of length 1: one such pair, or one for each class.
    texts: Vec<Pair>,
}

/// The embeddings of a normal and of an anomalous prompt.
type Pair = [Vec<f32>; 2];

/// A detector from a prompt checkpoint (`prompts`).
pub(crate) fn fit(options: &Value, shots: &Shots) -> Result<Box<dyn Detector>, DetectorError> {
    let encoder = shots.encoder;
    let (mut config, text) = configured(options, encoder)?;
    let Some(saved) = Saved::named_in(&mut config)? else {
        return Err(refuse(
            "it is learned from auxiliary data: make a detector with `anomalens train`, or name a \
             published prompt checkpoint with `--set prompts=epoch_15.pth`"
                .to_owned(),
        ));
    };
    if config.object_aware && config.classes.is_empty() {
        return Err(refuse(
            "`object_aware` prompts need the names of the `classes`".to_owned(),
        ));
    }
    let setup = config.setup()?;
    let prompts = Prompts::new(&config, text, encoder.spec().embedding, 0)?;
    saved.copy_into(&prompts)?;
    Ok(Box::new(AnomalyClip::new(config, setup, &prompts)?))
}

/// Settings, or a file that they name, cannot be.
fn refuse(reason: String) -> DetectorError {
    DetectorError::Config {
        method: NAME,
        reason,
    }
}

/// The defaults for `encoder` with `settings` in their place, and its text encoder.
fn configured(
    settings: &Value,
    encoder: &dyn ImageEncoder,
) -> Result<(Config, Option<ClipText>), DetectorError> {
    let text = encoder.text()?;
    let defaults = Config::defaults(encoder, text.is_some());
    Ok((configure(NAME, &defaults, settings)?, text))
}

/// A detector that has learned nothing.
fn untrained(
    settings: &Value,
    encoder: &dyn ImageEncoder,
    seed: u32,
) -> Result<Box<dyn Detector>, DetectorError> {
    let (config, text) = configured(settings, encoder)?;
    let setup = config.setup()?;
    let prompts = Prompts::new(&config, text, encoder.spec().embedding, seed)?;
    Ok(Box::new(AnomalyClip::new(config, setup, &prompts)?))
}

/// Learns prompts from `samples`.
fn train(
    settings: &Value,
    encoder: &dyn ImageEncoder,
    samples: &[TrainingSample],
    options: &TrainOptions,
    watch: &mut Watch,
) -> Result<Trained, DetectorError> {
    let (mut config, text) = configured(settings, encoder)?;
    let saved = Saved::named_in(&mut config)?;
    if config.object_aware {
        let names = samples.iter().map(|sample| sample.class.clone());
        config.classes.extend(names);
        config.classes.sort_unstable();
        config.classes.dedup();
    }
    let maps_teach =
        config.local_weight > 0.0 && samples.iter().any(|s| s.mask != TrainingMask::Unknown);
    if config.global_weight == 0.0 && !maps_teach {
        return Err(refuse(
            "with `global_weight = 0` only masks teach anything, and these images have none or \
             `local_weight` is 0 too"
                .to_owned(),
        ));
    }
    let setup = config.setup()?;
    let patches = config.image_size as usize / encoder.spec().multiple;
    let prompts = Prompts::new(&config, text, encoder.spec().embedding, options.seed)?;
    if let Some(saved) = &saved {
        saved.copy_into(&prompts)?;
    }
    let record = Record {
        blocks: setup.request.layers.len(),
        patches: patches * patches,
        width: encoder.spec().embedding,
        embedding: encoder.spec().embedding,
    };
    let batch = options.batch.unwrap_or(BATCH).max(1);
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(prompts.parameters(), rate, BETAS)?;
    let learner = GlocalLoss {
        config: &config,
        prompts: &prompts,
        upsampling: Upsampling::new(patches, config.image_size as usize),
    };
    let identity = json!({
        "method": NAME,
        "config": config,
        "start": saved.map(|saved| saved.path),
        "backbone": options.backbone,
        "batch": batch,
        "learning_rate": rate,
        "seed": options.seed,
        "samples": fingerprint(samples),
    });
    let plan = Run {
        encoder,
        setup: &setup,
        record,
        samples,
        mask_side: Some(config.image_size),
        epochs: options.epochs.unwrap_or(EPOCHS),
        order: &|epoch| shuffled_batches(samples.len(), batch, options.seed, epoch),
        identity: identity.to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, watch)?;
    if !log.epochs.is_empty() {
        prompts.write(&options.folder.join("prompts.pth"))?;
    }
    Ok(Trained {
        detector: Box::new(AnomalyClip::new(config.clone(), setup.clone(), &prompts)?),
        log,
    })
}

/// Makes the detector again from what [`Detector::state`] gave.
pub(crate) fn load(state: State) -> Result<Box<dyn Detector>, DetectorError> {
    let config: Config = serde_json::from_value(state.config).map_err(|e| refuse(e.to_string()))?;
    let setup = config.setup()?;
    let pairs = config.words().len();
    let texts = state.tensors.get(TEXTS);
    let width = texts.and_then(|texts| match texts.shape.split_last() {
        Some((&width, rows)) if rows.iter().product::<usize>() == 2 * pairs => Some(width),
        _ => None,
    });
    let (Some(texts), Some(width)) = (texts, width.filter(|width| width * pairs > 0)) else {
        return Err(refuse(format!(
            "the tensor `{TEXTS}` is missing or has an unusable shape"
        )));
    };
    let pair = |pair: &[f32]| {
        let (normal, anomalous) = pair.split_at(width);
        [normal.to_vec(), anomalous.to_vec()]
    };
    Ok(Box::new(AnomalyClip {
        config,
        setup,
        texts: texts.values.chunks_exact(2 * width).map(pair).collect(),
    }))
}

/// The name of the embeddings in a detector file.
const TEXTS: &str = "text_features";

impl AnomalyClip {
    fn new(config: Config, setup: Setup, prompts: &Prompts) -> Result<Self, DetectorError> {
        let pairs: Vec<usize> = (0..config.words().len()).collect();
        let mut texts = vec![];
        if !pairs.is_empty() {
            for pair in prompts.features(&pairs)?.to_vec3()? {
                let [normal, anomalous] = [0, 1].map(|i| pair[i].clone());
                texts.push([normal, anomalous]);
            }
        }
        Ok(Self {
            config,
            setup,
            texts,
        })
    }

    /// The probability that `vector` is anomalous.
    fn probability(&self, texts: &Pair, vector: &[f32]) -> f32 {
        let length = dot(vector, vector).sqrt();
        let [normal, anomalous] = texts.each_ref().map(|text| dot(vector, text) / length);
        let margin = (anomalous - normal) / self.config.temperature as f32;
        1.0 / (1.0 + (-margin).exp())
    }

    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let [texts] = self.texts.as_slice() else {
            return Err(DetectorError::ClassNeeded(self.config.classes.join(", ")));
        };
        let width = texts[0].len();
        let grid = check_features(image, &self.setup, width)?;
        let mut map = vec![0.0; grid.len()];
        for &layer in &self.setup.request.layers {
            let tokens = image.map(layer).ok_or(DetectorError::MissingLayer(layer))?;
            for (sum, token) in map.iter_mut().zip(tokens.tokens.chunks_exact(width)) {
                *sum += self.probability(texts, token) / self.config.blocks.len() as f32;
            }
        }
        let map = Map::new(grid.rows, grid.columns, map)?;
        let embedding = image.embedding.as_deref().ok_or(DetectorError::Width {
            expected: width,
            found: 0,
        })?;
        let whole = self.probability(texts, embedding);
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

    fn classes(&self) -> &[String] {
        &self.config.classes
    }

    fn for_class(&self, class: &str) -> Result<Option<Box<dyn Detector>>, DetectorError> {
        if !self.config.object_aware {
            return Ok(None);
        }
        let pair = self.texts[self.config.pair(class)?].clone();
        let config = Config {
            classes: vec![class.to_owned()],
            ..self.config.clone()
        };
        Ok(Some(Box::new(Self {
            config,
            setup: self.setup.clone(),
            texts: vec![pair],
        })))
    }

    fn state(&self) -> State {
        let width = self.texts.first().map_or(0, |[normal, _]| normal.len());
        let values = self.texts.iter().flatten().flatten();
        let texts = Array {
            shape: vec![self.texts.len(), 2, width],
            values: values.copied().collect(),
        };
        State {
            config: serde_json::to_value(&self.config).unwrap_or_default(),
            tensors: BTreeMap::from([(TEXTS.to_owned(), texts)]),
        }
    }
}
