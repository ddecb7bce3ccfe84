//! What is learned: the paper's adapter and heads, or a power mean.

use candle_core::Var;

use super::network::{Network, Sizes};
use super::power_mean::PowerMean;
use super::settings::{Head, Settings};

/// The learned parts.
pub(super) enum Model {
    Network(Box<Network>),
    PowerMean(PowerMean),
}

impl Model {
    /// Initial values from `seed`.
    pub(super) fn new(settings: &Settings, sizes: Sizes, seed: u32) -> candle_core::Result<Self> {
        Ok(match settings.head {
            Head::Network => Self::Network(Box::new(Network::new(sizes, seed)?)),
            Head::PowerMean => Self::PowerMean(PowerMean::new()?),
        })
    }

    /// Everything that a checkpoint holds, by name.
    pub(super) fn variables(&self) -> Vec<(String, Var)> {
        match self {
            Self::Network(network) => network.variables(),
            Self::PowerMean(mean) => mean.variables(),
        }
    }
}
