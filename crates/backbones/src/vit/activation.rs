//! The function between the two feed-forward layers of a block.

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
