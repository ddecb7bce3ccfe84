//! What a training run leaves behind after every epoch: a checkpoint to resume from, and a line of
//! the log.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anomalens_base::write_atomic;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::Optimiser;
use crate::DetectorError;

/// One epoch: means over its steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochLog {
    /// Counted from 1.
    pub epoch: usize,
    /// The sum of the losses.
    pub loss: f64,
    /// Its parts by name.
    pub parts: Vec<(String, f64)>,
    /// How long it took.
    pub seconds: f64,
}

/// The folder of a run.
pub(crate) struct Checkpoint {
    folder: PathBuf,
    /// What the run is of: no run resumes from the checkpoint of another.
    identity: String,
    pub(crate) epochs: Vec<EpochLog>,
}

/// Entries of the checkpoint's metadata.
const IDENTITY: &str = "identity";
const EPOCHS: &str = "epochs";

impl Checkpoint {
    /// Opens the folder; the optimiser goes back to its checkpoint if there is one of `identity`.
    pub(crate) fn open(
        folder: &Path,
        identity: String,
        optimiser: &mut dyn Optimiser,
    ) -> Result<Self, DetectorError> {
        fs::create_dir_all(folder).map_err(|source| DetectorError::TrainingFile {
            path: folder.to_owned(),
            source,
        })?;
        let mut run = Self {
            folder: folder.to_owned(),
            identity,
            epochs: vec![],
        };
        let path = run.path();
        let Ok(bytes) = fs::read(&path) else {
            return Ok(run);
        };
        let unusable = |reason: String| DetectorError::BadFile {
            path: path.clone(),
            reason: format!("{reason}; remove it to start again"),
        };
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|e| unusable(e.to_string()))?;
        let entry = |name: &str| metadata.metadata().as_ref()?.get(name).cloned();
        if entry(IDENTITY).as_deref() != Some(&run.identity) {
            return Err(unusable(
                "it is the checkpoint of a run with other data or settings".to_owned(),
            ));
        }
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| unusable(e.to_string()))?;
        let take = |name: &str| {
            let tensor = tensors.get(name).cloned();
            tensor.ok_or_else(|| candle_core::Error::msg(format!("`{name}` is missing")))
        };
        optimiser
            .restore(&take)
            .map_err(|e| unusable(e.to_string()))?;
        run.epochs = serde_json::from_str(&entry(EPOCHS).unwrap_or_default())
            .map_err(|e| unusable(e.to_string()))?;
        // A run that ended between checkpoint and log left the log an epoch short.
        run.write_log()?;
        Ok(run)
    }

    fn path(&self) -> PathBuf {
        self.folder.join("checkpoint.safetensors")
    }

    /// Keeps the state after an epoch.
    pub(crate) fn save(
        &mut self,
        epoch: EpochLog,
        optimiser: &dyn Optimiser,
    ) -> Result<(), DetectorError> {
        self.epochs.push(epoch);
        let state: HashMap<String, Tensor> = optimiser.state()?.into_iter().collect();
        let metadata = HashMap::from([
            (IDENTITY.to_owned(), self.identity.clone()),
            (
                EPOCHS.to_owned(),
                serde_json::to_string(&self.epochs).unwrap_or_default(),
            ),
        ]);
        let checkpoint = self.path();
        let failed = |path: PathBuf| {
            move |source| DetectorError::TrainingFile {
                path: path.clone(),
                source,
            }
        };
        let bytes = safetensors::serialize(&state, Some(metadata))
            .map_err(|e| failed(checkpoint.clone())(std::io::Error::other(e)))?;
        write_atomic(&checkpoint, &bytes).map_err(failed(checkpoint))?;
        self.write_log()
    }

    /// The losses of all epochs, a line each.
    fn write_log(&self) -> Result<(), DetectorError> {
        let lines: String = self
            .epochs
            .iter()
            .map(|epoch| format!("{}\n", serde_json::to_string(epoch).unwrap_or_default()))
            .collect();
        let log = self.folder.join("log.jsonl");
        write_atomic(&log, lines.as_bytes())
            .map_err(|source| DetectorError::TrainingFile { path: log, source })
    }
}
