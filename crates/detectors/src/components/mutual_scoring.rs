//! MuSc, section 3.2: each patch is scored by every other image with its distance to the most
//! similar patch there; the mean over the images that find it most familiar is its score.
//!
//! The similarities of a pair of images serve both directions.

use anomalens_kernels::{Neighbour, PackedVectors, Precision, SearchScratch};
use rayon::prelude::*;

use crate::DetectorError;
use crate::components::nearest::pack;
use crate::components::tokens::dot;

/// The score of every patch of every image. `sets`: for each image the unit vectors of its
/// patches, `[patches, width]`; similar ones are searched in `precision` and compared in float32.
pub(crate) fn score(
    sets: Vec<Vec<f32>>,
    width: usize,
    lowest_fraction: f32,
    precision: Precision,
) -> Result<Vec<Vec<f32>>, DetectorError> {
    let best = best_matches(&sets, width, precision)?;
    let kept = kept(sets.len(), lowest_fraction);
    Ok(best
        .into_par_iter()
        .map(|similarities| {
            (0..similarities[0].len())
                .map(|patch| {
                    let mut distances: Vec<f32> = similarities
                        .iter()
                        .map(|image| distance(image[patch]))
                        .collect();
                    distances.select_nth_unstable_by(kept - 1, f32::total_cmp);
                    distances[..kept].iter().sum::<f32>() / kept as f32
                })
                .collect()
        })
        .collect())
}

/// How many of the others, the most similar ones, score each of `images` images (at least two).
pub(crate) fn kept(images: usize, lowest_fraction: f32) -> usize {
    let others = images - 1;
    ((others as f32 * lowest_fraction) as usize).clamp(1, others)
}

/// Euclidean distance of two unit vectors from their cosine similarity.
fn distance(similarity: f32) -> f32 {
    (2.0 - 2.0 * similarity).max(0.0).sqrt()
}

/// `[image][other][patch]`: the highest similarity of each patch of an image to any patch of each
/// other image, the image itself left out.
fn best_matches(
    sets: &[Vec<f32>],
    width: usize,
    precision: Precision,
) -> Result<Vec<Vec<Vec<f32>>>, DetectorError> {
    let packed: Vec<PackedVectors> = sets
        .iter()
        .map(|set| pack(set, width, precision))
        .collect::<Result<_, _>>()?;
    // The pairs above the diagonal: seen from the first image, and from the second.
    let rows: Vec<Vec<(Vec<f32>, Vec<f32>)>> = sets
        .par_iter()
        .enumerate()
        .with_max_len(1)
        .map_init(SearchScratch::default, |scratch, (i, set)| {
            let others = packed[i + 1..].iter().zip(&sets[i + 1..]);
            others
                .map(|(packed, other)| {
                    let (rows, columns) = packed.nearest_both(set, scratch);
                    (
                        similarities(set, other, &rows, width),
                        similarities(other, set, &columns, width),
                    )
                })
                .collect()
        })
        .collect();
    // From the pairs to every image's view of all others, in their order.
    let mut best: Vec<Vec<Vec<f32>>> = sets.iter().map(|_| Vec::new()).collect();
    for (i, pairs) in rows.into_iter().enumerate() {
        for (offset, (of_first, of_second)) in pairs.into_iter().enumerate() {
            best[i].push(of_first);
            best[i + 1 + offset].push(of_second);
        }
    }
    Ok(best)
}

/// How similar each row of `set` is to its neighbour in `other`, in float32.
fn similarities(set: &[f32], other: &[f32], nearest: &[Neighbour], width: usize) -> Vec<f32> {
    let vector = |found: &Neighbour| other.chunks_exact(width).nth(found.index);
    set.chunks_exact(width)
        .zip(nearest)
        .map(|(row, found)| vector(found).map_or(f32::NEG_INFINITY, |vector| dot(row, vector)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, patch by patch.
    fn naive(sets: &[Vec<f32>], width: usize, fraction: f32) -> Vec<Vec<f32>> {
        let kept = (((sets.len() - 1) as f32 * fraction) as usize).max(1);
        let score = |i: usize, patch: &[f32]| {
            let mut distances: Vec<f32> = (0..sets.len())
                .filter(|&j| j != i)
                .map(|j| {
                    let distance = |other: &[f32]| {
                        let squares = patch.iter().zip(other).map(|(a, b)| (a - b).powi(2));
                        squares.sum::<f32>().sqrt()
                    };
                    sets[j]
                        .chunks(width)
                        .map(distance)
                        .fold(f32::INFINITY, f32::min)
                })
                .collect();
            distances.sort_by(f32::total_cmp);
            distances[..kept].iter().sum::<f32>() / kept as f32
        };
        (0..sets.len())
            .map(|i| sets[i].chunks(width).map(|patch| score(i, patch)).collect())
            .collect()
    }

    #[test]
    fn scores_equal_the_definition() {
        // (name, patches of each image, fraction)
        let cases: [(&str, &[usize], f32); 4] = [
            ("two images", &[4, 4], 0.3),
            ("several", &[6, 6, 6, 6, 6, 6, 6], 0.3),
            ("different grids", &[3, 8, 5, 1], 0.5),
            ("all others count", &[5, 5, 5], 1.0),
        ];
        const WIDTH: usize = 3;
        for (name, patches, fraction) in cases {
            let mut state = 1_u32;
            let mut random = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from((state >> 16) as u16) / 65_536.0 - 0.5
            };
            let sets: Vec<Vec<f32>> = patches
                .iter()
                .map(|&n| {
                    let mut set: Vec<f32> = (0..n * WIDTH).map(|_| random()).collect();
                    crate::components::tokens::normalise_rows(&mut set, WIDTH);
                    set
                })
                .collect();
            let expected = naive(&sets, WIDTH, fraction);
            let found = score(sets, WIDTH, fraction, Precision::F32).unwrap();
            for (found, expected) in found.concat().iter().zip(expected.concat()) {
                assert!(
                    (found - expected).abs() < 1e-3,
                    "{name}: {found} {expected}"
                );
            }
        }
    }
}
