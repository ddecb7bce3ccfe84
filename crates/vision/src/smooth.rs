//! Gaussian smoothing of score maps, equal to SciPy's `gaussian_filter` on f32 arrays.
//!
//! Borders are mirrored with the edge pixel repeated (`b a | a b c | c b`), or once as PyTorch's padding
//! `reflect` has it (`c b | a b c | b a`); rows are blended first (axis 0), then columns. Each pass sums in
//! f64 and stores f32, as SciPy does.

use rayon::prelude::*;

use crate::error::GeometryError;
use crate::map::Map;

/// Where the kernel is cut off, in standard deviations (SciPy's default).
const TRUNCATE: f64 = 4.0;

/// Largest useful standard deviation, in pixels.
const MAX_SIGMA: f64 = 1000.0;

/// How a map goes on beyond its border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// Mirrored, the edge pixel twice: SciPy's `reflect`.
    EdgeTwice,
    /// Mirrored, the edge pixel once: PyTorch's `reflect`.
    EdgeOnce,
}

impl Map {
    /// Smooths with a Gaussian of standard deviation `sigma` pixels; 0 changes nothing.
    ///
    /// # Errors
    /// [`GeometryError::Sigma`] if `sigma` is negative, NaN or above 1000.
    pub fn smooth(&self, sigma: f64) -> Result<Map, GeometryError> {
        self.smooth_with(sigma, Border::EdgeTwice)
    }

    /// The same with another border.
    ///
    /// # Errors
    /// As [`Map::smooth`].
    pub fn smooth_with(&self, sigma: f64, border: Border) -> Result<Map, GeometryError> {
        if !(0.0..=MAX_SIGMA).contains(&sigma) {
            return Err(GeometryError::Sigma {
                sigma,
                max: MAX_SIGMA,
            });
        }
        let kernel = half_kernel(sigma);
        let (rows, columns) = (self.rows(), self.columns());
        let blended = blend_rows(self.values(), rows, columns, &kernel, border);
        Map::new(
            rows,
            columns,
            blend_columns(&blended, columns, &kernel, border),
        )
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

impl Border {
    /// Mirrors an index at the edges of `0..size`.
    fn reflect(self, index: isize, size: usize) -> usize {
        let period = match self {
            Self::EdgeTwice => 2 * size,
            Self::EdgeOnce => (2 * size).saturating_sub(2).max(1),
        };
        let folded = index.rem_euclid(period as isize) as usize;
        match self {
            Self::EdgeTwice => folded.min(period - 1 - folded),
            Self::EdgeOnce => folded.min(period - folded),
        }
    }
}

/// Weights every row with the rows above and below it.
fn blend_rows(
    values: &[f32],
    rows: usize,
    columns: usize,
    kernel: &[f64],
    border: Border,
) -> Vec<f32> {
    let row = |index: isize| &values[border.reflect(index, rows) * columns..][..columns];
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
fn blend_columns(values: &[f32], columns: usize, kernel: &[f64], border: Border) -> Vec<f32> {
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
                    *padded =
                        f64::from(row[border.reflect(at as isize - radius as isize, columns)]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_are_mirrored() {
        for (border, expected) in [
            (Border::EdgeTwice, [1, 0, 0, 1, 2, 2, 1, 0]),
            (Border::EdgeOnce, [2, 1, 0, 1, 2, 1, 0, 1]),
        ] {
            let found: Vec<usize> = (-2..6).map(|i| border.reflect(i, 3)).collect();
            assert_eq!(found, expected, "{border:?}");
            assert_eq!(border.reflect(-7, 1), 0);
        }
    }
}
