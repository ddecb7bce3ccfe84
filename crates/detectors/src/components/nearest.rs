//! Nearest neighbours among sets of vectors: of length 1 by cosine, of any length by Euclidean distance.

use anomalens_kernels::{Engine, Neighbour, PackedVectors, Parallel, Precision};
use candle_core::{Device, Storage, Tensor};
use rayon::prelude::*;

use crate::DetectorError;
use crate::components::tokens::{dot, squared_distance};
use crate::detector::Array;

/// Vectors looked at again in float32, those most similar in the narrower format of the search.
const CANDIDATES: usize = 4;

/// Rows of length 1, ready to be searched.
pub(crate) struct UnitVectors {
    values: Vec<f32>,
    width: usize,
    packed: PackedVectors,
    /// How many of the nearest are compared in float32.
    candidates: usize,
}

impl UnitVectors {
    /// Vectors `[n, width]`, searched in float32 or, where the processor is faster so, in 16 bits.
    pub(crate) fn new(
        values: Vec<f32>,
        width: usize,
        precision: Precision,
    ) -> Result<Self, DetectorError> {
        Ok(Self {
            packed: pack(&values, width, precision)?,
            values,
            width,
            candidates: match precision {
                Precision::F32 => 1,
                Precision::Half | Precision::Int8 => CANDIDATES,
            },
        })
    }

    /// Length of a vector.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The vectors, `[n, width]`.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// For each row of `queries` `[m, width]`, of length 1, the highest cosine similarity; what was
    /// found in 16 bits is compared in float32.
    pub(crate) fn highest_similarity(&self, queries: &[f32]) -> Vec<f32> {
        let nearest = (self.packed).nearest(queries, self.candidates, Parallel::Pool);
        let each = self.candidates.min(self.packed.len()).max(1);
        let rows = queries.par_chunks_exact(self.width.max(1));
        rows.zip(nearest.par_chunks(each))
            .map(|(query, candidates)| {
                let vector = |c: &Neighbour| self.values.chunks_exact(self.width).nth(c.index);
                let exact = candidates.iter().filter_map(vector).map(|v| dot(query, v));
                exact.fold(f32::NEG_INFINITY, f32::max)
            })
            .collect()
    }

    /// The same as the search finds it, in 16 bits where that is faster.
    pub(crate) fn roughly_highest_similarity(&self, queries: &[f32]) -> Vec<f32> {
        let nearest = self.packed.nearest(queries, 1, Parallel::Pool);
        nearest.iter().map(|found| found.similarity).collect()
    }

    /// The vectors as they stand in a detector file.
    pub(crate) fn array(&self) -> Array {
        Array {
            shape: vec![self.values.len() / self.width.max(1), self.width],
            values: self.values.clone(),
        }
    }
}

/// Numbers by which a vector of any length is longer where it is searched: half the square of its length,
/// in parts that a format of 8 significant bits holds.
const LENGTH_PARTS: usize = 3;

/// Rows of any length, ready to be searched by Euclidean distance.
///
/// `|a - b|^2 / 2` is `|a|^2 / 2` less `ab - |b|^2 / 2`, which is an inner product once `b` has a further
/// number `-|b|^2 / 2` and `a` has a further 1. Vectors are taken from their mean and in units of the
/// longest one, so that squares stay small against rounding.
pub(crate) struct Vectors {
    values: Vec<f32>,
    width: usize,
    packed: PackedVectors,
    centre: Vec<f32>,
    scale: f32,
}

/// A vector and how far it is from a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Near {
    pub(crate) index: usize,
    /// Square of the Euclidean distance.
    pub(crate) squared: f32,
}

impl Vectors {
    /// Vectors `[n, width]`, searched in float32 or, where the processor is faster so, in 16 bits.
    pub(crate) fn new(
        values: Vec<f32>,
        width: usize,
        precision: Precision,
    ) -> Result<Self, DetectorError> {
        let rows = || values.chunks_exact(width.max(1));
        let mut sums = vec![0.0_f64; width];
        for row in rows() {
            let both = sums.iter_mut().zip(row);
            both.for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let count = rows().len().max(1) as f64;
        let centre: Vec<f32> = sums.iter().map(|sum| (sum / count) as f32).collect();
        let longest = rows().map(|row| squared_distance(row, &centre));
        let longest = longest.fold(0.0, f32::max).sqrt();
        let scale = if longest > 0.0 { longest.recip() } else { 1.0 };
        let mut longer = Vec::with_capacity(rows().len() * (width + LENGTH_PARTS));
        for row in rows() {
            let start = longer.len();
            longer.extend(row.iter().zip(&centre).map(|(x, mean)| (x - mean) * scale));
            let mut rest = -0.5 * dot(&longer[start..], &longer[start..]);
            for _ in 0..LENGTH_PARTS {
                let part = half::bf16::from_f32(rest).to_f32();
                longer.push(part);
                rest -= part;
            }
        }
        Ok(Self {
            packed: pack(&longer, width + LENGTH_PARTS, precision)?,
            values,
            width,
            centre,
            scale,
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.packed.len()
    }

    /// Length of a vector.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// All vectors, `[n, width]`.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// A vector.
    pub(crate) fn get(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// For each row of `queries` `[m, width]` its `k` nearest vectors (all, if there are fewer), the nearest
    /// first and of equal ones that of lower index: `[m, k]`. What the search finds is compared in float32.
    pub(crate) fn nearest(&self, queries: &[f32], k: usize) -> Vec<Near> {
        let mut longer =
            Vec::with_capacity(queries.len() / self.width.max(1) * (self.width + LENGTH_PARTS));
        for query in queries.chunks_exact(self.width.max(1)) {
            let both = query.iter().zip(&self.centre);
            longer.extend(both.map(|(x, mean)| (x - mean) * self.scale));
            longer.extend([1.0; LENGTH_PARTS]);
        }
        let found = (self.packed).nearest(&longer, k + CANDIDATES, Parallel::Pool);
        let each = (k + CANDIDATES).min(self.len()).max(1);
        let queries = queries.par_chunks_exact(self.width.max(1));
        let exact = queries
            .zip(found.par_chunks(each))
            .flat_map_iter(|(query, found)| {
                let mut near: Vec<Near> = found
                    .iter()
                    .filter(|found| found.index < self.len())
                    .map(|found| Near {
                        index: found.index,
                        squared: squared_distance(query, self.get(found.index)),
                    })
                    .collect();
                near.sort_by(|a, b| a.squared.total_cmp(&b.squared).then(a.index.cmp(&b.index)));
                // Fewer are found for a query that is not a number.
                let nowhere = Near {
                    index: 0,
                    squared: f32::INFINITY,
                };
                near.resize(k.min(self.len()), nowhere);
                near
            });
        exact.collect()
    }

    /// The vectors as they stand in a detector file.
    pub(crate) fn array(&self) -> Array {
        Array {
            shape: vec![self.len(), self.width],
            values: self.values.clone(),
        }
    }
}

/// Packs vectors `[n, width]` in float32 or, where the processor is faster so, in 16 bits.
pub(crate) fn pack(
    values: &[f32],
    width: usize,
    precision: Precision,
) -> Result<PackedVectors, DetectorError> {
    // Searches have no 8-bit form.
    let precision = match precision {
        Precision::Int8 => Precision::Half,
        other => other,
    };
    let engine = Engine::from_env()?;
    Ok(PackedVectors::new(engine, precision, values, width)?)
}

/// Lends the values of a contiguous float32 tensor on the CPU, without a copy.
pub(crate) fn with_values<T>(
    tensor: &Tensor,
    use_values: impl FnOnce(&[f32]) -> T,
) -> Result<T, DetectorError> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        return Err(candle_core::Error::msg("a contiguous tensor on the CPU is needed").into());
    };
    Ok(use_values(&storage.as_slice::<f32>()?[start..end]))
}

/// A tensor `[rows, width]` of plain numbers.
pub(crate) fn matrix(values: Vec<f32>, width: usize) -> Result<Tensor, DetectorError> {
    let rows = values.len() / width;
    Ok(Tensor::from_vec(values, (rows, width), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::random::{generator, normal};

    #[test]
    fn euclidean_neighbours_are_those_of_the_definition() {
        // (vectors, width, k, how far from the origin they lie)
        for (count, width, k, offset) in [(1, 3, 2, 0.0), (40, 7, 3, 0.0), (900, 33, 9, 5.0)] {
            let mut random = generator(3, count as u32);
            let mut rows = |n: usize| -> Vec<f32> {
                let rows = normal(n * width, 1.0, &mut random);
                rows.iter().map(|x| x + offset).collect()
            };
            let (vectors, queries) = (rows(count), rows(25));
            for precision in [Precision::F32, Precision::Half] {
                let searched = Vectors::new(vectors.clone(), width, precision).unwrap();
                let found = searched.nearest(&queries, k);
                let k = k.min(count);
                assert_eq!(found.len(), 25 * k);
                for (query, found) in queries.chunks(width).zip(found.chunks(k)) {
                    let mut all: Vec<f32> = vectors
                        .chunks(width)
                        .map(|row| row.iter().zip(query).map(|(a, b)| (a - b).powi(2)).sum())
                        .collect();
                    let of_first = all[found[0].index];
                    all.sort_by(f32::total_cmp);
                    assert!((of_first - all[0]).abs() < 1e-4 * all[0], "{precision}");
                    if precision == Precision::F32 {
                        for (found, expected) in found.iter().zip(&all) {
                            assert!((found.squared - expected).abs() < 1e-5 * expected);
                        }
                    }
                }
            }
        }
    }
}
