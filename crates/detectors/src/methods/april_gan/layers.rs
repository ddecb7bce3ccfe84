//! What is learned: a linear layer for each block, from its patch tokens to the space that CLIP's images and
//! texts share. The original's checkpoints hold it under the key `trainable_linearlayer`.

use std::path::Path;

use anomalens_backbones::checkpoint::write_torch;
use candle_core::{D, Tensor, Var};

use super::NAME;
use crate::DetectorError;
use crate::detector::Array;
use crate::training::Linear;
use crate::training::random::generator;

/// Under which key the original keeps its state.
const KEY: &str = "trainable_linearlayer";

/// Added to squares of lengths, so that nothing is divided by zero; far below what tokens have.
const TINY: f64 = 1e-20;

/// The linear layers, one for each block.
pub(super) struct LinearLayers(Vec<Linear>);

impl LinearLayers {
    /// Random ones for so many `blocks`, from tokens of length `width`.
    pub(super) fn random(
        blocks: usize,
        width: usize,
        embedding: usize,
        seed: u32,
    ) -> Result<Self, DetectorError> {
        let mut random = generator(seed, 0);
        let layers = (0..blocks).map(|_| Linear::new(width, embedding, &mut random));
        Ok(Self(layers.collect::<candle_core::Result<_>>()?))
    }

    /// Those whose tensors `take` gives by the original's names.
    ///
    /// # Errors
    /// [`DetectorError::Settings`] if there are not as many as `blocks`, or if they do not have the same
    /// shape.
    pub(super) fn take(
        blocks: usize,
        mut take: impl FnMut(&str) -> Option<Tensor>,
    ) -> Result<Self, DetectorError> {
        let mut shape = None;
        let mut layers = vec![];
        for block in 0..blocks {
            let [weight, bias] = names(block);
            let tensor = take(&weight).filter(|tensor| {
                tensor.rank() == 2
                    && tensor.elem_count() > 0
                    && *shape.get_or_insert(tensor.dims().to_vec()) == tensor.dims()
            });
            let tensor = tensor.ok_or_else(|| DetectorError::tensor(NAME, &weight))?;
            let shift = take(&bias).filter(|bias| bias.dims() == &tensor.dims()[..1]);
            layers.push(Linear {
                weight: Var::from_tensor(&tensor)?,
                bias: Var::from_tensor(&shift.ok_or_else(|| DetectorError::tensor(NAME, &bias))?)?,
            });
        }
        match take(&names(blocks)[0]) {
            None => Ok(Self(layers)),
            Some(_) => Err(DetectorError::settings(
                NAME,
                format_args!("it was trained with more than the {blocks} blocks in `blocks`"),
            )),
        }
    }

    /// Lengths of what goes in and of what comes out.
    pub(super) fn widths(&self) -> [usize; 2] {
        let first = self.0.first().map(|layer| layer.weight.dims());
        match first {
            Some(&[embedding, width]) => [width, embedding],
            _ => [0, 0],
        }
    }

    /// The parameters by the original's names.
    pub(super) fn parameters(&self) -> Vec<(String, Var)> {
        let layers = self.0.iter().enumerate();
        let both = layers.flat_map(|(block, Linear { weight, bias })| {
            let [weight_name, bias_name] = names(block);
            [(weight_name, weight.clone()), (bias_name, bias.clone())]
        });
        both.collect()
    }

    /// Tokens `[.., width]` of the block number `block` of those that are looked at, in the shared space:
    /// `[.., embedding]`.
    pub(super) fn project(&self, block: usize, tokens: &Tensor) -> candle_core::Result<Tensor> {
        match self.0.get(block) {
            Some(layer) => layer.forward(tokens),
            None => candle_core::bail!("there is no linear layer {block}"),
        }
    }

    /// By how much more each of the tokens `[images, patches, width]` is like something anomalous than
    /// like something normal. `directions`, `[images, embedding]`: the anomalous less the normal text.
    pub(super) fn margins(
        &self,
        block: usize,
        tokens: &Tensor,
        directions: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let projected = self.project(block, tokens)?;
        let lengths = (projected.sqr()?.sum(D::Minus1)? + TINY)?.sqrt()?;
        let products = projected.matmul(&directions.unsqueeze(2)?)?;
        products.squeeze(2)? / lengths
    }

    /// The tensors for a detector file.
    pub(super) fn arrays(&self) -> Vec<(String, Array)> {
        Array::all_of(self.parameters()).collect()
    }

    /// Writes a checkpoint of the original.
    ///
    /// # Errors
    /// That of the file.
    pub(super) fn write(&self, path: &Path) -> Result<(), DetectorError> {
        let state = self.parameters().into_iter();
        let state: Vec<(String, Tensor)> = state
            .map(|(name, var)| (name, var.as_tensor().clone()))
            .collect();
        Ok(write_torch(path, Some(KEY), &state)?)
    }
}

/// What the original calls weight and bias of a layer.
fn names(block: usize) -> [String; 2] {
    ["weight", "bias"].map(|part| format!("fc.{block}.{part}"))
}
