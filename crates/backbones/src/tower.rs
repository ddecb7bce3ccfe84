//! The blocks of a vision transformer, and the tokens that are taken on the way through them.

use candle_core::{IndexOp, Tensor};
use candle_nn::{LayerNorm, Module};
use rayon::prelude::*;

use crate::transformer::Block;
use crate::{BackboneError, BlockFeatures, Embedding, FeatureRequest, Features, Grid, TokenStage};

/// All blocks and what follows the last one.
pub(crate) struct Tower {
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: LayerNorm,
    /// `[width, embedding width]`; none where there is no joint space.
    pub(crate) projection: Option<Tensor>,
}

impl Tower {
    /// The features of `images` `[batch, 3, height, width]`, which `embed` turns into the tokens
    /// before the first block; `encoder` and `patch` are for messages.
    pub(crate) fn encode(
        &self,
        images: &Tensor,
        patch: usize,
        encoder: &str,
        request: &FeatureRequest,
        embed: impl Fn(&Tensor, Grid) -> Result<Tensor, BackboneError> + Sync,
    ) -> Result<Features, BackboneError> {
        let grid = grid(images, patch)?;
        let first_local = request.dpam.as_ref().map(|dpam| dpam.first_block);
        if let Some(&block) = request
            .blocks
            .iter()
            .chain(&first_local)
            .find(|&&block| block == 0 || block > self.blocks.len())
        {
            return Err(BackboneError::NoSuchBlock {
                block,
                encoder: encoder.to_owned(),
                blocks: self.blocks.len(),
            });
        }
        if !images.device().is_cpu() {
            return self.walk(embed(images, grid)?, grid, request);
        }
        // On the CPU one image on each core is faster than all cores on one product.
        let batch = (0..images.dim(0)?)
            .into_par_iter()
            .map(|i| self.walk(embed(&images.narrow(0, i, 1)?, grid)?, grid, request))
            .collect::<Result<Vec<_>, _>>()?;
        Features::join(batch)
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

    fn project(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        match &self.projection {
            Some(projection) => tokens.broadcast_matmul(projection),
            None => Ok(tokens.clone()),
        }
    }
}

/// The grid of a batch of images, or why they do not fit.
fn grid(images: &Tensor, patch: usize) -> Result<Grid, BackboneError> {
    match *images.dims() {
        [_, 3, height, width]
            if height > 0 && width > 0 && height % patch == 0 && width % patch == 0 =>
        {
            Ok(Grid {
                rows: height / patch,
                columns: width / patch,
            })
        }
        _ => Err(BackboneError::InputShape {
            found: images.dims().to_vec(),
            patch,
        }),
    }
}
