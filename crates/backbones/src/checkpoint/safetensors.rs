//! The safetensors format: an eight-byte header length, a JSON header, raw tensors.

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::data::Data;
use super::stored::{Element, Stored};
use crate::BackboneError;

/// Bytes of the header's length, which the header follows.
const LENGTH: usize = 8;

/// The format's own limit.
const LONGEST_HEADER: usize = 100_000_000;

/// Whether `bytes` start like a safetensors file: the JSON header follows its length.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.get(LENGTH) == Some(&b'{')
}

/// The tensors of a safetensors file, under their own names.
pub(super) fn read(data: &Data) -> Result<Vec<(String, Stored)>, BackboneError> {
    let broken = |reason: String| BackboneError::Format {
        path: data.path().to_owned(),
        format: "safetensors",
        reason,
    };
    let length = data.start(LENGTH)?;
    let length = u64::from_le_bytes(*length.as_array().unwrap_or(&[0xff; LENGTH]));
    let start = usize::try_from(length)
        .ok()
        .filter(|&length| length <= LONGEST_HEADER)
        .map(|length| LENGTH + length)
        .filter(|&start| start <= data.len())
        .ok_or_else(|| broken(format!("its header cannot have {length} bytes")))?;
    // The names and places of all tensors, which lie one after the other.
    let metadata: Metadata = serde_json::from_slice(&data.read(LENGTH..start)?)
        .map_err(|error| broken(error.to_string()))?;
    let expected = metadata.data_len();
    if data.len() - start != expected {
        return Err(broken(format!(
            "its tensors have {expected} bytes, but {} follow the header",
            data.len() - start
        )));
    }
    metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let (first, end) = info.data_offsets;
            let stored = element(info.dtype).and_then(|element| {
                Stored::contiguous(
                    data,
                    start + first..start + end,
                    element,
                    info.shape.clone(),
                )
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
