//! A folder with a line of JSON for each result, written as soon as it is known. A run that was
//! interrupted resumes where it stopped; results of another detector are never mixed in.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anomalens_base::write_atomic;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::record::ResultRecord;

/// An error of the result folder.
#[derive(Debug, Error)]
pub enum ResultsError {
    /// The folder or a file in it cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file of an earlier run cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder holds results of another detector.
    #[error("{} holds the results of another detector or other settings", .0.display())]
    OtherRun(PathBuf),
    /// Results that were written are not there any more.
    #[error("{} was removed or changed during the run: its results are lost", .0.display())]
    Lost(PathBuf),
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

/// A folder of results, open for more.
pub struct ResultFolder<R = ResultRecord> {
    root: PathBuf,
    lines: File,
    records: HashMap<String, R>,
    order: Vec<String>,
}

const RUN: &str = "run.json";
const LINES: &str = "results.jsonl";

impl<R: Record> ResultFolder<R> {
    /// Opens `root` for the results of the run that `identity` describes; what an earlier run of
    /// the same left there stays, except for what is not final.
    ///
    /// # Errors
    /// [`ResultsError`] if it cannot be written or belongs to another run.
    pub fn open(root: &Path, identity: &serde_json::Value) -> Result<Self, ResultsError> {
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
        write_lines(&lines, earlier.iter())?;
        Ok(Self {
            root: root.to_owned(),
            lines: append(&lines)?,
            order: earlier.iter().map(Record::key).collect(),
            records: earlier
                .into_iter()
                .map(|record| (record.key(), record))
                .collect(),
        })
    }

    /// The same, but everything that an earlier run left there goes first, whatever it was of; the
    /// records that can still be read are returned.
    ///
    /// # Errors
    /// [`ResultsError`] if it cannot be written.
    pub fn open_fresh(
        root: &Path,
        identity: &serde_json::Value,
    ) -> Result<(Self, Vec<R>), ResultsError> {
        let gone = read_lines(&root.join(LINES)).unwrap_or_default();
        for name in [LINES, RUN] {
            let path = root.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(write(&path)(error));
                }
                _ => {}
            }
        }
        Ok((Self::open(root, identity)?, gone))
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
        let key = record.key();
        if self.records.insert(record.key(), record).is_none() {
            self.order.push(key);
        }
        Ok(())
    }

    /// Keeps the records of `keys` alone, in that order, and returns the others.
    ///
    /// # Errors
    /// [`ResultsError::Write`].
    pub fn retain(&mut self, keys: &[String]) -> Result<Vec<R>, ResultsError> {
        let mut others = std::mem::take(&mut self.records);
        self.order = keys.to_vec();
        self.order.retain(|key| match others.remove(key) {
            Some(record) => self.records.insert(key.clone(), record).is_none(),
            None => false,
        });
        self.rewrite()?;
        Ok(others.into_values().collect())
    }

    /// Changes every record and writes all anew.
    ///
    /// # Errors
    /// [`ResultsError::Write`].
    pub fn update(&mut self, mut change: impl FnMut(&mut R)) -> Result<(), ResultsError> {
        self.records.values_mut().for_each(&mut change);
        self.rewrite()
    }

    fn rewrite(&mut self) -> Result<(), ResultsError> {
        let lines = self.root.join(LINES);
        write_lines(&lines, self.records())?;
        self.lines = append(&lines)?;
        Ok(())
    }

    /// Makes sure that what was written is on the disk, in the file that the folder has now.
    ///
    /// # Errors
    /// [`ResultsError::Lost`] if the folder was removed or its results replaced meanwhile.
    pub fn finish(&self) -> Result<(), ResultsError> {
        let lines = self.root.join(LINES);
        self.lines.sync_all().map_err(write(&lines))?;
        let there = fs::read(&lines).unwrap_or_default();
        let count = there.iter().filter(|byte| **byte == b'\n').count();
        match count >= self.order.len() {
            true => Ok(()),
            false => Err(ResultsError::Lost(self.root.clone())),
        }
    }
}

/// Whether `folder` is one that [`ResultFolder`] fills.
pub fn is_result_folder(folder: &Path) -> bool {
    folder.join(RUN).is_file() && folder.join(LINES).is_file()
}

fn write(path: &Path) -> impl FnOnce(std::io::Error) -> ResultsError {
    let path = path.to_owned();
    move |source| ResultsError::Write { path, source }
}

fn append(lines: &Path) -> Result<File, ResultsError> {
    let file = File::options().append(true).open(lines);
    file.map_err(write(lines))
}

fn write_lines<'r, R: Record + 'r>(
    path: &Path,
    records: impl Iterator<Item = &'r R>,
) -> Result<(), ResultsError> {
    let mut text = Vec::new();
    for record in records {
        serde_json::to_writer(&mut text, record)
            .map_err(std::io::Error::from)
            .map_err(write(path))?;
        text.push(b'\n');
    }
    write_atomic(path, &text).map_err(write(path))
}

/// The records of an earlier run that need not be made again. A last line that cannot be
/// understood was cut off while it was written.
fn read_lines<R: Record>(path: &Path) -> Result<Vec<R>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error.to_string()),
    };
    parse_lines(&bytes)
}

/// The records among the lines of a results file.
///
/// # Errors
/// The number of a line other than the last that cannot be understood, and why.
pub fn parse_lines<R: Record>(bytes: &[u8]) -> Result<Vec<R>, String> {
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let lines: Vec<(usize, &[u8])> = lines
        .into_iter()
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .collect();
    let mut records = Vec::with_capacity(lines.len());
    for (place, &(i, line)) in lines.iter().enumerate() {
        match serde_json::from_slice::<R>(line) {
            Ok(record) if !record.is_final() => {}
            Ok(record) => records.push(record),
            Err(_) if place + 1 == lines.len() => {}
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

    #[derive(Serialize, serde::Deserialize)]
    struct Line(String);

    impl Record for Line {
        fn key(&self) -> String {
            self.0.clone()
        }
    }

    #[test]
    fn a_line_that_was_cut_off_is_dropped_and_others_are_not() {
        // (name, file, lines or the error)
        let cases: [(&str, &[u8], Result<usize, &str>); 7] = [
            ("nothing", b"", Ok(0)),
            ("whole", b"\"a\"\n\"b\"\n", Ok(2)),
            ("no end", b"\"a\"\n\"b\"", Ok(2)),
            ("cut off", b"\"a\"\n\"b", Ok(1)),
            ("inside a character", b"\"a\"\n\"\xc3", Ok(1)),
            ("empty lines", b"\n\"a\"\n\n\"b", Ok(1)),
            ("in the middle", b"\"a\"\n\"\xc3\n\"b\"\n", Err("line 2")),
        ];
        for (name, bytes, expected) in cases {
            match (parse_lines::<Line>(bytes), expected) {
                (Ok(lines), Ok(count)) => assert_eq!(lines.len(), count, "{name}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{name}: {error}"),
                (found, _) => panic!("{name}: {:?}", found.map(|lines| lines.len())),
            }
        }
    }

    #[test]
    fn only_what_is_asked_for_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let open = || ResultFolder::<Line>::open(folder.path(), &json!("x")).unwrap();
        let keys = |folder: &ResultFolder<Line>| -> Vec<String> {
            folder.records().map(Record::key).collect()
        };
        let mut results = open();
        for name in ["a", "b", "c", "a"] {
            results.add(Line(name.to_owned())).unwrap();
        }
        assert_eq!(keys(&results), ["a", "b", "c"]);
        let gone = results.retain(&["c", "d", "a"].map(str::to_owned)).unwrap();
        assert_eq!(gone.len(), 1);
        results.add(Line("e".to_owned())).unwrap();
        results.finish().unwrap();
        assert_eq!(keys(&open()), ["c", "a", "e"]);
        std::fs::remove_dir_all(folder.path()).unwrap();
        assert!(matches!(results.finish(), Err(ResultsError::Lost(_))));
    }
}
