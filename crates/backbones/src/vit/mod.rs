//! The vision transformer that both families are: pre-norm blocks over a class token and patches.
//!
//! ```text
//! parts.rs               sizes, and the weights part by part; each family reads its files into them
//! kernels.rs             weights, packed for the kernels of this processor
//! calibration_images.rs  what 8-bit weights are fitted to
//! packed.rs              packed networks in files
//! position.rs            position embeddings at other sizes
//! reference.rs           the same network on candle, which the tests compare with
//! ```

pub(crate) mod calibration_images;
mod kernels;
mod packed;
pub(crate) mod parts;
mod position;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use anomalens_kernels::{
    Engine, FeatureRequest, Grid, ImageFeatures, LayerId, PositionResize, Precision, Vit,
};
use anomalens_vision::Preprocessed;
use candle_core::{DType, Tensor};

pub(crate) use packed::open_packed_as;
pub(crate) use packed::{Envelope, write_envelope};
pub use packed::{PackedCopy, PackedNetwork, open_packed};
use parts::{FeedForward, Shape, Weights};

use crate::encoder::by_size;
use crate::{
    BackboneError, Blueprint, EncoderSpec, ImageEncoder, LayerInfo, Normalisation,
    TransformerBlueprint,
};

/// How the kernels compute a network.
#[derive(Debug, Clone)]
pub struct Kernels {
    /// The instruction set.
    pub engine: Engine,
    /// How exactly.
    pub precision: Precision,
    /// Only so many blocks are packed, from the first on; all if `None`.
    pub blocks: Option<usize>,
    /// Where a packed copy is looked for and kept.
    pub copy: Option<PackedCopy>,
}

impl Kernels {
    /// All blocks, without a copy.
    pub fn new(engine: Engine, precision: Precision) -> Self {
        Self {
            engine,
            precision,
            blocks: None,
            copy: None,
        }
    }

    /// The engine that the environment asks for or that is the fastest here.
    ///
    /// # Errors
    /// [`BackboneError::Engine`] if `ANOMALENS_CPU` names what is not there.
    pub fn from_env(precision: Precision) -> Result<Self, BackboneError> {
        Ok(Self::new(Engine::from_env()?, precision))
    }
}

/// A vision transformer, ready to encode.
pub(crate) struct VisionTransformer {
    spec: EncoderSpec,
    shape: Shape,
    vit: Vit,
    /// `[1 + side * side, width]`, the class token's first.
    positions: Tensor,
    /// The position embedding that was used last, and for what.
    resized: Mutex<Option<Resized>>,
}

/// A position embedding on another grid than it was trained on.
struct Resized {
    grid: Grid,
    rule: Option<PositionResize>,
    /// `[1 + rows * columns, width]`
    positions: Arc<[f32]>,
}

impl VisionTransformer {
    /// Reads a network part by part.
    pub(crate) fn new(
        shape: Shape,
        weights: &dyn Weights,
        kernels: &Kernels,
    ) -> Result<Self, BackboneError> {
        let Kernels {
            engine,
            precision,
            blocks,
            ref copy,
        } = *kernels;
        let copy = copy.as_ref().filter(|_| blocks.is_none());
        if let Some(network) = copy.and_then(|copy| copy.open(&shape, engine, precision)) {
            return Ok(network);
        }
        let positions = weights.positions()?;
        let blocks = blocks.unwrap_or(shape.blocks).min(shape.blocks);
        let vit = kernels::pack(engine, precision, &shape, blocks, weights, &positions)?;
        let positions = match precision {
            // As they are kept in packed files.
            Precision::Int8 => positions.to_dtype(DType::F16)?.to_dtype(DType::F32)?,
            Precision::F32 | Precision::Half => positions,
        };
        let network = Self::of_parts(shape, vit, positions, engine.runs(precision));
        if let Some(copy) = copy {
            copy.keep(&network, engine, precision);
        }
        Ok(network)
    }

    fn of_parts(shape: Shape, vit: Vit, positions: Tensor, precision: Precision) -> Self {
        let layer = |number| LayerInfo {
            id: LayerId::Block(number),
            dim: shape.width,
            stride: shape.patch,
        };
        Self {
            spec: EncoderSpec {
                name: shape.name.clone(),
                layers: (1..=shape.blocks).map(layer).collect(),
                embedding: shape.embedding,
                multiple: shape.patch,
                normalisation: match vit.sizes().norm {
                    true => Normalisation::CLIP,
                    false => Normalisation::IMAGENET,
                },
                precision,
            },
            shape,
            vit,
            positions,
            resized: Mutex::default(),
        }
    }

    /// The packed weights.
    pub(crate) fn kernels(&self) -> &Vit {
        &self.vit
    }

    /// The position embedding for a grid, `[1 + rows * columns, width]`, by `rule` or the
    /// network's own.
    pub(crate) fn position_embedding(
        &self,
        grid: Grid,
        rule: Option<PositionResize>,
    ) -> Result<Tensor, BackboneError> {
        let rule = rule.unwrap_or(self.shape.position_resize);
        position::resize(&self.positions, &self.shape, grid, rule)
    }

    /// The same as plain numbers, kept for the next images.
    fn positions_of(
        &self,
        grid: Grid,
        rule: Option<PositionResize>,
    ) -> Result<Arc<[f32]>, BackboneError> {
        let mut last = self.resized.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(last) if last.grid == grid && last.rule == rule => Ok(last.positions.clone()),
            _ => {
                let positions = kernels::numbers(&self.position_embedding(grid, rule)?)?;
                let positions: Arc<[f32]> = positions.into();
                *last = Some(Resized {
                    grid,
                    rule,
                    positions: positions.clone(),
                });
                Ok(positions)
            }
        }
    }
}

impl ImageEncoder for VisionTransformer {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn check(&self, request: &FeatureRequest) -> Result<(), BackboneError> {
        let local = request.attention.map(|dpam| dpam.first_block);
        let local = local.map(LayerId::Block);
        for &layer in request.layers.iter().chain(&local) {
            self.spec.layer(layer)?;
        }
        let plain = matches!(self.shape.feed_forward, FeedForward::Plain(_));
        if request.departures.activation.is_some() && !plain {
            return Err(BackboneError::NoOtherActivation(self.shape.name.clone()));
        }
        let last = match request.embedding {
            None if request.windows().next().is_none() => request.last_block(),
            _ => self.shape.blocks,
        };
        let held = self.vit.blocks();
        if last > held {
            return Err(BackboneError::BlockNotHeld {
                block: last,
                encoder: self.shape.name.clone(),
                held,
            });
        }
        Ok(())
    }

    fn blueprint(&self) -> Option<Blueprint<'_>> {
        Some(Blueprint::Transformer(TransformerBlueprint(self)))
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        self.check(request)?;
        by_size(&self.spec, images, |images| {
            let patch = self.shape.patch;
            let grid = Grid {
                rows: images.height / patch,
                columns: images.width / patch,
            };
            Ok(self.vit.encode(
                images,
                &self.positions_of(grid, request.positions)?,
                request,
            )?)
        })
    }
}
