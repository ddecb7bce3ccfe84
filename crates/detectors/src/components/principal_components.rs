//! Principal components: tokens shortened to those of a group, which keeps nearly all of what tells
//! patches apart at a fraction of the cost of comparing them; and the first one alone.

use candle_core::{Device, Tensor};
use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::DetectorError;
use crate::components::nearest::matrix;

/// Directions that are followed together towards the longest one; how fast that goes depends on
/// the gap between the first and the last.
const DIRECTIONS: usize = 8;

/// The component has settled when a step moves it by less than this part of its length.
const SETTLED: f64 = 1e-10;

/// More steps are never needed where the first two components differ by more than rounding.
const MAX_STEPS: usize = 1000;

/// The tokens of each image (rows of length `width`) in the coordinates of the `dimensions`
/// directions in which the tokens of all images are longest, and their new length. Scalar
/// products change as little as any projection can make them. Nothing changes if `dimensions` is
/// 0 or not smaller than `width`.
pub(crate) fn shorten(
    images: Vec<Vec<f32>>,
    width: usize,
    dimensions: usize,
) -> Result<(Vec<Vec<f32>>, usize), DetectorError> {
    if dimensions == 0 || dimensions >= width {
        return Ok((images, width));
    }
    let tokens: Vec<Tensor> = images
        .into_iter()
        .map(|image| matrix(image, width))
        .collect::<Result<_, _>>()?;
    let mut moments = Tensor::zeros((width, width), candle_core::DType::F32, &Device::Cpu)?;
    for image in &tokens {
        moments = (moments + image.t()?.matmul(image)?)?;
    }
    let axes = longest_axes(&moments, dimensions)?;
    let shortened = tokens
        .iter()
        .map(|image| image.matmul(&axes)?.flatten_all()?.to_vec1());
    Ok((shortened.collect::<Result<_, _>>()?, dimensions))
}

/// The eigenvectors of the largest eigenvalues of the symmetric matrix `moments`,
/// `[width, count]`.
fn longest_axes(moments: &Tensor, count: usize) -> Result<Tensor, DetectorError> {
    let width = moments.dim(0)?;
    let values = moments.flatten_all()?.to_vec1::<f32>()?;
    let eigen = SymmetricEigen::new(DMatrix::from_vec(width, width, values));
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let axes: Vec<f32> = (0..width)
        .flat_map(|row| order[..count].iter().map(move |&axis| (row, axis)))
        .map(|place| eigen.eigenvectors[place])
        .collect();
    matrix(axes, count)
}

/// The eigenvector of the largest eigenvalue of a symmetric positive matrix, by subspace
/// iteration, which is exact to rounding and always starts from the same place.
pub(crate) fn longest_axis(matrix: &DMatrix<f64>) -> DVector<f64> {
    let width = matrix.nrows();
    let count = DIRECTIONS.min(width);
    // The columns of the most varied entries: no direction of any length is orthogonal to them all.
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| matrix[(b, b)].total_cmp(&matrix[(a, a)]));
    let mut axes = matrix.select_columns(&order[..count]);
    let mut longest = DVector::zeros(width);
    for _ in 0..MAX_STEPS {
        let basis = axes.qr().q();
        let next = matrix * &basis;
        let inner = SymmetricEigen::new(basis.tr_mul(&next));
        let largest = inner.eigenvalues.imax();
        let mut found = basis * inner.eigenvectors.column(largest);
        if found[found.icamax()] < 0.0 {
            found.neg_mut();
        }
        let moved = (&found - &longest).norm();
        longest = found;
        if moved < SETTLED {
            break;
        }
        axes = next;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of length 6 that lie in a plane.
    fn plane(count: usize) -> Vec<f32> {
        let basis = [
            [1.0, 2.0, 0.0, -1.0, 0.5, 0.0],
            [0.0, 1.0, 1.0, 0.0, -2.0, 0.3],
        ];
        (0..count)
            .flat_map(|i| {
                let (a, b) = ((i as f32).sin(), (i as f32 * 0.7).cos());
                (0..6).map(move |j| a * basis[0][j] + b * basis[1][j])
            })
            .collect()
    }

    fn product(rows: &[f32], width: usize, i: usize, j: usize) -> f32 {
        rows[i * width..][..width]
            .iter()
            .zip(&rows[j * width..][..width])
            .map(|(a, b)| a * b)
            .sum()
    }

    #[test]
    fn what_lies_in_few_dimensions_keeps_its_products() {
        let tokens = plane(10);
        let (short, length) = shorten(vec![tokens.clone()], 6, 2).unwrap();
        assert_eq!((length, short[0].len()), (2, 20));
        for i in 0..10 {
            for j in 0..10 {
                let (before, after) = (product(&tokens, 6, i, j), product(&short[0], 2, i, j));
                assert!((before - after).abs() < 1e-4, "{i}, {j}: {before} {after}");
            }
        }
    }

    #[test]
    fn nothing_changes_where_there_is_nothing_to_shorten() {
        for dimensions in [0, 6, 7] {
            let (same, length) = shorten(vec![plane(3)], 6, dimensions).unwrap();
            assert_eq!((same, length), (vec![plane(3)], 6));
        }
    }

    #[test]
    fn the_longest_axis_is_that_of_the_full_decomposition() {
        for (name, width) in [("wide", 40), ("as wide as the iteration", 8), ("narrow", 2)] {
            let values = (0..width * 60).map(|i| ((i * i * 7 + i) % 101) as f64 / 50.0 - 1.0);
            let rows = DMatrix::from_iterator(60, width, values);
            let matrix = rows.tr_mul(&rows);
            let found = longest_axis(&matrix);
            let full = SymmetricEigen::new(matrix);
            let expected = full.eigenvectors.column(full.eigenvalues.imax());
            let cosine = found.dot(&expected).abs();
            assert!((cosine - 1.0).abs() < 1e-12, "{name}: {cosine}");
        }
    }
}
