//! PyTorch's files: state dicts as `torch.save` writes them, and TorchScript.
//!
//! ```text
//! archive.rs   the zip archive: a pickle `data.pkl` that describes the tensors, storages in `data/`
//! legacy.rs    the files before version 1.6: several pickles, then the storages
//! pickle.rs    the part of the pickle format that is needed; parsed, never executed
//! tree.rs      the tensors in what a pickle describes
//! write.rs     state dicts that PyTorch reads
//! ```

mod archive;
mod legacy;
mod pickle;
mod tree;
mod write;

use std::path::Path;

use candle_core::Tensor;

use super::Format;
use super::data::Data;
use super::stored::Stored;
use crate::BackboneError;
use archive::Archive;
use legacy::Legacy;
use pickle::{Pickle, Value};
use tree::{Storages, Tree};

pub use write::{Number, Outer, write_torch, write_torch_beside, write_torch_dicts};

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
    tensors(&Data::open(path)?, Dicts::One)
}

/// Reads every state dict under a key of the file's dictionary, in the order of the file; the key and a dot
/// stand before the names of its tensors.
///
/// # Errors
/// As [`read_torch`].
pub fn read_torch_dicts(path: &Path) -> Result<Vec<(String, Tensor)>, BackboneError> {
    tensors(&Data::open(path)?, Dicts::All)
}

/// [`read_torch`] from the content of a file; `path` names it in messages.
///
/// # Errors
/// As [`read_torch`].
pub fn parse_torch(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Tensor)>, BackboneError> {
    tensors(&Data::of_bytes(path, bytes), Dicts::One)
}

/// Which state dicts of a file are read.
#[derive(Clone, Copy)]
enum Dicts {
    /// The one that there is, or that has a usual name.
    One,
    /// All that lie under a key.
    All,
}

fn tensors(data: &Data, dicts: Dicts) -> Result<Vec<(String, Tensor)>, BackboneError> {
    read_dicts(data, dicts)?
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

/// The tensors of an archive: those of its state dict without a common `module.`, or all
/// parameters and buffers of its TorchScript module by dotted path.
pub(super) fn read(data: &Data) -> Result<Contents, BackboneError> {
    read_dicts(data, Dicts::One)
}

fn read_dicts(data: &Data, dicts: Dicts) -> Result<Contents, BackboneError> {
    let broken = |reason| BackboneError::Format {
        path: data.path().to_owned(),
        format: "PyTorch",
        reason,
    };
    match is_pickle(&data.start(2)?) {
        true => {
            let legacy = Legacy::open(data).map_err(broken)?;
            contents(data, &legacy.description, &legacy, dicts)
        }
        false => {
            let archive = Archive::open(data).map_err(broken)?;
            let bytes = archive.bytes("data.pkl").map_err(broken)?;
            contents(data, &bytes, &archive, dicts)
        }
    }
    .map_err(broken)
}

/// The tensors that a pickle describes.
fn contents(
    data: &Data,
    pickle: &[u8],
    storages: &dyn Storages,
    dicts: Dicts,
) -> Result<Contents, String> {
    let pickle = Pickle::read(pickle, expected)?;
    let tree = Tree {
        storages,
        pickle: &pickle,
    };
    let contents = match pickle.root() {
        Value::Object { .. } => tree.module().map(|tensors| Contents {
            format: Format::TorchScript,
            tensors,
        }),
        Value::Dict(items) => {
            let tensors = match dicts {
                Dicts::One => tree.state_dict(items),
                Dicts::All => tree.state_dicts(items),
            };
            tensors.map(|tensors| Contents {
                format: Format::Torch,
                tensors,
            })
        }
        _ => Err("it holds neither a dictionary nor a module".to_owned()),
    };
    let contents = contents?;
    let sizes = contents.tensors.iter().map(|(_, stored)| stored.size());
    let total = sizes.fold(0_usize, usize::saturating_add);
    if total > data.len().saturating_mul(MOST_SHARING) {
        return Err(format!(
            "its tensors would have {total} bytes, but the file has {}",
            data.len()
        ));
    }
    Ok(contents)
}

/// The names that a description of tensors needs.
fn expected(module: &str, name: &str) -> bool {
    match module {
        "collections" => matches!(name, "OrderedDict" | "defaultdict"),
        "__builtin__" | "builtins" => name == "dict",
        "torch._utils" => matches!(name, "_rebuild_tensor_v2" | "_rebuild_parameter"),
        "torch" => name == "Size" || name.ends_with("Storage"),
        "torch.jit._pickle" => name.starts_with("build_") || name == "restore_type_tag",
        // Classes of TorchScript, whose code lies in the archive and is not looked at; optimisers and
        // schedules, which CoOp's checkpoints keep beside the state dict.
        _ => {
            let within = ["__torch__.", "torch.optim."];
            module == "__torch__" || within.iter().any(|within| module.starts_with(within))
        }
    }
}
