//! Weight files of several formats, read into tensors by name.
//!
//! ```text
//! safetensors.rs   safetensors: Hugging Face, OpenCLIP
//! onnx.rs          initialisers of an ONNX graph
//! torch/           PyTorch archives, read and written: state dicts, TorchScript
//! stored.rs        a tensor that still lies in its file
//! ```
//!
//! Files are data: nothing in them is executed. They are mapped into memory, and a tensor is
//! converted when it is asked for.

mod onnx;
mod safetensors;
mod stored;
mod torch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anomalens_kernels::MappedFile;
use bytes::Bytes;
use candle_core::{DType, Device, Tensor};

use crate::BackboneError;
use stored::Stored;

pub use torch::{read_torch, write_torch};

/// The named tensors of one weight file.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    tensors: HashMap<String, Source>,
}

/// What kind of file a checkpoint came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A safetensors file.
    Safetensors,
    /// The initialisers of an ONNX graph.
    Onnx,
    /// A state dict saved by `torch.save`.
    Torch,
    /// A TorchScript archive, the form in which OpenAI published CLIP.
    TorchScript,
    /// None: the tensors were made in the program.
    Memory,
}

/// Where a tensor is to be had.
#[derive(Debug, Clone)]
enum Source {
    Tensor(Tensor),
    Stored(Stored),
}

impl Source {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(tensor) => tensor.dims(),
            Self::Stored(stored) => stored.shape(),
        }
    }
}

impl Checkpoint {
    /// Opens a weight file; its format is told by its first bytes, not by its name.
    ///
    /// The file is mapped, so it must not be written to as long as the checkpoint lives.
    ///
    /// # Errors
    /// [`BackboneError::Read`] if the file cannot be read, [`BackboneError::Format`] if it is
    /// damaged or of another kind.
    pub fn open(path: &Path) -> Result<Self, BackboneError> {
        let file = map(path)?;
        let (format, tensors) = if safetensors::looks_like(&file) {
            (
                Format::Safetensors,
                in_file(safetensors::read(path, &file)?),
            )
        } else if torch::looks_like(&file) {
            let contents = torch::read(path, &file)?;
            (contents.format, in_file(contents.tensors))
        } else {
            let tensors = onnx::read(path, Bytes::from_owner(Shared(file)))?;
            (Format::Onnx, in_memory(tensors))
        };
        Ok(Self {
            path: path.to_owned(),
            format,
            tensors,
        })
    }

    /// A checkpoint from tensors made in the program; `path` names them in messages.
    pub fn from_tensors(path: impl Into<PathBuf>, tensors: HashMap<String, Tensor>) -> Self {
        Self {
            path: path.into(),
            format: Format::Memory,
            tensors: in_memory(tensors),
        }
    }

    /// The file that the tensors came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kind of file that the tensors came from.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Source::shape)
    }

    /// The number of consecutive `PREFIX.0`, `PREFIX.1`, ... for which `PREFIX.N.SUFFIX` exists.
    pub fn count(&self, prefix: &str, suffix: &str) -> usize {
        (0..)
            .take_while(|i| self.contains(&format!("{prefix}.{i}.{suffix}")))
            .count()
    }

    /// Tensor `name` as float32 on `device`.
    ///
    /// # Errors
    /// [`BackboneError::MissingTensor`] or [`BackboneError::TensorShape`] if it is not there in
    /// the shape `expected`.
    pub fn tensor(
        &self,
        name: &str,
        expected: &[usize],
        device: &Device,
    ) -> Result<Tensor, BackboneError> {
        let source = self
            .tensors
            .get(name)
            .ok_or_else(|| BackboneError::MissingTensor {
                name: name.to_owned(),
                expected: expected.to_vec(),
            })?;
        if source.shape() != expected {
            return Err(BackboneError::TensorShape {
                name: name.to_owned(),
                expected: expected.to_vec(),
                found: source.shape().to_vec(),
            });
        }
        let tensor = match source {
            Source::Tensor(tensor) => tensor.clone(),
            Source::Stored(stored) => stored.tensor()?,
        };
        Ok(tensor.to_dtype(DType::F32)?.to_device(device)?)
    }
}

fn map(path: &Path) -> Result<Arc<MappedFile>, BackboneError> {
    MappedFile::open(path)
        .map(Arc::new)
        .map_err(|source| BackboneError::Read {
            path: path.to_owned(),
            source,
        })
}

fn in_file(tensors: impl IntoIterator<Item = (String, Stored)>) -> HashMap<String, Source> {
    tensors
        .into_iter()
        .map(|(name, stored)| (name, Source::Stored(stored)))
        .collect()
}

fn in_memory(tensors: HashMap<String, Tensor>) -> HashMap<String, Source> {
    tensors
        .into_iter()
        .map(|(name, tensor)| (name, Source::Tensor(tensor)))
        .collect()
}

/// A mapped file as an owner of `Bytes`.
struct Shared(Arc<MappedFile>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
