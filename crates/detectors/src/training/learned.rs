//! What was trained before, by its tensors' names: a detector file that training leaves behind, or a
//! published checkpoint.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anomalens_backbones::BackboneError;
use anomalens_backbones::checkpoint::Checkpoint;
use candle_core::{Device, Tensor};

use crate::detector::{Array, State};
use crate::file::format::Content;
use crate::settings::Checked;
use crate::{DetectorError, Settings};

/// What a zip archive, such as those of PyTorch, starts with.
const ARCHIVE: &[u8] = b"PK\x03\x04";

/// What was trained before.
pub(crate) enum Learned {
    /// By the authors' programs; without settings.
    Published(Checkpoint),
    /// By this one.
    Own(State),
}

impl Learned {
    /// Opens a detector file of `method`, or a published checkpoint.
    pub(crate) fn read(method: &'static str, path: &Path) -> Result<Self, DetectorError> {
        if starts_as_archive(path)? {
            return Ok(Self::Published(Checkpoint::open(path)?));
        }
        let content = Content::read(path)?;
        if content.header.method != method {
            let found = &content.header.method;
            let reason = format!(
                "{} is a detector of {found}, not of {method}",
                path.display()
            );
            return Err(DetectorError::settings(method, reason));
        }
        Ok(Self::Own(content.into_state()))
    }

    /// The settings that it was trained with, where they are known.
    pub(crate) fn settings<S: Settings>(&self) -> Result<Option<S>, DetectorError> {
        match self {
            Self::Published(_) => Ok(None),
            Self::Own(state) => Ok(Some(Checked::<S>::load(state)?.settings)),
        }
    }

    /// The tensor called `name`, in float32.
    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor> {
        match self {
            Self::Own(state) => {
                let Array { shape, values } = state.tensors.get(name)?;
                Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).ok()
            }
            Self::Published(checkpoint) => {
                let shape = checkpoint.shape(name)?.to_vec();
                checkpoint.tensor(name, &shape, &Device::Cpu).ok()
            }
        }
    }
}

fn starts_as_archive(path: &Path) -> Result<bool, DetectorError> {
    let mut start = vec![];
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut start));
    read.map_err(|source| BackboneError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(start == ARCHIVE)
}
