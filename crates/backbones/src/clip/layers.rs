//! Layers of CLIP, read by name; both towers are made of the same.

use candle_core::Device;
use candle_nn::{LayerNorm, Linear};

use super::ClipTensors;
use crate::BackboneError;

/// Epsilon of every layer norm.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Reads the layers of one part of the network by name.
pub(super) struct Reader<'a> {
    pub(super) tensors: &'a ClipTensors<'a>,
    /// Put before every name.
    pub(super) prefix: String,
    pub(super) device: &'a Device,
}

impl Reader<'_> {
    pub(super) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<candle_core::Tensor, BackboneError> {
        self.tensors
            .tensor(&format!("{}{name}", self.prefix), shape, self.device)
    }

    pub(super) fn linear(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Linear, BackboneError> {
        Ok(Linear::new(
            self.tensor(&format!("{name}.weight"), &[outputs, inputs])?,
            Some(self.tensor(&format!("{name}.bias"), &[outputs])?),
        ))
    }

    pub(super) fn layer_norm(&self, name: &str, width: usize) -> Result<LayerNorm, BackboneError> {
        Ok(LayerNorm::new(
            self.tensor(&format!("{name}.weight"), &[width])?,
            self.tensor(&format!("{name}.bias"), &[width])?,
            LAYER_NORM_EPS,
        ))
    }
}
