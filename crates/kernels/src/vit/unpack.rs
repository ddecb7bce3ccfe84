//! A packed transformer as plain float32 weights again.

use super::{Vit, VitConfig};
use crate::product::{Epilogue, PANEL};
use crate::unpacked::Unpacked;

/// What comes before the first block.
#[derive(Debug, Clone, PartialEq)]
pub struct UnpackedStem {
    /// `[width, 3 * patch * patch]`
    pub patch: Unpacked,
    /// `[width]`
    pub class_token: Vec<f32>,
    /// CLIP's layer norm before the first block.
    pub norm: Option<Unpacked>,
}

/// A block; LayerScale is part of the layers before it.
#[derive(Debug, Clone, PartialEq)]
pub struct UnpackedBlock {
    /// Before attention.
    pub norm1: Unpacked,
    /// Queries, keys and values, in this order.
    pub qkv: Unpacked,
    /// After attention.
    pub output: Unpacked,
    /// Before the feed-forward layers.
    pub norm2: Unpacked,
    /// The first feed-forward layer; of SwiGLU first all gates, then all values.
    pub up: Unpacked,
    /// The second one.
    pub down: Unpacked,
}

/// What follows the last block.
#[derive(Debug, Clone, PartialEq)]
pub struct UnpackedHead {
    /// The final layer norm.
    pub norm: Unpacked,
    /// `[outputs, width]`, to the space that images and texts share.
    pub projection: Option<Unpacked>,
}

impl Vit {
    /// What the weights do not say.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// What comes before the first block.
    pub fn unpack_stem(&self) -> UnpackedStem {
        UnpackedStem {
            patch: self.patch.unpack(),
            class_token: self.class_token.clone(),
            norm: self.norm.as_ref().map(|norm| norm.unpack()),
        }
    }

    /// The blocks, from the first to the last, each unpacked when it is reached.
    pub fn unpack_blocks(&self) -> impl Iterator<Item = UnpackedBlock> {
        self.blocks.iter().map(|block| {
            let up = block.up.unpack();
            UnpackedBlock {
                norm1: block.norm1.unpack(),
                qkv: block.qkv.unpack(),
                output: block.output.unpack(),
                norm2: block.norm2.unpack(),
                up: match self.config.activation {
                    Epilogue::SwiGlu => up.apart(PANEL / 2),
                    _ => up,
                },
                down: block.down.unpack(),
            }
        })
    }

    /// What follows the last block.
    pub fn unpack_head(&self) -> UnpackedHead {
        UnpackedHead {
            norm: self.final_norm.unpack(),
            projection: self.projection.as_ref().map(|layer| layer.unpack()),
        }
    }
}
