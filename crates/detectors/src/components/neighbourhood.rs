//! MuSc, section 3.1: tokens averaged over square neighbourhoods of several sizes, so that
//! anomalies of several sizes stand out.

use anomalens_backbones::Grid;

use crate::components::tokens::normalise_rows;

/// The sum of the tokens in the `side x side` neighbourhood of each patch, as a unit vector; what
/// lies outside the image counts as zero. (The mean has the same direction.)
pub(crate) fn average(tokens: &[f32], grid: Grid, width: usize, side: usize) -> Vec<f32> {
    let mut sums = sums(tokens, grid, width, side);
    normalise_rows(&mut sums, width);
    sums
}

/// How many cells a square of this side reaches beyond its centre.
pub(crate) fn reach(side: usize) -> usize {
    side / 2
}

/// The sums themselves.
pub(crate) fn sums(tokens: &[f32], grid: Grid, width: usize, side: usize) -> Vec<f32> {
    let reach = reach(side);
    if reach == 0 || tokens.is_empty() {
        return tokens.to_vec();
    }
    let columns = window_sums(tokens, grid.rows, grid.columns * width, reach);
    let mut rows = Vec::with_capacity(columns.len());
    for row in columns.chunks_exact(grid.columns * width) {
        rows.extend(window_sums(row, grid.columns, width, reach));
    }
    rows
}

/// For each of `count` consecutive vectors of length `length` the sum of those at most `reach`
/// away.
fn window_sums(values: &[f32], count: usize, length: usize, reach: usize) -> Vec<f32> {
    let mut sums = vec![0.0; values.len()];
    for (i, sum) in sums.chunks_exact_mut(length).enumerate() {
        let window = i.saturating_sub(reach)..(i + reach + 1).min(count);
        for vector in values[window.start * length..window.end * length].chunks_exact(length) {
            sum.iter_mut()
                .zip(vector)
                .for_each(|(sum, value)| *sum += value);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_is_the_direction_of_the_neighbourhood_sum() {
        let grid = Grid {
            rows: 2,
            columns: 3,
        };
        // Width 2: the second channel is always 1, so that directions tell sums apart.
        let tokens: Vec<f32> = (0..6).flat_map(|i| [i as f32, 1.0]).collect();
        let cases: [(usize, usize, [f32; 2]); 4] = [
            (1, 0, [0.0, 1.0]),
            (3, 0, [0.0 + 1.0 + 3.0 + 4.0, 4.0]),
            (3, 4, [15.0, 6.0]),
            (5, 2, [15.0, 6.0]),
        ];
        for (side, patch, sum) in cases {
            let found = &average(&tokens, grid, 2, side)[2 * patch..][..2];
            let norm = sum[0].hypot(sum[1]);
            assert!(
                (found[0] - sum[0] / norm).abs() < 1e-6,
                "side {side}, patch {patch}"
            );
            assert!(
                (found[1] - sum[1] / norm).abs() < 1e-6,
                "side {side}, patch {patch}"
            );
        }
    }
}
