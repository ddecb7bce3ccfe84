//! Packed networks as bytes.

use std::io::{self, Write};

use super::dense::Dense;
use super::depthwise::Depthwise;
use super::{ConvNet, Operation, Packed, Step};
use crate::engine::{Engine, Precision};
use crate::saved::{Reader, SavedError, SharedBytes, Writer};

impl ConvNet {
    /// Writes the weights of all steps; `to` should start at a multiple of 64 bytes in its file, or
    /// they are copied when they are read.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let to = &mut Writer::new(to);
        for (_, packed) in &self.steps {
            match packed {
                Packed::None => {}
                Packed::Dense(dense) => dense.write(to)?,
                Packed::Depthwise(depthwise) => depthwise.write(to)?,
            }
        }
        Ok(())
    }

    /// Reads what [`write`](Self::write) has written from the byte `at` of `bytes` on, for any
    /// engine and precision: weights whose numbers have the format of its kernels stay where they
    /// are, others are converted. The steps must be those of the network that was written.
    ///
    /// # Errors
    /// [`SavedError`] tells what does not fit.
    pub fn read(
        engine: Engine,
        precision: Precision,
        steps: &[Step],
        bytes: &SharedBytes,
        at: usize,
    ) -> Result<Self, SavedError> {
        let from = &mut Reader::new(bytes, at);
        let mut network = Self::new(engine, precision);
        for &step in steps {
            let fits = network.check(&step);
            fits.map_err(|error| SavedError(error.to_string()))?;
            let packed = match step.operation {
                Operation::Convolution(convolution) if convolution.depthwise => {
                    Packed::Depthwise(Depthwise::read(convolution, from)?)
                }
                Operation::Convolution(convolution) => {
                    let precision = network.precision_of(&convolution);
                    let positive = network.positive(&step);
                    Packed::Dense(Dense::read(engine, precision, convolution, from, positive)?)
                }
                _ => Packed::None,
            };
            network.add(step, packed);
        }
        Ok(network)
    }
}
