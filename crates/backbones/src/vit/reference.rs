//! The vision transformer as candle's operations in float32, which the kernels are compared with.

use anomalens_kernels::{
    Activation, Departures, Dpam, Embedding, FeatureMap, FeatureRequest, Grid, ImageFeatures,
    LayerId, QUICK_GELU, SelfAttention, TokenStage,
};
use anomalens_vision::Preprocessed;
use candle_core::{Device, IndexOp, Result, Tensor};
use candle_nn::ops::{sigmoid, softmax_last_dim};
use candle_nn::{LayerNorm, Linear, Module};

use super::parts::{self, BlockParts, FeedForward, Layer, Shape, Weights};
use super::position;
use crate::BackboneError;

/// A network whose weights are tensors.
pub(super) struct Reference {
    shape: Shape,
    class_twice: bool,
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
        departures: Departures,
    ) -> std::result::Result<Self, BackboneError> {
        let mut shape = shape.clone();
        if let Some(activation) = departures.activation {
            shape.feed_forward = FeedForward::Plain(activation);
        }
        if let Some(exponent) = departures.norm_epsilon {
            shape.epsilon = 0.1_f64.powi(exponent.into());
        }
        let shape = &shape;
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
            class_twice: departures.class_twice,
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
        let times = 1.0 + f64::from(u8::from(self.class_twice));
        let class = (self.class_token.unsqueeze(0)? * times)?;
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
        let start = tokens.clone();
        for (number, block) in (1..).zip(&self.blocks) {
            let keys = match request.stage {
                TokenStage::Keys => Some(block.keys(&tokens)?),
                _ => None,
            };
            match request.attention {
                Some(Dpam {
                    first_block,
                    attention,
                    feed_forward,
                }) if number >= first_block => {
                    let stream = local.unwrap_or_else(|| tokens.clone());
                    let (own, next) = block.forward_dual(&tokens, &stream, attention)?;
                    tokens = own;
                    local = Some(match feed_forward {
                        true => block.feed_forward(&next)?,
                        false => next,
                    });
                }
                _ => tokens = block.forward(&tokens)?,
            }
            let layer = LayerId::Block(number);
            if request.layers.contains(&layer) {
                let tokens = match (&keys, request.stage) {
                    (Some(keys), TokenStage::Keys) => keys.clone(),
                    _ => self.at(request.stage, local.as_ref().unwrap_or(&tokens))?,
                };
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
        for side in request.windows() {
            maps.push(self.windows(&start, grid, side)?);
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

    /// The embeddings of windows of patches, each of which goes through the blocks by itself.
    fn windows(&self, tokens: &Tensor, grid: Grid, side: usize) -> Result<FeatureMap> {
        let grid_of_windows = Grid {
            rows: grid.rows + 1 - side,
            columns: grid.columns + 1 - side,
        };
        let mut embeddings = vec![];
        for place in 0..grid_of_windows.len() {
            let (y, x) = (
                place / grid_of_windows.columns,
                place % grid_of_windows.columns,
            );
            let mut window = vec![tokens.narrow(1, 0, 1)?];
            for y in y..y + side {
                window.push(tokens.narrow(1, 1 + y * grid.columns + x, side)?);
            }
            let mut window = Tensor::cat(&window, 1)?;
            for block in &self.blocks {
                window = block.forward(&window)?;
            }
            let class = window.narrow(1, 0, 1)?.contiguous()?;
            let embedding = self.at(TokenStage::Projected, &class)?;
            embeddings.extend(embedding.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(FeatureMap {
            layer: LayerId::Window(side),
            grid: grid_of_windows,
            dim: embeddings.len() / grid_of_windows.len(),
            tokens: embeddings,
            class_token: None,
        })
    }

    fn at(&self, stage: TokenStage, tokens: &Tensor) -> Result<Tensor> {
        match stage {
            TokenStage::Block | TokenStage::Keys => Ok(tokens.clone()),
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

    /// The keys of all heads side by side, after the output layer.
    fn keys(&self, tokens: &Tensor) -> Result<Tensor> {
        let keys = self.project(&self.norm1.forward(tokens)?)?.get(1)?;
        let keys = keys.transpose(1, 2)?.flatten_from(2)?;
        self.output.forward(&keys)
    }

    /// The attention of queries to keys or of one projection to itself.
    fn attention(&self, heads: &Tensor, own: Option<SelfAttention>) -> Result<Tensor> {
        let (from, to) = match own {
            None => (0, 1),
            Some(SelfAttention::Alone) => {
                let value = heads.get(2)?.transpose(1, 2)?;
                let (batch, count, heads, head_width) = value.dims4()?;
                return self
                    .output
                    .forward(&value.reshape((batch, count, heads * head_width))?);
            }
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
