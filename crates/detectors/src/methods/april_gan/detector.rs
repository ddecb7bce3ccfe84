//! The detector: linear layers and prompts, and normal images if there are any.

use anomalens_backbones::{FeatureMap, ImageFeatures};
use anomalens_vision::{Alignment, Map};
use candle_core::{Device, Tensor};

use super::layers::LinearLayers;
use super::memory::{Kept, Memory};
use super::settings::{ImageScore, Settings};
use super::{NAME, NEEDED, direction, refuse};
use crate::components::by_name;
use crate::components::nearest::matrix;
use crate::components::prompts::Texts;
use crate::components::tokens::normalise_rows;
use crate::detector::{Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::map_loss::sigmoid;
use crate::{DetectorError, FitContext};

/// The name of the prompts' embeddings in a detector file.
const TEXTS: &str = "text_features";

/// Probabilities, where there are no normal images: half is undecided.
const RANGE: NormalRange = NormalRange {
    median: 0.0,
    upper_quantile: 0.5,
};

/// Linear layers and prompts, and normal images if there are any.
pub(super) struct AprilGanDetector {
    pub(super) checked: Checked<Settings>,
    pub(super) layers: LinearLayers,
    pub(super) texts: Texts,
    /// `[1, embedding]`.
    pub(super) direction: Tensor,
    pub(super) memory: Memory,
}

/// One image before its score is made.
pub(super) struct Seen {
    /// The probability from its embedding.
    pub(super) text: f32,
    pub(super) map: Map,
}

impl AprilGanDetector {
    /// One without normal images.
    pub(super) fn new(
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

    pub(super) fn load(mut state: State) -> Result<Self, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let texts = Texts::from_array(&state.take(NAME, TEXTS)?);
        let texts = texts.ok_or_else(|| DetectorError::tensor(NAME, TEXTS))?;
        let blocks = &checked.settings.blocks;
        let layers = LinearLayers::take(blocks.len(), |name| state.take_tensor(name))?;
        let [width, _] = layers.widths();
        let memory = Memory::load(&mut state.tensors, blocks, width)?;
        Ok(Self {
            memory,
            ..Self::new(checked, layers, texts)?
        })
    }

    /// The same with the normal images of `context` too and without those named in `remove`.
    pub(super) fn with(
        mut self,
        context: &FitContext<'_>,
        remove: &[String],
    ) -> Result<Self, DetectorError> {
        let mut kept = std::mem::take(&mut self.memory).into_kept();
        by_name::remove(NAME, &mut kept, remove)?;
        let mut names = context.references.iter().map(|reference| &reference.name);
        let input = &self.checked.profile.input;
        context.each_reference(input, context.references, |features| {
            let name = names.next().cloned().unwrap_or_default();
            by_name::check_new(NAME, &kept, &name)?;
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
            kept.insert(name, new);
            Ok(())
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
    pub(super) fn margins(
        &self,
        block: usize,
        tokens: &FeatureMap,
    ) -> Result<Vec<f32>, DetectorError> {
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
    pub(super) fn unit(&self, image: &ImageFeatures) -> Result<Vec<Tensor>, DetectorError> {
        let blocks = (0..self.checked.settings.blocks.len()).map(|block| {
            let tokens = self.tokens(image, block)?;
            let mut rows = tokens.tokens.clone();
            normalise_rows(&mut rows, tokens.dim);
            matrix(rows, tokens.dim)
        });
        blocks.collect()
    }

    pub(super) fn see(&self, image: &ImageFeatures) -> Result<Seen, DetectorError> {
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
pub(super) fn scores(images: &[(f32, f32)], rule: ImageScore) -> Vec<f32> {
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
