//! Residuals: how far each patch of an image is from the most similar patch of others, half of the
//! cosine distance (InCTRL, section 3.2).

use candle_core::Tensor;

use super::nearest::{UnitVectors, with_values};
use crate::DetectorError;
use anomalens_backbones::Precision;

/// The residual of a cosine; rounding may push one above 1.
pub(crate) fn residual(cosine: f32) -> f32 {
    (0.5 * (1.0 - cosine)).max(0.0)
}

/// Patches `[n, width]` of length 1, ready to be searched.
pub(crate) fn bank(patches: &Tensor) -> Result<UnitVectors, DetectorError> {
    let width = patches.dim(1)?;
    UnitVectors::new(patches.flatten_all()?.to_vec1()?, width, Precision::Half)
}

/// For each block the patches of some images, each given as the patches after each block, in one
/// bank.
pub(crate) fn banks(images: &[&[Tensor]]) -> Result<Vec<UnitVectors>, DetectorError> {
    let blocks = images.first().map_or(0, |image| image.len());
    let one = |block: usize| {
        let parts: Vec<&Tensor> = images.iter().map(|image| &image[block]).collect();
        bank(&Tensor::cat(&parts, 0)?)
    };
    (0..blocks).map(one).collect()
}

/// The residual of each row of `patches` `[n, width]` against those of a bank.
pub(crate) fn residuals(patches: &Tensor, bank: &UnitVectors) -> Result<Vec<f32>, DetectorError> {
    let cosines = with_values(patches, |patches| bank.highest_similarity(patches))?;
    Ok(cosines.into_iter().map(residual).collect())
}

/// The mean over the blocks of the residuals of `patches` against `banks`.
pub(crate) fn map(patches: &[Tensor], banks: &[UnitVectors]) -> Result<Vec<f32>, DetectorError> {
    let blocks = patches.iter().zip(banks);
    mean(blocks.map(|(patches, bank)| residuals(patches, bank)))
}

/// The mean over the blocks of each patch's residual against the other patches of its own image.
pub(crate) fn within(patches: &[Tensor]) -> Result<Vec<f32>, DetectorError> {
    mean(patches.iter().map(|patches| {
        let cosines: Vec<Vec<f32>> = patches.matmul(&patches.t()?)?.to_vec2()?;
        let nearest = cosines.iter().enumerate().map(|(i, row)| {
            let others = row.iter().enumerate().filter(|(j, _)| *j != i);
            others.fold(-1.0_f32, |best, (_, x)| best.max(*x))
        });
        Ok(nearest.map(residual).collect())
    }))
}

/// What normal references score: each, upright, against the others as if it were a new image; a
/// single one against its own other forms, or its patches against each other where it has none.
/// `references`: for each block `[rows, width]`, with so many rows of the upright form first. At most
/// `most` of them are looked at.
pub(crate) fn among(
    references: &[(&[Tensor], usize)],
    most: usize,
) -> Result<Vec<Among>, DetectorError> {
    let upright = |(blocks, rows): (&[Tensor], usize)| -> Result<Vec<Tensor>, DetectorError> {
        let parts = blocks.iter().map(|block| block.narrow(0, 0, rows));
        Ok(parts.collect::<candle_core::Result<_>>()?)
    };
    if let &[one] = references {
        let (blocks, rows) = one;
        let upright = upright(one)?;
        let rest = blocks.iter().map(|block| {
            let all = block.dim(0)?;
            bank(&block.narrow(0, rows, all - rows)?)
        });
        let map = match blocks.first().map_or(Ok(0), |block| block.dim(0))? > rows {
            true => map(&upright, &rest.collect::<Result<Vec<_>, _>>()?)?,
            false => within(&upright)?,
        };
        return Ok(vec![Among { index: 0, map }]);
    }
    let all = references.iter().map(|(blocks, _)| banks(&[blocks]));
    let all = all.collect::<Result<Vec<_>, _>>()?;
    let every = references.len().div_ceil(most.max(1)).max(1);
    let looked_at = references.iter().copied().enumerate().step_by(every);
    let one = |(index, reference)| {
        let blocks = upright(reference)?;
        let maps = blocks.iter().enumerate().map(|(block, patches)| {
            let others = all.iter().enumerate().filter(|(other, _)| *other != index);
            let mut nearest: Vec<f32> = vec![];
            for (_, banks) in others {
                let found = residuals(patches, &banks[block])?;
                nearest.resize(found.len(), f32::INFINITY);
                let both = nearest.iter_mut().zip(found);
                both.for_each(|(nearest, found)| *nearest = nearest.min(found));
            }
            Ok(nearest)
        });
        Ok(Among {
            index,
            map: mean(maps)?,
        })
    };
    looked_at.map(one).collect()
}

/// A reference seen among the others.
pub(crate) struct Among {
    /// Which one.
    pub(crate) index: usize,
    /// The residuals of the patches of its upright form.
    pub(crate) map: Vec<f32>,
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
