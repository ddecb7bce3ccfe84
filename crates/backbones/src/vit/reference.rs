//! The vision transformer as candle's operations in float32, which the kernels are compared with.

use anomalens_kernels::{
    Dpam, Embedding, FeatureMap, FeatureRequest, Grid, ImageFeatures, LayerId, SelfAttention,
    TokenStage,
};
use anomalens_vision::Preprocessed;
use candle_core::{Device, IndexOp, Result, Tensor};
use candle_nn::ops::{sigmoid, softmax_last_dim};
use candle_nn::{LayerNorm, Linear, Module};

use super::activation::{Activation, QUICK_GELU};
use super::parts::{self, BlockParts, Layer, Shape, Weights};
use super::position;
use crate::BackboneError;

/// A network whose weights are tensors.
pub(super) struct Reference {
    shape: Shape,
    positions: Tensor,
    projection: Linear,
    /// `[width]`
    class_token: Tensor,
    norm: Option<LayerNorm>,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    /// `[width, embedding]`
    head: Option<Tensor>,
}

impl Reference {
    pub(super) fn new(
        shape: &Shape,
        weights: &dyn Weights,
    ) -> std::result::Result<Self, BackboneError> {
        let (stem, head) = (weights.stem()?, weights.head()?);
        let norm = |layer| layer_norm(layer, shape.epsilon);
        Ok(Self {
            positions: weights.positions()?,
            projection: linear(stem.projection, None)?,
            class_token: stem.class_token,
            norm: stem.norm.map(norm),
            blocks: (0..shape.blocks)
                .map(|i| Ok(Block::new(weights.block(i)?, shape)?))
                .collect::<std::result::Result<_, BackboneError>>()?,
            final_norm: norm(head.norm),
            head: head.projection,
            shape: shape.clone(),
        })
    }

    /// The features of one image.
    pub(super) fn encode(
        &self,
        image: &Preprocessed,
        request: &FeatureRequest,
    ) -> std::result::Result<ImageFeatures, BackboneError> {
        let grid = Grid {
            rows: image.height / self.shape.patch,
            columns: image.width / self.shape.patch,
        };
        let positions = position::resize(
            &self.positions,
            &self.shape,
            grid,
            self.shape.position_resize,
        )?;
        let patches = self
            .projection
            .forward(&patches(image, self.shape.patch)?)?;
        let class = self.class_token.unsqueeze(0)?;
        let tokens = (Tensor::cat(&[class, patches], 0)? + positions)?;
        let tokens = match &self.norm {
            Some(norm) => norm.forward(&tokens)?,
            None => tokens,
        };
        Ok(self.walk(tokens.unsqueeze(0)?, grid, request)?)
    }

    /// `tokens` `[1, 1 + patches, width]` through the blocks.
    fn walk(
        &self,
        mut tokens: Tensor,
        grid: Grid,
        request: &FeatureRequest,
    ) -> Result<ImageFeatures> {
        let mut local = None;
        let mut maps = vec![];
        for (number, block) in (1..).zip(&self.blocks) {
            match request.attention {
                Some(Dpam {
                    first_block,
                    attention,
                }) if number >= first_block => {
                    let stream = local.unwrap_or_else(|| tokens.clone());
                    let (own, next) = block.forward_dual(&tokens, &stream, attention)?;
                    tokens = own;
                    local = Some(next);
                }
                _ => tokens = block.forward(&tokens)?,
            }
            let layer = LayerId::Block(number);
            if request.layers.contains(&layer) {
                let tokens = self.at(request.stage, local.as_ref().unwrap_or(&tokens))?;
                let dim = tokens.dim(2)?;
                maps.push(FeatureMap {
                    layer,
                    grid,
                    dim,
                    tokens: tokens.narrow(1, 1, grid.len())?.flatten_all()?.to_vec1()?,
                    class_token: Some(tokens.i((0, 0))?.to_vec1()?),
                });
            }
        }
        let embedding = request.embedding.map(|rule| {
            let class = tokens.i((.., 0))?.contiguous()?;
            let projected = self.project(&match rule {
                Embedding::Normed => self.final_norm.forward(&class)?,
                Embedding::Direct => class,
            })?;
            projected.flatten_all()?.to_vec1()
        });
        Ok(ImageFeatures {
            maps,
            embedding: embedding.transpose()?,
            further: vec![],
        })
    }

    fn at(&self, stage: TokenStage, tokens: &Tensor) -> Result<Tensor> {
        match stage {
            TokenStage::Block => Ok(tokens.clone()),
            TokenStage::Normed => self.final_norm.forward(tokens),
            TokenStage::Projected => self.project(&self.final_norm.forward(tokens)?),
        }
    }

    fn project(&self, tokens: &Tensor) -> Result<Tensor> {
        match &self.head {
            Some(projection) => tokens.broadcast_matmul(projection),
            None => Ok(tokens.clone()),
        }
    }
}

/// The patches of an image as rows, `[patches, 3 * patch * patch]`.
fn patches(image: &Preprocessed, patch: usize) -> Result<Tensor> {
    let (rows, columns) = (image.height / patch, image.width / patch);
    Tensor::from_slice(
        &image.values,
        &[3, rows, patch, columns, patch][..],
        &Device::Cpu,
    )?
    .permute([1, 3, 0, 2, 4])?
    .reshape((rows * columns, 3 * patch * patch))
}

/// A block; factors such as LayerScale are folded into the layers that they follow.
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    output: Linear,
    heads: usize,
    norm2: LayerNorm,
    up: Linear,
    feed_forward: parts::FeedForward,
    down: Linear,
}

impl Block {
    fn new(parts: BlockParts, shape: &Shape) -> Result<Self> {
        Ok(Self {
            norm1: layer_norm(parts.norm1, shape.epsilon),
            qkv: linear(parts.qkv, None)?,
            output: linear(parts.output, parts.scale1.as_ref())?,
            heads: shape.heads,
            norm2: layer_norm(parts.norm2, shape.epsilon),
            up: linear(parts.up, None)?,
            feed_forward: shape.feed_forward,
            down: linear(parts.down, parts.scale2.as_ref())?,
        })
    }

    /// `[batch, tokens, width]` to the same shape.
    fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let heads = self.project(&self.norm1.forward(tokens)?)?;
        let tokens = (tokens + self.attention(&heads, None)?)?;
        self.feed_forward(&tokens)
    }

    /// The next state of the block's own stream and of the local one, both
    /// `[batch, tokens, width]`; the local stream attends with the own stream's projections.
    fn forward_dual(
        &self,
        tokens: &Tensor,
        local: &Tensor,
        own: SelfAttention,
    ) -> Result<(Tensor, Tensor)> {
        let heads = self.project(&self.norm1.forward(tokens)?)?;
        let local = (local + self.attention(&heads, Some(own))?)?;
        let tokens = (tokens + self.attention(&heads, None)?)?;
        Ok((self.feed_forward(&tokens)?, local))
    }

    fn feed_forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let middle = self.up.forward(&self.norm2.forward(tokens)?)?;
        let middle = match self.feed_forward {
            parts::FeedForward::Plain(Activation::Gelu) => middle.gelu_erf()?,
            parts::FeedForward::Plain(Activation::QuickGelu) => {
                (&middle * sigmoid(&(&middle * QUICK_GELU)?)?)?
            }
            parts::FeedForward::SwiGlu => {
                let halves = middle.chunk(2, 2)?;
                (halves[0].silu()? * &halves[1])?
            }
        };
        tokens + self.down.forward(&middle)?
    }

    /// Queries, keys and values `[3, batch, heads, tokens, head width]` of normalised `tokens`.
    fn project(&self, tokens: &Tensor) -> Result<Tensor> {
        let (batch, count, width) = tokens.dims3()?;
        self.qkv
            .forward(tokens)?
            .reshape((batch, count, 3, self.heads, width / self.heads))?
            .permute((2, 0, 3, 1, 4))?
            .contiguous()
    }

    /// The attention of queries to keys or of one projection to itself.
    fn attention(&self, heads: &Tensor, own: Option<SelfAttention>) -> Result<Tensor> {
        let (from, to) = match own {
            None => (0, 1),
            Some(SelfAttention::Values) => (2, 2),
            Some(SelfAttention::Keys) => (1, 1),
            Some(SelfAttention::Queries) => (0, 0),
        };
        let (from, to, value) = (heads.get(from)?, heads.get(to)?, heads.get(2)?);
        let (batch, heads, count, head_width) = value.dims4()?;
        let scale = (head_width as f64).sqrt().recip();
        let scores = (from.matmul(&to.transpose(2, 3)?.contiguous()?)? * scale)?;
        let joined = softmax_last_dim(&scores)?.matmul(&value)?;
        let joined = joined.transpose(1, 2)?;
        self.output
            .forward(&joined.reshape((batch, count, heads * head_width))?)
    }
}

/// A layer with every output multiplied by `scale` `[out]`.
fn linear(layer: Layer, scale: Option<&Tensor>) -> Result<Linear> {
    let Layer { weight, bias } = layer;
    Ok(match scale {
        Some(scale) => Linear::new(
            weight.broadcast_mul(&scale.unsqueeze(1)?)?,
            Some((bias * scale)?),
        ),
        None => Linear::new(weight, Some(bias)),
    })
}

fn layer_norm(layer: Layer, epsilon: f64) -> LayerNorm {
    LayerNorm::new(layer.weight, layer.bias, epsilon)
}
