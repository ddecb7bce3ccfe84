//! Layers of CLIP, read by name; both towers are made of the same.

use candle_core::Device;
use candle_nn::Linear;

use super::ClipTensors;
use crate::BackboneError;
use crate::vit::parts::Layer;

/// Epsilon of every layer norm.
pub(super) const LAYER_NORM_EPS: f64 = 1e-5;

/// Reads the layers of one part of the network by name.
pub(super) struct Reader<'a> {
    pub(super) tensors: &'a ClipTensors<'a>,
    /// Put before every name.
    pub(super) prefix: String,
}

impl Reader<'_> {
    pub(super) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<candle_core::Tensor, BackboneError> {
        self.tensors
            .tensor(&format!("{}{name}", self.prefix), shape, &Device::Cpu)
    }

    pub(super) fn layer(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Layer, BackboneError> {
        Ok(Layer {
            weight: self.tensor(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: self.tensor(&format!("{name}.bias"), &[outputs])?,
        })
    }

    pub(super) fn linear(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Linear, BackboneError> {
        let Layer { weight, bias } = self.layer(name, inputs, outputs)?;
        Ok(Linear::new(weight, Some(bias)))
    }

    pub(super) fn norm(&self, name: &str, width: usize) -> Result<Layer, BackboneError> {
        Ok(Layer {
            weight: self.tensor(&format!("{name}.weight"), &[width])?,
            bias: self.tensor(&format!("{name}.bias"), &[width])?,
        })
    }
}
