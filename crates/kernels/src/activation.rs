//! The function between the two feed-forward layers of a block.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::product::Epilogue;

/// The factor in QuickGELU.
pub const QUICK_GELU: f64 = 1.702;

/// The function between the two layers of a block's feed-forward half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Exact GELU, `x * Phi(x)`: DINOv2, most models of OpenCLIP.
    Gelu,
    /// `x * sigmoid(1.702 x)`: all models of OpenAI.
    QuickGelu,
}

/// A text that names no activation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no activation; use gelu or quick-gelu")]
pub struct UnknownActivation(String);

impl FromStr for Activation {
    type Err = UnknownActivation;

    fn from_str(name: &str) -> Result<Self, UnknownActivation> {
        let all = [Self::Gelu, Self::QuickGelu];
        let found = all.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| UnknownActivation(name.to_owned()))
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Activation {
    /// The name that users know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::QuickGelu => "quick-gelu",
        }
    }

    /// The step after a product that computes it.
    pub fn epilogue(self) -> Epilogue {
        match self {
            Self::Gelu => Epilogue::Gelu,
            Self::QuickGelu => Epilogue::QuickGelu,
        }
    }
}
