//! A normal distribution of the tokens of each place, from images that all show the same: mean, covariance,
//! Cholesky factor, Mahalanobis distance.
//!
//! Of each symmetric or triangular matrix the lower half is kept, row by row: first the sums of products,
//! then in their place the factor.

use rayon::prelude::*;

use crate::components::tokens::dot;

/// Numbers in half of a square matrix, its diagonal included.
pub(crate) fn half(width: usize) -> usize {
    width * (width + 1) / 2
}

/// Sums over images from which the distributions follow.
pub(crate) struct Moments {
    width: usize,
    images: usize,
    /// `[places, width]`.
    means: Vec<f32>,
    /// `[places, half]`: sums of products of differences from the mean.
    products: Vec<f32>,
}

impl Moments {
    /// Of no image, for `places` tokens of length `width`.
    pub(crate) fn new(places: usize, width: usize) -> Self {
        Self {
            width,
            images: 0,
            means: vec![0.0; places * width],
            products: vec![0.0; places * half(width)],
        }
    }

    /// Adds the tokens of an image, `[places, width]` (Welford's update, which does not cancel).
    pub(crate) fn add(&mut self, tokens: &[f32]) {
        self.images += 1;
        let (width, count) = (self.width, self.images as f32);
        let places = self.means.par_chunks_exact_mut(width);
        let products = self.products.par_chunks_exact_mut(half(width));
        places
            .zip(products)
            .zip(tokens.par_chunks_exact(width))
            .for_each_init(
                || (vec![], vec![]),
                |(before, after), ((mean, products), token)| {
                    before.clear();
                    before.extend(token.iter().zip(&*mean).map(|(x, mean)| x - mean));
                    let parts = mean.iter_mut().zip(&*before);
                    parts.for_each(|(mean, difference)| *mean += difference / count);
                    after.clear();
                    after.extend(token.iter().zip(&*mean).map(|(x, mean)| x - mean));
                    let mut rest = products;
                    for (row, &factor) in before.iter().enumerate() {
                        let (sums, others) = rest.split_at_mut(row + 1);
                        let products = sums.iter_mut().zip(&*after);
                        products.for_each(|(sum, x)| *sum += factor * x);
                        rest = others;
                    }
                },
            );
    }

    /// The covariances, which divide by the number of images less one, with `regularisation` on their
    /// diagonals, as their Cholesky factors; none if there are fewer than two images.
    pub(crate) fn factorised(mut self, regularisation: f64) -> Option<Gaussians> {
        let divisor = self.images.checked_sub(1).filter(|&n| n > 0)? as f64;
        let places = self.products.par_chunks_exact_mut(half(self.width));
        places.for_each_init(Vec::new, |matrix: &mut Vec<f64>, products| {
            matrix.clear();
            matrix.extend(products.iter().map(|&x| f64::from(x) / divisor));
            for row in 0..self.width {
                matrix[half(row) + row] += regularisation;
            }
            factorise(matrix, self.width);
            let both = products.iter_mut().zip(matrix);
            both.for_each(|(product, factor)| *product = *factor as f32);
        });
        Some(Gaussians {
            width: self.width,
            means: self.means,
            factors: self.products,
        })
    }
}

/// Replaces the lower half of a positive symmetric matrix by its Cholesky factor.
pub(crate) fn factorise(matrix: &mut [f64], width: usize) {
    for row in 0..width {
        let (before, rest) = matrix.split_at_mut(half(row));
        let own = &mut rest[..=row];
        for column in 0..row {
            let other = &before[half(column)..][..=column];
            let product = dot_exactly(&own[..column], &other[..column]);
            own[column] = (own[column] - product) / other[column];
        }
        let product = dot_exactly(&own[..row], &own[..row]);
        // Rounding may leave nothing of a direction in which nothing varies.
        own[row] = (own[row] - product).max(f64::MIN_POSITIVE).sqrt();
    }
}

/// Inner product in float64, in lanes that compilers turn into vector instructions.
pub(crate) fn dot_exactly(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        let pairs = lanes.iter_mut().zip(a.iter().zip(b));
        pairs.for_each(|(lane, (a, b))| *lane += a * b);
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a * b);
    lanes.into_iter().chain(rest).sum()
}

/// A normal distribution for each place.
pub(crate) struct Gaussians {
    width: usize,
    /// `[places, width]`.
    pub(crate) means: Vec<f32>,
    /// `[places, half]`.
    pub(crate) factors: Vec<f32>,
}

impl Gaussians {
    /// Those with these means `[places, width]` and factors `[places, half]`, if they fit each other.
    pub(crate) fn new(means: Vec<f32>, factors: Vec<f32>, width: usize) -> Option<Self> {
        let places = means.len().checked_div(width)?;
        let fits = means.len() == places * width && factors.len() == places * half(width);
        fits.then_some(Self {
            width,
            means,
            factors,
        })
    }

    /// Length of a token.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Number of places.
    pub(crate) fn places(&self) -> usize {
        self.means.len() / self.width
    }

    /// The square of the Mahalanobis distance of each of `tokens`, `[places, width]`, from the
    /// distribution of its place.
    pub(crate) fn squared_distances(&self, tokens: &[f32]) -> Vec<f32> {
        let places = tokens.par_chunks_exact(self.width);
        let places = places.zip(self.means.par_chunks_exact(self.width));
        let places = places.zip(self.factors.par_chunks_exact(half(self.width)));
        // With the factor L it is the square of the length of z, where Lz is the difference.
        let squared = places.map_init(Vec::new, |z: &mut Vec<f32>, ((token, mean), factor)| {
            z.clear();
            let mut rest = factor;
            for (row, (x, mean)) in token.iter().zip(mean).enumerate() {
                let (own, others) = rest.split_at(row + 1);
                z.push((x - mean - dot(z, &own[..row])) / own[row]);
                rest = others;
            }
            dot(z, z)
        });
        squared.collect()
    }

    /// The inverses of the factors, `[places, width, width]`.
    pub(crate) fn inverses(&self) -> Vec<f32> {
        let width = self.width;
        let mut all = vec![0.0; self.places() * width * width];
        let places = all.par_chunks_exact_mut(width * width);
        places
            .zip(self.factors.par_chunks_exact(half(width)))
            .for_each(|(inverse, factor)| {
                let at = |row: usize, column: usize| f64::from(factor[half(row) + column]);
                for column in 0..width {
                    let mut solved: Vec<f64> = vec![0.0; width];
                    for row in column..width {
                        let known = (column..row).map(|i| at(row, i) * solved[i]).sum::<f64>();
                        let own = f64::from(u8::from(row == column));
                        solved[row] = (own - known) / at(row, row);
                    }
                    let below = inverse.iter_mut().skip(column).step_by(width.max(1));
                    below.zip(solved).for_each(|(to, x)| *to = x as f32);
                }
            });
        all
    }
}

#[cfg(test)]
impl Moments {
    /// Means and covariances.
    pub(crate) fn covariances(&self) -> (Vec<f32>, Vec<f32>) {
        let divisor = (self.images - 1) as f32;
        let whole = self.products.chunks(half(self.width)).flat_map(|products| {
            let entry = |(row, column): (usize, usize)| half(row.max(column)) + row.min(column);
            let places = (0..self.width * self.width).map(|i| (i / self.width, i % self.width));
            places.map(move |place| products[entry(place)] / divisor)
        });
        (self.means.clone(), whole.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::random::{generator, normal};
    use nalgebra::{DMatrix, DVector};

    #[test]
    fn distances_equal_the_definition() {
        // (images, width): fewer images than numbers leave directions in which nothing varies
        for (images, width) in [(2, 5), (9, 20), (60, 12)] {
            const PLACES: usize = 3;
            let mut random = generator(4, width as u32);
            let all: Vec<Vec<f32>> = (0..images)
                .map(|_| {
                    let tokens = normal(PLACES * width, 1.0, &mut random);
                    tokens.iter().map(|x| x + 3.0).collect()
                })
                .collect();
            let mut moments = Moments::new(PLACES, width);
            all.iter().for_each(|tokens| moments.add(tokens));
            let gaussians = moments.factorised(0.01).unwrap();
            let token = normal(PLACES * width, 2.0, &mut random);
            let token: Vec<f32> = token.iter().map(|x| x + 3.0).collect();
            let found = gaussians.squared_distances(&token);
            for (place, found) in found.into_iter().enumerate() {
                let at = |tokens: &[f32]| {
                    let own = tokens[place * width..][..width].iter();
                    DVector::from_iterator(width, own.map(|&x| f64::from(x)))
                };
                let mean =
                    all.iter().map(|tokens| at(tokens)).sum::<DVector<f64>>() / images as f64;
                let products = all.iter().map(|tokens| {
                    let difference = at(tokens) - &mean;
                    &difference * difference.transpose()
                });
                let covariance = products.sum::<DMatrix<f64>>() / (images - 1) as f64
                    + DMatrix::identity(width, width) * 0.01;
                let difference = at(&token) - mean;
                let expected = difference.dot(&covariance.lu().solve(&difference).unwrap());
                let off = (f64::from(found) / expected - 1.0).abs();
                assert!(off < 1e-4, "{images}, {width}: {found} {expected}");
            }
        }
        let mut one = Moments::new(1, 2);
        one.add(&[1.0, 2.0]);
        assert!(one.factorised(0.01).is_none());
    }
}
