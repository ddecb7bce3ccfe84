//! What was trained before, as plain tensors: from the detector file that `train` writes, or from a
//! checkpoint of the original.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anomalens_backbones::BackboneError;
use anomalens_backbones::checkpoint::Checkpoint;
use candle_core::{Device, Tensor};

use crate::detector::State;
use crate::file::format::Content;
use crate::settings::Checked;
use crate::{DetectorError, MethodSettings, Settings};

/// What a zip archive, such as those of PyTorch, starts with; and a pickle, as before its version 1.6.
const ARCHIVE: &[u8] = b"PK\x03\x04";
const PICKLE: &[u8] = &[0x80, 2];

/// What was trained before with a method whose settings are `S`.
pub(crate) struct Learned<S> {
    /// The settings that it was trained with; published checkpoints do not hold them.
    pub(crate) settings: Option<S>,
    source: Source,
}

enum Source {
    Published(Checkpoint),
    Own(State),
}

impl<S: Settings> Learned<S> {
    /// Opens a detector file of the method, or a published checkpoint.
    ///
    /// # Errors
    /// That of the file, or [`DetectorError::Settings`] for a detector of another method.
    pub(crate) fn read(path: &Path) -> Result<Self, DetectorError> {
        if is_of_pytorch(path)? {
            let source = Source::Published(Checkpoint::open(path)?);
            return Ok(Self {
                settings: None,
                source,
            });
        }
        let content = Content::read(path)?;
        if content.header.method != S::METHOD {
            let found = content.header.method;
            return Err(DetectorError::settings(
                S::METHOD,
                format_args!(
                    "{} is a detector of {found}, not of {}",
                    path.display(),
                    S::METHOD
                ),
            ));
        }
        let state = content.into_state();
        Ok(Self {
            settings: Some(Checked::<S>::load(&state)?.settings),
            source: Source::Own(state),
        })
    }

    /// The settings that were `learned` with, or else the `defaults`, with those `given` in their place.
    ///
    /// # Errors
    /// [`DetectorError::Settings`] for an unknown name or a value of the wrong type.
    pub(crate) fn configure(
        learned: Option<&Self>,
        defaults: impl FnOnce() -> S,
        given: &MethodSettings,
    ) -> Result<S, DetectorError> {
        match learned.and_then(|learned| learned.settings.as_ref()) {
            Some(settings) => settings.replaced_by(given),
            None => defaults().replaced_by(given),
        }
    }

    /// The float32 tensor `name`, if it is there.
    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor> {
        match &self.source {
            Source::Own(state) => state.tensors.get(name)?.clone().tensor(),
            Source::Published(checkpoint) => {
                let shape = checkpoint.shape(name)?.to_vec();
                checkpoint.tensor(name, &shape, &Device::Cpu).ok()
            }
        }
    }
}

fn is_of_pytorch(path: &Path) -> Result<bool, DetectorError> {
    let mut start = vec![];
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut start));
    read.map_err(|source| BackboneError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(start == ARCHIVE || start.starts_with(PICKLE))
}
