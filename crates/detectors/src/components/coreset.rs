//! A coreset: rows that cover all others, so that a memory bank stays small and a search fast
//! (PatchCore, Roth et al., CVPR 2022, section 3.2). Greedy k-centre in rounds: each round takes rows
//! that are far from all that were taken before.

use super::nearest::UnitVectors;
use crate::DetectorError;
use anomalens_backbones::Precision;

/// Rounds; more come nearer to taking one row at a time, and cost the same.
const ROUNDS: usize = 64;

/// In a round one of so many of the farthest rows is taken: neighbours are far together.
const APART: usize = 3;

/// The indices of at most `most` of `rows` (of length 1, `width` numbers each), in ascending order.
/// The same rows give the same coreset.
pub(crate) fn coreset(
    rows: &[f32],
    width: usize,
    most: usize,
) -> Result<Vec<usize>, DetectorError> {
    let count = rows.len() / width.max(1);
    if count <= most || most == 0 {
        return Ok((0..count).collect());
    }
    let round = most.div_ceil(ROUNDS);
    // Rows from everywhere come first.
    let mut taken: Vec<usize> = (0..round).map(|i| i * count / round).collect();
    let mut newest = taken.clone();
    let mut nearest = vec![f32::NEG_INFINITY; count];
    while taken.len() < most {
        let new = newest.iter().flat_map(|&row| &rows[row * width..][..width]);
        let new = UnitVectors::new(new.copied().collect(), width, Precision::Half)?;
        let similarities = new.roughly_highest_similarity(rows);
        let both = nearest.iter_mut().zip(similarities);
        both.for_each(|(nearest, new)| *nearest = nearest.max(new));
        for &row in &newest {
            nearest[row] = f32::INFINITY;
        }
        let wanted = round.min(most - taken.len());
        let mut order: Vec<usize> = (0..count).filter(|&row| nearest[row].is_finite()).collect();
        order.sort_by(|&a, &b| nearest[a].total_cmp(&nearest[b]));
        let apart = APART.min(order.len() / wanted.max(1)).max(1);
        newest = order.into_iter().step_by(apart).take(wanted).collect();
        if newest.is_empty() {
            break;
        }
        taken.extend(&newest);
    }
    taken.sort_unstable();
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on a circle: many near one place, few elsewhere.
    fn circle() -> Vec<f32> {
        let crowd = (0..900).map(|i| i as f32 * 1e-5);
        let rest = (0..100).map(|i| 0.5 + i as f32 * 0.05);
        crowd
            .chain(rest)
            .flat_map(|angle| [angle.cos(), angle.sin()])
            .collect()
    }

    #[test]
    fn a_coreset_covers_all_rows() {
        let rows = circle();
        for (most, expected) in [(1000, 1000), (2000, 1000), (0, 1000), (200, 200), (48, 48)] {
            let taken = coreset(&rows, 2, most).unwrap();
            assert_eq!(taken.len(), expected, "{most}");
            assert!(taken.is_sorted_by(|a, b| a < b), "{most}");
            assert_eq!(coreset(&rows, 2, most).unwrap(), taken);
            // The farthest row from all that were taken. Rows .05 apart can be covered to .05, and taking
            // the farthest one each time needs at most twice that (Gonzalez, 1985).
            let farthest = rows.chunks(2).map(|row| {
                let similarity = |&i: &usize| row[0] * rows[2 * i] + row[1] * rows[2 * i + 1];
                taken.iter().map(similarity).fold(-1.0, f32::max)
            });
            let farthest = farthest.fold(1.0, f32::min);
            assert!(
                farthest >= 0.1_f32.cos() - f32::EPSILON,
                "{most}: {farthest}"
            );
        }
        assert!(coreset(&[], 2, 5).unwrap().is_empty());
    }
}
