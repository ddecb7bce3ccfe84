//! Nearest neighbours by inner product: rows of queries against packed vectors. A block of
//! products stays in the cache while the best of each row are taken from it, so that the matrix of
//! all products never exists.

use rayon::prelude::*;

use crate::engine::{Engine, Precision};
use crate::error::ShapeError;
use crate::kernel::Kernel;
use crate::linear::{LinearScratch, PackedLinear};
use crate::parallel::{Parallel, Workers};
use crate::product::Epilogue;

/// Numbers that compilers compare with a few vector instructions.
const LANES: usize = 16;

/// Vectors that are compared at once: of usual width they fit the second-level cache.
const PART: usize = 512;

/// The most queries that are compared at once; a block of products takes 256 KiB.
const BLOCK: usize = 128;

/// The fewest for which packed vectors are read again.
const SMALLEST_BLOCK: usize = 32;

/// Vectors of one width, packed for products with many queries.
pub struct PackedVectors {
    parts: Vec<PackedLinear>,
    width: usize,
    count: usize,
}

/// A vector and how similar it is to a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Which of the packed vectors.
    pub index: usize,
    /// Their inner product: the cosine, if both have length 1.
    pub similarity: f32,
}

/// Farther than any.
const NOTHING: Neighbour = Neighbour {
    index: usize::MAX,
    similarity: f32::NEG_INFINITY,
};

/// Memory that searches work in; it keeps its size from call to call.
#[derive(Default)]
pub struct SearchScratch {
    linear: LinearScratch,
    products: Vec<f32>,
}

impl PackedVectors {
    /// Packs `vectors`, `[count, width]` row by row.
    ///
    /// # Errors
    /// [`ShapeError`] if they are no whole number of rows.
    pub fn new(
        engine: Engine,
        precision: Precision,
        vectors: &[f32],
        width: usize,
    ) -> Result<Self, ShapeError> {
        Self::with_kernel(engine.kernel(precision), vectors, width)
    }

    pub(crate) fn with_kernel(
        kernel: &'static Kernel,
        vectors: &[f32],
        width: usize,
    ) -> Result<Self, ShapeError> {
        let count = vectors.len().checked_div(width).unwrap_or(0);
        if count * width != vectors.len() {
            return Err(ShapeError {
                what: "vectors to search",
                expected: count * width,
                found: vectors.len(),
            });
        }
        let parts = vectors
            .chunks(PART * width.max(1))
            .map(|part| PackedLinear::with_kernel(kernel, part, &vec![0.0; part.len() / width]))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            parts,
            width,
            count,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// For each of `queries`, rows of the vectors' width, its `k` nearest vectors (all, if there are fewer), the nearest first
    /// and of equal ones the one of lower index: `[queries, k]`.
    ///
    /// # Panics
    /// If the queries are no whole number of rows.
    pub fn nearest(&self, queries: &[f32], k: usize, parallel: Parallel) -> Vec<Neighbour> {
        let k = k.min(self.count);
        let mut best = vec![NOTHING; self.rows(queries) * k];
        self.compare(queries, &mut best, k, parallel, |best, row, first| {
            let bar = |best: &[Neighbour]| best.last().map_or(f32::INFINITY, |b| b.similarity);
            let mut last = bar(best);
            for (c, chunk) in row.chunks(LANES).enumerate() {
                // Most hold nothing nearer than what was found before.
                if !chunk.iter().fold(false, |any, &x| any | (x > last)) {
                    continue;
                }
                for (i, &similarity) in chunk.iter().enumerate() {
                    if similarity > last {
                        let index = first + c * LANES + i;
                        insert(best, Neighbour { index, similarity });
                        last = bar(best);
                    }
                }
            }
        });
        best
    }

    /// For each of `queries` its nearest vector, and for each vector its nearest query: both from
    /// one product, on the calling thread. The index is `usize::MAX` where there is none.
    ///
    /// # Panics
    /// If the queries are no whole number of rows.
    pub fn nearest_both(
        &self,
        queries: &[f32],
        scratch: &mut SearchScratch,
    ) -> (Vec<Neighbour>, Vec<Neighbour>) {
        let mut of_queries = vec![NOTHING; self.rows(queries)];
        let mut of_vectors = vec![NOTHING; self.count];
        let (mut highest, mut indices) = (vec![], vec![]);
        let blocks = queries.chunks(BLOCK * self.width.max(1));
        for (b, (queries, best)) in blocks.zip(of_queries.chunks_mut(BLOCK)).enumerate() {
            for (p, (part, columns)) in self
                .parts
                .iter()
                .zip(of_vectors.chunks_mut(PART))
                .enumerate()
            {
                // Separate arrays, so that compilers compare whole vectors of columns.
                highest.clear();
                highest.extend(columns.iter().map(|column| column.similarity));
                indices.clear();
                indices.resize(columns.len(), u32::MAX);
                let rows = scratch.products(part, queries).chunks_exact(columns.len());
                for (i, (best, row)) in (0..).zip(best.iter_mut().zip(rows)) {
                    let largest = maximum(row);
                    if largest > best.similarity {
                        let place = row.iter().position(|&product| product == largest);
                        *best = Neighbour {
                            index: p * PART + place.unwrap_or(0),
                            similarity: largest,
                        };
                    }
                    let columns = highest.iter_mut().zip(&mut indices);
                    for ((column, index), &product) in columns.zip(row) {
                        let nearer = product > *column;
                        *column = if nearer { product } else { *column };
                        *index = if nearer { i } else { *index };
                    }
                }
                let found = indices.iter().zip(&highest).zip(columns);
                for ((&index, &similarity), column) in found.filter(|((i, _), _)| **i != u32::MAX) {
                    let index = b * BLOCK + index as usize;
                    *column = Neighbour { index, similarity };
                }
            }
        }
        (of_queries, of_vectors)
    }

    fn rows(&self, queries: &[f32]) -> usize {
        let count = queries.len().checked_div(self.width).unwrap_or(0);
        assert_eq!(count * self.width, queries.len(), "queries of broken rows");
        count
    }

    /// Calls `take` with the `each` values of `best` that belong to a query, its products with a
    /// part of the vectors, and the index of the first of these; for all queries and parts.
    fn compare<T: Send>(
        &self,
        queries: &[f32],
        best: &mut [T],
        each: usize,
        parallel: Parallel,
        take: impl Fn(&mut [T], &[f32], usize) + Sync,
    ) {
        if each == 0 || self.width == 0 {
            return;
        }
        let share = (best.len() / each).div_ceil(Workers::from(parallel).threads());
        let block = share.clamp(SMALLEST_BLOCK, BLOCK);
        let work = |scratch: &mut SearchScratch, (queries, best): (&[f32], &mut [T])| {
            for (i, part) in self.parts.iter().enumerate() {
                let rows = scratch.products(part, queries).chunks_exact(part.outputs());
                for (best, row) in best.chunks_exact_mut(each).zip(rows) {
                    take(best, row, i * PART);
                }
            }
        };
        match parallel {
            Parallel::Serial => {
                let scratch = &mut SearchScratch::default();
                queries
                    .chunks(block * self.width)
                    .zip(best.chunks_mut(block * each))
                    .for_each(|block| work(scratch, block));
            }
            Parallel::Pool => queries
                .par_chunks(block * self.width)
                .zip(best.par_chunks_mut(block * each))
                .for_each_init(SearchScratch::default, work),
        }
    }
}

impl SearchScratch {
    /// The products of all `queries` with all vectors of a part, `[queries, vectors]`.
    fn products(&mut self, part: &PackedLinear, queries: &[f32]) -> &[f32] {
        let count = queries.len() / part.inputs() * part.outputs();
        if self.products.len() < count {
            self.products.resize(count, 0.0);
        }
        let products = &mut self.products[..count];
        part.forward(
            queries,
            None,
            products,
            Epilogue::Store,
            &mut self.linear,
            Parallel::Serial,
        );
        products
    }
}

/// Puts `new` in its place among `best`, the highest first, if it has one.
fn insert(best: &mut [Neighbour], new: Neighbour) {
    let place = best.partition_point(|old| old.similarity >= new.similarity);
    if let Some(after) = best.get_mut(place..).filter(|after| !after.is_empty()) {
        after.rotate_right(1);
        after[0] = new;
    }
}

/// The largest of `values`, in lanes that compilers turn into vector instructions.
fn maximum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |best, &value| best.max(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::every_kernel;
    use crate::format::Format;
    use crate::tests::numbers;

    /// Rows of length 1.
    fn unit(count: usize, width: usize, seed: u64) -> Vec<f32> {
        let mut vectors = numbers(count * width, seed);
        for row in vectors.chunks_mut(width) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= length);
        }
        vectors
    }

    /// `[queries, vectors]` in float64.
    fn similarities(queries: &[f32], vectors: &[f32], width: usize) -> Vec<Vec<f64>> {
        let dot = |a: &[f32], b: &[f32]| {
            let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
            products.sum::<f64>()
        };
        let row = |query: &[f32]| vectors.chunks(width).map(|v| dot(query, v)).collect();
        queries.chunks(width).map(row).collect()
    }

    /// How far a similarity of unit vectors may be off.
    fn tolerance(kernel: &Kernel) -> f64 {
        match kernel.format {
            Format::F32 => 1e-6,
            Format::F16 => 1e-3,
            Format::Bf16 => 4e-3,
            Format::Int8 | Format::Int16 => 2e-2,
        }
    }

    /// queries, vectors, width, k
    const SIZES: [(usize, usize, usize, usize); 7] = [
        (1, 1, 1, 1),
        (3, 2, 5, 4),
        (17, 31, 33, 3),
        (33, 513, 64, 1),
        (70, 600, 47, 10),
        (131, 1025, 384, 5),
        (300, 40, 16, 40),
    ];

    #[test]
    fn neighbours_equal_plain_loops_on_every_kernel() {
        for kernel in every_kernel() {
            for (i, (count, size, width, k)) in SIZES.into_iter().enumerate() {
                let name = format!("{}, {count} x {size} of {width}", kernel.name);
                let (queries, vectors) = (
                    unit(count, width, i as u64),
                    unit(size, width, 99 + i as u64),
                );
                let expected = similarities(&queries, &vectors, width);
                let packed = PackedVectors::with_kernel(kernel, &vectors, width).unwrap();
                let close = |found: f32, expected: f64, what: &str| {
                    let error = (f64::from(found) - expected).abs();
                    assert!(error <= tolerance(kernel), "{name}: {what} off by {error}");
                };
                let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(-9.0, f64::max);
                for parallel in [Parallel::Serial, Parallel::Pool] {
                    let nearest = packed.nearest(&queries, k, parallel);
                    let k = k.min(size);
                    assert_eq!(nearest.len(), count * k, "{name}");
                    for (found, row) in nearest.chunks(k).zip(&expected) {
                        let mut sorted = row.clone();
                        sorted.sort_by(|a, b| b.total_cmp(a));
                        assert!(
                            found.is_sorted_by(|a, b| a.similarity >= b.similarity),
                            "{name}"
                        );
                        for (found, sorted) in found.iter().zip(sorted) {
                            close(found.similarity, sorted, "rank");
                            close(found.similarity, row[found.index], "index");
                        }
                    }
                }
                let (rows, columns) = packed.nearest_both(&queries, &mut SearchScratch::default());
                assert_eq!((rows.len(), columns.len()), (count, size), "{name}");
                for (found, row) in rows.iter().zip(&expected) {
                    close(found.similarity, largest(&mut row.iter().copied()), "row");
                    close(found.similarity, row[found.index], "index of a row");
                }
                for (column, found) in columns.iter().enumerate() {
                    let all = &mut expected.iter().map(|row| row[column]);
                    close(found.similarity, largest(all), "column");
                    let named = expected[found.index][column];
                    close(found.similarity, named, "index of a column");
                }
            }
        }
    }

    #[test]
    fn equal_neighbours_are_told_by_index() {
        let vectors = [1.0, 0.0].repeat(700);
        for kernel in every_kernel() {
            let packed = PackedVectors::with_kernel(kernel, &vectors, 2).unwrap();
            let found = packed.nearest(&[1.0, 0.0], 3, Parallel::Serial);
            let indices: Vec<usize> = found.iter().map(|n| n.index).collect();
            assert_eq!(indices, [0, 1, 2], "{}", kernel.name);
        }
    }

    #[test]
    fn nothing_to_search() {
        let engine = Engine::detect();
        let packed = PackedVectors::new(engine, Precision::F32, &[], 4).unwrap();
        assert!(packed.is_empty());
        assert_eq!(packed.nearest(&[0.0; 8], 3, Parallel::Pool), []);
        assert!(PackedVectors::new(engine, Precision::F32, &[0.0; 7], 4).is_err());
        assert!(PackedVectors::new(engine, Precision::F32, &[0.0; 7], 0).is_err());
    }
}
