//! MuSc, section 3.2: each patch is scored by every other image with its distance to the most
//! similar patch there; the mean over the images that find it most familiar is its score.
//!
//! The similarities of a pair of images serve both directions.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::DetectorError;
use crate::nearest::{matrix, maximum, with_values};

/// Patches of other images that are compared with an image at once.
const BLOCK_PATCHES: usize = 4096;

/// The score of every patch of every image. `sets`: for each image the unit vectors of its
/// patches, `[patches, width]`.
pub(super) fn score(
    sets: Vec<Vec<f32>>,
    width: usize,
    lowest_fraction: f32,
) -> Result<Vec<Vec<f32>>, DetectorError> {
    let best = best_matches(&sets, width)?;
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
pub(super) fn kept(images: usize, lowest_fraction: f32) -> usize {
    let others = images - 1;
    ((others as f32 * lowest_fraction) as usize).clamp(1, others)
}

/// Euclidean distance of two unit vectors from their cosine similarity.
fn distance(similarity: f32) -> f32 {
    (2.0 - 2.0 * similarity).max(0.0).sqrt()
}

/// `[image][other][patch]`: the highest similarity of each patch of an image to any patch of each
/// other image, the image itself left out.
fn best_matches(sets: &[Vec<f32>], width: usize) -> Result<Vec<Vec<Vec<f32>>>, DetectorError> {
    let tensors: Vec<Tensor> = sets
        .iter()
        .map(|set| matrix(set.clone(), width))
        .collect::<Result<_, _>>()?;
    let rows: Vec<Vec<Pair>> = (0..sets.len())
        .into_par_iter()
        .map(|i| {
            let mut pairs = Vec::with_capacity(sets.len() - i - 1);
            let mut next = i + 1;
            while next < sets.len() {
                let block = block_of_images(&tensors[next..]);
                let joined = Tensor::cat(&tensors[next..next + block], 0)?;
                let similarities = tensors[i].matmul(&joined.t()?)?;
                let sizes = tensors[next..next + block].iter().map(|set| set.dims()[0]);
                with_values(&similarities, |values| {
                    pairs.extend(split_block(values, joined.dims()[0], sizes));
                })?;
                next += block;
            }
            Ok(pairs)
        })
        .collect::<Result<_, DetectorError>>()?;
    // From the pairs above the diagonal to every image's view of all others, in their order.
    let mut best: Vec<Vec<Vec<f32>>> = sets.iter().map(|_| Vec::new()).collect();
    for (i, pairs) in rows.into_iter().enumerate() {
        for (offset, pair) in pairs.into_iter().enumerate() {
            best[i].push(pair.of_first);
            best[i + 1 + offset].push(pair.of_second);
        }
    }
    Ok(best)
}

/// How many of `sets` make up a block: at least one.
fn block_of_images(sets: &[Tensor]) -> usize {
    let mut patches = 0;
    let fits = |set: &&Tensor| {
        patches += set.dims()[0];
        patches <= BLOCK_PATCHES
    };
    sets.iter().take_while(fits).count().max(1)
}

/// The best similarities between two images, seen from each.
struct Pair {
    of_first: Vec<f32>,
    of_second: Vec<f32>,
}

/// Cuts a product `[patches, columns]` at the images of `sizes` patches that its columns are.
fn split_block(
    similarities: &[f32],
    columns: usize,
    sizes: impl Iterator<Item = usize>,
) -> Vec<Pair> {
    let mut start = 0;
    sizes
        .map(|size| {
            let part = start..start + size;
            start += size;
            let mut of_second = vec![f32::NEG_INFINITY; size];
            let of_first = similarities
                .chunks_exact(columns)
                .map(|row| {
                    let row = &row[part.clone()];
                    for (best, &similarity) in of_second.iter_mut().zip(row) {
                        *best = if similarity > *best {
                            similarity
                        } else {
                            *best
                        };
                    }
                    maximum(row)
                })
                .collect();
            Pair {
                of_first,
                of_second,
            }
        })
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
                    crate::tokens::normalise_rows(&mut set, WIDTH);
                    set
                })
                .collect();
            let expected = naive(&sets, WIDTH, fraction);
            let found = score(sets, WIDTH, fraction).unwrap();
            for (found, expected) in found.concat().iter().zip(expected.concat()) {
                assert!(
                    (found - expected).abs() < 1e-3,
                    "{name}: {found} {expected}"
                );
            }
        }
    }
}
