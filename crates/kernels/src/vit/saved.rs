//! Packed networks as bytes.

use std::io::{self, Write};
use std::sync::Mutex;

use super::weights::Block;
use super::{Vit, VitConfig};
use crate::attention::Attention;
use crate::engine::{Engine, Precision};
use crate::linear::PackedLinear;
use crate::product::{Epilogue, PANEL};
use crate::rows::LayerNorm;
use crate::saved::{Reader, SavedError, SharedBytes, Writer};

/// What saved weights do not say about themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VitSizes {
    /// Length of a token.
    pub width: usize,
    /// How many blocks were written.
    pub blocks: usize,
    /// Whether there is a layer norm before the first block.
    pub norm: bool,
    /// Whether there is a final projection.
    pub projection: bool,
}

impl Vit {
    /// What must be known to read what [`write`](Self::write) writes.
    pub fn sizes(&self) -> VitSizes {
        VitSizes {
            width: self.width,
            blocks: self.blocks.len(),
            norm: self.norm.is_some(),
            projection: self.projection.is_some(),
        }
    }

    /// Writes the packed network; `to` should start at a multiple of 64 bytes in its file, or the
    /// weights are copied when they are read.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let to = &mut Writer::new(to);
        self.patch.write(to)?;
        to.floats(&self.class_token)?;
        if let Some(norm) = &self.norm {
            norm.write(to)?;
        }
        self.final_norm.write(to)?;
        if let Some(projection) = &self.projection {
            projection.write(to)?;
        }
        for block in &self.blocks {
            block.norm1.write(to)?;
            block.qkv.write(to)?;
            block.output.write(to)?;
            block.norm2.write(to)?;
            block.up.write(to)?;
            block.down.write(to)?;
        }
        Ok(())
    }

    /// Reads what [`write`](Self::write) has written from the byte `at` of `bytes` on, for any
    /// engine and precision: weights whose numbers have the format of its kernels stay where they
    /// are, others are converted.
    ///
    /// # Errors
    /// [`SavedError`] says what does not fit.
    pub fn read(
        engine: Engine,
        precision: Precision,
        config: VitConfig,
        sizes: VitSizes,
        bytes: &SharedBytes,
        at: usize,
    ) -> Result<Self, SavedError> {
        let width = sizes.width;
        let pixels = config.patch.checked_pow(2).and_then(|x| x.checked_mul(3));
        let Some(pixels) = pixels.filter(|&pixels| {
            pixels > 0 && config.heads > 0 && width > 0 && width.is_multiple_of(config.heads)
        }) else {
            return Err(SavedError(format!("{config:?} for a width of {width}")));
        };
        let from = &mut Reader::new(bytes, at);
        let (narrow, wide) = (engine.kernel(precision), engine.kernel(precision.wide()));
        let layer = |from: &mut Reader, kernel, inputs: usize, outputs: Option<usize>| {
            let layer = PackedLinear::read(kernel, from)?;
            let found = (layer.inputs(), layer.outputs());
            match found == (inputs, outputs.unwrap_or(found.1)) {
                true => Ok(layer),
                false => Err(SavedError(format!(
                    "a layer of {found:?} inputs and outputs where {:?} are expected",
                    (inputs, outputs)
                ))),
            }
        };
        let norm = |from: &mut Reader| LayerNorm::read(from, width, config.epsilon);
        Ok(Self {
            width,
            engine,
            precision,
            patch: layer(from, wide, pixels, Some(width))?,
            class_token: from.floats(width)?,
            norm: sizes.norm.then(|| norm(from)).transpose()?,
            final_norm: norm(from)?,
            projection: match sizes.projection {
                true => Some(layer(from, wide, width, None)?),
                false => None,
            },
            blocks: (0..sizes.blocks)
                .map(|_| {
                    let norm1 = norm(from)?;
                    let qkv = layer(from, narrow, width, Some(3 * width))?;
                    let output = layer(from, narrow, width, Some(width))?;
                    let norm2 = norm(from)?;
                    let up = layer(from, narrow, width, None)?;
                    if config.activation == Epilogue::SwiGlu && !up.outputs().is_multiple_of(PANEL)
                    {
                        return Err(SavedError("gates and values in broken panels".to_owned()));
                    }
                    let middle = config.activation.columns(up.outputs());
                    Ok(Block {
                        norm1,
                        qkv,
                        output,
                        norm2,
                        down: layer(from, narrow, middle, Some(width))?,
                        up,
                    })
                })
                .collect::<Result<_, SavedError>>()?,
            attention: Attention::new(engine, precision, config.heads, width / config.heads),
            workspaces: Mutex::default(),
            config,
        })
    }
}
