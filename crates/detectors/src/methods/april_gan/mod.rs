//! APRIL-GAN, also called VAND (Chen et al., "APRIL-GAN: A Zero-/Few-Shot Anomaly Classification and
//! Segmentation Method for CVPR 2023 VAND Workshop Challenge Tracks 1&2: 1st Place on Zero-shot AD and 4th
//! Place on Few-shot AD", arXiv 2305.17382): patch tokens of four blocks, brought to CLIP's space by linear
//! layers that are learned once on auxiliary data, are compared with prompts. With normal images, patches
//! are compared with theirs, too.
//!
//! ```text
//! settings.rs   settings
//! layers.rs     the linear layers, and the original's files of them
//! train.rs      how they are learned
//! memory.rs     patches of normal images
//! ```
//!
//! The logits are enlarged before the softmax, so that a map cannot be enlarged after it: a detector's map
//! has the size of what the network saw. Of the two logits only the difference is enlarged, which gives the
//! same. Where the original adds the maps of the blocks up, they are averaged here.

#[cfg(test)]
mod goldens;
mod layers;
mod memory;
mod settings;
mod train;

use std::path::{Path, PathBuf};

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::{FeatureMap, ImageEncoder, ImageFeatures};
use anomalens_vision::{Alignment, Map};
use candle_core::{Device, Tensor};
use serde_json::json;

pub use settings::{ImageScore, Settings};

use crate::components::nearest::matrix;
use crate::components::prompts::{Ensemble, Texts};
use crate::components::tokens::normalise_rows;
use crate::detector::{Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::map_loss::sigmoid;
use crate::training::{Learned, TrainProgress, Trained};
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, MethodSettings, Need,
    Requirements, Settings as _, TrainContext, Trainer, Variant,
};
use layers::LinearLayers;
use memory::{Kept, Memory};

/// The method's name.
pub const NAME: &str = "april-gan";

/// Images that are scored against each other must be so many.
const NEEDED: usize = 2;

/// The name of the prompts' embeddings in a detector file.
const TEXTS: &str = "text_features";

/// The file of linear layers in the folder of a training run.
const CHECKPOINT: &str = "linear_layers.pth";

/// Probabilities, where there are no normal images: half is undecided.
const RANGE: NormalRange = NormalRange {
    median: 0.0,
    upper_quantile: 0.5,
};

/// The method.
pub struct AprilGan;

impl Method for AprilGan {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "zero- or few-shot: patches compared with prompts through linear layers \
                      trained once on auxiliary data, and with those of normal images",
            paper: "Chen et al., APRIL-GAN: A Zero-/Few-Shot Anomaly Classification and \
                    Segmentation Method for CVPR 2023 VAND Workshop Challenge Tracks 1&2, 2023",
            requirements: Requirements {
                references: Need::Optional,
                training: Need::Required,
                joint: false,
                class: true,
            },
            backbones: "CLIP",
            weights: DefaultWeights::Clip("clip-vit-l14-336"),
            several_networks: false,
        }
    }

    fn requirements(&self, settings: &MethodSettings) -> Requirements {
        Requirements {
            joint: settings.get("image_score") == Some(&json!(ImageScore::MinMax)),
            ..self.info().requirements
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let learned = context.trained.map(Learned::read).transpose()?;
        let (mut settings, text) = configured(context.settings, learned.as_ref(), context.encoder)?;
        if let (Some(class), false) = (context.class, context.settings.contains_key("class")) {
            settings.class = class.to_owned();
        }
        let checked = Checked::new(settings)?;
        let learned = learned.ok_or_else(|| {
            refuse(
                "its linear layers are learned from auxiliary data first: train them, or name a \
                 published checkpoint (`mvtec_pretrained.pth`, `visa_pretrained.pth`)",
            )
        })?;
        let layers = learned_layers(&learned, &checked.settings, context.encoder)?;
        let texts = ensemble(&checked.settings)?.texts(&text, &checked.settings.class)?;
        let detector = AprilGanDetector::new(checked, layers, texts)?;
        Ok(Box::new(detector.with(context, &[])?))
    }

    fn load(&self, state: State) -> Result<Box<dyn Detector>, DetectorError> {
        Ok(Box::new(AprilGanDetector::load(state)?))
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
        let detector = AprilGanDetector::load(state)?;
        Ok(Box::new(detector.with(context, remove)?))
    }
}

impl Trainer for AprilGan {
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
        let encoder = context.encoder;
        let (settings, text) = configured(context.settings, None, encoder)?;
        let checked = Checked::new(settings)?;
        let [width, embedding] = widths(&checked.settings, encoder)?;
        let layers = LinearLayers::random(checked.settings.blocks.len(), width, embedding, seed)?;
        let texts = ensemble(&checked.settings)?.texts(&text, &checked.settings.class)?;
        let detector = AprilGanDetector::new(checked, layers, texts)?;
        Ok(Box::new(detector.with(context, &[])?))
    }

    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        let own = MethodSettings::from_iter([("activation".to_owned(), json!("quick-gelu"))]);
        let variants = [("default", MethodSettings::new()), ("quick-gelu", own)];
        let variants = variants.map(|(name, settings)| Variant {
            name: name.to_owned(),
            settings,
        });
        Ok(variants.to_vec())
    }

    fn trains_on_all(&self) -> bool {
        false
    }

    /// Masks are all that it learns from.
    fn mask_settings(&self, settings: &MethodSettings) -> Option<MethodSettings> {
        Some(settings.clone())
    }

    fn start_file(&self, folder: &Path) -> Option<PathBuf> {
        Some(folder.join(CHECKPOINT))
    }
}

/// Settings, or a file that they name, are impossible.
fn refuse(reason: impl ToString) -> DetectorError {
    DetectorError::settings(NAME, reason)
}

/// The settings that were `learned` with, or the defaults for `encoder`, with those `given` in their place;
/// and the text encoder.
fn configured(
    given: &MethodSettings,
    learned: Option<&Learned<Settings>>,
    encoder: &dyn ImageEncoder,
) -> Result<(Settings, ClipText), DetectorError> {
    let defaults = learned.and_then(|learned| learned.settings.clone());
    let defaults = defaults.unwrap_or_else(|| Settings::defaults(encoder));
    let settings = defaults.replaced_by(given)?;
    settings.profile()?;
    let text = encoder.text(Some(settings.activation))?;
    let text = text.ok_or_else(|| {
        refuse("it needs a backbone with a text encoder, such as --weights clip-vit-l14-336")
    })?;
    Ok((settings, text))
}

/// The prompts that the settings name.
fn ensemble(settings: &Settings) -> Result<Ensemble, DetectorError> {
    let found = Ensemble::open(&settings.prompts);
    found.map_err(|reason| refuse(format!("`prompts`: {reason}")))
}

/// The anomalous less the normal text, in units of the temperature: `[embedding]`.
fn direction(texts: &Texts, settings: &Settings) -> Result<Tensor, DetectorError> {
    let Texts([normal, anomalous]) = texts;
    let both = anomalous.iter().zip(normal);
    let values = both.map(|(a, n)| (a - n) / settings.temperature as f32);
    Ok(Tensor::new(values.collect::<Vec<_>>(), &Device::Cpu)?)
}

/// Lengths of the tokens of the blocks in `settings`, and of embeddings.
fn widths(settings: &Settings, encoder: &dyn ImageEncoder) -> Result<[usize; 2], DetectorError> {
    let layers = &settings.profile()?.input.request.layers;
    let width = layers
        .iter()
        .map(|layer| Ok(encoder.spec().layer(*layer)?.dim));
    let width = width.collect::<Result<Vec<_>, DetectorError>>()?;
    Ok([
        width.first().copied().unwrap_or(0),
        encoder.spec().embedding,
    ])
}

/// The linear layers that were learned, which must fit `encoder`.
fn learned_layers(
    learned: &Learned<Settings>,
    settings: &Settings,
    encoder: &dyn ImageEncoder,
) -> Result<LinearLayers, DetectorError> {
    let layers = LinearLayers::take(settings.blocks.len(), |name| learned.tensor(name))?;
    let (found, expected) = (layers.widths(), widths(settings, encoder)?);
    match found == expected {
        true => Ok(layers),
        false => Err(refuse(format!(
            "its linear layers go from {} to {} numbers, but with {} they would go from {} to {}: \
             use the backbone that it was trained with",
            found[0],
            found[1],
            encoder.spec().name,
            expected[0],
            expected[1]
        ))),
    }
}

/// Linear layers and prompts, and normal images if there are any.
struct AprilGanDetector {
    checked: Checked<Settings>,
    layers: LinearLayers,
    texts: Texts,
    /// `[1, embedding]`.
    direction: Tensor,
    memory: Memory,
}

/// One image before its score is made.
struct Seen {
    /// The probability from its embedding.
    text: f32,
    map: Map,
}

impl AprilGanDetector {
    /// One without normal images.
    fn new(
        checked: Checked<Settings>,
        layers: LinearLayers,
        texts: Texts,
    ) -> Result<Self, DetectorError> {
        let [_, embedding] = layers.widths();
        if texts.0[0].len() != embedding {
            return Err(DetectorError::Width {
                expected: embedding,
                found: texts.0[0].len(),
            });
        }
        Ok(Self {
            direction: direction(&texts, &checked.settings)?.unsqueeze(0)?,
            checked,
            layers,
            texts,
            memory: Memory::default(),
        })
    }

    fn load(mut state: State) -> Result<Self, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let texts = Texts::from_array(&state.take(NAME, TEXTS)?);
        let texts = texts.ok_or_else(|| DetectorError::tensor(NAME, TEXTS))?;
        let blocks = &checked.settings.blocks;
        let layers = LinearLayers::take(blocks.len(), |name| {
            let array = state.tensors.remove(name)?;
            Tensor::from_vec(array.values, array.shape, &Device::Cpu).ok()
        })?;
        let [width, _] = layers.widths();
        let memory = Memory::load(&mut state.tensors, blocks, width)?;
        Ok(Self {
            memory,
            ..Self::new(checked, layers, texts)?
        })
    }

    /// The same with the normal images of `context` too and without those named in `remove`.
    fn with(mut self, context: &FitContext<'_>, remove: &[String]) -> Result<Self, DetectorError> {
        let mut kept = std::mem::take(&mut self.memory).into_kept();
        for name in remove {
            if kept.remove(name).is_none() {
                let names: Vec<&str> = kept.keys().map(String::as_str).collect();
                return Err(refuse(format!(
                    "there is no normal image `{name}` in it; there are: {}",
                    names.join(", ")
                )));
            }
        }
        let mut names = context.references.iter().map(|reference| &reference.name);
        let input = &self.checked.profile.input;
        context.each_reference(input, context.references, |features| {
            let name = names.next().cloned().unwrap_or_default();
            let grid = self
                .checked
                .profile
                .check(&features, self.layers.widths()[0])?;
            let mut text = vec![0.0; grid.len()];
            for block in 0..self.checked.settings.blocks.len() {
                let margins = self.margins(block, self.tokens(&features, block)?)?;
                self.add_probabilities(&mut text, &margins);
            }
            let new = Kept {
                blocks: self.unit(&features)?,
                text,
            };
            match kept.insert(name.clone(), new) {
                None => Ok(()),
                Some(_) => Err(refuse(format!(
                    "there are two normal images called `{name}`: remove the one that is there, \
                     or rename the file"
                ))),
            }
        })?;
        Ok(Self {
            memory: Memory::new(kept)?,
            ..self
        })
    }

    /// The tokens of the block number `block` of those that are looked at.
    fn tokens<'f>(
        &self,
        image: &'f ImageFeatures,
        block: usize,
    ) -> Result<&'f FeatureMap, DetectorError> {
        let layers = &self.checked.profile.input.request.layers;
        let layer = layers.get(block).copied();
        let layer = layer.ok_or_else(|| refuse("`blocks` names no such block"))?;
        image.map(layer).ok_or(DetectorError::MissingLayer(layer))
    }

    /// How much more like something anomalous each patch is.
    fn margins(&self, block: usize, tokens: &FeatureMap) -> Result<Vec<f32>, DetectorError> {
        let shape = (1, tokens.grid.len(), tokens.dim);
        let rows = Tensor::from_slice(&tokens.tokens, shape, &Device::Cpu)?;
        let margins = self.layers.margins(block, &rows, &self.direction)?;
        Ok(margins.flatten_all()?.to_vec1()?)
    }

    /// Adds the probabilities that belong to `margins`, so that those of all blocks make their mean.
    fn add_probabilities(&self, sums: &mut [f32], margins: &[f32]) {
        let blocks = self.checked.settings.blocks.len() as f32;
        let both = sums.iter_mut().zip(margins);
        both.for_each(|(sum, &margin)| *sum += sigmoid(margin) / blocks);
    }

    /// For each block the patches of an image at length 1.
    fn unit(&self, image: &ImageFeatures) -> Result<Vec<Tensor>, DetectorError> {
        let blocks = (0..self.checked.settings.blocks.len()).map(|block| {
            let tokens = self.tokens(image, block)?;
            let mut rows = tokens.tokens.clone();
            normalise_rows(&mut rows, tokens.dim);
            matrix(rows, tokens.dim)
        });
        blocks.collect()
    }

    fn see(&self, image: &ImageFeatures) -> Result<Seen, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let [width, embedding] = self.layers.widths();
        let grid = profile.check(image, width)?;
        let side = settings.image_size as usize;
        let enlarged = |values| -> Result<Vec<f32>, DetectorError> {
            let map = Map::new(grid.rows, grid.columns, values)?;
            Ok(map.resize(side, side, Alignment::Corners)?.into_values())
        };
        let mut map = match self.memory.is_empty() {
            true => vec![0.0; side * side],
            false => enlarged(self.memory.distances(&self.unit(image)?)?)?,
        };
        for block in 0..settings.blocks.len() {
            let margins = self.margins(block, self.tokens(image, block)?)?;
            self.add_probabilities(&mut map, &enlarged(margins)?);
        }
        let of_image = image.embedding.as_deref().unwrap_or_default();
        if of_image.len() != embedding {
            return Err(DetectorError::Width {
                expected: embedding,
                found: of_image.len(),
            });
        }
        Ok(Seen {
            text: self
                .texts
                .probability(of_image, settings.temperature as f32),
            map: Map::new(side, side, map)?,
        })
    }

    /// What the score of an image is made of.
    fn image_score(&self) -> ImageScore {
        let given = self.checked.settings.image_score.given();
        given.unwrap_or(match self.memory.is_empty() {
            true => ImageScore::Text,
            false => ImageScore::Both,
        })
    }
}

/// The scores of images, each given as its probability from the text and the highest value of its map.
fn scores(images: &[(f32, f32)], rule: ImageScore) -> Vec<f32> {
    let highest = images.iter().map(|(_, highest)| *highest);
    let lower = highest.clone().fold(f32::INFINITY, f32::min);
    let upper = highest.fold(f32::NEG_INFINITY, f32::max);
    let score = |&(text, highest): &(f32, f32)| match rule {
        ImageScore::Text => text,
        ImageScore::Both => (text + highest) / 2.0,
        ImageScore::MinMax if upper > lower => (text + (highest - lower) / (upper - lower)) / 2.0,
        // Equal maps say nothing.
        ImageScore::MinMax => text / 2.0,
    };
    images.iter().map(score).collect()
}

impl Detector for AprilGanDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn references(&self) -> Vec<&str> {
        self.memory.names().collect()
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        let rule = self.image_score();
        if rule == ImageScore::MinMax && images.len() < NEEDED {
            return Err(DetectorError::GroupTooSmall {
                method: NAME,
                needed: NEEDED,
                found: images.len(),
            });
        }
        let seen = images.iter().map(|image| self.see(image));
        let seen = seen.collect::<Result<Vec<Seen>, _>>()?;
        let parts = seen.iter().map(|Seen { text, map }| {
            let highest = map.range().map_or(f32::NAN, |(_, highest)| highest);
            (*text, highest)
        });
        let scores = scores(&parts.collect::<Vec<_>>(), rule);
        let range = match self.memory.is_empty() {
            true => RANGE,
            false => self.memory.range,
        };
        let scored = scores.into_iter().zip(seen);
        Ok(scored
            .map(|(score, Seen { map, .. })| Scored { score, map, range })
            .collect())
    }

    fn state(&self) -> State {
        let texts = [(TEXTS.to_owned(), self.texts.array())];
        let learned = self.layers.arrays();
        let memory = self.memory.arrays(&self.checked.settings.blocks);
        self.checked
            .state(texts.into_iter().chain(learned).chain(memory))
    }
}
