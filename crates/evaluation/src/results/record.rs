//! What `detect` keeps of an image, and the table of it.

use std::path::{Path, PathBuf};

use anomalens_base::write_atomic;
use serde::{Deserialize, Serialize};

use super::folder::{Record, ResultFolder, ResultsError};
use super::stamp::FileStamp;
use crate::picture::AnomalousArea;

/// What is known of one image. `docs/results.schema.json` describes the same as a JSON schema.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The image file as it was given; bytes that are no Unicode text are shown as `\u{fffd}`.
    pub image: String,
    /// The bytes of the path as hexadecimal digits, where they are no Unicode text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_bytes: Option<String>,
    /// What the file was when it was scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileStamp>,
    /// What the group of images was that it was scored in, where images are scored jointly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The anomaly score: higher is more anomalous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Whether it is anomalous: whether the score is at least the threshold, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomalous: Option<bool>,
    /// The probability that it is, where the detector was calibrated with labelled images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Parts of the image that look different from anything normal, the most anomalous first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<AnomalousArea>,
    /// The part of the image that the network saw, if not all of it: x, y, width, height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<[u32; 4]>,
    /// The heat map, as a path below the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heat_map: Option<String>,
    /// The overlay, as a path below the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
    /// The colours of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colours: Option<String>,
    /// The longer side that both were reduced to, where the image is larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_side: Option<u32>,
    /// The float map at the image's size, as a path below the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<String>,
    /// Why the score may not mean what it seems to, such as an image of one colour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why the image has no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ResultRecord {
    /// An empty record of the image at `path`.
    pub fn of(path: &Path) -> Self {
        let image_bytes = path.to_str().is_none().then(|| {
            let bytes = path.as_os_str().as_encoded_bytes();
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        });
        Self {
            image: path.to_string_lossy().into_owned(),
            image_bytes,
            ..Self::default()
        }
    }

    /// The key of the record of the image at `path`: no two paths have the same.
    pub fn key_of(path: &Path) -> String {
        Self::of(path).key()
    }

    /// The files below the folder that belong to it.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let files = [&self.heat_map, &self.overlay, &self.map];
        files.into_iter().filter_map(|file| file.as_deref())
    }
}

impl Record for ResultRecord {
    fn key(&self) -> String {
        // No path has a NUL in it.
        match &self.image_bytes {
            Some(bytes) => format!("\0{bytes}"),
            None => self.image.clone(),
        }
    }

    fn is_final(&self) -> bool {
        self.error.is_none()
    }
}

/// The name of the table.
const TABLE: &str = "results.csv";

/// Writes `results.csv` from all records of `folder`. A cell that a spreadsheet would take for a
/// formula begins with an apostrophe.
///
/// # Errors
/// [`ResultsError::Write`].
pub fn write_table(folder: &ResultFolder) -> Result<PathBuf, ResultsError> {
    let path = folder.root().join(TABLE);
    let table = || -> std::io::Result<()> {
        let mut table = csv::Writer::from_writer(Vec::new());
        table.write_record([
            "image",
            "score",
            "anomalous",
            "probability",
            "regions",
            "heat_map",
            "overlay",
            "map",
            "warnings",
            "error",
        ])?;
        for record in folder.records() {
            let text = |text: Option<&str>| harmless(text.unwrap_or_default());
            table.write_record([
                harmless(&record.image),
                cell(record.score),
                cell(record.anomalous),
                cell(record.probability),
                record.regions.len().to_string(),
                text(record.heat_map.as_deref()),
                text(record.overlay.as_deref()),
                text(record.map.as_deref()),
                harmless(&record.warnings.join("; ")),
                text(record.error.as_deref()),
            ])?;
        }
        let bytes = table.into_inner().map_err(|error| error.into_error())?;
        write_atomic(&path, &bytes)
    };
    match table() {
        Ok(()) => Ok(path),
        Err(source) => Err(ResultsError::Write { path, source }),
    }
}

/// A cell of the table, empty where nothing is known.
fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// A text that no spreadsheet takes for a formula.
fn harmless(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::picture::Area;

    #[test]
    fn texts_that_spreadsheets_would_run_are_made_harmless() {
        for (text, expected) in [
            ("a.png", "a.png"),
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("-1.png", "'-1.png"),
            ("@a", "'@a"),
        ] {
            assert_eq!(harmless(text), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn paths_that_look_alike_have_keys_of_their_own() {
        use std::os::unix::ffi::OsStrExt;
        let paths = [&b"\xe4"[..], b"\xf6", b"\xef\xbf\xbd", b"e4", b"a"];
        let path = |bytes| Path::new(std::ffi::OsStr::from_bytes(bytes));
        let keys: std::collections::HashSet<String> = paths
            .iter()
            .map(|bytes| ResultRecord::key_of(path(bytes)))
            .collect();
        assert_eq!(keys.len(), paths.len());
    }

    /// docs/results.schema.json has every key that is written, and no other.
    #[test]
    fn the_schema_has_every_key() {
        let schema: Value =
            serde_json::from_str(include_str!("../../../../docs/results.schema.json")).unwrap();
        let stamp = FileStamp {
            bytes: 1,
            modified_ns: Some(1),
            changed_ns: Some(1),
            sha256: Some(anomalens_base::ContentHash::of_bytes(b"")),
        };
        let area = AnomalousArea {
            x: 0,
            y: 0,
            width: 1,
            height: 1,
            area: 1,
            peak: 1.0,
            outer: Area {
                x: 0,
                y: 0,
                width: 1,
                height: 1,
            },
        };
        let text = || Some("x".to_owned());
        let full = ResultRecord {
            image: "x".to_owned(),
            image_bytes: text(),
            file: Some(stamp),
            group: text(),
            score: Some(1.0),
            anomalous: Some(true),
            probability: Some(0.5),
            regions: vec![area],
            seen: Some([0, 0, 1, 1]),
            heat_map: text(),
            overlay: text(),
            colours: text(),
            max_side: Some(1),
            map: text(),
            warnings: vec!["x".to_owned()],
            error: text(),
        };
        let record = serde_json::to_value(&full).unwrap();
        let keys = |value: &Value| -> Vec<String> {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        let properties = &schema["properties"];
        assert_eq!(keys(&record), keys(properties));
        assert_eq!(
            keys(&record["regions"][0]),
            keys(&properties["regions"]["items"]["properties"])
        );
        assert_eq!(
            keys(&record["file"]),
            keys(&properties["file"]["properties"])
        );
        for (name, property) in properties.as_object().unwrap() {
            assert!(property["description"].is_string(), "{name}");
        }
    }
}
