//! The detector file: everything but the backbone's weights. What does not fit together is refused
//! with the reason, never guessed.

pub(crate) mod format;

use std::path::Path;

use anomalens_vision::{DecodeOptions, Levels};

use crate::detector::{Detector, State};
use crate::{Calibration, DetectorError, find};
use format::{Content, Header, bad, fingerprint};

pub use format::{BackboneRef, FORMAT_VERSION, Provenance};

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
    /// How samples of more than 8 bits were scaled in the images that it was made from.
    pub levels: Levels,
}

impl DetectorFile {
    /// Writes the file; it appears complete or not at all, and an older one stays until then.
    ///
    /// # Errors
    /// [`DetectorError::WriteFile`] if the folder is not there, is read-only or is full.
    pub fn save(&self, path: &Path) -> Result<(), DetectorError> {
        let State { config, tensors } = self.detector.state();
        let header = Header {
            format_version: FORMAT_VERSION,
            method: self.detector.method().to_owned(),
            config,
            input: self.detector.input().clone(),
            further: self.detector.profile().further.clone(),
            backbone: self.backbone.clone(),
            provenance: self.provenance.clone(),
            calibration: self.calibration.clone(),
            levels: self.levels,
            tensors_sha256: fingerprint(&tensors),
        };
        Content { header, tensors }.write(path)
    }

    /// Reads a file and makes its detector.
    ///
    /// # Errors
    /// [`DetectorError::ReadFile`], or [`DetectorError::BadFile`] with what is wrong: no detector
    /// file, damaged, written by another version, or parts that do not fit each other.
    pub fn load(path: &Path) -> Result<Self, DetectorError> {
        Self::made_of(Content::read(path)?).map_err(|reason| bad(path, reason))
    }

    fn made_of(content: Content) -> Result<Self, String> {
        let method = find(&content.header.method).map_err(|e| e.to_string())?;
        let input = content.header.input.clone();
        let further = content.header.further.clone();
        let backbone = content.header.backbone.clone();
        let provenance = content.header.provenance.clone();
        let calibration = content.header.calibration.clone();
        let levels = content.header.levels;
        let detector = method
            .load(content.into_state())
            .map_err(|e| e.to_string())?;
        if *detector.input() != input || detector.profile().further != further {
            return Err(
                "its preprocessing does not follow from its settings; it was made by another \
                 version and must be fitted again"
                    .to_owned(),
            );
        }
        if let Some(calibration) = &calibration {
            calibration.check()?;
            Calibration::require_possible(detector.as_ref()).map_err(|e| e.to_string())?;
        }
        Ok(Self {
            detector,
            backbone,
            provenance,
            calibration,
            levels,
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
        if !self.levels.is_default() {
            identity["levels"] = serde_json::json!(self.levels);
        }
        identity
    }

    /// How the images that it scores are decoded.
    pub fn decode_options(&self) -> DecodeOptions {
        DecodeOptions {
            levels: self.levels,
            ..DecodeOptions::default()
        }
    }

    /// Checks that the weights of `found` are those that the detector was made with.
    ///
    /// # Errors
    /// [`DetectorError::OtherBackbone`].
    pub fn check_backbone(&self, found: &BackboneRef) -> Result<(), DetectorError> {
        let mut found = found.all();
        for expected in self.backbone.all() {
            let found = found.next().map(|found| found.sha256.as_str());
            if found != Some(&expected.sha256) {
                return Err(DetectorError::OtherBackbone {
                    expected: expected.name.clone(),
                    expected_sha256: expected.sha256.clone(),
                    found_sha256: found.unwrap_or("none").to_owned(),
                });
            }
        }
        Ok(())
    }
}
