//! The folder that `detect` fills: `results.jsonl` with a line for each image as soon as it is
//! scored, `results.csv` with the same at the end, heat maps and overlays.
//!
//! `run.json` tells which detector the results are of. A run that was broken off goes on where it
//! stopped; results of another detector are never mixed in. Any [`Record`] can be kept so.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anomalens_base::write_atomic;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::picture::AnomalousArea;

/// What is known of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The image file as it was given.
    pub image: String,
    /// The anomaly score: higher is more anomalous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Whether it is anomalous, by a calibrated detector's threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomalous: Option<bool>,
    /// The probability that it is, where the detector was calibrated with labelled images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Parts of the image that look unlike anything normal, the most anomalous first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<AnomalousArea>,
    /// The heat map, as a path below the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heat_map: Option<String>,
    /// The overlay, as a path below the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
    /// Why the image has no score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An error of the result folder.
#[derive(Debug, Error)]
pub enum ResultsError {
    /// The folder or a file in it cannot be written.
    #[error("cannot write {path}: {source}; choose another folder with --output")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file of an earlier run cannot be read.
    #[error("cannot read {path}: {reason}; choose another folder with --output")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder holds results of another detector.
    #[error(
        "{0} holds the results of another detector or other settings: choose another folder with \
         --output, or delete it"
    )]
    OtherRun(PathBuf),
}

/// What a folder of results has a line for.
pub trait Record: Serialize + DeserializeOwned {
    /// What the line is of, unique in its folder.
    fn key(&self) -> String;

    /// Whether it stays when the folder is opened again; else it is to be tried again.
    fn is_final(&self) -> bool {
        true
    }
}

impl Record for ResultRecord {
    fn key(&self) -> String {
        self.image.clone()
    }

    fn is_final(&self) -> bool {
        self.error.is_none()
    }
}

/// A folder of results, open for more.
pub struct ResultFolder<R = ResultRecord> {
    root: PathBuf,
    lines: File,
    records: HashMap<String, R>,
    order: Vec<String>,
}

const RUN: &str = "run.json";
const LINES: &str = "results.jsonl";
const TABLE: &str = "results.csv";

impl<R: Record> ResultFolder<R> {
    /// Opens `root` for the results of the detector that `identity` tells; what an earlier run of
    /// the same left there stays, except for images that failed.
    ///
    /// # Errors
    /// [`ResultsError`] if it cannot be written or belongs to another run.
    pub fn open(root: &Path, identity: &serde_json::Value) -> Result<Self, ResultsError> {
        let write = |path: &Path| {
            let path = path.to_owned();
            move |source| ResultsError::Write { path, source }
        };
        fs::create_dir_all(root).map_err(write(root))?;
        let (run, lines) = (root.join(RUN), root.join(LINES));
        let unreadable = |path: &Path, reason: String| ResultsError::Read {
            path: path.to_owned(),
            reason,
        };
        match fs::read(&run) {
            Ok(bytes) => {
                let found: serde_json::Value = serde_json::from_slice(&bytes)
                    .map_err(|error| unreadable(&run, error.to_string()))?;
                if found != *identity {
                    return Err(ResultsError::OtherRun(root.to_owned()));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if lines.exists() {
                    return Err(ResultsError::OtherRun(root.to_owned()));
                }
                let text = format!("{identity:#}\n");
                write_atomic(&run, text.as_bytes()).map_err(write(&run))?;
            }
            Err(error) => return Err(unreadable(&run, error.to_string())),
        }
        let earlier: Vec<R> = read_lines(&lines).map_err(|reason| unreadable(&lines, reason))?;
        // Written anew: without failures and without a line that was cut off.
        let mut text = Vec::new();
        for record in &earlier {
            serde_json::to_writer(&mut text, record)
                .map_err(|error| unreadable(&lines, error.to_string()))?;
            text.push(b'\n');
        }
        write_atomic(&lines, &text).map_err(write(&lines))?;
        let file = File::options()
            .append(true)
            .open(&lines)
            .map_err(write(&lines))?;
        Ok(Self {
            root: root.to_owned(),
            lines: file,
            order: earlier.iter().map(Record::key).collect(),
            records: earlier
                .into_iter()
                .map(|record| (record.key(), record))
                .collect(),
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The record of this key, such as an image's name, if it is done.
    pub fn record(&self, key: &str) -> Option<&R> {
        self.records.get(key)
    }

    /// Every record, in the order in which they came.
    pub fn records(&self) -> impl Iterator<Item = &R> {
        self.order.iter().filter_map(|key| self.records.get(key))
    }

    /// Adds a record and writes its line at once.
    ///
    /// # Errors
    /// [`ResultsError::Write`].
    pub fn add(&mut self, record: R) -> Result<(), ResultsError> {
        let path = self.root.join(LINES);
        let line = serde_json::to_string(&record)
            .map_err(std::io::Error::from)
            .and_then(|line| self.lines.write_all(format!("{line}\n").as_bytes()));
        line.map_err(|source| ResultsError::Write { path, source })?;
        self.order.push(record.key());
        self.records.insert(record.key(), record);
        Ok(())
    }
}

impl ResultFolder {
    /// Writes `results.csv` from all records.
    ///
    /// # Errors
    /// [`ResultsError::Write`].
    pub fn write_table(&self) -> Result<(), ResultsError> {
        let path = self.root.join(TABLE);
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
                "error",
            ])?;
            for record in self.records() {
                table.write_record([
                    record.image.as_str(),
                    &cell(record.score),
                    &cell(record.anomalous),
                    &cell(record.probability),
                    &record.regions.len().to_string(),
                    record.heat_map.as_deref().unwrap_or_default(),
                    record.overlay.as_deref().unwrap_or_default(),
                    record.error.as_deref().unwrap_or_default(),
                ])?;
            }
            let bytes = table.into_inner().map_err(|error| error.into_error())?;
            write_atomic(&path, &bytes)
        };
        table().map_err(|source| ResultsError::Write {
            path: path.clone(),
            source,
        })
    }
}

/// A cell of the table, empty where nothing is known.
fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// The records of an earlier run that need not be made again.
fn read_lines<R: Record>(path: &Path) -> Result<Vec<R>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error.to_string()),
    };
    let lines: Vec<String> = BufReader::new(file)
        .lines()
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let mut records = Vec::with_capacity(lines.len());
    for (i, line) in lines.iter().enumerate() {
        match serde_json::from_str::<R>(line) {
            Ok(record) if !record.is_final() => {}
            Ok(record) => records.push(record),
            Err(_) if i + 1 == lines.len() => {} // Cut off while it was written.
            Err(error) => return Err(format!("line {}: {error}", i + 1)),
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A threshold that comes back a little different must not make another run of the same one.
        #[test]
        fn a_run_is_known_again_by_its_numbers(threshold in proptest::num::f64::NORMAL) {
            let folder = tempfile::tempdir()?;
            let identity = json!({ "threshold": threshold });
            ResultFolder::<ResultRecord>::open(folder.path(), &identity)?;
            prop_assert!(ResultFolder::<ResultRecord>::open(folder.path(), &identity).is_ok());
        }
    }

    #[test]
    fn results_of_another_run_are_never_mixed_in() {
        let folder = tempfile::tempdir().unwrap();
        let open =
            |threshold: f64| ResultFolder::<ResultRecord>::open(folder.path(), &json!(threshold));
        open(0.5).unwrap();
        assert!(matches!(open(0.25), Err(ResultsError::OtherRun(_))));
    }
}
