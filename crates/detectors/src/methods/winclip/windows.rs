//! Scores of windows of patches, brought to the patches that they cover (paper, section 4.2).

use anomalens_backbones::Grid;

/// The harmonic mean of the scores of the windows of `side` x `side` patches that cover a patch, for each
/// patch of `grid`. `scores` are of all windows, row by row, one patch apart. A patch is 0 that no window
/// covers, or one of score 0.
pub(super) fn cover(scores: &[f32], side: usize, grid: Grid) -> Vec<f32> {
    let columns = (grid.columns + 1).saturating_sub(side);
    let mut sums = vec![(0_u32, 0.0_f64); grid.len()];
    for (window, &score) in scores.iter().enumerate() {
        let (top, left) = (window / columns.max(1), window % columns.max(1));
        for y in top..top + side {
            for (count, sum) in &mut sums[y * grid.columns + left..][..side] {
                *count += 1;
                *sum += 1.0 / f64::from(score);
            }
        }
    }
    let mean = |(count, sum): (u32, f64)| (f64::from(count) / sum) as f32;
    sums.into_iter().map(mean).map(finite).collect()
}

/// The harmonic mean of `maps` and of `score` at each patch.
pub(super) fn harmonic(maps: &[Vec<f32>], score: f32) -> Vec<f32> {
    let count = maps.first().map_or(0, Vec::len);
    let at = |patch: usize| {
        let scores = maps.iter().map(|map| map[patch]).chain([score]);
        let sum: f64 = scores.map(|score| 1.0 / f64::from(score)).sum();
        finite(((maps.len() + 1) as f64 / sum) as f32)
    };
    (0..count).map(at).collect()
}

/// The mean of `maps` at each patch.
pub(super) fn mean(maps: &[Vec<f32>]) -> Vec<f32> {
    let count = maps.first().map_or(0, Vec::len);
    let at = |patch: usize| maps.iter().map(|map| map[patch]).sum::<f32>() / maps.len() as f32;
    (0..count).map(at).map(finite).collect()
}

/// 0 in the place of what is no number, as the implementations have it.
fn finite(x: f32) -> f32 {
    if x.is_finite() { x } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_their_patches() {
        let grid = Grid {
            rows: 2,
            columns: 3,
        };
        // Two windows of 2x2: the middle column is covered by both.
        assert_eq!(
            cover(&[0.5, 1.0], 2, grid),
            [0.5, 2.0 / 3.0, 1.0, 0.5, 2.0 / 3.0, 1.0]
        );
        assert_eq!(cover(&[0.0, 1.0], 2, grid)[..3], [0.0, 0.0, 1.0]);
        // No window is so large.
        assert_eq!(cover(&[], 3, grid), [0.0; 6]);
    }
}
