//! The format of detector files: one safetensors file whose JSON header has everything that a
//! prediction depends on. Which method a file is of is not looked at here.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anomalens_backbones::{Activation, Backbone, BackboneError, Precision};
use anomalens_base::write_atomic;
use anomalens_vision::Levels;
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::detector::{Array, Detector, State};
use crate::training::EpochLog;
use crate::{Calibration, DetectorError, InputSpec};

/// The version of the file format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 3;

/// The entry of the safetensors metadata that holds the header.
const HEADER_KEY: &str = "anomalens";

/// Which weights a detector was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackboneRef {
    /// The name in the registry, or the weight file's name.
    pub name: String,
    /// SHA-256 of the weight file, hexadecimal.
    pub sha256: String,
    /// How exactly it computes.
    pub precision: Precision,
    /// The activation of its blocks, where its weights do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Further networks that see the same images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub companions: Vec<BackboneRef>,
}

impl BackboneRef {
    /// What tells `backbone` from others.
    pub fn of(backbone: &Backbone) -> Self {
        Self {
            name: backbone.name.clone(),
            sha256: backbone.sha256.to_string(),
            precision: backbone.precision,
            activation: backbone.activation,
            companions: backbone.companions.iter().map(Self::of).collect(),
        }
    }

    /// Without the companions that `detector` has no use for.
    #[must_use]
    pub fn used_by(mut self, detector: &dyn Detector) -> Self {
        let further = detector.profile().further.iter().map(|input| input.network);
        self.companions.truncate(further.max().unwrap_or(0));
        self
    }

    /// Its weights, then those of its companions.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.companions)
    }
}

/// Where a detector came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The command that made it.
    pub command: String,
    /// The data that it was made from, as given.
    pub data: String,
    /// When, RFC 3339 in UTC.
    pub date: String,
    /// Version of the program.
    pub version: String,
    /// The losses of its training, epoch by epoch, where it was trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<EpochLog>,
}

/// What a detector file holds.
pub(crate) struct Content {
    pub(crate) header: Header,
    pub(crate) tensors: BTreeMap<String, Array>,
}

/// The JSON header.
#[derive(Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) format_version: u32,
    pub(crate) method: String,
    pub(crate) config: serde_json::Value,
    pub(crate) input: InputSpec,
    /// Further ways in which images are seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) further: Vec<InputSpec>,
    pub(crate) backbone: BackboneRef,
    pub(crate) provenance: Provenance,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) calibration: Option<Calibration>,
    #[serde(default, skip_serializing_if = "Levels::is_default")]
    pub(crate) levels: Levels,
    /// SHA-256 over the tensors' names, shapes and values.
    pub(crate) tensors_sha256: String,
}

/// The part of the header that every version has.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

impl Content {
    /// Writes the file; it appears complete or not at all, and an older one stays until then.
    pub(super) fn write(&self, path: &Path) -> Result<(), DetectorError> {
        let failed = |source| DetectorError::WriteFile {
            path: path.to_owned(),
            source,
        };
        let header = serde_json::to_string(&self.header).map_err(|e| failed(e.into()))?;
        let raw: Vec<(&String, &Array, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, array)| {
                let values = || array.values.iter().copied();
                // Half the bytes where no bit is lost.
                let fits = |x: f32| f16::from_f32(x).to_f32().to_bits() == x.to_bits();
                let bytes = match values().all(fits) {
                    true => values()
                        .flat_map(|x| f16::from_f32(x).to_le_bytes())
                        .collect(),
                    false => values().flat_map(f32::to_le_bytes).collect(),
                };
                (name, array, bytes)
            })
            .collect();
        let views = raw
            .iter()
            .map(|(name, array, bytes)| {
                let dtype = match bytes.len() == 4 * array.values.len() {
                    true => Dtype::F32,
                    false => Dtype::F16,
                };
                let view = TensorView::new(dtype, array.shape.clone(), bytes)?;
                Ok((name, view))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| failed(std::io::Error::other(e)))?;
        let metadata = HashMap::from([(HEADER_KEY.to_owned(), header)]);
        let bytes = safetensors::serialize(views, Some(metadata))
            .map_err(|e| failed(std::io::Error::other(e)))?;
        write_atomic(path, &bytes).map_err(failed)
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, DetectorError> {
        let unreadable = |source| DetectorError::ReadFile {
            path: path.to_owned(),
            source,
        };
        // A device may never end.
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(bad(path, "it is not a regular file"));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        Self::parse(&bytes).map_err(|reason| bad(path, reason))
    }

    /// The content of a file, or what is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|e| format!("it is not a complete safetensors file ({e})"))?;
        let entries = metadata.metadata().as_ref();
        let header = entries
            .and_then(|entries| entries.get(HEADER_KEY))
            .ok_or("it has no detector header; is it a weight file?")?;
        let unreadable = |e| format!("its header cannot be read ({e})");
        let VersionOnly { format_version } = serde_json::from_str(header).map_err(unreadable)?;
        if format_version < FORMAT_VERSION {
            return Err(format!(
                "it has format version {format_version}, which an older version of this program \
                 wrote; this one reads version {FORMAT_VERSION}: fit the detector again"
            ));
        }
        if format_version > FORMAT_VERSION {
            return Err(format!(
                "it has format version {format_version}, this program reads version \
                 {FORMAT_VERSION}: use a newer version of the program"
            ));
        }
        let header: Header = serde_json::from_str(header).map_err(unreadable)?;
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|e| format!("its tensors cannot be read ({e})"))?
            .iter()
            .map(|(name, view)| Ok((name.to_owned(), array(name, &view, bytes.len())?)))
            .collect::<Result<BTreeMap<_, _>, String>>()?;
        if fingerprint(&tensors) != header.tensors_sha256 {
            return Err("its tensors are damaged (their SHA-256 does not match)".to_owned());
        }
        Ok(Self { header, tensors })
    }

    /// What is needed to make the detector again.
    pub(crate) fn into_state(self) -> State {
        State {
            config: self.header.config,
            tensors: self.tensors,
        }
    }
}

/// What a zip archive, such as those of PyTorch, starts with.
const ARCHIVE: &[u8] = b"PK\x03\x04";

/// Whether a file is an archive, as published checkpoints are, and no detector file.
pub(crate) fn is_archive(path: &Path) -> Result<bool, DetectorError> {
    let mut start = vec![];
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut start));
    read.map_err(|source| BackboneError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(start == ARCHIVE)
}

/// The error for a file that is not usable.
pub(super) fn bad(path: &Path, reason: impl ToString) -> DetectorError {
    DetectorError::BadFile {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// The numbers of a tensor in the file, or what is wrong with it.
fn array(name: &str, view: &TensorView, bytes: usize) -> Result<Array, String> {
    // Of an empty tensor all sides but one can be of any size.
    if let Some(side) = view.shape().iter().find(|&&side| side > bytes) {
        return Err(format!(
            "the tensor `{name}` has a side of {side} in a file of {bytes} bytes"
        ));
    }
    let values = match view.dtype() {
        Dtype::F32 => {
            let (words, _) = view.data().as_chunks::<4>();
            words.iter().map(|&word| f32::from_le_bytes(word)).collect()
        }
        Dtype::F16 => {
            let (words, _) = view.data().as_chunks::<2>();
            let words = words.iter().map(|&word| f16::from_le_bytes(word));
            words.map(f16::to_f32).collect()
        }
        other => {
            return Err(format!(
                "the tensor `{name}` has type {other:?}, neither float32 nor float16"
            ));
        }
    };
    Ok(Array {
        shape: view.shape().to_vec(),
        values,
    })
}

/// SHA-256 over names, shapes and values.
pub(super) fn fingerprint(tensors: &BTreeMap<String, Array>) -> String {
    let mut hash = Sha256::new();
    for (name, Array { shape, values }) in tensors {
        hash.update(format!("{name} {shape:?}\n"));
        values
            .iter()
            .for_each(|value| hash.update(value.to_le_bytes()));
    }
    let bytes = hash.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
