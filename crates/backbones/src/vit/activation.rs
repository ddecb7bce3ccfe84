//! The function between the two feed-forward layers of a block.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// The factor in QuickGELU.
pub(crate) const QUICK_GELU: f64 = 1.702;

/// The function between the two layers of a block's feed-forward half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Exact GELU, `x * Phi(x)`: DINOv2, most models of OpenCLIP.
    Gelu,
    /// `x * sigmoid(1.702 x)`: all models of OpenAI.
    QuickGelu,
}

impl Activation {
    /// The function of every number, without a gradient.
    pub(crate) fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => x.gelu_erf(),
            Self::QuickGelu => x * candle_nn::ops::sigmoid(&(x * QUICK_GELU)?)?,
        }
    }
}
