//! Nearest neighbours among sets of unit vectors: blocked products with a running maximum, so
//! that the whole matrix of similarities never exists.

use candle_core::{Device, Storage, Tensor};
use rayon::prelude::*;

use crate::DetectorError;

/// Rows of a set that are compared at once; a block of similarities stays in the cache.
const BLOCK_ROWS: usize = 4096;

/// For each row of `queries` `[n, width]` the highest cosine similarity to any row of `bank`
/// `[m, width]`; rows of both have length 1.
pub(crate) fn highest_similarity(
    queries: &Tensor,
    bank: &Tensor,
) -> Result<Vec<f32>, DetectorError> {
    let rows = bank.dim(0)?;
    let mut best = vec![f32::NEG_INFINITY; queries.dim(0)?];
    for start in (0..rows).step_by(BLOCK_ROWS) {
        let block = bank.narrow(0, start, BLOCK_ROWS.min(rows - start))?;
        let width = block.dim(0)?;
        with_values(&queries.matmul(&block.t()?)?, |similarities| {
            best.par_iter_mut()
                .zip(similarities.par_chunks(width))
                .for_each(|(best, row)| {
                    *best = maximum(row).max(*best);
                });
        })?;
    }
    Ok(best)
}

/// The largest of `values`, in lanes that compilers turn into vector instructions.
pub(crate) fn maximum(values: &[f32]) -> f32 {
    const LANES: usize = 16;
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
