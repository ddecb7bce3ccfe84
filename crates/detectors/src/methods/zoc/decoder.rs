//! The text decoder (paper, section 3.1): BERT as a generator (Rothe et al., "Leveraging Pre-trained Checkpoints
//! for Sequence Generation Tasks", TACL 2020), whose blocks also attend to the embedding of an image.
//!
//! That embedding is the only thing that they attend to, so that its weight is always 1: what a block gets
//! from it is the same for every token.

use std::path::Path;

use anomalens_backbones::checkpoint::{Number, Outer, write_torch_beside};
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::ops::{log_softmax, softmax};

use super::{NAME, refuse};
use crate::DetectorError;
use crate::training::random::{generator, normal};

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
    words: Var,
    positions: Var,
    norm: Norm,
    blocks: Vec<Block>,
    bias: Var,
    named: Vec<(String, Var)>,
}

struct Norm {
    weight: Var,
    bias: Var,
}

struct Linear {
    weight: Var,
    bias: Var,
}

struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    norm: Norm,
    /// What the image adds: value and output layer.
    image: [Linear; 2],
    image_norm: Norm,
    up: Linear,
    down: Linear,
    last_norm: Norm,
}

/// Makes the parts of a decoder from named tensors.
struct Builder<'a> {
    make: &'a mut dyn FnMut(&str, &[usize]) -> Result<Tensor, DetectorError>,
    named: Vec<(String, Var)>,
}

impl Builder<'_> {
    fn var(&mut self, name: String, shape: &[usize]) -> Result<Var, DetectorError> {
        let var = Var::from_tensor(&(self.make)(&name, shape)?)?;
        self.named.push((name, var.clone()));
        Ok(var)
    }

    fn linear(&mut self, name: String, from: usize, to: usize) -> Result<Linear, DetectorError> {
        Ok(Linear {
            weight: self.var(format!("{name}.weight"), &[to, from])?,
            bias: self.var(format!("{name}.bias"), &[to])?,
        })
    }

    fn norm(&mut self, name: String, width: usize) -> Result<Norm, DetectorError> {
        Ok(Norm {
            weight: self.var(format!("{name}.LayerNorm.weight"), &[width])?,
            bias: self.var(format!("{name}.LayerNorm.bias"), &[width])?,
        })
    }

    fn block(&mut self, number: usize, sizes: Sizes) -> Result<Block, DetectorError> {
        let Sizes { width, middle, .. } = sizes;
        let name = |part: &str| format!("{PREFIX}encoder.layer.{number}.{part}");
        let mut same = |part: &str| self.linear(name(part), width, width);
        let [query, key, value, attended] = [
            same("attention.self.query")?,
            same("attention.self.key")?,
            same("attention.self.value")?,
            same("attention.output.dense")?,
        ];
        // The weight of the only thing that is attended to is 1, whatever these are; files have them.
        same("crossattention.self.query")?;
        same("crossattention.self.key")?;
        let image = [
            same("crossattention.self.value")?,
            same("crossattention.output.dense")?,
        ];
        Ok(Block {
            query,
            key,
            value,
            attended,
            image,
            norm: self.norm(name("attention.output"), width)?,
            image_norm: self.norm(name("crossattention.output"), width)?,
            up: self.linear(name("intermediate.dense"), width, middle)?,
            down: self.linear(name("output.dense"), middle, width)?,
            last_norm: self.norm(name("output"), width)?,
        })
    }
}

impl Decoder {
    fn new(
        sizes: Sizes,
        make: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor, DetectorError>,
    ) -> Result<Self, DetectorError> {
        let Sizes {
            layers,
            width,
            vocabulary,
            positions,
            heads,
            ..
        } = sizes;
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(refuse(format!(
                "`heads`, {heads}, must divide the decoder's width, {width}"
            )));
        }
        let named = vec![];
        let mut builder = Builder { make, named };
        let part = |part: &str| format!("{PREFIX}embeddings.{part}");
        let words = builder.var(part("word_embeddings.weight"), &[vocabulary, width])?;
        let places = builder.var(part("position_embeddings.weight"), &[positions, width])?;
        let norm = builder.norm(format!("{PREFIX}embeddings"), width)?;
        let blocks = (0..layers).map(|number| builder.block(number, sizes));
        let blocks = blocks.collect::<Result<_, _>>()?;
        Ok(Self {
            sizes,
            words,
            positions: places,
            norm,
            blocks,
            bias: builder.var("lm_head.bias".to_owned(), &[vocabulary])?,
            named: builder.named,
        })
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
    pub(super) fn parameters(&self) -> &[(String, Var)] {
        &self.named
    }

    /// Writes a checkpoint of the original after so many epochs.
    ///
    /// # Errors
    /// That of the file.
    pub(super) fn write(&self, path: &Path, epochs: usize, loss: f64) -> Result<(), DetectorError> {
        let named = self.named.iter();
        let mut state: Vec<(String, Tensor)> = named
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
            .collect();
        let positions = Tensor::arange(0_i64, self.sizes.positions as i64, &Device::Cpu)?;
        let name = format!("{PREFIX}embeddings.position_ids");
        state.insert(0, (name, positions.unsqueeze(0)?));
        // The last layer is the embedding of words, under a second name.
        for (name, var) in [("weight", &self.words), ("bias", &self.bias)] {
            state.push((format!("lm_head.decoder.{name}"), var.as_tensor().clone()));
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
        let Sizes { width, heads, .. } = self.sizes;
        let image = embeddings.repeat((1, width / embeddings.dim(1)?.max(1)))?;
        let words = self.words.index_select(&ids.flatten_all()?, 0)?;
        let words = words.reshape((texts, tokens, width))?;
        let places = match positions {
            Positions::Own => self.positions.narrow(0, 0, tokens)?,
            Positions::First => self.positions.narrow(0, 0, 1)?,
        };
        let mut state = self.norm.forward(&words.broadcast_add(&places)?)?;
        let mask = causal(tokens)?;
        for block in &self.blocks {
            state = block.forward(&state, &image, &mask, heads)?;
        }
        let flat = state.reshape((texts * tokens, width))?;
        let logits = flat.matmul(&self.words.t()?)?.broadcast_add(&self.bias)?;
        logits.reshape((texts, tokens, self.sizes.vocabulary))
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

impl Norm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        centred
            .broadcast_div(&(variance + EPSILON)?.sqrt()?)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }
}

impl Linear {
    /// Of the last axis.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let flat = x.flatten_to(x.rank().saturating_sub(2))?;
        let result = flat.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?;
        if let Some(last) = shape.last_mut() {
            *last = self.bias.dim(0)?;
        }
        result.reshape(shape)
    }
}

impl Block {
    fn forward(
        &self,
        state: &Tensor,
        image: &Tensor,
        mask: &Tensor,
        heads: usize,
    ) -> candle_core::Result<Tensor> {
        let attended = self
            .attended
            .forward(&self.attention(state, mask, heads)?)?;
        let state = self.norm.forward(&(state + attended)?)?;
        let [value, output] = &self.image;
        let seen = output.forward(&value.forward(image)?)?.unsqueeze(1)?;
        let state = self.image_norm.forward(&state.broadcast_add(&seen)?)?;
        let middle = self.up.forward(&state)?.gelu_erf()?;
        self.last_norm
            .forward(&(&state + self.down.forward(&middle)?)?)
    }

    fn attention(
        &self,
        state: &Tensor,
        mask: &Tensor,
        heads: usize,
    ) -> candle_core::Result<Tensor> {
        let (texts, tokens, width) = state.dims3()?;
        let head = width / heads;
        let split = |linear: &Linear| {
            let rows = linear
                .forward(state)?
                .reshape((texts, tokens, heads, head))?;
            rows.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (split(&self.query)?, split(&self.key)?, split(&self.value)?);
        let query = (query * (head as f64).sqrt().recip())?;
        let scores = query.matmul(&key.transpose(2, 3)?.contiguous()?)?;
        let weights = softmax(&scores.broadcast_add(mask)?, D::Minus1)?;
        weights
            .matmul(&value)?
            .transpose(1, 2)?
            .reshape((texts, tokens, width))
    }
}
