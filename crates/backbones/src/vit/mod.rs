//! The vision transformer that both families are: pre-norm blocks over a class token and patches.
//!
//! ```text
//! parts.rs       sizes, and the weights part by part; each family reads its own files into them
//! cpu.rs         the network on the kernels of this processor: what is used on a CPU
//! leaves.rs      what 8-bit networks are fitted to
//! candle.rs      the network on candle, for other devices and as the reference; block.rs: a block
//! packed.rs      packed networks in files that are mapped into memory
//! position.rs    position embeddings at other sizes
//! activation.rs  the function between feed-forward layers
//! ```

mod activation;
mod block;
mod candle;
mod cpu;
mod leaves;
mod packed;
pub(crate) mod parts;
mod position;

use std::path::Path;

use anomalens_kernels::{Engine, Precision};
use candle_core::{DType, Device, Tensor};

pub use activation::Activation;
pub(crate) use activation::QUICK_GELU;
use candle::CandleNetwork;
use cpu::CpuNetwork;
pub use packed::{PackedCopy, PackedNetwork, open_packed};
use parts::{Shape, Weights};

use crate::weights::ContentHash;
use crate::{BackboneError, FeatureRequest, Features, Grid, ImageEncoder};

/// What computes a network.
#[derive(Debug, Clone)]
pub enum Compute {
    /// The kernels of this processor.
    Kernels(Kernels),
    /// candle's operations in float32, on any device.
    Candle(Device),
}

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

impl Compute {
    /// Where tensors are.
    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Kernels(_) => Device::Cpu,
            Self::Candle(device) => device.clone(),
        }
    }
}

impl From<Kernels> for Compute {
    fn from(kernels: Kernels) -> Self {
        Self::Kernels(kernels)
    }
}

impl From<&Device> for Compute {
    fn from(device: &Device) -> Self {
        Self::Candle(device.clone())
    }
}

/// A vision transformer, ready to encode.
pub(crate) struct VisionTransformer {
    shape: Shape,
    /// `[1 + side * side, width]`, the class token's first.
    positions: Tensor,
    network: Network,
}

enum Network {
    Cpu(Box<CpuNetwork>),
    Candle(CandleNetwork),
}

impl VisionTransformer {
    /// Reads a network part by part.
    pub(crate) fn new(
        shape: Shape,
        weights: &dyn Weights,
        compute: &Compute,
    ) -> Result<Self, BackboneError> {
        let kernels = match compute {
            Compute::Kernels(kernels) => kernels,
            Compute::Candle(device) => {
                return Ok(Self {
                    positions: weights.positions(device)?,
                    network: Network::Candle(CandleNetwork::new(&shape, weights, device)?),
                    shape,
                });
            }
        };
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
        let positions = weights.positions(&Device::Cpu)?;
        let blocks = blocks.unwrap_or(shape.blocks).min(shape.blocks);
        let vit = cpu::pack(engine, precision, &shape, blocks, weights, &positions)?;
        let network = Self {
            positions: match precision {
                // As they are kept in packed files.
                Precision::Int8 => positions.to_dtype(DType::F16)?.to_dtype(DType::F32)?,
                Precision::F32 | Precision::Half => positions,
            },
            network: Network::Cpu(Box::new(CpuNetwork::new(vit))),
            shape,
        };
        if let Some(copy) = copy {
            copy.keep(&network, engine, precision);
        }
        Ok(network)
    }

    /// The same network with another rule for position embeddings at other sizes.
    pub(crate) fn with_position_resize(mut self, rule: parts::PositionResize) -> Self {
        self.shape.position_resize = rule;
        self
    }

    /// Writes the network, if it is on kernels, to a packed file.
    pub(crate) fn write_packed(
        &self,
        precision: Precision,
        original: ContentHash,
        path: &Path,
    ) -> Result<(), BackboneError> {
        self.save(precision, original, path)
            .map_err(|source| BackboneError::Write {
                path: path.to_owned(),
                source,
            })
    }

    /// The position embedding for a grid, `[1 + rows * columns, width]`.
    pub(crate) fn position_embedding(&self, grid: Grid) -> Result<Tensor, BackboneError> {
        position::resize(&self.positions, &self.shape, grid)
    }

    /// The grid of a batch of images, or why they or the request do not fit.
    fn check(&self, images: &Tensor, request: &FeatureRequest) -> Result<Grid, BackboneError> {
        let Shape { patch, blocks, .. } = self.shape;
        let first_local = request.dpam.as_ref().map(|dpam| dpam.first_block);
        if let Some(&block) = request
            .blocks
            .iter()
            .chain(&first_local)
            .find(|&&block| block == 0 || block > blocks)
        {
            return Err(BackboneError::NoSuchBlock {
                block,
                encoder: self.shape.name.clone(),
                blocks,
            });
        }
        if let Network::Cpu(network) = &self.network {
            let last = match request.embedding {
                Some(_) => blocks,
                None => request.blocks.iter().copied().max().unwrap_or(0),
            };
            let held = network.vit.blocks();
            if last > held {
                return Err(BackboneError::BlockNotHeld {
                    block: last,
                    encoder: self.shape.name.clone(),
                    held,
                });
            }
        }
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
}

impl ImageEncoder for VisionTransformer {
    fn name(&self) -> &str {
        &self.shape.name
    }

    fn width(&self) -> usize {
        self.shape.width
    }

    fn embedding_width(&self) -> usize {
        self.shape.embedding
    }

    fn blocks(&self) -> usize {
        self.shape.blocks
    }

    fn patch(&self) -> usize {
        self.shape.patch
    }

    fn encode(&self, images: &Tensor, request: &FeatureRequest) -> Result<Features, BackboneError> {
        let grid = self.check(images, request)?;
        match &self.network {
            Network::Cpu(network) => {
                network.encode(images, grid, request, || self.position_embedding(grid))
            }
            Network::Candle(network) => {
                let positions = self.position_embedding(grid)?;
                network.encode(images, grid, request, &positions)
            }
        }
    }
}
