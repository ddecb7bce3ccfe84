//! What AnomalyCLIP learns (paper, section 3.2): the tokens of a normal and an anomalous prompt,
//! with further tokens put into the blocks of the text encoder; or, without text encoder, the two
//! embeddings themselves.

use anomalens_backbones::clip::tokenizer::{Tokenizer, TooLong};
use anomalens_backbones::clip::{ClipText, end_positions};
use candle_core::{D, DType, Device, Tensor, Var};

use super::config::{Config, PromptKind};
use crate::DetectorError;
use crate::training::random::{generator, normal};

/// Deviation of all initial values.
const INITIAL_DEVIATION: f64 = 0.02;

/// The purpose of the generator of initial values.
const INITIAL_VALUES: u32 = u32::MAX;

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
        config: &Config,
        text: Option<ClipText>,
        width: usize,
        seed: u32,
    ) -> Result<Self, DetectorError> {
        let mut random = generator(seed, INITIAL_VALUES);
        let mut initial = |shape: &[usize]| {
            let values = normal(shape.iter().product(), INITIAL_DEVIATION, &mut random);
            Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
        };
        match (config.prompt, text) {
            (PromptKind::Embedding, _) => Ok(Self::Embedding(initial(&[2, width])?)),
            (PromptKind::Text, Some(text)) => Ok(Self::Text(Box::new(TextPrompts::new(
                config, text, initial,
            )?))),
            (PromptKind::Text, None) => Err(DetectorError::Config {
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

    /// `[2, width]`, normal and anomalous, each of length 1; with a gradient.
    pub(super) fn features(&self) -> Result<Tensor, DetectorError> {
        let features = match self {
            Self::Embedding(embeddings) => embeddings.as_tensor().clone(),
            Self::Text(prompts) => prompts.encode()?,
        };
        Ok(normalise(&features)?)
    }
}

/// Vectors along the last axis, of length 1.
pub(super) fn normalise(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// Two prompts for CLIP's text encoder.
pub(super) struct TextPrompts {
    text: ClipText,
    /// `[1, 1, length, width]`, of the normal and of the anomalous prompt.
    pub(super) contexts: [Var; 2],
    /// `[tokens, width]` before each block from the second on; the same for both prompts.
    pub(super) deep: Vec<Var>,
    /// Token ids `[2, context]`, the learned ones being those of `x`.
    pub(super) ids: Tensor,
    /// `[2, context, width]`.
    pub(super) embeddings: Tensor,
    ends: Vec<usize>,
}

impl TextPrompts {
    fn new(
        config: &Config,
        text: ClipText,
        mut initial: impl FnMut(&[usize]) -> candle_core::Result<Var>,
    ) -> Result<Self, DetectorError> {
        let (width, context) = (text.config().width, text.config().context);
        let placeholder = "X ".repeat(config.context_length);
        let tokenizer = Tokenizer::new();
        let ids = ["", &format!("{} ", config.state_word)]
            .map(|state| format!("{placeholder}{state}{}.", config.class_word))
            .iter()
            .map(|prompt| tokenizer.tokenize(prompt, context, TooLong::Error))
            .collect::<Result<Vec<_>, _>>()?
            .concat();
        let ids = Tensor::from_vec(ids, (2, context), text.device())?;
        let mut variable = |shape: &[usize]| initial(shape);
        let contexts = [
            variable(&[1, 1, config.context_length, width])?,
            variable(&[1, 1, config.context_length, width])?,
        ];
        let deep = (1..config.prompt_depth)
            .map(|_| variable(&[config.deep_tokens, width]))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self {
            contexts,
            deep,
            embeddings: text.embed(&ids)?,
            ends: end_positions(&ids)?,
            ids,
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

    /// `[2, embedding]`, not normalised.
    fn encode(&self) -> Result<Tensor, DetectorError> {
        let (_, context, width) = self.embeddings.dims3()?;
        let length = self.contexts[0].dim(2)?;
        let rows = self
            .contexts
            .each_ref()
            .map(|var| var.as_tensor().reshape((1, length, width)));
        let [normal, anomalous] = rows;
        let learned = Tensor::cat(&[normal?, anomalous?], 0)?;
        let start = self.embeddings.narrow(1, 0, 1)?;
        let rest = self
            .embeddings
            .narrow(1, 1 + length, context - 1 - length)?;
        let embeddings = Tensor::cat(&[start, learned, rest], 1)?;
        let before = |block: usize, tokens: Tensor| {
            // The first block sees the context; later ones get tokens of their own.
            let Some(deep) = block.checked_sub(2).and_then(|i| self.deep.get(i)) else {
                return Ok(tokens);
            };
            let count = deep.dim(0)?;
            // The original passes them through float16, each prompt's gradient too.
            let deep = deep
                .as_tensor()
                .unsqueeze(0)?
                .broadcast_as((2, count, width))?
                .to_dtype(DType::F16)?
                .to_dtype(DType::F32)?;
            let start = tokens.narrow(1, 0, 1)?;
            let rest = tokens.narrow(1, 1 + count, context - 1 - count)?;
            Tensor::cat(&[start, deep, rest], 1)
        };
        Ok(self
            .text
            .encode_embeddings(&embeddings, &self.ends, before)?)
    }
}
