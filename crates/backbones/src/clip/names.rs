//! Stand-in until names of all origins are there.

use candle_core::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::{Activation, BackboneError};

/// A CLIP checkpoint's tensors under OpenAI's names.
pub struct ClipTensors<'a> {
    checkpoint: &'a Checkpoint,
    activation: Activation,
}

impl<'a> ClipTensors<'a> {
    /// The view of `checkpoint`.
    pub fn new(checkpoint: &'a Checkpoint, activation: Activation) -> Self {
        Self {
            checkpoint,
            activation,
        }
    }

    pub(super) fn activation(&self) -> Activation {
        self.activation
    }

    pub(super) fn known_shape(&self, name: &str) -> Result<Vec<usize>, BackboneError> {
        self.checkpoint
            .shape(name)
            .map(<[usize]>::to_vec)
            .ok_or_else(|| BackboneError::MissingTensor {
                name: name.to_owned(),
                expected: vec![],
            })
    }

    pub(super) fn blocks(&self, tower: &str) -> usize {
        self.checkpoint
            .count(&format!("{tower}.resblocks"), "ln_1.weight")
    }

    pub(super) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor, BackboneError> {
        self.checkpoint.tensor(name, shape, device)
    }
}
