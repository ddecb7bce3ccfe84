//! The original's prompt checkpoints (`epoch_N.pth`): read, and written so that the original reads
//! them. Embeddings that were learned in place of prompts have files of the same kind.

use std::path::{Path, PathBuf};

use anomalens_backbones::checkpoint::{read_torch, write_torch};
use candle_core::{DType, Device, Tensor};

use super::prompt::{Frozen, Prompts, TextPrompts};
use super::refuse;
use super::settings::{PromptKind, Settings};
use crate::DetectorError;

/// Under which key the original keeps its state.
const KEY: &str = "prompt_learner";

/// A checkpoint that was read.
pub(super) struct Saved {
    pub(super) path: PathBuf,
    /// By name, without [`KEY`].
    pub(super) tensors: Vec<(String, Tensor)>,
}

impl Saved {
    /// Gives `settings` the number of tokens that the checkpoint has.
    ///
    /// # Errors
    /// If it has no prompts.
    pub(super) fn set_sizes(&self, settings: &mut Settings) -> Result<(), DetectorError> {
        if settings.prompt == PromptKind::Text {
            let sizes = self.sizes().ok_or_else(|| self.without_prompts())?;
            (settings.context_length, settings.prompt_depth) = (sizes[0], sizes[1]);
            if settings.prompt_depth > 1 {
                settings.deep_tokens = sizes[2];
            }
        }
        Ok(())
    }

    pub(super) fn open(path: &Path) -> Result<Self, DetectorError> {
        let prefix = format!("{KEY}.");
        let tensors = read_torch(path)?
            .into_iter()
            .map(|(name, tensor)| match name.strip_prefix(&prefix) {
                Some(name) => (name.to_owned(), tensor),
                None => (name, tensor),
            })
            .collect();
        Ok(Self {
            path: path.to_owned(),
            tensors,
        })
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        let found = self.tensors.iter().find(|(n, _)| n == name);
        found.map(|(_, tensor)| tensor)
    }

    /// Context length, prompt depth and deep tokens.
    pub(super) fn sizes(&self) -> Option<[usize; 3]> {
        let &[_, _, context, _] = self.find("ctx_pos")?.dims() else {
            return None;
        };
        let deep: Vec<&Tensor> = (0..)
            .map_while(|i| self.find(&format!("compound_prompts_text.{i}")))
            .collect();
        let tokens = deep
            .first()
            .and_then(|deep| deep.dims().first().copied())
            .unwrap_or(0);
        Some([context, deep.len() + 1, tokens])
    }

    /// Gives `prompts` its values.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub(super) fn copy_into(&self, prompts: &Prompts) -> Result<(), DetectorError> {
        for (name, var) in prompts.parameters() {
            let tensor = self.find(&name).ok_or_else(|| self.without_prompts())?;
            if tensor.dims() != var.dims() {
                return Err(refuse(format!(
                    "`{name}` in {} has the shape {:?}, but the backbone and the templates need \
                     {:?}: the prompts were learned with others",
                    self.path.display(),
                    tensor.dims(),
                    var.dims()
                )));
            }
            var.set(&tensor.to_dtype(DType::F32)?)?;
        }
        Ok(())
    }

    fn without_prompts(&self) -> DetectorError {
        refuse(format!(
            "{} is no prompt checkpoint of AnomalyCLIP, or one of the other kind of `prompt`",
            self.path.display()
        ))
    }
}

impl Prompts {
    /// Writes a checkpoint that [`Saved`] reads.
    ///
    /// # Errors
    /// That of the file.
    pub(super) fn write(&self, path: &Path) -> Result<(), DetectorError> {
        match self {
            Self::Text(prompts) => prompts.write(path),
            Self::Embedding(_) => {
                let state = self.parameters().into_iter();
                let state: Vec<(String, Tensor)> = state
                    .map(|(name, var)| (name, var.as_tensor().clone()))
                    .collect();
                Ok(write_torch(path, Some(KEY), &state)?)
            }
        }
    }
}

impl TextPrompts {
    /// Writes the prompts with everything that the original expects in its checkpoints: the frozen
    /// embeddings around the learned ones (those of the first class where each has its own), and
    /// projections that it never uses, as zeros.
    ///
    /// # Errors
    /// That of the file.
    fn write(&self, path: &Path) -> Result<(), DetectorError> {
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
