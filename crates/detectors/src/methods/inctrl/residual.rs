//! Patch-level residuals (paper, section 3.2): how far each patch of an image is from the most similar
//! patch of its references, half of the cosine distance.

use anomalens_backbones::ImageFeatures;
use candle_core::Tensor;

use super::settings::Settings;
use crate::DetectorError;
use crate::components::nearest::matrix;
#[cfg(test)]
pub(super) use crate::components::residual::residuals;
pub(super) use crate::components::residual::{among, bank, banks, map};
use crate::components::tokens::{after, normalise_rows};

/// The patches of an image after each block, `[patches, width]` of length 1.
pub(super) fn patches(
    image: &ImageFeatures,
    settings: &Settings,
) -> Result<Vec<Tensor>, DetectorError> {
    let one = |&block: &usize| {
        let map = after(image, block)?;
        unit(map.tokens.clone(), map.dim)
    };
    settings.blocks.iter().map(one).collect()
}

/// Tokens of length `width`, scaled to length 1, `[tokens, width]`.
pub(super) fn unit(mut tokens: Vec<f32>, width: usize) -> Result<Tensor, DetectorError> {
    normalise_rows(&mut tokens, width);
    matrix(tokens, width)
}
