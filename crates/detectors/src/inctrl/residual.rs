//! Patch-level residuals (paper, section 3.2): how far each patch of an image is from the most
//! similar patch of its shots, half of the cosine distance. Beside the paper: how far the means of
//! two images are apart, and the patches of one image from each other.

use anomalens_backbones::{Grid, ImageFeatures};
use anomalens_vision::Map;
use candle_core::Tensor;
use rayon::prelude::*;

use super::config::Config;
use crate::nearest::{UnitVectors, matrix, with_values};
use crate::tokens::{dot, normalise, normalise_rows, standardise_rows};
use crate::{DetectorError, own_image};

/// Part of the patches, those least like the rest of their image, whose mean stands for all.
const OWN_TOP_FRACTION: f64 = 0.02;

/// An image as others are compared with it.
pub(super) struct Compared {
    /// Its patches after each block, `[patches, width]` of length 1.
    pub(super) patches: Vec<Tensor>,
    /// Their means, of length 1, one block after another.
    pub(super) means: Vec<f32>,
}

impl Compared {
    /// From the features of an image.
    pub(super) fn of(image: &ImageFeatures, config: &Config) -> Result<Self, DetectorError> {
        let blocks = config.blocks.iter().map(|&block| {
            let tokens = image
                .block(block)
                .ok_or(DetectorError::MissingBlock(block))?;
            Ok((tokens.patch_tokens.clone(), tokens.class_token.len()))
        });
        Self::new(blocks.collect::<Result<Vec<_>, DetectorError>>()?, config)
    }

    /// From the patch tokens after each block, and their width.
    pub(super) fn new(
        blocks: Vec<(Vec<f32>, usize)>,
        config: &Config,
    ) -> Result<Self, DetectorError> {
        let one = |(mut tokens, width): (Vec<f32>, usize)| {
            if config.standardised {
                standardise_rows(&mut tokens, width);
            }
            let mut mean = vec![0.0; width];
            for token in tokens.chunks_exact(width) {
                mean.iter_mut().zip(token).for_each(|(sum, x)| *sum += x);
            }
            normalise(&mut mean);
            normalise_rows(&mut tokens, width);
            Ok((matrix(tokens, width)?, mean))
        };
        let blocks: Vec<(Tensor, Vec<f32>)> = blocks
            .into_par_iter()
            .map(one)
            .collect::<Result<_, DetectorError>>()?;
        let (patches, means): (Vec<Tensor>, Vec<Vec<f32>>) = blocks.into_iter().unzip();
        let means = means.concat();
        Ok(Self { patches, means })
    }
}

/// The residual of a cosine; rounding may push one above 1.
fn residual(cosine: f32) -> f32 {
    (0.5 * (1.0 - cosine)).max(0.0)
}

/// The patches `[n, width]` of shots after one block, of length 1, ready to be searched.
pub(super) fn bank(patches: &Tensor) -> Result<UnitVectors, DetectorError> {
    let width = patches.dim(1)?;
    UnitVectors::new(patches.flatten_all()?.to_vec1()?, width)
}

/// The residual of each row of `patches` `[n, width]` beside those of a bank.
pub(super) fn residuals(patches: &Tensor, bank: &UnitVectors) -> Result<Vec<f32>, DetectorError> {
    let cosines = with_values(patches, |patches| bank.highest_similarity(patches))?;
    Ok(cosines.into_iter().map(residual).collect())
}

/// The mean over the blocks of the residuals of `patches` beside `banks`.
pub(super) fn map(patches: &[Tensor], banks: &[UnitVectors]) -> Result<Vec<f32>, DetectorError> {
    let blocks = patches.iter().zip(banks);
    mean(blocks.map(|(patches, bank)| residuals(patches, bank)))
}

/// The mean over the blocks of each patch's residual beside the other patches of its own image.
pub(super) fn within(patches: &[Tensor]) -> Result<Vec<f32>, DetectorError> {
    mean(patches.iter().map(|patches| {
        let cosines: Vec<Vec<f32>> = patches.matmul(&patches.t()?)?.to_vec2()?;
        let nearest = cosines.iter().enumerate().map(|(i, row)| {
            let others = row.iter().enumerate().filter(|(j, _)| *j != i);
            others.fold(-1.0_f32, |best, (_, x)| best.max(*x))
        });
        Ok(nearest.map(residual).collect())
    }))
}

fn mean(
    blocks: impl ExactSizeIterator<Item = Result<Vec<f32>, DetectorError>>,
) -> Result<Vec<f32>, DetectorError> {
    let count = blocks.len() as f32;
    let mut map: Vec<f32> = vec![];
    for block in blocks {
        let block = block?;
        map.resize(block.len(), 0.0);
        map.iter_mut()
            .zip(block)
            .for_each(|(sum, x)| *sum += x / count);
    }
    Ok(map)
}

/// The mean over the blocks of the residual between the means of two images.
pub(super) fn between(one: &[f32], other: &[f32], blocks: usize) -> f32 {
    let width = one.len() / blocks.max(1);
    let pairs = one.chunks(width.max(1)).zip(other.chunks(width.max(1)));
    let cosines = pairs.map(|(a, b)| dot(a, b));
    cosines.map(residual).sum::<f32>() / blocks as f32
}

/// How unlike the rest of the image the least familiar of its `patches` are; images are square.
pub(super) fn own(patches: &[Tensor]) -> Result<f32, DetectorError> {
    let count = patches.first().map_or(Ok(0), |patches| patches.dim(0))?;
    let side = count.isqrt();
    let grid = Grid {
        rows: side,
        columns: side,
    };
    let map = Map::new(side, side, own_image::between(grid, patches)?)?;
    Ok(map.top_mean(OWN_TOP_FRACTION))
}
