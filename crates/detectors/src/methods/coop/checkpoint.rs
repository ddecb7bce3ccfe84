//! The original's checkpoint files (`model.pth.tar-50`): `state_dict` with the learned tokens and, for the
//! classes that it was trained on, what stands around them, and `epoch`.

use std::path::Path;

use anomalens_backbones::checkpoint::{Number, Outer, read_torch, write_torch_beside};
use candle_core::{DType, Tensor};

use super::prompt::Prompts;
use super::refuse;
use super::settings::Settings;
use crate::DetectorError;

/// The learned tokens of a checkpoint.
pub(super) struct Saved(Tensor);

impl Saved {
    /// Reads them; what stands around them follows from the classes at hand.
    ///
    /// # Errors
    /// That of the file, or [`DetectorError::Settings`] if it has none.
    pub(super) fn open(path: &Path) -> Result<Self, DetectorError> {
        let tensors = read_torch(path)?.into_iter();
        let found = tensors.into_iter().find(|(name, _)| name == "ctx");
        let (_, context) = found.ok_or_else(|| {
            refuse(format!(
                "{} is no checkpoint of CoOp: it has no `ctx`",
                path.display()
            ))
        })?;
        match context.dims() {
            [_, _] | [2, _, _] => Ok(Self(context.to_dtype(DType::F32)?)),
            shape => Err(refuse(format!(
                "`ctx` in {} has the shape {shape:?}: two prompts, a normal and an anomalous one, share \
                 their tokens or have two sets of them",
                path.display()
            ))),
        }
    }

    /// Gives `settings` the number and the kind of tokens.
    pub(super) fn set_sizes(&self, settings: &mut Settings) {
        settings.class_specific = self.0.dims().len() == 3;
        let tokens = self.0.dims().iter().rev().nth(1);
        settings.context_length = tokens.copied().unwrap_or(0);
        settings.initial_words = None;
    }

    /// Gives `prompts` its values.
    ///
    /// # Errors
    /// If tokens have another length.
    pub(super) fn copy_into(&self, prompts: &Prompts) -> Result<(), DetectorError> {
        let (found, expected) = (self.0.dims(), prompts.context.dims());
        if found != expected {
            return Err(refuse(format!(
                "the tokens of the checkpoint have the shape {found:?}, and those of the backbone \
                 {expected:?}: use the backbone that they were learned with"
            )));
        }
        Ok(prompts.context.set(&self.0)?)
    }
}

/// Writes a checkpoint after so many `epochs`.
///
/// # Errors
/// That of the file.
pub(super) fn write(path: &Path, prompts: &Prompts, epochs: usize) -> Result<(), DetectorError> {
    let embeddings = prompts.sets.iter().map(|set| &set.frozen.embeddings);
    let embeddings = Tensor::cat(&embeddings.collect::<Vec<_>>(), 0)?;
    let tokens = prompts.context.dims().iter().rev().nth(1);
    let after = 1 + tokens.copied().unwrap_or(0);
    let part = |start: usize, count: usize| embeddings.narrow(1, start, count)?.contiguous();
    let state = [
        ("ctx", prompts.context.as_tensor().clone()),
        ("token_prefix", part(0, 1)?),
        ("token_suffix", part(after, embeddings.dim(1)? - after)?),
    ];
    let outer = Outer {
        key: "state_dict",
        beside: &[("epoch", Number::Whole(epochs))],
    };
    Ok(write_torch_beside(path, Some(outer), &state)?)
}
