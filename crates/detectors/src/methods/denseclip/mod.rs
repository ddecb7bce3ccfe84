//! DenseCLIP (Rao et al., "DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting",
//! CVPR 2022): patches of an image are compared with texts that look at the image first, through a
//! decoder that is trained on labelled pixels.
//!
//! ```text
//! settings.rs  settings
//! head.rs      what is learned: contexts and decoder
//! train.rs     the loss of the score map
//! ```
//!
//! The paper segments classes of objects; here the classes are two states of one object. Without training
//! the score map of plain texts is left, as CLIP's but for the class token, which the published code
//! (raoyongming/DenseCLIP at 5eda47f) adds twice. A published checkpoint is backbone
//! (`--weights FILE`) and head (`--trained FILE`) in one file.

#[cfg(test)]
mod goldens;
mod head;
mod settings;
mod train;

use std::collections::BTreeMap;
use std::path::Path;

use anomalens_backbones::checkpoint::write_torch;
use anomalens_backbones::clip::ClipText;
use anomalens_backbones::{Grid, ImageEncoder, ImageFeatures, LayerId};
use anomalens_vision::Map;
use candle_core::{Device, Tensor};

pub use settings::Settings;

use crate::components::prompts::{Ensemble, Texts, text_encoder};
use crate::detector::{Array, Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::{Learned, TrainProgress, Trained};
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _, TrainContext, Trainer, Variant,
};
use head::Head;

/// The method's name.
pub const NAME: &str = "denseclip";

/// Name of both texts in a detector file, `[2, width]`: of length 1, or as the decoder takes them.
const TEXTS: &str = "text_features";

/// Probabilities: half is undecided.
const RANGE: NormalRange = NormalRange {
    median: 0.0,
    upper_quantile: 0.5,
};

/// The method.
pub struct DenseClip;

impl Method for DenseClip {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "zero-shot: patches compared with two texts, which a decoder trained on \
                      auxiliary data fits to the image",
            paper: "Rao et al., DenseCLIP: Language-Guided Dense Prediction with Context-Aware \
                    Prompting, CVPR 2022",
            requirements: Requirements {
                references: Need::No,
                training: Need::Optional,
                joint: false,
                class: true,
            },
            backbones: "CLIP",
            weights: DefaultWeights::Clip("clip-vit-b16"),
            several_networks: false,
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let learned = context.trained.map(Learned::<Settings>::read).transpose()?;
        let defaults = || Settings::defaults(context.encoder);
        let mut settings = Learned::configure(learned.as_ref(), defaults, context.settings)?;
        if let Some(class) = context.open_class() {
            settings.class = class.to_owned();
        }
        let Some(learned) = learned else {
            let checked = Checked::new(settings)?;
            let Settings { prompts, class, .. } = &checked.settings;
            let texts = Ensemble::texts_of(NAME, context.encoder, prompts, class)?.array();
            return Ok(Box::new(DenseClipDetector {
                checked,
                texts,
                head: None,
            }));
        };
        let head = read(&mut settings, &mut |name| learned.tensor(name))?;
        let text = text_encoder(NAME, context.encoder, None)?;
        let checked = Checked::new(settings)?;
        Ok(Box::new(DenseClipDetector::trained(checked, head, &text)?))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let mut checked: Checked<Settings> = Checked::load(&state)?;
        let texts = state.take(NAME, TEXTS)?;
        if Texts::from_array(&texts).is_none() {
            return Err(DetectorError::tensor(NAME, TEXTS));
        }
        let head = match state.tensors.is_empty() {
            true => None,
            false => Some(read(&mut checked.settings, &mut |name| {
                state.take_tensor(name)
            })?),
        };
        let width = texts.shape.last().copied();
        let fits = |head: &Head| {
            let gamma = head.parameters.get("gamma").map(Tensor::elem_count);
            gamma.ok() == width
        };
        if !head.as_ref().is_none_or(fits) {
            return Err(DetectorError::tensor(NAME, TEXTS));
        }
        Ok(Box::new(DenseClipDetector {
            checked,
            texts,
            head,
        }))
    }

    fn trainer(&self) -> Option<&dyn Trainer> {
        Some(self)
    }
}

impl Trainer for DenseClip {
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
        let settings = Settings::defaults(context.encoder).replaced_by(context.settings)?;
        let checked = Checked::new(settings)?;
        let text = text_encoder(NAME, context.encoder, None)?;
        let embedding = context.encoder.spec().embedding;
        let head = Head::new(&checked.settings, text.config().width, embedding, seed)?;
        Ok(Box::new(DenseClipDetector::trained(checked, head, &text)?))
    }

    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        Err(refuse("there are no variants of it to compare"))
    }

    fn trains_on_all(&self) -> bool {
        false
    }
}

fn refuse(reason: impl ToString) -> DetectorError {
    DetectorError::settings(NAME, reason.to_string())
}

/// The name of each state of `class`; a trained text is one, not the mean of several.
fn prompts(ensemble: &str, class: &str) -> Result<Vec<String>, DetectorError> {
    let ensemble = Ensemble::open(ensemble).map_err(|e| refuse(format!("`prompts`: {e}")))?;
    match ensemble
        .prompts(class)
        .map(|prompts| (prompts.len(), prompts))
    {
        [(1, normal), (1, anomalous)] => Ok([normal, anomalous].concat()),
        [(normal, _), (anomalous, _)] => Err(refuse(format!(
            "`prompts` has {normal} prompts of normal and {anomalous} of anomalous things; where it \
             is trained, each has one"
        ))),
    }
}

/// The head whose parameters `take` gives, by the names of published checkpoints; its sizes go into
/// `settings`.
fn read(
    settings: &mut Settings,
    take: &mut dyn FnMut(&str) -> Option<Tensor>,
) -> Result<Head, DetectorError> {
    let missing = |name: &str| DetectorError::tensor(NAME, name);
    let mut taken = BTreeMap::new();
    let mut shape = |name: &str| {
        let tensor = take(name).ok_or_else(|| missing(name))?;
        let shape = tensor.dims().to_vec();
        taken.insert(name.to_owned(), tensor);
        Ok::<_, DetectorError>(shape)
    };
    let [1, context_length, text_width] = shape("contexts")?[..] else {
        return Err(missing("contexts"));
    };
    let [decoder_width, embedding] = shape("context_decoder.memory_proj.1.weight")?[..] else {
        return Err(missing("context_decoder.memory_proj.1.weight"));
    };
    let mut layers = 0;
    while let Ok(found) = shape(&format!("context_decoder.decoder.{layers}.norm1.weight")) {
        if found != [decoder_width] {
            break;
        }
        layers += 1;
    }
    settings.context_length = context_length;
    settings.decoder_width = decoder_width;
    settings.decoder_layers = layers;
    settings.profile()?;
    // Nothing is made that is not in the file.
    Head::of(settings, text_width, embedding, |name, shape| {
        let tensor = taken.remove(name).or_else(|| take(name));
        let tensor = tensor.filter(|tensor| tensor.dims() == shape);
        tensor.ok_or_else(|| missing(name))
    })
}

/// Writes the head as a part of a published checkpoint.
fn write(path: &Path, head: &Head) -> Result<(), DetectorError> {
    let all = head.parameters.all().into_iter();
    let state: Vec<(String, Tensor)> = all
        .map(|(name, var)| (name, var.as_tensor().clone()))
        .collect();
    Ok(write_torch(path, Some("state_dict"), &state)?)
}

/// Both texts, and what changes them, ready to score images.
struct DenseClipDetector {
    checked: Checked<Settings>,
    texts: Array,
    head: Option<Head>,
}

impl DenseClipDetector {
    fn trained(
        checked: Checked<Settings>,
        head: Head,
        text: &ClipText,
    ) -> Result<Self, DetectorError> {
        let names = prompts(&checked.settings.prompts, &checked.settings.class)?;
        let texts = head.texts(text, &names)?;
        Ok(Self {
            checked,
            texts: Array {
                shape: texts.dims().to_vec(),
                values: texts.flatten_all()?.to_vec1()?,
            },
            head: Some(head),
        })
    }

    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let width = self.texts.shape.last().copied().unwrap_or(0);
        let grid = profile.check(image, width)?;
        let layer = LayerId::Block(settings.block);
        let patches = image.map(layer).ok_or(DetectorError::MissingLayer(layer))?;
        let texts = match &self.head {
            None => Texts::from_array(&self.texts),
            Some(head) => Some(self.look(head, image, &patches.tokens, grid)?),
        };
        let texts = texts.ok_or_else(|| DetectorError::tensor(NAME, TEXTS))?;
        let temperature = settings.temperature as f32;
        let patches = patches.tokens.chunks_exact(width.max(1));
        let map: Vec<f32> = patches
            .map(|patch| texts.probability(patch, temperature))
            .collect();
        Ok(Scored {
            score: map.iter().copied().fold(0.0, f32::max),
            map: Map::new(grid.rows, grid.columns, map)?,
            range: RANGE,
        })
    }

    /// Both texts after they have looked at an image, each of length 1.
    fn look(
        &self,
        head: &Head,
        image: &ImageFeatures,
        patches: &[f32],
        grid: Grid,
    ) -> Result<Texts, DetectorError> {
        let Array { shape, values } = &self.texts;
        let width = shape.last().copied().unwrap_or(0);
        let embedding = image.embedding.as_deref().unwrap_or_default();
        if embedding.len() != width {
            return Err(DetectorError::Width {
                expected: width,
                found: embedding.len(),
            });
        }
        let cpu = &Device::Cpu;
        let global = Tensor::from_slice(embedding, (1, width), cpu)?;
        let patches = Tensor::from_slice(patches, (1, grid.len(), width), cpu)?;
        let texts = Tensor::from_slice(values, (1, 2, width), cpu)?;
        let texts = head.adapted(&texts, &global, &patches)?.squeeze(0)?;
        let mut texts: Vec<Vec<f32>> = texts.to_vec2()?;
        texts
            .iter_mut()
            .for_each(|text| crate::components::tokens::normalise(text));
        let texts = <[Vec<f32>; 2]>::try_from(texts);
        texts
            .map(Texts)
            .map_err(|_| DetectorError::tensor(NAME, TEXTS))
    }
}

impl Detector for DenseClipDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let head = self.head.iter().flat_map(|head| head.parameters.all());
        self.checked
            .state(Array::all_of(head).chain([(TEXTS.to_owned(), self.texts.clone())]))
    }
}
