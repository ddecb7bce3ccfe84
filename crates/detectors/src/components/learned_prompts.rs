//! Prompts some of whose tokens are learned, through CLIP's frozen text encoder.

use anomalens_backbones::clip::tokenizer::{Tokenizer, TooLong};
use anomalens_backbones::clip::{ClipText, end_positions};
use candle_core::{D, Device, Tensor, Var};
use candle_nn::ops::log_softmax;
use rand_mt::Mt;

use crate::DetectorError;
use crate::training::random::normal;

/// Deviation of all initial values.
const INITIAL_DEVIATION: f64 = 0.02;

/// The purpose of the generator of initial values.
pub(crate) const INITIAL_VALUES: u32 = u32::MAX;

/// Initial values of learned tokens.
pub(crate) fn initial(shape: &[usize], random: &mut Mt) -> candle_core::Result<Var> {
    let values = normal(shape.iter().product(), INITIAL_DEVIATION, random);
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Where the learned tokens will stand at the start of a prompt.
pub(crate) fn placeholder(tokens: usize) -> String {
    "X ".repeat(tokens)
}

/// What is not learned of some prompts.
pub(crate) struct Frozen {
    /// Token ids `[prompts, context]`.
    pub(crate) ids: Tensor,
    /// `[prompts, context, width]`.
    pub(crate) embeddings: Tensor,
    /// Where each prompt ends, at which its embedding is read.
    pub(crate) ends: Vec<usize>,
}

impl Frozen {
    /// Of these prompts; those with places for learned tokens begin with a [`placeholder`].
    ///
    /// # Errors
    /// That of a prompt that is too long.
    pub(crate) fn new(
        text: &ClipText,
        prompts: impl IntoIterator<Item = String>,
    ) -> Result<Self, DetectorError> {
        let (tokenizer, context) = (Tokenizer::new(), text.config().context);
        let ids = prompts
            .into_iter()
            .map(|prompt| tokenizer.tokenize(&prompt, context, TooLong::Error))
            .collect::<Result<Vec<_>, _>>()?;
        let shape = (ids.len(), context);
        let ids = Tensor::from_vec(ids.concat(), shape, &Device::Cpu)?;
        Ok(Self {
            embeddings: text.embed(&ids)?,
            ends: end_positions(&ids)?,
            ids,
        })
    }
}

/// Vectors along the last axis, of length 1.
pub(crate) fn normalise(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// The mean over the batch, of logits `[batch, labels]` and the right label of each.
pub(crate) fn cross_entropy(logits: &Tensor, truth: &[usize]) -> candle_core::Result<Tensor> {
    let labels = logits.dim(D::Minus1)?;
    let truth = truth.iter().flat_map(|&truth| {
        let of = move |label: usize| f32::from(u8::from(label == truth));
        (0..labels).map(of)
    });
    let truth: Vec<f32> = truth.collect();
    let truth = Tensor::from_vec(truth, logits.shape(), logits.device())?;
    (log_softmax(logits, D::Minus1)? * truth)?
        .sum(D::Minus1)?
        .mean_all()?
        .neg()
}
