//! The safetensors format: an eight-byte header length, a JSON header, raw tensors.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::BackboneError;

/// Whether `bytes` start like a safetensors file: the JSON header follows its length.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

/// The tensors of a safetensors file, under their own names.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<HashMap<String, Tensor>, BackboneError> {
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|error| {
        BackboneError::Format {
            path: path.to_owned(),
            format: "safetensors",
            reason: error.to_string(),
        }
    })
}
