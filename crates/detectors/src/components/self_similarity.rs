//! How different a patch is from the rest of its own image: a cue that needs no reference.
//!
//! Surfaces repeat themselves and many things are symmetric. A patch is familiar if its image has
//! patches like it further away, or in the place that mirrors its own from left to right. Chosen
//! on auxiliary data (docs/research/self-similarity.md).

use anomalens_backbones::{Grid, ImageFeatures, LayerId};
use anomalens_onnx::model::{Graph, Value};
use candle_core::Tensor;
use rayon::prelude::*;

use crate::DetectorError;
use crate::components::graph::{mean_of, reduce, scaled};
use crate::components::nearest::{matrix, with_values};
use crate::components::tokens::normalise_rows;

/// The most similar patches whose similarities are averaged.
const NEIGHBOURS: usize = 5;

/// Patches so near, in each direction, do not count: an anomaly is like itself.
const MARGIN: usize = 3;

/// The patches along the longer side of such an image; `MARGIN` grows with larger ones.
const OF: usize = 16;

/// How far from the mirrored place its likeness is looked for, in each direction.
const MIRROR_REACH: usize = 1;

/// Weight of the distance to the mirrored place beside that to patches anywhere.
const MIRROR_WEIGHT: f32 = 0.25;

/// Patches whose distances spread less do not differ.
const LEAST_SPREAD: f32 = 1e-4;

/// For each patch of `image` its distance to the rest of the image, the mean over `blocks`: the
/// cosine distance to its nearest patches further away, and with a smaller weight that to its
/// mirror image. All 0 for a single patch.
///
/// # Errors
/// [`DetectorError::MissingLayer`].
pub(crate) fn distances(
    image: &ImageFeatures,
    blocks: &[usize],
) -> Result<Vec<f32>, DetectorError> {
    let found = self_distances(image, blocks)?;
    Ok(found.iter().map(Distance::of_image).collect())
}

/// [`distances`] in parts.
pub(crate) fn self_distances(
    image: &ImageFeatures,
    blocks: &[usize],
) -> Result<Vec<Distance>, DetectorError> {
    let tokens = blocks.iter().map(|&block| directions(image, block));
    between(image.grid(), &tokens.collect::<Result<Vec<_>, _>>()?)
}

/// The same from the tokens after each block, `[patches, width]` of length 1, of an image of
/// `grid` patches.
pub(crate) fn between(grid: Grid, blocks: &[Tensor]) -> Result<Vec<Distance>, DetectorError> {
    let mut sums = vec![Distance::default(); grid.len()];
    for tokens in blocks {
        with_values(&tokens.matmul(&tokens.t()?)?, |similarities| {
            sums.par_iter_mut()
                .zip(similarities.par_chunks(grid.len()))
                .enumerate()
                .for_each(|(patch, (sum, row))| {
                    let one = Distance::new(grid, patch, row);
                    let part = 1.0 / blocks.len() as f32;
                    sum.nearest += part * one.nearest;
                    sum.mirrored += part * one.mirrored;
                    sum.all += part * one.all;
                });
        })?;
    }
    Ok(sums)
}

/// How far one patch is from its image, in cosine distances.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Distance {
    /// From the most similar patches further away.
    nearest: f32,
    /// From what is in the mirrored place.
    mirrored: f32,
    /// From all patches, on average.
    all: f32,
}

impl Distance {
    /// That by which images are compared.
    pub(crate) fn of_image(&self) -> f32 {
        self.nearest + MIRROR_WEIGHT * self.mirrored
    }

    /// That by which the places of one image are: a large anomaly has its like further away, but is
    /// still unlike most of the image; and what is not symmetric is no less normal than its mirror image.
    pub(crate) fn of_place(&self) -> f32 {
        self.nearest + self.all
    }

    /// From the similarities of a patch to all patches of the image.
    fn new(grid: Grid, patch: usize, similarities: &[f32]) -> Self {
        let (row, column) = (patch / grid.columns, patch % grid.columns);
        let margin = margin(grid);
        let mirrored = grid.columns - 1 - column;
        let mut nearest = [f32::NEG_INFINITY; NEIGHBOURS];
        let mut mirror = f32::NEG_INFINITY;
        for (other_row, row_of_others) in similarities.chunks_exact(grid.columns).enumerate() {
            let down = other_row.abs_diff(row);
            for (other_column, &similarity) in row_of_others.iter().enumerate() {
                if down.max(other_column.abs_diff(column)) > margin {
                    insert(&mut nearest, similarity);
                }
                if down.max(other_column.abs_diff(mirrored)) <= MIRROR_REACH {
                    mirror = mirror.max(similarity);
                }
            }
        }
        let found = nearest.iter().filter(|s| s.is_finite());
        let (count, sum) = found.fold((0, 0.0), |(count, sum), s| (count + 1, sum + s));
        if count == 0 {
            return Self::default();
        }
        Self {
            nearest: 1.0 - sum / count as f32,
            mirrored: 1.0 - mirror,
            all: 1.0 - similarities.iter().sum::<f32>() / similarities.len() as f32,
        }
    }
}

/// Patches so near in each direction do not count in an image of `grid` patches.
fn margin(grid: Grid) -> usize {
    let longer = grid.rows.max(grid.columns);
    let margin = (longer * MARGIN / OF).max(MARGIN);
    margin.min((longer / 2).saturating_sub(1))
}

/// Less than every cosine.
const NOT_COMPARED: f32 = -2.0;

/// [`Distance`] for all patches in a graph, `[batch, patches]` each.
pub(crate) struct GraphDistances {
    nearest: Value,
    mirrored: Value,
    all: Value,
}

impl GraphDistances {
    /// [`between`] of the tokens after each block, `[batch, patches, width]` of length 1; none if a patch
    /// has too few others to be compared with.
    pub(crate) fn new(graph: &mut Graph, grid: Grid, blocks: &[Value]) -> Option<Self> {
        let margin = margin(grid);
        let near = |length: usize| length.min(2 * margin + 1);
        if grid.len() < near(grid.rows) * near(grid.columns) + NEIGHBOURS {
            return None;
        }
        let apart =
            |graph: &mut Graph, from: &dyn Fn(usize) -> usize, to: &dyn Fn(usize) -> usize| {
                let numbers = |place: &dyn Fn(usize) -> usize| {
                    let numbers = (0..grid.len()).map(|at| place(at) as f32);
                    numbers.collect::<Vec<f32>>()
                };
                let from = graph.constant("from", &[grid.len(), 1], &numbers(from));
                let to = graph.constant("to", &[1, grid.len()], &numbers(to));
                let difference = graph.node("Sub", &[&from, &to], &[]);
                graph.node("Abs", &[&difference], &[])
            };
        let row = |at: usize| at / grid.columns;
        let column = |at: usize| at % grid.columns;
        let down = apart(graph, &row, &row);
        let across = apart(graph, &column, &column);
        let mirrored = apart(graph, &|at| grid.columns - 1 - column(at), &column);
        // Which pairs are more than so many steps apart.
        let beyond = |graph: &mut Graph, across: &Value, steps: usize| {
            let farther = graph.node("Max", &[&down, across], &[]);
            let steps = graph.number(steps as f32 + 0.5);
            graph.node("Greater", &[&farther, &steps], &[])
        };
        let is_far = beyond(graph, &across, margin);
        let is_no_mirror = beyond(graph, &mirrored, MIRROR_REACH);
        let not_compared = graph.number(NOT_COMPARED);
        let count = graph.ints(&[NEIGHBOURS as i64]);
        let mut found: [Vec<Value>; 3] = [vec![], vec![], vec![]];
        for tokens in blocks {
            let others = graph.transpose(tokens, &[0, 2, 1]);
            let cosines = graph.node("MatMul", &[tokens, &others], &[]);
            let far = graph.node("Where", &[&is_far, &cosines, &not_compared], &[]);
            let [nearest, _] = graph.nodes("TopK", &[&far, &count], &[]);
            let mirror = graph.node("Where", &[&is_no_mirror, &not_compared, &cosines], &[]);
            for (kind, (operation, cosines)) in [
                ("ReduceMean", &nearest),
                ("ReduceMax", &mirror),
                ("ReduceMean", &cosines),
            ]
            .into_iter()
            .enumerate()
            {
                let cosine = reduce(graph, operation, cosines, &[-1], false);
                found[kind].push(scaled(graph, &cosine, -1.0, 1.0));
            }
        }
        let [nearest, mirrored, all] = found.map(|kind| mean_of(graph, &kind));
        Some(Self {
            nearest,
            mirrored,
            all,
        })
    }

    /// [`Distance::of_image`].
    pub(crate) fn of_image(&self, graph: &mut Graph) -> Value {
        let mirrored = scaled(graph, &self.mirrored, MIRROR_WEIGHT, 0.0);
        graph.node("Add", &[&self.nearest, &mirrored], &[])
    }

    /// [`Distance::of_place`].
    pub(crate) fn of_place(&self, graph: &mut Graph) -> Value {
        graph.node("Add", &[&self.nearest, &self.all], &[])
    }
}

/// What brings distances `own` to the own image to the spread that the patches of the same images
/// have in `others`, another measure of them; 0 if they do not differ.
pub(crate) fn factor<'a>(
    others: impl Iterator<Item = &'a f32>,
    own: impl Iterator<Item = &'a f32>,
) -> f32 {
    let own = spread(own);
    match own > LEAST_SPREAD {
        true => spread(others) / own,
        false => 0.0,
    }
}

/// Standard deviation; 0 where there is nothing to compare.
fn spread<'a>(values: impl Iterator<Item = &'a f32>) -> f32 {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for &value in values {
        let value = f64::from(value);
        count += 1.0;
        sum += value;
        squares += value * value;
    }
    if count == 0.0 {
        return 0.0;
    }
    let mean = sum / count;
    (squares / count - mean * mean).max(0.0).sqrt() as f32
}

/// The patch tokens after `block`, scaled to length 1, `[patches, width]`.
fn directions(image: &ImageFeatures, block: usize) -> Result<Tensor, DetectorError> {
    let tokens = image
        .layer(block)
        .ok_or(DetectorError::MissingLayer(LayerId::Block(block)))?;
    let mut patches = tokens.tokens.clone();
    normalise_rows(&mut patches, tokens.dim);
    matrix(patches, tokens.dim)
}

/// Keeps the largest values in descending order.
fn insert(largest: &mut [f32; NEIGHBOURS], value: f32) {
    let place = largest.partition_point(|&kept| kept >= value);
    if place < NEIGHBOURS {
        largest[place..].rotate_right(1);
        largest[place] = value;
    }
}

#[cfg(test)]
mod tests {
    use anomalens_backbones::FeatureMap;
    use proptest::prelude::*;

    use super::*;

    const WIDTH: usize = 4;

    fn image(grid: Grid, tokens: Vec<f32>) -> ImageFeatures {
        let map = FeatureMap {
            layer: LayerId::Block(1),
            grid,
            dim: WIDTH,
            tokens,
            class_token: None,
        };
        ImageFeatures {
            maps: vec![map],
            embedding: None,
            further: vec![],
        }
    }

    /// The definition, patch by patch.
    fn naive(image: &ImageFeatures) -> Vec<f32> {
        let Grid { rows, columns } = image.grid();
        let tokens = directions(image, 1).unwrap().to_vec2::<f32>().unwrap();
        let margin = MARGIN.min((rows.max(columns) / 2).saturating_sub(1)) as i64;
        let place = |i: usize| ((i / columns) as i64, (i % columns) as i64);
        let apart = |a: (i64, i64), b: (i64, i64)| (a.0 - b.0).abs().max((a.1 - b.1).abs());
        let all = 0..rows * columns;
        all.clone()
            .map(|i| {
                let similarity = |j: usize| -> f32 {
                    tokens[i].iter().zip(&tokens[j]).map(|(a, b)| a * b).sum()
                };
                let mirrored = (place(i).0, columns as i64 - 1 - place(i).1);
                let far = all.clone().filter(|&j| apart(place(i), place(j)) > margin);
                let mut far: Vec<f32> = far.map(similarity).collect();
                far.sort_by(|a, b| b.total_cmp(a));
                far.truncate(NEIGHBOURS);
                let near = all.clone().filter(|&j| apart(mirrored, place(j)) <= 1);
                let mirror = near.map(similarity).fold(f32::NEG_INFINITY, f32::max);
                let mean = far.iter().sum::<f32>() / far.len().max(1) as f32;
                match far.is_empty() {
                    true => 0.0,
                    false => (1.0 - mean) + MIRROR_WEIGHT * (1.0 - mirror),
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn distances_equal_the_definition(
            rows in 1_usize..12,
            columns in 1_usize..12,
            values in proptest::collection::vec(-1.0_f32..1.0, 12 * 12 * WIDTH),
        ) {
            let tokens = values[..rows * columns * WIDTH].to_vec();
            let image = image(Grid { rows, columns }, tokens);
            let found = distances(&image, &[1]).unwrap();
            for (found, expected) in found.iter().zip(naive(&image)) {
                prop_assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }

    #[test]
    fn the_patch_that_has_no_like_is_the_most_distant() {
        let grid = Grid {
            rows: 9,
            columns: 10,
        };
        // (name, the odd patch, its mirror image is alike)
        let cases = [("odd", 31, false), ("odd, but symmetric", 31, true)];
        let found = cases.map(|(name, odd, symmetric)| {
            let mirrored = odd / 10 * 10 + 9 - odd % 10;
            let tokens = (0..grid.len()).flat_map(|i| match i {
                _ if i == odd || symmetric && i == mirrored => [1.0, -2.0, 3.0, 0.5],
                _ => [-1.0, 1.0, 0.0, 2.0],
            });
            let found = distances(&image(grid, tokens.collect()), &[1]).unwrap();
            let highest = (0..grid.len()).max_by(|&a, &b| found[a].total_cmp(&found[b]));
            let ordinary = found[0];
            assert!(ordinary.abs() < 1e-5, "{name}: {ordinary}");
            assert!(
                highest == Some(odd) || symmetric && highest == Some(mirrored),
                "{name}: {highest:?}"
            );
            found[odd]
        });
        assert!(found[1] < found[0], "{found:?}");
    }

    #[test]
    fn a_block_that_is_not_there_is_named() {
        let grid = Grid {
            rows: 1,
            columns: 1,
        };
        let error = distances(&image(grid, vec![1.0; WIDTH]), &[7]).unwrap_err();
        assert!(matches!(
            error,
            DetectorError::MissingLayer(LayerId::Block(7))
        ));
    }
}
