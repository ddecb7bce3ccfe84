//! What AnomalyCLIP learns (paper, section 3.2): the tokens of a normal and an anomalous prompt,
//! with further tokens put into the blocks of the text encoder; or, without text encoder, the two
//! embeddings themselves.

use anomalens_backbones::clip::ClipText;
use candle_core::{DType, Tensor, Var};

use super::settings::{PromptKind, Settings};
use crate::DetectorError;
pub(super) use crate::components::learned_prompts::{Frozen, normalise};
use crate::components::learned_prompts::{INITIAL_VALUES, initial, placeholder};
use crate::training::random::generator;

/// The learned parameters, and the frozen text encoder they go through.
pub(super) enum Prompts {
    /// Through the text encoder.
    Text(Box<TextPrompts>),
    /// `[2, width]`: normal, anomalous.
    Embedding(Var),
}

impl Prompts {
    /// Parameters with initial values from `seed`.
    pub(super) fn new(
        config: &Settings,
        text: Option<ClipText>,
        width: usize,
        seed: u32,
    ) -> Result<Self, DetectorError> {
        let mut random = generator(seed, INITIAL_VALUES);
        let mut initial = |shape: &[usize]| initial(shape, &mut random);
        match (config.prompt, text) {
            (PromptKind::Embedding, _) => Ok(Self::Embedding(initial(&[2, width])?)),
            (PromptKind::Text, Some(text)) => Ok(Self::Text(Box::new(TextPrompts::new(
                config, text, initial,
            )?))),
            (PromptKind::Text, None) => Err(DetectorError::Settings {
                method: super::NAME,
                reason: "`prompt = text` needs a backbone with a text encoder; this one has none"
                    .to_owned(),
            }),
        }
    }

    /// Every parameter by the name that it has in the original's checkpoints.
    pub(super) fn parameters(&self) -> Vec<(String, Var)> {
        match self {
            Self::Embedding(embeddings) => vec![("embeddings".to_owned(), embeddings.clone())],
            Self::Text(prompts) => prompts.parameters(),
        }
    }

    /// `[pairs, 2, width]`, normal and anomalous, each of length 1, with a gradient: of the pairs
    /// at the indices `pairs`.
    pub(super) fn features(&self, pairs: &[usize]) -> Result<Tensor, DetectorError> {
        Ok(match self {
            Self::Embedding(embeddings) => normalise(embeddings.as_tensor())?.unsqueeze(0)?,
            Self::Text(prompts) => prompts.encode(pairs)?,
        })
    }
}

/// Learned tokens in prompts for CLIP's text encoder.
pub(super) struct TextPrompts {
    text: ClipText,
    /// `[1, templates, length, width]`, of the normal and of the anomalous prompts.
    pub(super) contexts: [Var; 2],
    /// `[tokens, width]` before each block from the second on; the same for all prompts.
    pub(super) deep: Vec<Var>,
    /// What is not learned: normal and anomalous prompts of each pair.
    pub(super) frozen: Vec<Frozen>,
}

/// The fixed tokens of the prompts of one pair, normal ones first.
fn frozen(config: &Settings, word: &str, text: &ClipText) -> Result<Frozen, DetectorError> {
    let placeholder = placeholder(config.context_length);
    let templates = config.normal_templates.iter();
    let templates = templates.chain(&config.anomalous_templates);
    let prompt = |template: &String| format!("{placeholder}{}", template.replace("{}", word));
    Frozen::new(text, templates.map(prompt))
}

impl TextPrompts {
    fn new(
        config: &Settings,
        text: ClipText,
        mut initial: impl FnMut(&[usize]) -> candle_core::Result<Var>,
    ) -> Result<Self, DetectorError> {
        let width = text.config().width;
        let mut context =
            |templates: &[String]| initial(&[1, templates.len(), config.context_length, width]);
        let contexts = [
            context(&config.normal_templates)?,
            context(&config.anomalous_templates)?,
        ];
        let deep = (1..config.prompt_depth)
            .map(|_| initial(&[config.deep_tokens, width]))
            .collect::<candle_core::Result<_>>()?;
        let words = config.words();
        let frozen = words.iter().map(|word| frozen(config, word, &text));
        Ok(Self {
            contexts,
            deep,
            frozen: frozen.collect::<Result<_, _>>()?,
            text,
        })
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let [normal, anomalous] = &self.contexts;
        let contexts = [("ctx_pos", normal), ("ctx_neg", anomalous)];
        let contexts = contexts.map(|(name, var)| (name.to_owned(), var.clone()));
        let deep = self.deep.iter().enumerate();
        contexts
            .into_iter()
            .chain(deep.map(|(i, var)| (format!("compound_prompts_text.{i}"), var.clone())))
            .collect()
    }

    /// `[pairs, 2, embedding]`, each of length 1.
    fn encode(&self, pairs: &[usize]) -> Result<Tensor, DetectorError> {
        let chosen: Vec<&Frozen> = pairs.iter().map(|&pair| &self.frozen[pair]).collect();
        let parts: Vec<&Tensor> = chosen.iter().map(|frozen| &frozen.embeddings).collect();
        let embeddings = Tensor::cat(&parts, 0)?;
        let ends: Vec<usize> = chosen.iter().flat_map(|f| &f.ends).copied().collect();
        let rows = embeddings.dim(0)?;
        let [normal, anomalous] = self.contexts.each_ref().map(|var| var.as_tensor().get(0));
        let learned = Tensor::cat(&[normal?, anomalous?], 0)?;
        let learned = Tensor::cat(&vec![learned; pairs.len()], 0)?;
        let embeddings = replace(&embeddings, &learned)?;
        let before = |block: usize, tokens: Tensor| {
            // The first block sees the context; later ones get tokens of their own.
            let Some(deep) = block.checked_sub(2).and_then(|i| self.deep.get(i)) else {
                return Ok(tokens);
            };
            let (count, width) = deep.dims2()?;
            // The original passes them through float16, each prompt's gradient too.
            let deep = deep
                .as_tensor()
                .unsqueeze(0)?
                .broadcast_as((rows, count, width))?
                .to_dtype(DType::F16)?
                .to_dtype(DType::F32)?;
            replace(&tokens, &deep)
        };
        let encoded = normalise(&self.text.encode_embeddings(&embeddings, &ends, before)?)?;
        let [normal, anomalous] = self.contexts.each_ref().map(|var| var.dims()[1]);
        let encoded = encoded.reshape((pairs.len(), normal + anomalous, encoded.dim(1)?))?;
        let mean = |start: usize, count: usize| encoded.narrow(1, start, count)?.mean(1);
        let both = [mean(0, normal)?, mean(normal, anomalous)?];
        Ok(normalise(&Tensor::stack(&both, 1)?)?)
    }
}

/// `tokens` `[prompts, length, width]` with `new` in place of those after the first, as far as
/// there are any.
fn replace(tokens: &Tensor, new: &Tensor) -> candle_core::Result<Tensor> {
    let after = tokens.dim(1)?.saturating_sub(1);
    let count = new.dim(1)?.min(after);
    let rest = tokens.narrow(1, 1 + count, after - count)?;
    let new = new.narrow(1, 0, count)?;
    Tensor::cat(&[&tokens.narrow(1, 0, 1)?, &new, &rest], 1)
}
