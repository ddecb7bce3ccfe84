//! The original's prompt checkpoints (`epoch_N.pth`): read, and written so that the original reads
//! them.

use std::path::Path;

use anomalens_backbones::checkpoint::{read_torch, write_torch};
use candle_core::{DType, Device, Tensor};

use super::prompt::{Frozen, TextPrompts};
use crate::DetectorError;

/// Under which key the original keeps its state.
const KEY: &str = "prompt_learner";

/// The parameters of the checkpoint at `path`, by name.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Tensor)>, DetectorError> {
    let prefix = format!("{KEY}.");
    Ok(read_torch(path)?
        .into_iter()
        .map(|(name, tensor)| match name.strip_prefix(&prefix) {
            Some(name) => (name.to_owned(), tensor),
            None => (name, tensor),
        })
        .collect())
}

/// What the settings must be to fit the tensors of a checkpoint: context length, prompt depth and
/// deep tokens.
pub(super) fn sizes(tensors: &[(String, Tensor)]) -> Option<[usize; 3]> {
    let find = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t);
    let &[_, _, context, _] = find("ctx_pos")?.dims() else {
        return None;
    };
    let deep: Vec<&Tensor> = (0..)
        .map_while(|i| find(&format!("compound_prompts_text.{i}")))
        .collect();
    let tokens = deep
        .first()
        .and_then(|deep| deep.dims().first().copied())
        .unwrap_or(0);
    Some([context, deep.len() + 1, tokens])
}

impl TextPrompts {
    /// Writes the prompts with everything that the original expects in its checkpoints: the frozen
    /// embeddings around the learned ones (those of the first class where each has its own), and
    /// projections that it never uses, as zeros.
    ///
    /// # Errors
    /// That of the file.
    pub(super) fn write(&self, path: &Path) -> Result<(), DetectorError> {
        let Some(Frozen {
            ids, embeddings, ..
        }) = self.frozen.first()
        else {
            return Ok(()); // There is always one.
        };
        let (_, context, width) = embeddings.dims3()?;
        let length = self.contexts[0].dim(2)?;
        // Rows of the normal prompts, then of the anomalous ones.
        let [normal, anomalous] = self.contexts.each_ref().map(|var| var.dims()[1]);
        let rows = [(0, normal), (normal, anomalous)];
        let mut state: Vec<(String, Tensor)> = vec![];
        let signs = ["pos", "neg"];
        for (sign, var) in signs.iter().zip(&self.contexts) {
            state.push((format!("ctx_{sign}"), var.as_tensor().clone()));
        }
        for ((first, prompts), sign) in rows.into_iter().zip(signs) {
            let part = |start: usize, count: usize| {
                embeddings
                    .narrow(0, first, prompts)?
                    .narrow(1, start, count)?
                    .unsqueeze(0)?
                    .contiguous()
            };
            state.push((format!("token_prefix_{sign}"), part(0, 1)?));
            let rest = part(1 + length, context - 1 - length)?;
            state.push((format!("token_suffix_{sign}"), rest));
        }
        for ((first, prompts), sign) in rows.into_iter().zip(signs) {
            let ids = ids.narrow(0, first, prompts)?.unsqueeze(0)?;
            let ids = ids.to_dtype(DType::I64)?.to_dtype(DType::I32)?;
            state.push((format!("tokenized_prompts_{sign}"), ids));
        }
        for (i, var) in self.deep.iter().enumerate() {
            state.push((
                format!("compound_prompts_text.{i}"),
                var.as_tensor().clone(),
            ));
        }
        for i in 0..self.deep.len() {
            let name = format!("compound_prompt_projections.{i}");
            let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
            state.push((format!("{name}.weight"), zeros(&[PROJECTION, width])?));
            state.push((format!("{name}.bias"), zeros(&[PROJECTION])?));
        }
        Ok(write_torch(path, Some(KEY), &state)?)
    }
}

/// Width of the unused projections.
const PROJECTION: usize = 896;
