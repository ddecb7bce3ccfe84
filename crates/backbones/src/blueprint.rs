//! A network as plain numbers, for those who run it elsewhere than on the kernels.

use anomalens_kernels::{
    ConvNet, Epilogue, Grid, PositionResize, Step, Unpacked, UnpackedBlock, UnpackedHead,
    UnpackedStem,
};

use crate::BackboneError;
use crate::vit::VisionTransformer;

/// What a network computes. Its weights are those that the kernels compute with: exact in float32.
pub enum Blueprint<'n> {
    /// Pre-norm blocks over a class token and patches.
    Transformer(TransformerBlueprint<'n>),
    /// Steps from map to map.
    Convolutional(ConvBlueprint<'n>),
}

/// A vision transformer.
pub struct TransformerBlueprint<'n>(pub(crate) &'n VisionTransformer);

impl TransformerBlueprint<'_> {
    /// Length of a token.
    pub fn width(&self) -> usize {
        self.0.kernels().width()
    }

    /// Attention heads.
    pub fn heads(&self) -> usize {
        self.0.kernels().config().heads
    }

    /// Side of a patch, in pixels.
    pub fn patch(&self) -> usize {
        self.0.kernels().config().patch
    }

    /// Epsilon of every layer norm.
    pub fn epsilon(&self) -> f32 {
        self.0.kernels().config().epsilon
    }

    /// What stands between the feed-forward layers: [`Epilogue::Gelu`], [`Epilogue::QuickGelu`] or
    /// [`Epilogue::SwiGlu`].
    pub fn activation(&self) -> Epilogue {
        self.0.kernels().config().activation
    }

    /// The position embedding for a grid, `[1 + rows * columns, width]`, the class token's first, by
    /// `rule` or the network's own.
    ///
    /// # Errors
    /// Only those of the tensor library.
    pub fn positions(
        &self,
        grid: Grid,
        rule: Option<PositionResize>,
    ) -> Result<Vec<f32>, BackboneError> {
        let positions = self.0.position_embedding(grid, rule)?;
        Ok(positions.flatten_all()?.to_vec1()?)
    }

    /// What comes before the first block.
    pub fn stem(&self) -> UnpackedStem {
        self.0.kernels().unpack_stem()
    }

    /// The blocks that are held, from the first on, each unpacked when it is reached.
    pub fn blocks(&self) -> impl Iterator<Item = UnpackedBlock> {
        self.0.kernels().unpack_blocks()
    }

    /// What follows the last block.
    pub fn head(&self) -> UnpackedHead {
        self.0.kernels().unpack_head()
    }
}

/// A convolutional network.
pub struct ConvBlueprint<'n>(pub(crate) &'n ConvNet);

impl ConvBlueprint<'_> {
    /// The steps that are held, with the weights of those that are convolutions.
    pub fn steps(&self) -> impl Iterator<Item = (Step, Option<Unpacked>)> {
        self.0.unpack()
    }
}
