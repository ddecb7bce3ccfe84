//! Nearest neighbours among sets of unit vectors.

use anomalens_kernels::{Engine, Neighbour, PackedVectors, Parallel, Precision};
use candle_core::{Device, Storage, Tensor};
use rayon::prelude::*;

use crate::DetectorError;
use crate::components::tokens::dot;
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
