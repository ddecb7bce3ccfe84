//! What CoOp learns (paper, section 3.1): tokens that stand in prompts with the names of things, through the
//! frozen text encoder.

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::clip::tokenizer::Tokenizer;
use candle_core::{Tensor, Var};

use super::refuse;
use super::settings::{Position, Settings};
use crate::DetectorError;
use crate::components::learned_prompts::{Frozen, INITIAL_VALUES, initial, normalise, placeholder};
use crate::components::prompts::Texts;
use crate::training::random::generator;

/// The learned tokens, and the prompts that they stand in.
pub(super) struct Prompts {
    text: ClipText,
    /// `[tokens, width]`, or `[labels, tokens, width]` where each label has its own.
    pub(super) context: Var,
    position: Position,
    /// For each class.
    pub(super) sets: Vec<Labels>,
}

/// The prompts that an image of one class is compared with, one for each label.
pub(super) struct Labels {
    pub(super) frozen: Frozen,
    /// Tokens of each name, without the full stop.
    lengths: Vec<usize>,
}

impl Labels {
    /// Of things with these names.
    pub(super) fn new(
        text: &ClipText,
        context_length: usize,
        names: &[String],
    ) -> Result<Self, DetectorError> {
        let (tokenizer, placeholder) = (Tokenizer::new(), placeholder(context_length));
        let prompts = names.iter().map(|name| format!("{placeholder}{name}."));
        Ok(Self {
            frozen: Frozen::new(text, prompts)?,
            lengths: names
                .iter()
                .map(|name| tokenizer.encode(name).len())
                .collect(),
        })
    }
}

impl Prompts {
    /// Normal and anomalous things of every class, the context with initial values from `seed` or from the
    /// words that `settings` name.
    pub(super) fn new(
        settings: &Settings,
        text: ClipText,
        seed: u32,
    ) -> Result<Self, DetectorError> {
        let tokens = settings.context_length;
        let context = match settings.words() {
            Some(words) => words_as_context(&words, &text)?,
            None => {
                let shape = [2, tokens, text.config().width];
                let shape = if settings.class_specific {
                    &shape[..]
                } else {
                    &shape[1..]
                };
                initial(shape, &mut generator(seed, INITIAL_VALUES))?
            }
        };
        let classes = settings.all_classes().into_iter();
        let sets = classes.map(|class| Labels::new(&text, tokens, &settings.names(&class)));
        let sets = sets.collect::<Result<_, _>>()?;
        Ok(Self::with(text, context, settings.position, sets))
    }

    /// Of these parts.
    pub(super) fn with(
        text: ClipText,
        context: Var,
        position: Position,
        sets: Vec<Labels>,
    ) -> Self {
        Self {
            text,
            context,
            position,
            sets,
        }
    }

    /// What is learned, by its name in the original's checkpoints.
    pub(super) fn parameters(&self) -> Vec<(String, Var)> {
        vec![("ctx".to_owned(), self.context.clone())]
    }

    /// The prompts of a set as they go into the text encoder, `[labels, context, width]`.
    pub(super) fn assembled(&self, set: usize) -> Result<Tensor, DetectorError> {
        let Labels { frozen, lengths } = &self.sets[set];
        let prompts = lengths.iter().enumerate().map(|(label, &length)| {
            let context = self.context.as_tensor();
            let context = match context.dims().len() {
                3 => context.get(label)?,
                _ => context.clone(),
            };
            let tokens = context.dim(0)?;
            let before = self.position.before(tokens);
            let prompt = frozen.embeddings.get(label)?;
            let (name, rest) = (1 + tokens, 1 + tokens + length);
            let parts = [
                prompt.narrow(0, 0, 1)?,
                context.narrow(0, 0, before)?,
                prompt.narrow(0, name, length)?,
                context.narrow(0, before, tokens - before)?,
                prompt.narrow(0, rest, prompt.dim(0)? - rest)?,
            ];
            let parts = parts.iter().filter(|part| part.dims()[0] > 0);
            Tensor::cat(&parts.collect::<Vec<_>>(), 0)
        });
        let prompts = prompts.collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::stack(&prompts, 0)?)
    }

    /// The embeddings of the prompts of these sets, `[sets, labels, embedding]`, as the text encoder gives
    /// them.
    pub(super) fn encode(&self, sets: &[usize]) -> Result<Tensor, DetectorError> {
        let prompts = sets.iter().map(|&set| self.assembled(set));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let ends = sets.iter().flat_map(|&set| &self.sets[set].frozen.ends);
        let ends: Vec<usize> = ends.copied().collect();
        let prompts = Tensor::cat(&prompts, 0)?;
        let encoded = (self.text).encode_embeddings(&prompts, &ends, |_, tokens| Ok(tokens))?;
        let width = encoded.dim(1)?;
        Ok(encoded.reshape((sets.len(), (), width))?)
    }

    /// The embeddings of the pairs of all classes.
    pub(super) fn texts(&self) -> Result<Vec<Texts>, DetectorError> {
        let one = |set| {
            let pair = normalise(&self.encode(&[set])?.squeeze(0)?)?;
            let [normal, anomalous] = [0, 1].map(|label| pair.get(label)?.to_vec1::<f32>());
            Ok(Texts([normal?, anomalous?]))
        };
        (0..self.sets.len()).map(one).collect()
    }
}

/// The embeddings of words that are one token each.
fn words_as_context(words: &[String], text: &ClipText) -> Result<Var, DetectorError> {
    let tokenizer = Tokenizer::new();
    if let Some(word) = words.iter().find(|word| tokenizer.encode(word).len() != 1) {
        return Err(refuse(format!(
            "`initial_words` are one token each, and `{word}` is not"
        )));
    }
    let frozen = Frozen::new(text, [words.join(" ")])?;
    let context = frozen.embeddings.get(0)?.narrow(0, 1, words.len())?;
    Ok(Var::from_tensor(&context.contiguous()?)?)
}
