//! A normal distribution of the joined tokens of each place, as `gaussian.rs` has it, from so few images that
//! the covariance, but for what is added to its diagonal, has no more directions than there are images. Then
//! the images themselves are kept in place of matrices.
//!
//! With differences from the mean as the rows of `X`, from `n` images, and `r` on the diagonal, the square of
//! the distance of `d` is `(|d|^2 - |z|^2) / r`, where `L z = X d` and `L L' = X X' + r (n - 1)` (Woodbury's
//! formula). Products are sums over the layers, and those of coarse layers are the same for many places.

use std::sync::Arc;

use rayon::prelude::*;

use crate::components::gaussian::{dot_exactly, factorise, half};
use crate::components::joined::{Cells, finest};

/// The layers of an image.
pub(crate) type Layers = Arc<Vec<Cells<'static>>>;

/// A normal distribution for each place of the finest layer.
pub(crate) struct FewGaussians {
    images: Vec<Layers>,
    layers: Vec<Layer>,
    regularisation: f64,
    /// `[places, half]`: Cholesky factors of the products of images.
    factors: Vec<f64>,
}

/// What is known of one layer.
struct Layer {
    width: usize,
    /// `[cells, width]`.
    means: Vec<f64>,
    /// The cell of each place.
    cells: Vec<usize>,
}

impl Layer {
    /// The difference of a token of cell `at` from the mean.
    fn difference<'a>(&'a self, tokens: &'a [f32], at: usize) -> impl Iterator<Item = f64> + 'a {
        let own = at * self.width..(at + 1) * self.width;
        let both = tokens[own.clone()].iter().zip(&self.means[own]);
        both.map(|(x, mean)| f64::from(*x) - mean)
    }

    fn count(&self) -> usize {
        self.means.len() / self.width.max(1)
    }
}

impl FewGaussians {
    /// Bytes that the distributions of `images` images take, whose layers have `numbers` numbers together
    /// and `places` places.
    pub(crate) fn bytes(images: usize, numbers: usize, places: usize) -> usize {
        let tokens = numbers
            .saturating_mul(images)
            .saturating_mul(size_of::<f32>());
        let factors = half(images).saturating_mul(places);
        tokens.saturating_add(factors.saturating_mul(size_of::<f64>()))
    }

    /// Those of `images`, with `regularisation` on the diagonals; none if there are fewer than two, or if
    /// they do not all have the same layers.
    pub(crate) fn new(images: Vec<Layers>, regularisation: f64) -> Option<Self> {
        let [first, _, ..] = images.as_slice() else {
            return None;
        };
        let sizes = |image: &Layers| -> Vec<(usize, usize)> {
            let layers = image.iter();
            layers
                .map(|layer| (layer.tokens.len(), layer.width))
                .collect()
        };
        let fits = |layer: &Cells<'_>| {
            layer.width > 0 && layer.tokens.len() == layer.grid.len() * layer.width
        };
        let same = images.iter().all(|image| sizes(image) == sizes(first));
        let grid = finest(first);
        if !same || !first.iter().all(fits) || grid.is_empty() {
            return None;
        }
        let layers = first.iter().enumerate().map(|(number, layer)| {
            let mut means = vec![0.0; layer.tokens.len()];
            for image in &images {
                let both = means.iter_mut().zip(image[number].tokens.iter());
                both.for_each(|(sum, &x)| *sum += f64::from(x));
            }
            means.iter_mut().for_each(|sum| *sum /= images.len() as f64);
            let (rows, columns) = (layer.grid.rows, layer.grid.columns);
            let cell = |place: usize| {
                let (row, column) = (place / grid.columns, place % grid.columns);
                row * rows / grid.rows * columns + column * columns / grid.columns
            };
            Layer {
                width: layer.width,
                means,
                cells: (0..grid.len()).map(cell).collect(),
            }
        });
        let mut few = Self {
            layers: layers.collect(),
            images,
            regularisation,
            factors: vec![],
        };
        few.factors = few.factorised(grid.len());
        Some(few)
    }

    fn factorised(&self, places: usize) -> Vec<f64> {
        let count = self.images.len();
        let products: Vec<Vec<f64>> = (0..self.layers.len()).map(|l| self.products(l)).collect();
        let mut factors = vec![0.0; places * half(count)];
        let added = self.regularisation * (count - 1) as f64;
        let matrices = factors.par_chunks_exact_mut(half(count));
        matrices.enumerate().for_each(|(place, matrix)| {
            for (layer, products) in self.layers.iter().zip(&products) {
                let own = &products[layer.cells[place] * half(count)..][..half(count)];
                let both = matrix.iter_mut().zip(own);
                both.for_each(|(sum, product)| *sum += product);
            }
            for row in 0..count {
                matrix[half(row) + row] += added;
            }
            factorise(matrix, count);
        });
        factors
    }

    /// The inner products of the images' differences in each cell of a layer, `[cells, half]`.
    fn products(&self, number: usize) -> Vec<f64> {
        let (layer, count) = (&self.layers[number], self.images.len());
        let mut products = vec![0.0; layer.count() * half(count)];
        let cells = products.par_chunks_exact_mut(half(count)).enumerate();
        cells.for_each_init(Vec::new, |rows: &mut Vec<f64>, (cell, products)| {
            rows.clear();
            for image in &self.images {
                rows.extend(layer.difference(&image[number].tokens, cell));
            }
            let row = |i: usize| &rows[i * layer.width..][..layer.width];
            let mut rest = products;
            for i in 0..count {
                let (own, others) = rest.split_at_mut(i + 1);
                let own = own.iter_mut().enumerate();
                own.for_each(|(j, product)| *product = dot_exactly(row(i), row(j)));
                rest = others;
            }
        });
        products
    }

    /// The square of the Mahalanobis distance of each place of an image from the distribution there; none if
    /// the image has other layers.
    pub(crate) fn squared_distances(&self, image: &[Cells<'_>]) -> Option<Vec<f64>> {
        let fits = |(layer, known): (&Cells<'_>, &Layer)| {
            layer.width == known.width && layer.tokens.len() == known.means.len()
        };
        if image.len() != self.layers.len() || !image.iter().zip(&self.layers).all(fits) {
            return None;
        }
        let count = self.images.len();
        // Of each cell: the products with all images, then the square of its own length.
        let numbers = 0..self.layers.len();
        let compared: Vec<Vec<f64>> = numbers
            .map(|l| self.compared(l, &image[l].tokens))
            .collect();
        let places = self.factors.par_chunks_exact(half(count)).enumerate();
        let squared = places.map_init(Vec::new, |z: &mut Vec<f64>, (place, factor)| {
            let mut sums = vec![0.0; count + 1];
            for (layer, compared) in self.layers.iter().zip(&compared) {
                let own = &compared[layer.cells[place] * (count + 1)..][..count + 1];
                sums.iter_mut().zip(own).for_each(|(sum, x)| *sum += x);
            }
            z.clear();
            let mut rest = factor;
            for (row, sum) in sums[..count].iter().enumerate() {
                let (own, others) = rest.split_at(row + 1);
                z.push((sum - dot_exactly(z, &own[..row])) / own[row]);
                rest = others;
            }
            // What is left may be a little below zero by rounding.
            (sums[count] - dot_exactly(z, z)).max(0.0) / self.regularisation
        });
        Some(squared.collect())
    }

    fn compared(&self, number: usize, tokens: &[f32]) -> Vec<f64> {
        let (layer, count) = (&self.layers[number], self.images.len());
        let mut compared = vec![0.0; layer.count() * (count + 1)];
        let cells = compared.par_chunks_exact_mut(count + 1).enumerate();
        cells.for_each_init(Vec::new, |own: &mut Vec<f64>, (cell, compared)| {
            own.clear();
            own.extend(layer.difference(tokens, cell));
            for (product, image) in compared.iter_mut().zip(&self.images) {
                let other = layer.difference(&image[number].tokens, cell);
                *product = own.iter().zip(other).map(|(a, b)| a * b).sum();
            }
            compared[count] = dot_exactly(own, own);
        });
        compared
    }
}

#[cfg(test)]
mod tests {
    use anomalens_backbones::Grid;

    use super::*;
    use crate::components::gaussian::Moments;
    use crate::components::joined::{Sampling, join};
    use crate::training::random::{generator, normal};

    /// A random image of three layers, on grids that are no multiples of each other.
    fn image(seed: u32) -> Layers {
        let mut random = generator(7, seed);
        let layers = [(6, 4, 3), (3, 2, 4), (2, 2, 5)].map(|(rows, columns, width)| {
            let values = normal(rows * columns * width, 1.0, &mut random);
            Cells {
                tokens: values.into_iter().map(|x| x + 2.0).collect(),
                grid: Grid { rows, columns },
                width,
            }
        });
        Arc::new(layers.into())
    }

    #[test]
    fn distances_are_those_of_the_covariances() {
        // Fewer images than the 12 numbers of a place, and more.
        for count in [2, 7, 30] {
            let images: Vec<Layers> = (0..count).map(image).collect();
            let joined = |image: &Layers| join(image, image[0].grid, Sampling::Nearest);
            let mut moments = Moments::new(24, 12);
            images.iter().for_each(|image| moments.add(&joined(image)));
            let whole = moments.factorised(0.01).unwrap();
            let few = FewGaussians::new(images, 0.01).unwrap();
            let other = image(99);
            let expected = whole.squared_distances(&joined(&other));
            let found = few.squared_distances(&other).unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.into_iter().zip(expected) {
                let off = (found / f64::from(expected) - 1.0).abs();
                assert!(off < 1e-4, "{count}: {found} {expected}");
            }
        }
    }

    #[test]
    fn images_that_do_not_fit_are_refused() {
        assert!(FewGaussians::new(vec![image(0)], 0.01).is_none());
        let cut = Arc::new(vec![Cells {
            tokens: vec![1.0; 9].into(),
            grid: Grid {
                rows: 3,
                columns: 1,
            },
            width: 3,
        }]);
        assert!(FewGaussians::new(vec![image(0), cut.clone()], 0.01).is_none());
        let few = FewGaussians::new(vec![image(0), image(1)], 0.01).unwrap();
        assert!(few.squared_distances(&cut).is_none());
        assert_eq!(FewGaussians::bytes(44, 351_232, 3136), 86_653_952);
    }
}
