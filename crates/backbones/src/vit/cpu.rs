//! The network on the kernels of this processor, packed part by part.

use std::sync::{Arc, Mutex, PoisonError};

use anomalens_kernels::{
    AttentionKind, BlockWeights, Calibration, Engine, Epilogue, HeadWeights, Images, LinearWeights,
    LocalStream, NormWeights, Precision, StemWeights, Vit, VitConfig, VitEmbedding, VitRequest,
    VitStage,
};
use candle_core::{Device, Storage, Tensor};

use super::Activation;
use super::parts::{FeedForward, Layer, Shape, Weights};
use super::{leaves, position};
use crate::{
    BackboneError, BlockFeatures, Embedding, FeatureRequest, Features, Grid, SelfAttention,
    TokenStage,
};

/// What the weights do not tell the kernels.
pub(super) fn config(shape: &Shape) -> VitConfig {
    VitConfig {
        heads: shape.heads,
        patch: shape.patch,
        epsilon: shape.epsilon as f32,
        activation: match shape.feed_forward {
            FeedForward::Plain(Activation::Gelu) => Epilogue::Gelu,
            FeedForward::Plain(Activation::QuickGelu) => Epilogue::QuickGelu,
            FeedForward::SwiGlu => Epilogue::SwiGlu,
        },
    }
}

/// Images that the weights of 8-bit layers are fitted to, and patches on either side of each.
const CALIBRATION_IMAGES: usize = 16;
const CALIBRATION_GRID: usize = 8;

/// Packs the first `blocks` blocks of a network, one after the other; `positions` is its position
/// embedding.
pub(super) fn pack(
    engine: Engine,
    precision: Precision,
    shape: &Shape,
    blocks: usize,
    weights: &dyn Weights,
    positions: &Tensor,
) -> Result<Vit, BackboneError> {
    let device = Device::Cpu;
    let stem = weights.stem(&device)?;
    let patch = Numbers::of(stem.projection)?;
    let class_token = numbers(&stem.class_token)?;
    let norm = stem.norm.map(Numbers::of).transpose()?;
    let head = weights.head(&device)?;
    let final_norm = Numbers::of(head.norm)?;
    let projection = head
        .projection
        .map(|matrix| numbers(&matrix.t()?))
        .transpose()?;
    let mut vit = Vit::new(
        engine,
        precision,
        config(shape),
        &StemWeights {
            patch: patch.linear(),
            class_token: &class_token,
            norm: norm.as_ref().map(Numbers::norm),
        },
        &HeadWeights {
            norm: final_norm.norm(),
            projection: projection.as_deref(),
        },
    )?;
    let mut calibration = match precision {
        Precision::Int8 if engine.has_int8() => Some(calibration(&vit, shape, positions)?),
        _ => None,
    };
    for i in 0..blocks {
        let parts = weights.block(i, &device)?;
        let (norm1, norm2) = (Numbers::of(parts.norm1)?, Numbers::of(parts.norm2)?);
        let (qkv, output) = (Numbers::of(parts.qkv)?, Numbers::of(parts.output)?);
        let (up, down) = (Numbers::of(parts.up)?, Numbers::of(parts.down)?);
        let scale1 = parts.scale1.as_ref().map(numbers).transpose()?;
        let scale2 = parts.scale2.as_ref().map(numbers).transpose()?;
        let block = BlockWeights {
            norm1: norm1.norm(),
            qkv: qkv.linear(),
            output: output.linear(),
            scale1: scale1.as_deref(),
            norm2: norm2.norm(),
            up: up.linear(),
            down: down.linear(),
            scale2: scale2.as_deref(),
        };
        vit.push(&block, calibration.as_mut())?;
        weights.release();
    }
    Ok(vit)
}

/// Images for a network to be fitted to.
fn calibration(vit: &Vit, shape: &Shape, positions: &Tensor) -> Result<Calibration, BackboneError> {
    let side = CALIBRATION_GRID * shape.patch;
    let pixels = leaves::draw(CALIBRATION_IMAGES, side);
    let grid = Grid {
        rows: CALIBRATION_GRID,
        columns: CALIBRATION_GRID,
    };
    let images = Images {
        pixels: &pixels,
        height: side,
        width: side,
    };
    let positions = numbers(&position::resize(positions, shape, grid)?)?;
    Ok(vit.calibration(images, &positions)?)
}

/// A packed network.
pub(super) struct CpuNetwork {
    pub(super) vit: Vit,
    /// The position embedding of the grid seen last.
    positions: Mutex<Option<(Grid, Arc<[f32]>)>>,
}

impl CpuNetwork {
    pub(super) fn new(vit: Vit) -> Self {
        Self {
            vit,
            positions: Mutex::default(),
        }
    }

    /// The features of `images` `[batch, 3, height, width]`; `positions` makes the embedding
    /// `[1 + patches, width]` of their grid.
    pub(super) fn encode(
        &self,
        images: &Tensor,
        grid: Grid,
        request: &FeatureRequest,
        positions: impl FnOnce() -> Result<Tensor, BackboneError>,
    ) -> Result<Features, BackboneError> {
        let positions = self.positions_of(grid, positions)?;
        let images = images.to_device(&Device::Cpu)?.contiguous()?;
        let (batch, _, height, width) = images.dims4()?;
        let (storage, layout) = images.storage_and_layout();
        let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
        else {
            return Err(candle_core::Error::msg("the images are not plain numbers").into());
        };
        let pixels = &storage.as_slice::<f32>()?[start..end];
        let images = Images {
            pixels,
            height,
            width,
        };
        let features = self.vit.encode(images, &positions, &wanted(request))?;
        let tensor = |values: Vec<f32>, rows: Option<usize>| {
            let width = values.len() / (batch * rows.unwrap_or(1)).max(1);
            match rows {
                Some(rows) => Tensor::from_vec(values, (batch, rows, width), &Device::Cpu),
                None => Tensor::from_vec(values, (batch, width), &Device::Cpu),
            }
        };
        let blocks = features.blocks.into_iter().map(|tokens| {
            Ok(BlockFeatures {
                block: tokens.block,
                class_token: tensor(tokens.class_token, None)?,
                patch_tokens: tensor(tokens.patch_tokens, Some(grid.len()))?,
            })
        });
        let embedding = features.embedding;
        Ok(Features {
            grid,
            blocks: blocks.collect::<Result<_, BackboneError>>()?,
            embedding: embedding.map(|values| tensor(values, None)).transpose()?,
        })
    }

    fn positions_of(
        &self,
        grid: Grid,
        positions: impl FnOnce() -> Result<Tensor, BackboneError>,
    ) -> Result<Arc<[f32]>, BackboneError> {
        let mut last = self
            .positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, positions)) if *known == grid => Ok(positions.clone()),
            _ => {
                let positions: Arc<[f32]> = numbers(&positions()?)?.into();
                *last = Some((grid, positions.clone()));
                Ok(positions)
            }
        }
    }
}

/// A request in the words of the kernels.
fn wanted(request: &FeatureRequest) -> VitRequest {
    VitRequest {
        blocks: request.blocks.clone(),
        stage: match request.stage {
            TokenStage::Block => VitStage::Block,
            TokenStage::Normed => VitStage::Normed,
            TokenStage::Projected => VitStage::Projected,
        },
        local: request.dpam.map(|dpam| LocalStream {
            from: dpam.first_block,
            kind: match dpam.attention {
                SelfAttention::Values => AttentionKind::Vv,
                SelfAttention::Queries => AttentionKind::Qq,
                SelfAttention::Keys => AttentionKind::Kk,
            },
        }),
        embedding: request.embedding.map(|embedding| match embedding {
            Embedding::Normed => VitEmbedding::Normed,
            Embedding::Direct => VitEmbedding::Direct,
        }),
    }
}

/// The values of a layer.
struct Numbers {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Numbers {
    fn of(layer: Layer) -> candle_core::Result<Self> {
        Ok(Self {
            weight: numbers(&layer.weight)?,
            bias: numbers(&layer.bias)?,
        })
    }

    fn linear(&self) -> LinearWeights<'_> {
        LinearWeights {
            weight: &self.weight,
            bias: &self.bias,
        }
    }

    fn norm(&self) -> NormWeights<'_> {
        NormWeights {
            weight: &self.weight,
            bias: &self.bias,
        }
    }
}

/// The values of a tensor, row by row.
fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
