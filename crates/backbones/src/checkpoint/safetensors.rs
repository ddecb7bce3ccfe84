//! The safetensors format: an eight-byte header length, a JSON header, raw tensors.

use std::path::Path;
use std::sync::Arc;

use anomalens_kernels::MappedFile;
use safetensors::{Dtype, SafeTensors};

use super::stored::{Element, Stored};
use crate::BackboneError;

/// Bytes of the header's length, which the header follows.
const LENGTH: usize = 8;

/// Whether `bytes` start like a safetensors file: the JSON header follows its length.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.get(LENGTH) == Some(&b'{')
}

/// The tensors of a safetensors file, under their own names.
pub(super) fn read(
    path: &Path,
    file: &Arc<MappedFile>,
) -> Result<Vec<(String, Stored)>, BackboneError> {
    let broken = |reason: String| BackboneError::Format {
        path: path.to_owned(),
        format: "safetensors",
        reason,
    };
    let (header, metadata) =
        SafeTensors::read_metadata(file).map_err(|error| broken(error.to_string()))?;
    let data = LENGTH + header;
    metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let stored = element(info.dtype).and_then(|element| {
                Stored::contiguous(file, data + start..data + end, element, info.shape.clone())
            });
            match stored {
                Ok(stored) => Ok((name, stored)),
                Err(reason) => Err(broken(format!("tensor `{name}`: {reason}"))),
            }
        })
        .collect()
}

fn element(dtype: Dtype) -> Result<Element, String> {
    match dtype {
        Dtype::F16 => Ok(Element::F16),
        Dtype::BF16 => Ok(Element::Bf16),
        Dtype::F32 => Ok(Element::F32),
        Dtype::F64 => Ok(Element::F64),
        Dtype::I32 => Ok(Element::I32),
        Dtype::I64 => Ok(Element::I64),
        Dtype::U8 | Dtype::BOOL => Ok(Element::U8),
        other => Err(format!("elements of type {other:?} are not supported")),
    }
}
