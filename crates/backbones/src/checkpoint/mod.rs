//! Weight files of several formats, read into tensors under Hugging Face names.
//!
//! Files are data: nothing in them is executed.

mod onnx;
mod safetensors;
mod seeded;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::BackboneError;
pub use seeded::seeded_tensor;

/// The named tensors of one weight file, on the CPU.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    /// Tensors that are made when they are asked for.
    seeded: Option<Seeded>,
}

/// A seed, and the shapes of the tensors that it makes.
#[derive(Debug, Clone)]
struct Seeded {
    seed: u64,
    shapes: HashMap<String, Vec<usize>>,
}

impl Checkpoint {
    /// Reads a weight file; its format is told by its first bytes, not by its name.
    ///
    /// # Errors
    /// [`BackboneError::Read`] if the file cannot be read, [`BackboneError::Format`] if it is
    /// damaged or of another kind.
    pub fn open(path: &Path) -> Result<Self, BackboneError> {
        let bytes = std::fs::read(path).map_err(|source| BackboneError::Read {
            path: path.to_owned(),
            source,
        })?;
        let tensors = if safetensors::looks_like(&bytes) {
            safetensors::read(path, &bytes)?
        } else {
            onnx::read(path, bytes)?
        };
        Ok(Self {
            path: path.to_owned(),
            tensors,
            seeded: None,
        })
    }

    /// A checkpoint of made-up weights of the given names and shapes ([`seeded_tensor`]).
    pub fn seeded(seed: u64, shapes: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        Self {
            path: format!("seeded:{seed}").into(),
            tensors: HashMap::new(),
            seeded: Some(Seeded {
                seed,
                shapes: shapes.into_iter().collect(),
            }),
        }
    }

    /// A checkpoint from tensors made in the program; `path` names them in messages.
    pub fn from_tensors(path: impl Into<PathBuf>, tensors: HashMap<String, Tensor>) -> Self {
        Self {
            path: path.into(),
            tensors,
            seeded: None,
        }
    }

    /// The file that the tensors came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The shape of tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        match &self.seeded {
            Some(seeded) => seeded.shapes.get(name).map(Vec::as_slice),
            None => self.tensors.get(name).map(Tensor::dims),
        }
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
        let missing = || BackboneError::MissingTensor {
            name: name.to_owned(),
            expected: expected.to_vec(),
        };
        let shape = self.shape(name).ok_or_else(missing)?;
        if shape != expected {
            return Err(BackboneError::TensorShape {
                name: name.to_owned(),
                expected: expected.to_vec(),
                found: shape.to_vec(),
            });
        }
        let tensor = match &self.seeded {
            Some(seeded) => seeded_tensor(seeded.seed, name, shape)?,
            None => self.tensors.get(name).ok_or_else(missing)?.clone(),
        };
        Ok(tensor.to_dtype(DType::F32)?.to_device(device)?)
    }
}
