//! Gaussian smoothing of score maps, equal to SciPy's `gaussian_filter` on f32 arrays.
//!
//! Borders are mirrored with the edge pixel repeated (`b a | a b c | c b`); rows are blended first
//! (axis 0), then columns. Each pass sums in f64 and stores f32, as SciPy does.

use rayon::prelude::*;

use crate::error::GeometryError;
use crate::map::Map;

/// Where the kernel is cut off, in standard deviations (SciPy's default).
const TRUNCATE: f64 = 4.0;

/// Largest useful standard deviation, in pixels.
const MAX_SIGMA: f64 = 1000.0;

impl Map {
    /// Smooths with a Gaussian of standard deviation `sigma` pixels; 0 changes nothing.
    ///
    /// # Errors
    /// [`GeometryError::Sigma`] if `sigma` is negative, NaN or above 1000.
    pub fn smooth(&self, sigma: f64) -> Result<Map, GeometryError> {
        if !(0.0..=MAX_SIGMA).contains(&sigma) {
            return Err(GeometryError::Sigma {
                sigma,
                max: MAX_SIGMA,
            });
        }
        let kernel = half_kernel(sigma);
        let (rows, columns) = (self.rows(), self.columns());
        let blended = blend_rows(self.values(), rows, columns, &kernel);
        Map::new(rows, columns, blend_columns(&blended, columns, &kernel))
    }
}

/// Normalised weights from the centre outwards; the other half is its mirror image.
fn half_kernel(sigma: f64) -> Vec<f64> {
    let radius = (TRUNCATE * sigma + 0.5) as usize;
    if radius == 0 {
        return vec![1.0];
    }
    let weights: Vec<f64> = (0..=radius)
        .map(|x| (-0.5 / (sigma * sigma) * (x * x) as f64).exp())
        .collect();
    let sum = weights[0] + 2.0 * weights[1..].iter().sum::<f64>();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Mirrors an index at the edges of `0..size`; the edge values are repeated.
fn reflect(index: isize, size: usize) -> usize {
    let folded = index.rem_euclid(2 * size as isize) as usize;
    folded.min(2 * size - 1 - folded)
}

/// Weights every row with the rows above and below it.
fn blend_rows(values: &[f32], rows: usize, columns: usize, kernel: &[f64]) -> Vec<f32> {
    let row = |index: isize| &values[reflect(index, rows) * columns..][..columns];
    let mut blended = vec![0.0; values.len()];
    blended
        .par_chunks_exact_mut(columns)
        .enumerate()
        .for_each_init(
            || vec![0.0; columns],
            |sums, (y, output)| {
                let y = y as isize;
                for (sum, &value) in sums.iter_mut().zip(row(y)) {
                    *sum = f64::from(value) * kernel[0];
                }
                // From the outside inwards, which is SciPy's order.
                for (distance, &weight) in kernel.iter().enumerate().skip(1).rev() {
                    let distance = distance as isize;
                    let pairs = row(y - distance).iter().zip(row(y + distance));
                    for (sum, (&above, &below)) in sums.iter_mut().zip(pairs) {
                        *sum += (f64::from(above) + f64::from(below)) * weight;
                    }
                }
                store(sums, output);
            },
        );
    blended
}

/// Weights every value with its neighbours to the left and right.
fn blend_columns(values: &[f32], columns: usize, kernel: &[f64]) -> Vec<f32> {
    let radius = kernel.len() - 1;
    let mut blended = vec![0.0; values.len()];
    let rows = values.par_chunks_exact(columns);
    blended
        .par_chunks_exact_mut(columns)
        .zip(rows)
        .for_each_init(
            || (vec![0.0; columns], vec![0.0; columns + 2 * radius]),
            |(sums, padded), (output, row)| {
                for (at, padded) in padded.iter_mut().enumerate() {
                    *padded = f64::from(row[reflect(at as isize - radius as isize, columns)]);
                }
                for (sum, &value) in sums.iter_mut().zip(&padded[radius..]) {
                    *sum = value * kernel[0];
                }
                for (distance, &weight) in kernel.iter().enumerate().skip(1).rev() {
                    let pairs = padded[radius - distance..]
                        .iter()
                        .zip(&padded[radius + distance..]);
                    for (sum, (&left, &right)) in sums.iter_mut().zip(pairs) {
                        *sum += (left + right) * weight;
                    }
                }
                store(sums, output);
            },
        );
    blended
}

fn store(sums: &[f64], output: &mut [f32]) {
    for (output, &sum) in output.iter_mut().zip(sums) {
        *output = sum as f32;
    }
}
