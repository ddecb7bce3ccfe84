//! CLIP's text transformer: token embeddings in, one embedding in the joint space out.
//!
//! Made of operations that have a gradient, so that prompts can be learned through it; the
//! vision tower's have none.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Linear, Module, ops::softmax};

use super::layers::{LAYER_NORM_EPS, Reader};
use super::{ClipTensors, TextConfig};
use crate::Activation;
use crate::BackboneError;
use crate::vit::parts::Layer;
use anomalens_kernels::QUICK_GELU;

/// CLIP's text encoder, frozen.
pub struct ClipText {
    config: TextConfig,
    token_embedding: Tensor,
    positions: Tensor,
    blocks: Vec<TextBlock>,
    final_norm: Norm,
    /// `[width, embedding]`.
    projection: Tensor,
    /// `[context, context]`: nothing sees what comes after it.
    mask: Tensor,
    logit_scale: Option<f32>,
}

impl ClipText {
    /// Builds the encoder from its weights; the vision tower's are not touched.
    ///
    /// # Errors
    /// [`BackboneError`] that names the tensor which is missing or has another shape than the
    /// rest of the network needs.
    pub fn new(tensors: &ClipTensors, activation: Activation) -> Result<Self, BackboneError> {
        let config = TextConfig::of(tensors)?;
        let TextConfig {
            width,
            context,
            vocabulary,
            embedding,
            ..
        } = config;
        let reader = Reader {
            tensors,
            prefix: String::new(),
        };
        let mask: Vec<f32> = (0..context)
            .flat_map(|from| {
                (0..context).map(move |to| if to > from { f32::NEG_INFINITY } else { 0.0 })
            })
            .collect();
        Ok(Self {
            token_embedding: reader.tensor("token_embedding.weight", &[vocabulary, width])?,
            positions: reader.tensor("positional_embedding", &[context, width])?,
            blocks: (0..config.blocks)
                .map(|i| TextBlock::new(tensors, i, &config, activation))
                .collect::<Result<_, _>>()?,
            final_norm: Norm::new(&reader, "ln_final", width)?,
            projection: reader.tensor("text_projection", &[width, embedding])?,
            mask: Tensor::from_vec(mask, (context, context), &Device::Cpu)?,
            logit_scale: logit_scale(tensors)?,
            config,
        })
    }

    /// What the shapes of the weights say.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// The natural logarithm of what cosines with images were multiplied by in training; none in files that
    /// leave it out.
    pub fn logit_scale(&self) -> Option<f32> {
        self.logit_scale
    }

    /// The embeddings `[texts, tokens, width]` of token ids `[texts, tokens]`, without positions.
    ///
    /// # Errors
    /// Those of the tensor library, as for an id that does not exist.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor, BackboneError> {
        let (texts, tokens) = ids.dims2()?;
        Ok(self
            .token_embedding
            .index_select(&ids.flatten_all()?.to_dtype(DType::U32)?, 0)?
            .reshape((texts, tokens, self.config.width))?)
    }

    /// Embeddings `[texts, embedding]` in the joint space, not normalised, of token ids
    /// `[texts, context]`.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn encode(&self, ids: &Tensor) -> Result<Tensor, BackboneError> {
        let ends = end_positions(ids)?;
        self.encode_embeddings(&self.embed(ids)?, &ends, |_, tokens| Ok(tokens))
    }

    /// As [`encode`](Self::encode), for token embeddings `[texts, context, width]` that end at
    /// `ends`. `before` may change the tokens `[texts, length, width]` before each block, which is
    /// counted from 1; `length` is that of the longest text, since no token sees what comes after
    /// it.
    ///
    /// # Errors
    /// Those of the tensor library and of `before`.
    pub fn encode_embeddings(
        &self,
        embeddings: &Tensor,
        ends: &[usize],
        before: impl Fn(usize, Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, BackboneError> {
        let length = ends.iter().max().map_or(0, |end| end + 1);
        let mask = self.mask.narrow(0, 0, length)?.narrow(1, 0, length)?;
        let positions = self.positions.narrow(0, 0, length)?;
        let mut tokens = embeddings.narrow(1, 0, length)?.broadcast_add(&positions)?;
        for (number, block) in (1..).zip(&self.blocks) {
            tokens = block.forward(&before(number, tokens)?, &mask)?;
        }
        let tokens = self.final_norm.forward(&tokens)?;
        let rows = ends
            .iter()
            .enumerate()
            .map(|(text, &end)| tokens.narrow(0, text, 1)?.narrow(1, end, 1)?.squeeze(1))
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&rows, 0)?.matmul(&self.projection)?)
    }
}

/// A number, for which files have different shapes.
fn logit_scale(tensors: &ClipTensors) -> Result<Option<f32>, BackboneError> {
    const NAME: &str = "logit_scale";
    let Some(shape) = tensors.shape(NAME).filter(|_| tensors.contains(NAME)) else {
        return Ok(None);
    };
    let scale = tensors.tensor(NAME, &shape, &Device::Cpu)?;
    let scale = scale.to_dtype(DType::F32)?.flatten_all()?;
    Ok(scale.to_vec1::<f32>()?.first().copied())
}

/// Where each text of ids `[texts, tokens]` ends: at its largest id, the first of them.
pub fn end_positions(ids: &Tensor) -> Result<Vec<usize>, BackboneError> {
    let ids = ids.to_dtype(DType::U32)?.to_vec2::<u32>()?;
    Ok(ids
        .iter()
        .map(|ids| {
            let largest = ids.iter().max();
            ids.iter().position(|id| Some(id) == largest).unwrap_or(0)
        })
        .collect())
}

/// A layer norm with a gradient.
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(reader: &Reader, name: &str, width: usize) -> Result<Self, BackboneError> {
        let Layer { weight, bias } = reader.norm(name, width)?;
        Ok(Self { weight, bias })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        centred
            .broadcast_div(&(variance + LAYER_NORM_EPS)?.sqrt()?)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }
}

struct TextBlock {
    norm1: Norm,
    qkv: Linear,
    output: Linear,
    heads: usize,
    norm2: Norm,
    up: Linear,
    activation: Activation,
    down: Linear,
}

impl TextBlock {
    fn new(
        tensors: &ClipTensors,
        i: usize,
        config: &TextConfig,
        activation: Activation,
    ) -> Result<Self, BackboneError> {
        let width = config.width;
        let reader = Reader {
            tensors,
            prefix: format!("transformer.resblocks.{i}."),
        };
        Ok(Self {
            norm1: Norm::new(&reader, "ln_1", width)?,
            qkv: Linear::new(
                reader.tensor("attn.in_proj_weight", &[3 * width, width])?,
                Some(reader.tensor("attn.in_proj_bias", &[3 * width])?),
            ),
            output: reader.linear("attn.out_proj", width, width)?,
            heads: config.heads,
            norm2: Norm::new(&reader, "ln_2", width)?,
            up: reader.linear("mlp.c_fc", width, 4 * width)?,
            activation,
            down: reader.linear("mlp.c_proj", 4 * width, width)?,
        })
    }

    fn forward(&self, tokens: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let tokens = (tokens + self.attention(&self.norm1.forward(tokens)?, mask)?)?;
        let middle = self.up.forward(&self.norm2.forward(&tokens)?)?;
        let middle = match self.activation {
            Activation::Gelu => middle.gelu_erf()?,
            Activation::QuickGelu => (&middle * sigmoid(&(&middle * QUICK_GELU)?)?)?,
        };
        tokens + self.down.forward(&middle)?
    }

    fn attention(&self, tokens: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let (texts, count, width) = tokens.dims3()?;
        let head = width / self.heads;
        let qkv = self
            .qkv
            .forward(tokens)?
            .reshape((texts, count, 3, self.heads, head))?
            .permute((2, 0, 3, 1, 4))?
            .contiguous()?;
        let query = (qkv.get(0)? * (head as f64).sqrt().recip())?;
        let scores = query.matmul(&qkv.get(1)?.transpose(2, 3)?.contiguous()?)?;
        let weights = softmax(&scores.broadcast_add(mask)?, D::Minus1)?;
        let joined = weights.matmul(&qkv.get(2)?.contiguous()?)?;
        let joined = joined.transpose(1, 2)?.reshape((texts, count, width))?;
        self.output.forward(&joined)
    }
}

/// The logistic function from operations that have a gradient.
fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}
