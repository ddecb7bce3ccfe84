//! ZOC (Esmaeilpour et al., "Zero-Shot Out-of-Distribution Detection Based on the Pre-trained Model CLIP", AAAI
//! 2022): a text decoder writes down what it sees in an image. The more probable its words are against the
//! labels that are seen normally, the more anomalous is the image. It has no map.
//!
//! ```text
//! settings.rs     settings
//! vocabulary.rs   the pieces of words that the decoder writes
//! decoder.rs      the decoder, and the original's files of it
//! train.rs        how it is learned from captions
//! ```
//!
//! The original encodes the words of each image by CLIP's text encoder. There are only as many words as the
//! decoder has tokens: they are encoded once, when a detector is made.

mod decoder;
#[cfg(test)]
mod goldens;
mod settings;
mod train;
mod vocabulary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::{ImageEncoder, ImageFeatures};
use candle_core::{Device, Tensor};

pub use settings::Settings;

use crate::components::prompts::{embeddings, text_encoder};
use crate::components::tokens::{dot, normalise};
use crate::detector::{Array, Detector, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::random::{generator, normal};
use crate::training::{Learned, TrainProgress, Trained};
use crate::{
    Choice, DefaultWeights, DetectorError, FitContext, Method, MethodInfo, MethodSettings, Need,
    Requirements, Settings as _, TrainContext, Trainer, Variant,
};
use decoder::{Decoder, best};
use vocabulary::Vocabulary;

/// The method's name.
pub const NAME: &str = "zoc";

/// Names in a detector file: the embeddings of the seen labels, of the words, the word of each token.
const SEEN: &str = "seen_features";
const WORDS: &str = "word_features";
const WORD_OF: &str = "word_of_token";

/// The file of the decoder in the folder of a training run.
const CHECKPOINT: &str = "model.pt";

/// What stands in [`WORD_OF`] for a token that is a seen label.
const NONE: f32 = -1.0;

/// Where generation starts where settings do not say.
const START: &str = "<s>";

/// The method.
pub struct Zoc;

impl Method for Zoc {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "zero-shot, images only: words that a decoder trained on captions writes for \
                      an image, against the labels that are normal",
            paper: "Esmaeilpour et al., Zero-Shot Out-of-Distribution Detection Based on the \
                    Pre-trained Model CLIP, AAAI 2022",
            requirements: Requirements {
                references: Need::No,
                training: Need::Required,
                joint: false,
                class: true,
            },
            backbones: "CLIP, ViT-B/32 in the paper",
            weights: DefaultWeights::Clip("clip-vit-b32"),
            several_networks: false,
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let learned = context.trained.map(Learned::read).transpose()?;
        let (mut settings, text) = configured(context.settings, learned.as_ref(), context.encoder)?;
        if let Some(class) = context.open_class() {
            settings.class = class.to_owned();
        }
        let learned = learned.ok_or_else(|| {
            refuse(
                "its decoder is learned from captions first: train it, or name a checkpoint of \
                 the original (`model.pt`)",
            )
        })?;
        let vocabulary = Vocabulary::open(&settings.vocabulary)?;
        let heads = settings.heads.given();
        let decoder = Decoder::take(&|name| learned.tensor(name), heads, None)?;
        let checked = Checked::new(settings)?;
        let embed = |texts: &[String]| embeddings(&text, texts);
        let detector = ZocDetector::new(checked, decoder, &vocabulary, &embed)?;
        Ok(Box::new(detector))
    }

    fn load(&self, state: State) -> Result<Box<dyn Detector>, DetectorError> {
        Ok(Box::new(ZocDetector::load(state)?))
    }

    fn trainer(&self) -> Option<&dyn Trainer> {
        Some(self)
    }
}

impl Trainer for Zoc {
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
        let (settings, _) = configured(context.settings, None, context.encoder)?;
        let vocabulary = Vocabulary::open(&settings.vocabulary)?;
        let width = context.encoder.spec().embedding;
        let decoder = Decoder::random(train::sizes(&settings, width, vocabulary.len()), seed)?;
        // Words are not read: that takes minutes, and here all numbers are random.
        let embed = |texts: &[String]| {
            let mut random = generator(seed, texts.len() as u32);
            Ok(texts
                .iter()
                .map(|_| normal(width, 1.0, &mut random))
                .collect())
        };
        let checked = Checked::new(settings)?;
        let detector = ZocDetector::new(checked, decoder, &vocabulary, &embed)?;
        Ok(Box::new(detector))
    }

    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        Err(refuse("it has no parts that could be left out"))
    }

    /// Captions are of normal images, too.
    fn trains_on_all(&self) -> bool {
        true
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
    let settings = Learned::configure(learned, || Settings::defaults(encoder), given)?;
    settings.profile()?;
    let text = text_encoder(NAME, encoder, None)?;
    Ok((settings, text))
}

/// Gives texts their embeddings.
type Embed<'a> = dyn Fn(&[String]) -> Result<Vec<Vec<f32>>, DetectorError> + 'a;

/// A decoder, and the embeddings of everything that it can say.
struct ZocDetector {
    checked: Checked<Settings>,
    decoder: Decoder,
    /// Of the seen labels, of length 1.
    seen: Vec<Vec<f32>>,
    /// The same of the words.
    words: Vec<Vec<f32>>,
    /// The word of each token; none for seen labels.
    word_of: Vec<Option<usize>>,
}

impl ZocDetector {
    fn new(
        mut checked: Checked<Settings>,
        decoder: Decoder,
        vocabulary: &Vocabulary,
        embed: &Embed<'_>,
    ) -> Result<Self, DetectorError> {
        let settings = &mut checked.settings;
        if vocabulary.len() != decoder.sizes.vocabulary {
            return Err(refuse(format!(
                "the decoder has {} tokens, but `vocabulary` has {}",
                decoder.sizes.vocabulary,
                vocabulary.len()
            )));
        }
        if settings.start == Choice::Auto {
            let start = vocabulary.token(START);
            settings.start = Choice::Given(start.ok_or_else(|| {
                refuse(format!(
                    "`vocabulary` has no piece `{START}`: name the token with `start`"
                ))
            })?);
        }
        settings.heads = Choice::Given(decoder.sizes.heads);
        let seen = settings.seen();
        let words = vocabulary.words(&seen);
        let unit = |labels: &[String]| -> Result<Vec<Vec<f32>>, DetectorError> {
            let texts: Vec<String> = labels.iter().map(|label| settings.text(label)).collect();
            let mut rows = embed(&texts)?;
            rows.iter_mut().for_each(|row| normalise(row));
            Ok(rows)
        };
        let rows = [unit(&seen)?, unit(&words.labels)?];
        Self::checked(checked, decoder, rows, words.of_token)
    }

    /// One whose parts fit together.
    fn checked(
        checked: Checked<Settings>,
        decoder: Decoder,
        [seen, words]: [Vec<Vec<f32>>; 2],
        word_of: Vec<Option<usize>>,
    ) -> Result<Self, DetectorError> {
        let start = checked.settings.start.given();
        if start.is_none_or(|start| start >= decoder.sizes.vocabulary) {
            return Err(refuse("`start` is no token of the decoder"));
        }
        let width = seen.first().map_or(0, Vec::len);
        if width == 0 || !decoder.sizes.width.is_multiple_of(width) {
            return Err(refuse(format!(
                "the decoder's width, {}, is no multiple of that of the embeddings, {width}",
                decoder.sizes.width
            )));
        }
        Ok(Self {
            checked,
            decoder,
            seen,
            words,
            word_of,
        })
    }

    fn load(mut state: State) -> Result<Self, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let mut rows = |name: &str, width: Option<usize>| match state.take(NAME, name)? {
            Array { shape, values }
                if shape.len() == 2
                    && shape[1] > 0
                    && width.is_none_or(|width| width == shape[1]) =>
            {
                Ok(values.chunks_exact(shape[1]).map(<[f32]>::to_vec).collect())
            }
            _ => Err(DetectorError::tensor(NAME, name)),
        };
        let seen: Vec<Vec<f32>> = rows(SEEN, None)?;
        let words: Vec<Vec<f32>> = rows(WORDS, seen.first().map(Vec::len))?;
        let word_of = state.take(NAME, WORD_OF)?.values;
        let decoder = Decoder::take(
            &|name| state.tensors.get(name)?.clone().tensor(),
            checked.settings.heads.given(),
            None,
        )?;
        let index = |&word: &f32| match word {
            NONE => Some(None),
            word => {
                let index = word as usize;
                (index < words.len() && index as f32 == word).then_some(Some(index))
            }
        };
        let word_of: Option<Vec<Option<usize>>> = word_of.iter().map(index).collect();
        let word_of = word_of.filter(|words| words.len() == decoder.sizes.vocabulary);
        let word_of = word_of.ok_or_else(|| DetectorError::tensor(NAME, WORD_OF))?;
        Self::checked(checked, decoder, [seen, words], word_of)
    }

    /// The words for an image with `embedding`, among which are those that the decoder would write next to
    /// the most probable ones.
    fn candidates(&self, embedding: &[f32]) -> Result<BTreeSet<usize>, DetectorError> {
        let settings = &self.checked.settings;
        let row = Tensor::from_slice(embedding, (1, embedding.len()), &Device::Cpu)?;
        let start = settings.start.given().unwrap_or(0);
        let generated = self.decoder.generate(&row, start, settings.steps)?;
        let tokens = generated
            .logits
            .iter()
            .flat_map(|logits| best(logits, settings.top));
        Ok(tokens
            .filter_map(|token| self.word_of.get(token).copied().flatten())
            .collect())
    }

    /// The probabilities of the seen labels, then of the candidates.
    fn probabilities(&self, embedding: &[f32], candidates: &BTreeSet<usize>) -> Vec<f32> {
        let mut unit = embedding.to_vec();
        normalise(&mut unit);
        let words = candidates.iter().filter_map(|&word| self.words.get(word));
        let temperature = self.checked.settings.temperature as f32;
        let logits = self.seen.iter().chain(words);
        let logits: Vec<f32> = logits.map(|text| dot(text, &unit) / temperature).collect();
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = logits.iter().map(|logit| (logit - highest).exp()).collect();
        let sum: f32 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let embedding = image.embedding.as_deref().unwrap_or_default();
        let width = self.seen.first().map_or(0, Vec::len);
        if embedding.len() != width {
            return Err(DetectorError::Width {
                expected: width,
                found: embedding.len(),
            });
        }
        let candidates = self.candidates(embedding)?;
        let probabilities = self.probabilities(embedding, &candidates);
        let score = probabilities.iter().skip(self.seen.len()).sum();
        Scored::without_map(score)
    }
}

impl Detector for ZocDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let rows = |name: &str, rows: &[Vec<f32>]| {
            let width = self.seen.first().map_or(0, Vec::len);
            let array = Array {
                shape: vec![rows.len(), width],
                values: rows.concat(),
            };
            (name.to_owned(), array)
        };
        let word_of = self.word_of.iter();
        let word_of = word_of.map(|word| word.map_or(NONE, |word| word as f32));
        let own = [
            rows(SEEN, &self.seen),
            rows(WORDS, &self.words),
            (WORD_OF.to_owned(), Array::vector(word_of.collect())),
        ];
        let decoder = Array::all_of(self.decoder.parameters());
        self.checked.state(own.into_iter().chain(decoder))
    }
}
