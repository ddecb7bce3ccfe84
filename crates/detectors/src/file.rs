//! The detector file: one safetensors file whose JSON header tells everything that a prediction
//! depends on. What does not fit together is refused with the reason, never guessed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anomalens_backbones::Precision;
use anomalens_base::write_atomic;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::detector::{Array, Detector, State};
use crate::training::EpochLog;
use crate::{Calibration, DetectorError, Setup, find};

/// The version of the file format that this program writes.
pub const FORMAT_VERSION: u32 = 2;

/// The entry of the safetensors metadata that holds the header.
const HEADER_KEY: &str = "anomalens";

/// Which weights a detector was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackboneRef {
    /// The name in the registry, or the weight file's name.
    pub name: String,
    /// SHA-256 of the weight file, hexadecimal.
    pub sha256: String,
    /// How exactly it computes. Files that do not tell are older than the choice.
    #[serde(default = "exact")]
    pub precision: Precision,
}

fn exact() -> Precision {
    Precision::F32
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

/// A saved detector: everything but the backbone's weights.
pub struct DetectorFile {
    /// The detector.
    pub detector: Box<dyn Detector>,
    /// The weights that it was made with.
    pub backbone: BackboneRef,
    /// Where it came from.
    pub provenance: Provenance,
    /// The threshold of its decisions, if one was chosen.
    pub calibration: Option<Calibration>,
}

/// The JSON header.
#[derive(Serialize, Deserialize)]
struct Header {
    format_version: u32,
    method: String,
    config: serde_json::Value,
    setup: Setup,
    backbone: BackboneRef,
    provenance: Provenance,
    /// None in files that are older than calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<Calibration>,
    /// SHA-256 over the tensors' names, shapes and values.
    tensors_sha256: String,
}

impl DetectorFile {
    /// Writes the file; it appears whole or not at all, and an older one stays until then.
    ///
    /// # Errors
    /// [`DetectorError::WriteFile`] if the folder is not there, is read-only or is full.
    pub fn save(&self, path: &Path) -> Result<(), DetectorError> {
        let State { config, tensors } = self.detector.state();
        let header = Header {
            format_version: FORMAT_VERSION,
            method: self.detector.method().to_owned(),
            config,
            setup: self.detector.setup().clone(),
            backbone: self.backbone.clone(),
            provenance: self.provenance.clone(),
            calibration: self.calibration.clone(),
            tensors_sha256: fingerprint(&tensors),
        };
        let failed = |source| DetectorError::WriteFile {
            path: path.to_owned(),
            source,
        };
        let header = serde_json::to_string(&header).map_err(|e| failed(e.into()))?;
        let raw: Vec<(&String, &Array, Vec<u8>)> = tensors
            .iter()
            .map(|(name, array)| {
                let bytes = array.values.iter().flat_map(|x| x.to_le_bytes()).collect();
                (name, array, bytes)
            })
            .collect();
        let views = raw
            .iter()
            .map(|(name, array, bytes)| {
                Ok((
                    name,
                    TensorView::new(Dtype::F32, array.shape.clone(), bytes)?,
                ))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| failed(std::io::Error::other(e)))?;
        let metadata = HashMap::from([(HEADER_KEY.to_owned(), header)]);
        let bytes = safetensors::serialize(views, Some(metadata))
            .map_err(|e| failed(std::io::Error::other(e)))?;
        write_atomic(path, &bytes).map_err(failed)
    }

    /// Reads a file and makes its detector.
    ///
    /// # Errors
    /// [`DetectorError::ReadFile`], or [`DetectorError::BadFile`] with what is wrong: no detector
    /// file, damaged, made by a newer version, or parts that do not fit each other.
    pub fn load(path: &Path) -> Result<Self, DetectorError> {
        let bytes = std::fs::read(path).map_err(|source| DetectorError::ReadFile {
            path: path.to_owned(),
            source,
        })?;
        let bad = |reason: String| DetectorError::BadFile {
            path: path.to_owned(),
            reason,
        };
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| bad(format!("it is not a whole safetensors file ({e})")))?;
        let header = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(HEADER_KEY))
            .ok_or_else(|| bad("it has no detector header; is it a weight file?".to_owned()))?;
        let version: VersionOnly = serde_json::from_str(header)
            .map_err(|e| bad(format!("its header cannot be read ({e})")))?;
        if version.format_version != FORMAT_VERSION {
            return Err(bad(format!(
                "it has format version {}, this program reads version {FORMAT_VERSION}",
                version.format_version
            )));
        }
        let header: Header = serde_json::from_str(header)
            .map_err(|e| bad(format!("its header cannot be read ({e})")))?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|e| bad(format!("its tensors cannot be read ({e})")))?
            .iter()
            .map(|(name, view)| Ok((name.to_owned(), array(name, &view)?)))
            .collect::<Result<BTreeMap<_, _>, String>>()
            .map_err(&bad)?;
        if fingerprint(&tensors) != header.tensors_sha256 {
            return Err(bad(
                "its tensors are damaged (their SHA-256 does not match)".to_owned(),
            ));
        }
        let method = find(&header.method).map_err(|e| bad(e.to_string()))?;
        let detector = method
            .load(State {
                config: header.config,
                tensors,
            })
            .map_err(|e| bad(e.to_string()))?;
        if *detector.setup() != header.setup {
            return Err(bad(
                "its preprocessing does not follow from its settings; it was made \
                            by another version and must be fitted again"
                    .to_owned(),
            ));
        }
        if let Some(calibration) = &header.calibration {
            calibration.check().map_err(&bad)?;
            Calibration::require_possible(detector.as_ref()).map_err(|e| bad(e.to_string()))?;
        }
        Ok(Self {
            detector,
            backbone: header.backbone,
            provenance: header.provenance,
            calibration: header.calibration,
        })
    }

    /// What the predictions depend on: equal for two detectors that give the same results.
    pub fn identity(&self) -> serde_json::Value {
        let State { config, tensors } = self.detector.state();
        let mut identity = serde_json::json!({
            "method": self.detector.method(),
            "config": config,
            "tensors_sha256": fingerprint(&tensors),
            "backbone": self.backbone,
        });
        if let Some(calibration) = &self.calibration {
            identity["threshold"] = calibration.threshold.into();
            identity["probability"] = serde_json::json!(calibration.probability);
        }
        identity
    }

    /// Checks that weights with the hash `sha256` are those that the detector was made with.
    ///
    /// # Errors
    /// [`DetectorError::OtherBackbone`].
    pub fn check_backbone(&self, sha256: &str) -> Result<(), DetectorError> {
        if self.backbone.sha256 == sha256 {
            return Ok(());
        }
        Err(DetectorError::OtherBackbone {
            expected: self.backbone.name.clone(),
            expected_sha256: self.backbone.sha256.clone(),
            found_sha256: sha256.to_owned(),
        })
    }
}

/// The part of the header that every version has.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

/// The numbers of a tensor in the file, or what is wrong with it.
fn array(name: &str, view: &TensorView) -> Result<Array, String> {
    if view.dtype() != Dtype::F32 {
        return Err(format!(
            "the tensor `{name}` has type {:?}, not float32",
            view.dtype()
        ));
    }
    let (words, _) = view.data().as_chunks::<4>();
    let values = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    Ok(Array {
        shape: view.shape().to_vec(),
        values,
    })
}

/// SHA-256 over names, shapes and values.
fn fingerprint(tensors: &BTreeMap<String, Array>) -> String {
    let mut hash = Sha256::new();
    for (name, Array { shape, values }) in tensors {
        hash.update(format!("{name} {shape:?}\n"));
        values
            .iter()
            .for_each(|value| hash.update(value.to_le_bytes()));
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
