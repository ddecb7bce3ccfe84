//! The text decoder (paper, section 3.1): BERT as a generator (Rothe et al., "Leveraging Pre-trained Checkpoints
//! for Sequence Generation Tasks", TACL 2020), whose blocks also attend to the embedding of an image.
//!
//! That embedding is the only thing that they attend to, so that its weight is always 1: what a block gets
//! from it is the same for every token.

use std::path::Path;

use anomalens_backbones::checkpoint::{Number, Outer, write_torch_beside};
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::ops::log_softmax;

use super::{NAME, refuse};
use crate::DetectorError;
use crate::training::random::{generator, normal};
use crate::training::{Parameters, attention};

/// Under which key the original keeps its state.
const KEY: &str = "net";

/// What every name starts with.
const PREFIX: &str = "bert.";

/// Epsilon of every layer norm.
const EPSILON: f64 = 1e-12;

/// Deviation of random values, as in the library that the original uses.
const DEVIATION: f64 = 0.02;

/// Names without this are those of a network that has learned to write, but not of images.
const OF_IMAGES: &str = "crossattention";

/// Makes a tensor of this name and shape.
type Make<'a> = dyn FnMut(&str, &[usize]) -> Result<Tensor, DetectorError> + 'a;

/// Where a network keeps its tensors.
type Take<'a> = &'a dyn Fn(&str) -> Option<Tensor>;

/// The sizes of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) layers: usize,
    /// Length of a token.
    pub(super) width: usize,
    /// Of the feed-forward layers' middle.
    pub(super) middle: usize,
    pub(super) vocabulary: usize,
    pub(super) positions: usize,
    pub(super) heads: usize,
}

/// Which positions tokens are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    /// Their own, as in training.
    Own,
    /// The first one for all: when it generates, the original counts images in place of tokens.
    First,
}

impl Positions {
    /// How many there are for so many tokens; one is that of all.
    fn of(self, tokens: usize) -> usize {
        match self {
            Self::Own => tokens,
            Self::First => 1,
        }
    }
}

/// What is generated for an image.
pub(super) struct Generated {
    /// From the first token on.
    pub(super) tokens: Vec<usize>,
    /// The logits of each step.
    pub(super) logits: Vec<Vec<f32>>,
}

/// The decoder.
pub(super) struct Decoder {
    pub(super) sizes: Sizes,
    parameters: Parameters,
}

/// Names of parameters: embeddings of words and of positions, and what is added to the logits of words.
const WORDS: &str = "bert.embeddings.word_embeddings.weight";
const POSITIONS: &str = "bert.embeddings.position_embeddings.weight";
const BIAS: &str = "lm_head.bias";

impl Sizes {
    /// Every parameter's name (the original's) and shape.
    fn shapes(self) -> Vec<(String, Vec<usize>)> {
        let Self { width, middle, .. } = self;
        let mut shapes = vec![
            (WORDS.to_owned(), vec![self.vocabulary, width]),
            (POSITIONS.to_owned(), vec![self.positions, width]),
        ];
        let mut add = |name: String, shape: &[usize]| {
            // Norms have as many weights as shifts.
            let to = shape.first().copied().unwrap_or(0);
            shapes.push((format!("{name}.weight"), shape.to_vec()));
            shapes.push((format!("{name}.bias"), vec![to]));
        };
        add(format!("{PREFIX}embeddings.LayerNorm"), &[width]);
        for layer in 0..self.layers {
            let name = |part: &str| format!("{PREFIX}encoder.layer.{layer}.{part}");
            for attention in ["attention", OF_IMAGES] {
                for part in ["self.query", "self.key", "self.value", "output.dense"] {
                    add(name(&format!("{attention}.{part}")), &[width, width]);
                }
                add(name(&format!("{attention}.output.LayerNorm")), &[width]);
            }
            add(name("intermediate.dense"), &[middle, width]);
            add(name("output.dense"), &[width, middle]);
            add(name("output.LayerNorm"), &[width]);
        }
        shapes.push((BIAS.to_owned(), vec![self.vocabulary]));
        shapes
    }
}

impl Decoder {
    fn new(sizes: Sizes, make: &mut Make<'_>) -> Result<Self, DetectorError> {
        let Sizes { width, heads, .. } = sizes;
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(refuse(format!(
                "`heads`, {heads}, must divide the decoder's width, {width}"
            )));
        }
        let mut parameters = Parameters::default();
        for (name, shape) in sizes.shapes() {
            let value = make(&name, &shape)?;
            parameters.insert(name, &value)?;
        }
        Ok(Self { sizes, parameters })
    }

    /// A random one.
    pub(super) fn random(sizes: Sizes, seed: u32) -> Result<Self, DetectorError> {
        let mut random = generator(seed, 0);
        Self::new(sizes, &mut |name, shape| initial(name, shape, &mut random))
    }

    /// The one whose tensors `take` gives by the original's names. With a `seed`, what looks at images may
    /// be missing and is random then: that is how the original's training starts.
    ///
    /// # Errors
    /// [`DetectorError::Settings`] with the name of a tensor that is missing or has another shape.
    pub(super) fn take(
        take: Take<'_>,
        heads: Option<usize>,
        seed: Option<u32>,
    ) -> Result<Self, DetectorError> {
        // A network without a head for words has no prefix.
        let find = |name: &str| take(name).or_else(|| take(name.strip_prefix(PREFIX)?));
        let rows = |name: String| {
            let found = find(&name).map(|tensor| tensor.dims().to_vec());
            match found.as_deref() {
                Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok((rows, columns)),
                _ => Err(DetectorError::tensor(NAME, &name)),
            }
        };
        let (vocabulary, width) = rows(format!("{PREFIX}embeddings.word_embeddings.weight"))?;
        let (positions, _) = rows(format!("{PREFIX}embeddings.position_embeddings.weight"))?;
        let middle = |layer| {
            rows(format!(
                "{PREFIX}encoder.layer.{layer}.intermediate.dense.weight"
            ))
        };
        let sizes = Sizes {
            layers: (0..).take_while(|&layer| middle(layer).is_ok()).count(),
            middle: middle(0)?.0,
            width,
            vocabulary,
            positions,
            heads: heads.unwrap_or_else(|| heads_of(width)),
        };
        let mut random = generator(seed.unwrap_or(0), 0);
        Self::new(sizes, &mut |name, shape| {
            let may_be_missing = name.contains(OF_IMAGES) || name.starts_with("lm_head");
            match find(name).filter(|tensor| tensor.dims() == shape) {
                Some(tensor) => Ok(tensor),
                None if seed.is_some() && may_be_missing && find(name).is_none() => {
                    initial(name, shape, &mut random)
                }
                None => Err(DetectorError::tensor(NAME, name)),
            }
        })
    }

    /// The parameters by the original's names.
    pub(super) fn parameters(&self) -> Vec<(String, Var)> {
        self.parameters.all()
    }

    /// Writes a checkpoint of the original after so many epochs.
    ///
    /// # Errors
    /// That of the file.
    pub(super) fn write(&self, path: &Path, epochs: usize, loss: f64) -> Result<(), DetectorError> {
        let named = self.parameters().into_iter();
        let mut state: Vec<(String, Tensor)> = named
            .map(|(name, var)| (name, var.as_tensor().clone()))
            .collect();
        let positions = Tensor::arange(0_i64, self.sizes.positions as i64, &Device::Cpu)?;
        let name = format!("{PREFIX}embeddings.position_ids");
        state.insert(0, (name, positions.unsqueeze(0)?));
        // The last layer is the embedding of words, under a second name.
        for (second, name) in [("weight", WORDS), ("bias", BIAS)] {
            let parameter = self.parameters.get(name)?.clone();
            state.push((format!("lm_head.decoder.{second}"), parameter));
        }
        let outer = Outer {
            key: KEY,
            beside: &[
                ("epoch", Number::Whole(epochs)),
                ("validation loss", Number::Real(loss)),
            ],
        };
        Ok(write_torch_beside(path, Some(outer), &state)?)
    }

    /// Logits `[texts, tokens, vocabulary]` of what follows each token of `ids` `[texts, tokens]`, for images
    /// with `embeddings` `[texts, width]`, not of length 1; each is repeated until it is as wide as a token.
    pub(super) fn logits(
        &self,
        ids: &Tensor,
        embeddings: &Tensor,
        positions: Positions,
    ) -> candle_core::Result<Tensor> {
        let (texts, tokens) = ids.dims2()?;
        let Sizes { width, .. } = self.sizes;
        let image = embeddings.repeat((1, width / embeddings.dim(1)?.max(1)))?;
        let words = self.parameters.get(WORDS)?;
        let positions = self
            .parameters
            .get(POSITIONS)?
            .narrow(0, 0, positions.of(tokens))?;
        let state = words.index_select(&ids.flatten_all()?, 0)?;
        let state = state.reshape((texts, tokens, width))?;
        let state = state.broadcast_add(&positions)?;
        let norm = format!("{PREFIX}embeddings.LayerNorm");
        let mut state = self.parameters.norm(&norm, &state, EPSILON)?;
        let mask = causal(tokens)?;
        for layer in 0..self.sizes.layers {
            state = self.layer(layer, &state, &image, &mask)?;
        }
        let flat = state.reshape((texts * tokens, width))?;
        let logits = flat.matmul(&words.t()?)?;
        let logits = logits.broadcast_add(self.parameters.get(BIAS)?)?;
        logits.reshape((texts, tokens, self.sizes.vocabulary))
    }

    /// A block: attention to earlier tokens, what the image adds, feed-forward layers; a norm after each.
    fn layer(
        &self,
        layer: usize,
        state: &Tensor,
        image: &Tensor,
        mask: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let name = |part: &str| format!("{PREFIX}encoder.layer.{layer}.{part}");
        let linear = |part: &str, x: &Tensor| self.parameters.linear(&name(part), x);
        let norm = |part: &str, x: &Tensor| self.parameters.norm(&name(part), x, EPSILON);
        let [query, key, value] = [
            linear("attention.self.query", state)?,
            linear("attention.self.key", state)?,
            linear("attention.self.value", state)?,
        ];
        let attended = attention(&query, &key, &value, self.sizes.heads, Some(mask))?;
        let attended = linear("attention.output.dense", &attended)?;
        let state = norm("attention.output.LayerNorm", &(state + attended)?)?;
        let seen = linear("crossattention.self.value", image)?;
        let seen = linear("crossattention.output.dense", &seen)?.unsqueeze(1)?;
        let state = norm(
            "crossattention.output.LayerNorm",
            &state.broadcast_add(&seen)?,
        )?;
        let middle = linear("intermediate.dense", &state)?.gelu_erf()?;
        let further = linear("output.dense", &middle)?;
        norm("output.LayerNorm", &(state + further)?)
    }

    /// Always the most probable token, `steps` times after `start`, for an image with `embedding`
    /// `[1, width]`; it does not stop at the end of a sentence.
    pub(super) fn generate(
        &self,
        embedding: &Tensor,
        start: usize,
        steps: usize,
    ) -> candle_core::Result<Generated> {
        let mut generated = Generated {
            tokens: vec![start],
            logits: vec![],
        };
        for _ in 0..steps {
            let ids: Vec<u32> = generated.tokens.iter().map(|&token| token as u32).collect();
            let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
            let logits = self.logits(&ids, embedding, Positions::First)?;
            let last = logits.squeeze(0)?.get(generated.tokens.len() - 1)?;
            let last: Vec<f32> = last.to_vec1()?;
            generated
                .tokens
                .push(best(&last, 1).first().copied().unwrap_or(start));
            generated.logits.push(last);
        }
        Ok(generated)
    }

    /// The mean over all tokens but the first ones of the negative logarithm of their probability. `captions`
    /// are padded to the same length by nothing: `lengths` says how long each is.
    pub(super) fn loss(
        &self,
        captions: &Tensor,
        lengths: &[usize],
        embeddings: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let (texts, tokens) = captions.dims2()?;
        let following = tokens.saturating_sub(1);
        let logits = self.logits(captions, embeddings, Positions::Own)?;
        let logs = log_softmax(&logits.narrow(1, 0, following)?, D::Minus1)?;
        let targets = captions.narrow(1, 1, following)?.contiguous()?;
        let chosen = logs.gather(&targets.unsqueeze(2)?, 2)?.squeeze(2)?;
        let counts = lengths.iter().flat_map(|&length| {
            (1..tokens).map(move |token| if token < length { 1.0_f32 } else { 0.0 })
        });
        let counts: Vec<f32> = counts.collect();
        let count = counts.iter().sum::<f32>().max(1.0);
        let counts = Tensor::from_vec(counts, (texts, following), &Device::Cpu)?;
        (chosen * counts)?.sum_all()? / -f64::from(count)
    }
}

/// Heads of a decoder of this width.
pub(super) fn heads_of(width: usize) -> usize {
    (width / 64).max(1)
}

/// The `count` largest of `logits`, the largest first and of equal ones the earlier.
pub(super) fn best(logits: &[f32], count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..logits.len()).collect();
    all.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    all.truncate(count);
    all
}

/// The value that `name` starts from.
fn initial(name: &str, shape: &[usize], random: &mut rand_mt::Mt) -> Result<Tensor, DetectorError> {
    let tensor = match (name.ends_with("bias"), name.contains("LayerNorm")) {
        (true, _) => Tensor::zeros(shape, DType::F32, &Device::Cpu)?,
        (false, true) => Tensor::ones(shape, DType::F32, &Device::Cpu)?,
        (false, false) => {
            let values = normal(shape.iter().product(), DEVIATION, random);
            Tensor::from_vec(values, shape, &Device::Cpu)?
        }
    };
    Ok(tensor)
}

/// `[tokens, tokens]`: nothing sees what comes after it.
fn causal(tokens: usize) -> candle_core::Result<Tensor> {
    let rows = (0..tokens).flat_map(|from| {
        (0..tokens).map(move |to| if to > from { f32::NEG_INFINITY } else { 0.0 })
    });
    Tensor::from_vec(rows.collect(), (tokens, tokens), &Device::Cpu)
}
