//! AnomalyCLIP (Zhou et al., "AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly
//! Detection", ICLR 2024): two learned prompts, "normal" and "damaged object", that are compared
//! with an image's embedding and its patches. Learned once on auxiliary data.
//!
//! ```text
//! settings.rs    settings
//! prompt.rs      the learned prompts, or embeddings in their place
//! loss.rs        the loss that they are learned with
//! checkpoint.rs  the original's checkpoint files
//! variants.rs    what its ablations compare
//! ```
//!
//! The text side is needed for training only: a detector holds two embeddings, or two for each
//! class where the class's own name is in the prompts.

mod checkpoint;
#[cfg(test)]
mod goldens;
mod loss;
mod prompt;
mod settings;
mod variants;

use std::path::{Path, PathBuf};

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::{ImageEncoder, ImageFeatures, LayerId};
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;
use anomalens_vision::{Alignment, Map, MaskSource};
use serde_json::{Value, json};

pub use settings::{ImageScore, PromptKind, Settings};

use crate::components::graph::{self, GraphScored, after, of_input};
use crate::components::prompts::probability;
use crate::detector::{Array, Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::map_loss::{Enlarged, Upsampling};
use crate::training::{
    Adam, Record, Run, TrainProgress, Trained, fingerprint, run, shuffled_batches,
};
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, MethodSettings, Need,
    Requirements, Settings as _, TrainContext, Trainer, Variant,
};
use checkpoint::Saved;
use loss::GlocalLoss;
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
    median: 0.0,
    upper_quantile: 0.5,
};

/// The name of the embeddings in a detector file.
const TEXTS: &str = "text_features";

/// The method.
pub struct AnomalyClip;

impl Method for AnomalyClip {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "zero-shot: two prompts or embeddings trained once on auxiliary data",
            paper: "Zhou et al., AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot \
                    Anomaly Detection, ICLR 2024",
            requirements: Requirements {
                references: Need::No,
                training: Need::Required,
                joint: false,
                class: false,
            },
            backbones: "CLIP; others with trained embeddings instead of prompts",
            weights: DefaultWeights::AllBlocks,
            several_networks: false,
        }
    }

    /// A detector from a prompt checkpoint.
    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let encoder = context.encoder;
        let (mut settings, text) = configured(context.settings, encoder)?;
        let Some(path) = context.trained else {
            return Err(refuse(
                "it is learned from auxiliary data: train it, or name a published prompt \
                 checkpoint (`epoch_15.pth`)",
            ));
        };
        let saved = Saved::open(path)?;
        saved.set_sizes(&mut settings)?;
        if settings.object_aware && settings.classes.is_empty() {
            return Err(refuse(
                "`object_aware` prompts need the names of the `classes`",
            ));
        }
        let checked = Checked::new(settings)?;
        let prompts = Prompts::new(&checked.settings, text, encoder.spec().embedding, 0)?;
        saved.copy_into(&prompts)?;
        Ok(Box::new(AnomalyClipDetector::new(checked, &prompts)?))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let pairs = checked.settings.words().len();
        let texts = state.take(NAME, TEXTS)?;
        let width = match texts.shape.split_last() {
            Some((&width, rows)) if rows.iter().product::<usize>() == 2 * pairs => width,
            _ => 0,
        };
        if width * pairs == 0 {
            return Err(DetectorError::tensor(NAME, TEXTS));
        }
        let pair = |pair: &[f32]| {
            let (normal, anomalous) = pair.split_at(width);
            [normal.to_vec(), anomalous.to_vec()]
        };
        Ok(Box::new(AnomalyClipDetector {
            checked,
            texts: texts.values.chunks_exact(2 * width).map(pair).collect(),
        }))
    }

    fn trainer(&self) -> Option<&dyn Trainer> {
        Some(self)
    }
}

impl Trainer for AnomalyClip {
    fn train(
        &self,
        context: &TrainContext<'_>,
        progress: &mut TrainProgress<'_>,
    ) -> Result<Trained, DetectorError> {
        train(context, progress)
    }

    fn untrained(
        &self,
        context: &FitContext<'_>,
        seed: u32,
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let (settings, text) = configured(context.settings, context.encoder)?;
        let checked = Checked::new(settings)?;
        let width = context.encoder.spec().embedding;
        let prompts = Prompts::new(&checked.settings, text, width, seed)?;
        Ok(Box::new(AnomalyClipDetector::new(checked, &prompts)?))
    }

    fn variants(&self, encoder: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        variants::variants(encoder)
    }

    fn trains_on_all(&self) -> bool {
        false
    }

    fn mask_settings(&self, settings: &MethodSettings) -> Option<MethodSettings> {
        let mut settings = settings.clone();
        settings.insert("global_weight".to_owned(), json!(0));
        Some(settings)
    }

    fn class_settings(&self, mut settings: MethodSettings, classes: &[&str]) -> MethodSettings {
        if settings.get("object_aware") == Some(&Value::Bool(true)) {
            settings.insert("classes".to_owned(), json!(classes));
        }
        settings
    }

    fn start_file(&self, folder: &Path) -> Option<PathBuf> {
        Some(folder.join(PROMPTS))
    }
}

/// The file of learned prompts in the folder of a training run.
const PROMPTS: &str = "prompts.pth";

/// The embeddings, ready to score images.
struct AnomalyClipDetector {
    checked: Checked<Settings>,
    /// Normal, anomalous, each of length 1: one such pair, or one for each class.
    texts: Vec<Pair>,
}

/// The embeddings of a normal and of an anomalous prompt.
type Pair = [Vec<f32>; 2];

/// Settings, or a file that they name, are impossible.
fn refuse(reason: impl ToString) -> DetectorError {
    DetectorError::settings(NAME, reason)
}

/// The defaults for `encoder` with those `given` in their place, and its text encoder.
fn configured(
    given: &MethodSettings,
    encoder: &dyn ImageEncoder,
) -> Result<(Settings, Option<ClipText>), DetectorError> {
    let text = encoder.text(None)?;
    let defaults = Settings::defaults(encoder, text.is_some());
    Ok((defaults.replaced_by(given)?, text))
}

/// Learns prompts.
fn train(
    context: &TrainContext<'_>,
    progress: &mut TrainProgress<'_>,
) -> Result<Trained, DetectorError> {
    let TrainContext {
        encoder,
        samples,
        options,
        ..
    } = *context;
    let (mut settings, text) = configured(context.settings, encoder)?;
    // Masks mark normal pixels too.
    context.require_samples(settings.global_weight != 0.0)?;
    let saved = context.start.map(Saved::open).transpose()?;
    if let Some(saved) = &saved {
        saved.set_sizes(&mut settings)?;
    }
    if settings.object_aware {
        let names = samples.iter().map(|sample| sample.class.clone());
        settings.classes.extend(names);
        settings.classes.sort_unstable();
        settings.classes.dedup();
    }
    let maps_teach =
        settings.local_weight > 0.0 && samples.iter().any(|s| s.mask != MaskSource::Unknown);
    if settings.global_weight == 0.0 && !maps_teach {
        return Err(refuse(
            "with `global_weight = 0` only masks teach anything, and these images have none or \
             `local_weight` is 0 too",
        ));
    }
    let checked = Checked::new(settings)?;
    let Checked { settings, profile } = &checked;
    let patches = settings.image_size as usize / encoder.spec().multiple;
    let prompts = Prompts::new(settings, text, encoder.spec().embedding, options.seed)?;
    if let Some(saved) = &saved {
        saved.copy_into(&prompts)?;
    }
    let record = Record {
        blocks: profile.input.request.layers.len(),
        patches: patches * patches,
        width: encoder.spec().embedding,
        embedding: encoder.spec().embedding,
    };
    let batch = options.batch.unwrap_or(BATCH).max(1);
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(prompts.parameters(), rate, BETAS)?;
    let learner = GlocalLoss {
        settings,
        prompts: &prompts,
        upsampling: Upsampling::new(
            Enlarged::Probabilities,
            Alignment::Edges,
            patches,
            settings.image_size as usize,
        ),
    };
    let identity = json!({
        "method": NAME,
        "config": settings,
        "start": saved.map(|saved| saved.path),
        "backbone": options.backbone,
        "batch": batch,
        "learning_rate": rate,
        "seed": options.seed,
        "samples": fingerprint(samples),
    });
    let plan = Run {
        encoder,
        input: &profile.input,
        record,
        samples,
        mask_side: Some(settings.image_size),
        epochs: options.epochs.unwrap_or(EPOCHS),
        order: &|epoch| shuffled_batches(samples.len(), batch, options.seed, epoch),
        rate: None,
        identity: identity.to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    if !log.epochs.is_empty() {
        prompts.write(&options.folder.join(PROMPTS))?;
    }
    Ok(Trained {
        detector: Box::new(AnomalyClipDetector::new(checked, &prompts)?),
        log,
    })
}

impl AnomalyClipDetector {
    fn new(checked: Checked<Settings>, prompts: &Prompts) -> Result<Self, DetectorError> {
        let pairs: Vec<usize> = (0..checked.settings.words().len()).collect();
        let mut texts = vec![];
        if !pairs.is_empty() {
            for pair in prompts.features(&pairs)?.to_vec3()? {
                let [normal, anomalous] = [0, 1].map(|i| pair[i].clone());
                texts.push([normal, anomalous]);
            }
        }
        Ok(Self { checked, texts })
    }

    /// The probability that `vector` is anomalous.
    fn probability(&self, texts: &Pair, vector: &[f32]) -> f32 {
        probability(texts, vector, self.checked.settings.temperature as f32)
    }

    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let [texts] = self.texts.as_slice() else {
            return Err(DetectorError::ClassNeeded(settings.classes.join(", ")));
        };
        let width = texts[0].len();
        let grid = profile.check(image, width)?;
        let mut map = vec![0.0; grid.len()];
        for &layer in &profile.input.request.layers {
            let tokens = image.map(layer).ok_or(DetectorError::MissingLayer(layer))?;
            for (sum, token) in map.iter_mut().zip(tokens.tokens.chunks_exact(width)) {
                *sum += self.probability(texts, token) / settings.blocks.len() as f32;
            }
        }
        let map = Map::new(grid.rows, grid.columns, map)?;
        let embedding = image.embedding.as_deref().ok_or(DetectorError::Width {
            expected: width,
            found: 0,
        })?;
        let global = self.probability(texts, embedding);
        let top = map.top_mean(TOP_FRACTION);
        Ok(Scored {
            score: match settings.image_score {
                ImageScore::Embedding => global,
                ImageScore::Map => top,
                ImageScore::Both => (global + top) / 2.0,
            },
            map,
            range: RANGE,
        })
    }
}

impl Detector for AnomalyClipDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn graph(&self, graph: &mut Graph, seen: &[Outputs]) -> Result<GraphScored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let [texts] = self.texts.as_slice() else {
            return Err(self.no_graph("it is made for each class by itself"));
        };
        let seen = of_input(seen, 0)?;
        profile.check_graph(seen, texts[0].len())?;
        let temperature = settings.temperature as f32;
        let mut maps = vec![];
        for &layer in &profile.input.request.layers {
            let places = after(seen, layer)?.places(graph);
            let found = graph::probability(graph, texts, &places, temperature);
            maps.push(graph::squeezed(graph, &found));
        }
        let grid = seen.maps.first().map(|tokens| tokens.grid);
        let grid = grid.ok_or(DetectorError::MissingLayer(LayerId::Block(1)))?;
        let map = graph::mean_of(graph, &maps);
        let embedding = seen.embedding.as_ref().ok_or(DetectorError::Width {
            expected: texts[0].len(),
            found: 0,
        })?;
        let global = graph::probability(graph, texts, embedding, temperature);
        let global = graph::squeezed(graph, &global);
        let top = graph::top_mean(graph, &map, Map::top_count(TOP_FRACTION, grid.len()));
        Ok(GraphScored {
            score: match settings.image_score {
                ImageScore::Embedding => global,
                ImageScore::Map => top,
                ImageScore::Both => graph::mean_of(graph, &[global, top]),
            },
            map: graph::as_map(graph, &map, grid),
            grid,
        })
    }

    fn classes(&self) -> &[String] {
        &self.checked.settings.classes
    }

    fn for_class(&self, class: &str) -> Result<Option<Box<dyn Detector>>, DetectorError> {
        let settings = &self.checked.settings;
        if !settings.object_aware {
            return Ok(None);
        }
        let pair = self.texts[settings.pair(class)?].clone();
        let settings = Settings {
            classes: vec![class.to_owned()],
            ..settings.clone()
        };
        Ok(Some(Box::new(Self {
            checked: Checked::new(settings)?,
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
        self.checked.state([(TEXTS.to_owned(), texts)])
    }
}
