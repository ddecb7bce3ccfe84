//! The network on candle: for devices other than the CPU, and as what the kernels are tested
//! against.

use candle_core::{Device, IndexOp, Tensor};
use candle_nn::{LayerNorm, Linear, Module};

use super::block::{Block, layer_norm, linear};
use super::parts::{Shape, Weights};
use crate::{BackboneError, BlockFeatures, Embedding, FeatureRequest, Features, Grid, TokenStage};

/// A network whose weights are tensors.
pub(super) struct CandleNetwork {
    device: Device,
    patch: usize,
    projection: Linear,
    /// `[width]`
    class_token: Tensor,
    norm: Option<LayerNorm>,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    /// `[width, embedding]`
    head: Option<Tensor>,
}

impl CandleNetwork {
    pub(super) fn new(
        shape: &Shape,
        weights: &dyn Weights,
        device: &Device,
    ) -> Result<Self, BackboneError> {
        let stem = weights.stem(device)?;
        let head = weights.head(device)?;
        let norm = |layer| layer_norm(layer, shape.epsilon);
        Ok(Self {
            device: device.clone(),
            patch: shape.patch,
            projection: linear(stem.projection, None)?,
            class_token: stem.class_token,
            norm: stem.norm.map(norm),
            blocks: (0..shape.blocks)
                .map(|i| Ok(Block::new(weights.block(i, device)?, shape)?))
                .collect::<Result<_, BackboneError>>()?,
            final_norm: norm(head.norm),
            head: head.projection,
        })
    }

    /// The features of `images` `[batch, 3, height, width]`, whose grid has `positions`
    /// `[1 + patches, width]`.
    pub(super) fn encode(
        &self,
        images: &Tensor,
        grid: Grid,
        request: &FeatureRequest,
        positions: &Tensor,
    ) -> Result<Features, BackboneError> {
        let images = images.to_device(&self.device)?;
        let patches = self.projection.forward(&patches(&images, self.patch)?)?;
        let (batch, _, width) = patches.dims3()?;
        let class = self.class_token.expand((batch, 1, width))?;
        let tokens = Tensor::cat(&[class, patches], 1)?.broadcast_add(positions)?;
        self.walk(self.normed(self.norm.as_ref(), tokens)?, grid, request)
    }

    /// `tokens` `[batch, 1 + patches, width]` through the blocks.
    fn walk(
        &self,
        mut tokens: Tensor,
        grid: Grid,
        request: &FeatureRequest,
    ) -> Result<Features, BackboneError> {
        let last = match request.embedding {
            Some(_) => self.blocks.len(),
            None => request.blocks.iter().copied().max().unwrap_or(0),
        };
        let mut local = None;
        let mut wanted = Vec::with_capacity(request.blocks.len());
        for (number, block) in (1..=last).zip(&self.blocks) {
            match request.dpam {
                Some(dpam) if number >= dpam.first_block => {
                    let stream = local.unwrap_or_else(|| tokens.clone());
                    let (own, next) = block.forward_dual(&tokens, &stream, dpam.attention)?;
                    tokens = own;
                    local = Some(next);
                }
                _ => tokens = block.forward(&tokens)?,
            }
            if request.blocks.contains(&number) {
                let tokens = self.at(request.stage, local.as_ref().unwrap_or(&tokens))?;
                wanted.push(BlockFeatures {
                    block: number,
                    class_token: tokens.i((.., 0))?,
                    patch_tokens: tokens.narrow(1, 1, grid.len())?,
                });
            }
        }
        let embedding = request.embedding.map(|rule| {
            let class = tokens.i((.., 0))?.contiguous()?;
            self.project(&match rule {
                Embedding::Normed => self.final_norm.forward(&class)?,
                Embedding::Direct => class,
            })
        });
        Ok(Features {
            grid,
            blocks: wanted,
            embedding: embedding.transpose()?,
        })
    }

    fn at(&self, stage: TokenStage, tokens: &Tensor) -> candle_core::Result<Tensor> {
        match stage {
            TokenStage::Block => Ok(tokens.clone()),
            TokenStage::Normed => self.final_norm.forward(tokens),
            TokenStage::Projected => self.project(&self.final_norm.forward(tokens)?),
        }
    }

    fn normed(&self, norm: Option<&LayerNorm>, tokens: Tensor) -> candle_core::Result<Tensor> {
        norm.map_or_else(|| Ok(tokens.clone()), |norm| norm.forward(&tokens))
    }

    fn project(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        match &self.head {
            Some(projection) => tokens.broadcast_matmul(projection),
            None => Ok(tokens.clone()),
        }
    }
}

/// The patches of `images` `[batch, 3, height, width]` as rows, `[batch, patches, 3 * patch *
/// patch]`.
fn patches(images: &Tensor, patch: usize) -> candle_core::Result<Tensor> {
    let (batch, channels, height, width) = images.dims4()?;
    let (rows, columns) = (height / patch, width / patch);
    images
        .reshape(&[batch, channels, rows, patch, columns, patch][..])?
        .permute([0, 2, 4, 1, 3, 5])?
        .reshape((batch, rows * columns, channels * patch * patch))
}
