//! How images are compared: patch by patch (`components/residual.rs`), by their mean tokens, and
//! each with itself.

use anomalens_backbones::{Grid, ImageFeatures, LayerId};
use candle_core::Tensor;
use rayon::prelude::*;

use super::own_image;
use crate::DetectorError;
use crate::components::nearest::{matrix, with_values};
use crate::components::residual::residual;
use crate::components::self_similarity::{self, Distance};
use crate::components::tokens::{dot, normalise, normalise_rows, standardise_rows};

/// Patches that an image has at most where each is compared with all others.
pub(super) const LARGE: usize = 2500;

/// Quarters of an image.
pub(super) const QUARTERS: usize = 4;

/// An image as others are compared with it.
pub(super) struct Compared {
    /// Its patches after each block, `[patches, width]`, standardised and of length 1.
    pub(super) patches: Vec<Tensor>,
    /// Their means, of length 1, one block after another.
    pub(super) means: Vec<f32>,
}

impl Compared {
    /// From the features of an image.
    pub(super) fn of(image: &ImageFeatures, blocks: &[usize]) -> Result<Self, DetectorError> {
        let blocks = blocks.iter().map(|&block| {
            let tokens = image
                .layer(block)
                .ok_or(DetectorError::MissingLayer(LayerId::Block(block)))?;
            Ok((tokens.tokens.clone(), tokens.dim))
        });
        Self::new(blocks.collect::<Result<Vec<_>, DetectorError>>()?)
    }

    /// From the patch tokens after each block, and their width.
    pub(super) fn new(blocks: Vec<(Vec<f32>, usize)>) -> Result<Self, DetectorError> {
        let one = |(mut tokens, width): (Vec<f32>, usize)| {
            standardise_rows(&mut tokens, width);
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

/// The mean over the blocks of the residual between the means of two images.
pub(super) fn between(one: &[f32], other: &[f32], blocks: usize) -> f32 {
    let width = one.len() / blocks.max(1);
    let pairs = one.chunks(width.max(1)).zip(other.chunks(width.max(1)));
    let cosines = pairs.map(|(a, b)| dot(a, b));
    cosines.map(residual).sum::<f32>() / blocks as f32
}

/// How different from the rest of the image the least familiar of its `patches` are.
/// `patches` lie on `grid`.
pub(super) fn own(patches: &[Tensor], grid: Grid) -> Result<f32, DetectorError> {
    let found = match grid.len() > LARGE {
        true => {
            // Every comparison costs the square of the patches.
            let step = step(grid);
            let coarse = |side: usize| side.div_ceil(step);
            let small = Grid {
                rows: coarse(grid.rows),
                columns: coarse(grid.columns),
            };
            let averaged = patches
                .iter()
                .map(|patches| averaged(patches, grid, small, step));
            let averaged = averaged.collect::<Result<Vec<_>, _>>()?;
            self_similarity::between(small, &averaged)?
        }
        false => self_similarity::between(grid, patches)?,
    };
    let distances: Vec<f32> = found.iter().map(Distance::of_image).collect();
    Ok(top(&distances, own_image::HIGHEST))
}

/// The side of the squares in which the patches of a large `grid` are averaged.
pub(super) fn step(grid: Grid) -> usize {
    (grid.len() as f64 / LARGE as f64).sqrt().ceil() as usize
}

/// The mean of the `count` highest of `values`.
pub(super) fn top(values: &[f32], count: usize) -> f32 {
    let mut values: Vec<f32> = values.to_vec();
    let count = count.clamp(1, values.len().max(1));
    if values.len() < count {
        return 0.0;
    }
    values.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    let sum: f64 = values[..count].iter().copied().map(f64::from).sum();
    (sum / count as f64) as f32
}

/// The patches of `grid` averaged in squares of `step`, of length 1.
fn averaged(
    patches: &Tensor,
    grid: Grid,
    small: Grid,
    step: usize,
) -> Result<Tensor, DetectorError> {
    let width = patches.dim(1)?;
    let mut sums = vec![0.0; small.len() * width];
    with_values(patches, |values| {
        for (at, patch) in values.chunks_exact(width).enumerate() {
            let (row, column) = (at / grid.columns / step, at % grid.columns / step);
            let sum = &mut sums[(row * small.columns + column) * width..][..width];
            sum.iter_mut().zip(patch).for_each(|(sum, x)| *sum += x);
        }
    })?;
    normalise_rows(&mut sums, width);
    matrix(sums, width)
}

/// How much the quarters of images differ; mean residuals.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Quarters {
    /// Between a quarter and the nearest of those of the other images; 0 for a single image.
    pub(super) between: f32,
    /// Between two quarters of one image.
    pub(super) within: f32,
}

impl Quarters {
    /// Of images with these mean patches.
    pub(super) fn of(quarters: &[&QuarterMeans]) -> Self {
        let (mut between, mut within) = (Mean::default(), Mean::default());
        for (i, image) in quarters.iter().enumerate() {
            for (block, own) in image.iter().enumerate() {
                for (j, quarter) in own.iter().enumerate() {
                    let others = quarters.iter().enumerate().filter(|(other, _)| *other != i);
                    let others = others.flat_map(|(_, other)| &other[block]);
                    let nearest = others.map(|other| residual(dot(quarter, other)));
                    between.add(nearest.reduce(f32::min));
                    for other in &own[..j] {
                        within.add(Some(residual(dot(quarter, other))));
                    }
                }
            }
        }
        Self {
            between: between.value(),
            within: within.value(),
        }
    }
}

/// A mean in the making; 0 of nothing.
#[derive(Default)]
struct Mean {
    sum: f32,
    count: f32,
}

impl Mean {
    fn add(&mut self, value: Option<f32>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1.0;
        }
    }

    fn value(&self) -> f32 {
        self.sum / self.count.max(1.0)
    }
}

/// For each block the mean patches of the four quarters of an image, of length 1.
pub(super) type QuarterMeans = Vec<[Vec<f32>; QUARTERS]>;

/// Those of an image with these patches on `grid`.
pub(super) fn quarters(patches: &[Tensor], grid: Grid) -> Result<QuarterMeans, DetectorError> {
    let one = |patches: &Tensor| {
        let width = patches.dim(1)?;
        let mut means = [(); QUARTERS].map(|()| vec![0.0; width]);
        with_values(patches, |values| {
            for (place, patch) in values.chunks_exact(width).enumerate() {
                let lower = 2 * (place / grid.columns) >= grid.rows;
                let right = 2 * (place % grid.columns) >= grid.columns;
                let mean = &mut means[2 * usize::from(lower) + usize::from(right)];
                mean.iter_mut().zip(patch).for_each(|(sum, x)| *sum += x);
            }
        })?;
        means.iter_mut().for_each(|mean| normalise(mean));
        Ok(means)
    };
    patches.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of 4 x 4 patches whose quarters point along `axes` of three.
    fn image(axes: [usize; QUARTERS]) -> Vec<Tensor> {
        let patches = (0..16).flat_map(|place| {
            let axis = axes[2 * (place / 8) + place % 4 / 2];
            (0..3).map(move |i| f32::from(u8::from(i == axis)))
        });
        vec![matrix(patches.collect(), 3).unwrap()]
    }

    #[test]
    fn quarters_are_compared_with_the_nearest_of_other_images_and_with_their_own() {
        // (name, images, the mean residuals between and within: half of a cosine distance of 1
        // where nothing is alike)
        for (name, images, between, within) in [
            (
                "the same",
                vec![[0, 1, 2, 0], [0, 1, 2, 0]],
                0.0,
                5.0 / 12.0,
            ),
            (
                "in other places",
                vec![[0, 1, 2, 0], [2, 0, 0, 1]],
                0.0,
                5.0 / 12.0,
            ),
            ("nothing alike", vec![[0, 0, 0, 0], [1, 1, 1, 1]], 0.5, 0.0),
            (
                "one quarter of the first",
                vec![[0, 0, 0, 1], [0, 0, 0, 0]],
                0.5 / 8.0,
                0.125,
            ),
            ("a single one", vec![[0, 1, 2, 0]], 0.0, 5.0 / 12.0),
        ] {
            let images: Vec<_> = images.into_iter().map(image).collect();
            let grid = Grid {
                rows: 4,
                columns: 4,
            };
            let means = images.iter().map(|image| quarters(image, grid).unwrap());
            let means: Vec<QuarterMeans> = means.collect();
            let found = Quarters::of(&means.iter().collect::<Vec<_>>());
            assert!((found.between - between).abs() < 1e-6, "{name}: {found:?}");
            assert!((found.within - within).abs() < 1e-6, "{name}: {found:?}");
        }
    }
}
