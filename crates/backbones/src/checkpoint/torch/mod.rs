//! PyTorch archives: state dicts as `torch.save` writes them since version 1.6, and TorchScript.
//!
//! ```text
//! archive.rs   the zip archive: a pickle `data.pkl` that describes the tensors, storages in `data/`
//! pickle.rs    the part of the pickle format that is needed; parsed, never executed
//! tree.rs      the tensors in what a pickle describes
//! write.rs     state dicts that PyTorch reads
//! ```

mod archive;
mod pickle;
mod tree;
mod write;

use std::path::Path;
use std::sync::Arc;

use anomalens_kernels::MappedFile;
use candle_core::Tensor;

use super::stored::Stored;
use super::{Format, map};
use crate::BackboneError;
use archive::Archive;
use pickle::{Pickle, Value};
use tree::Tree;

pub use write::write_torch;

/// Tensors may share storages, but together they are not much larger than the file.
const MOST_SHARING: usize = 8;

/// The tensors of an archive, in the order of the file.
pub(super) struct Contents {
    pub(super) format: Format,
    pub(super) tensors: Vec<(String, Stored)>,
}

/// Reads the state dict of a file saved by `torch.save`, in the order of the file; a state dict
/// under one key of a dictionary (`state_dict`, `prompt_learner`, ...) is found there.
///
/// Floating-point tensors come as float32, whole numbers in their own type.
///
/// # Errors
/// [`BackboneError::Read`] if the file cannot be read, [`BackboneError::Format`] if it is not such
/// a file, is damaged, or refers to code.
pub fn read_torch(path: &Path) -> Result<Vec<(String, Tensor)>, BackboneError> {
    let file = map(path)?;
    let contents = read(path, &file)?;
    let total = contents.tensors.iter().fold(0_usize, |sum, (_, stored)| {
        sum.saturating_add(stored.size())
    });
    if total > file.len().saturating_mul(MOST_SHARING) {
        return Err(broken(path)(format!(
            "its tensors would have {total} bytes, but the file has {}",
            file.len()
        )));
    }
    contents
        .tensors
        .into_iter()
        .map(|(name, stored)| Ok((name, stored.tensor()?)))
        .collect()
}

/// Whether `bytes` start like a zip archive or a pickle.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || is_pickle(bytes)
}

fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..])
}

fn broken(path: &Path) -> impl Fn(String) -> BackboneError {
    let path = path.to_owned();
    move |reason| BackboneError::Format {
        path: path.clone(),
        format: "PyTorch",
        reason,
    }
}

/// The tensors of an archive: those of its state dict without a common `module.`, or all
/// parameters and buffers of its TorchScript module by dotted path.
pub(super) fn read(path: &Path, file: &Arc<MappedFile>) -> Result<Contents, BackboneError> {
    let broken = broken(path);
    if is_pickle(file) {
        return Err(broken(format!(
            "it was saved by PyTorch before 1.6 or is a plain pickle; save it again with python -c \
             \"import torch; torch.save(torch.load('{0}', 'cpu', weights_only=True), '{0}')\"",
            path.display()
        )));
    }
    let archive = Archive::open(file).map_err(&broken)?;
    let bytes = archive.bytes("data.pkl").map_err(&broken)?;
    let pickle = Pickle::read(bytes, expected).map_err(&broken)?;
    let tree = Tree {
        archive: &archive,
        pickle: &pickle,
    };
    match pickle.root() {
        Value::Object { .. } => tree.module().map(|tensors| Contents {
            format: Format::TorchScript,
            tensors,
        }),
        Value::Dict(items) => tree.state_dict(items).map(|tensors| Contents {
            format: Format::Torch,
            tensors,
        }),
        _ => Err("it holds neither a dictionary nor a module".to_owned()),
    }
    .map_err(broken)
}

/// The names that a description of tensors needs.
fn expected(module: &str, name: &str) -> bool {
    match module {
        "collections" => name == "OrderedDict",
        "torch._utils" => matches!(name, "_rebuild_tensor_v2" | "_rebuild_parameter"),
        "torch" => name == "Size" || name.ends_with("Storage"),
        "torch.jit._pickle" => name.starts_with("build_") || name == "restore_type_tag",
        // Classes of TorchScript, whose code lies in the archive and is not looked at.
        _ => module == "__torch__" || module.starts_with("__torch__."),
    }
}
