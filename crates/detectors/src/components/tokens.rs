//! Patch tokens made comparable: standardised, scaled to length 1, stacked.

use anomalens_backbones::{FeatureMap, ImageFeatures, LayerId};
use rayon::prelude::*;

use crate::DetectorError;

/// Epsilon of the layer norm without learned parts.
const LAYER_NORM_EPS: f32 = 1e-5;

/// Gives every row of `tokens` (rows of length `width`) mean 0 and variance 1.
pub(crate) fn standardise_rows(tokens: &mut [f32], width: usize) {
    tokens.par_chunks_mut(width).for_each(|row| {
        let mean = sum(row, row, |x, _| x) / width as f32;
        let variance = sum(row, row, |x, _| (x - mean).powi(2)) / width as f32;
        let scale = (variance + LAYER_NORM_EPS).sqrt().recip();
        row.iter_mut().for_each(|x| *x = (*x - mean) * scale);
    });
}

/// Scales every row of `tokens` (rows of length `width`) to length 1; zero rows stay zero.
pub(crate) fn normalise_rows(tokens: &mut [f32], width: usize) {
    tokens.par_chunks_mut(width).for_each(normalise);
}

/// Inner product of two vectors.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |a, b| a * b)
}

/// Square of the Euclidean distance of two vectors.
pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |a, b| (a - b) * (a - b))
}

/// The sum of `term` over pairs, in lanes that compilers turn into vector instructions.
fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += term(a, b);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(&a, &b)| term(a, b));
    lanes.into_iter().chain(rest).sum()
}

/// Scales a vector to length 1; a zero vector stays zero.
pub(crate) fn normalise(row: &mut [f32]) {
    let norm = dot(row, row).sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

/// The tokens of an image after `block`.
pub(crate) fn after(image: &ImageFeatures, block: usize) -> Result<&FeatureMap, DetectorError> {
    let map = image.layer(block);
    map.ok_or(DetectorError::MissingLayer(LayerId::Block(block)))
}

/// The patch tokens of an image after `block`, `[patches * width]`, standardised.
pub(crate) fn standardised(
    image: &ImageFeatures,
    block: usize,
) -> Result<(Vec<f32>, usize), DetectorError> {
    let tokens = after(image, block)?;
    let mut patches = tokens.tokens.clone();
    standardise_rows(&mut patches, tokens.dim);
    Ok((patches, tokens.dim))
}

/// The mean of an image's standardised patch tokens after `block`, scaled to length 1.
pub(crate) fn unit_mean(image: &ImageFeatures, block: usize) -> Result<Vec<f32>, DetectorError> {
    let (patches, width) = standardised(image, block)?;
    let mut mean = vec![0.0; width];
    for row in patches.chunks_exact(width) {
        mean.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value);
    }
    normalise(&mut mean);
    Ok(mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standardised_rows_have_mean_0_and_variance_1() {
        let mut tokens = vec![1.0, 2.0, 3.0, 6.0, 10.0, 10.0, 10.0, 14.0];
        standardise_rows(&mut tokens, 4);
        for row in tokens.chunks(4) {
            let mean = row.iter().sum::<f32>() / 4.0;
            let variance = row.iter().map(|x| x * x).sum::<f32>() / 4.0;
            assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn unit_rows_have_length_1_and_zero_stays_zero() {
        let mut tokens = vec![3.0, 4.0, 0.0, 0.0];
        normalise_rows(&mut tokens, 2);
        assert_eq!(tokens, [0.6, 0.8, 0.0, 0.0]);
    }
}
