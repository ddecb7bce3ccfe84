//! What was verified, so that a start does not hash again.
//!
//! A seal is a small JSON file: the hash of a file or folder, and the sizes and times it had when it
//! was hashed. While those are unchanged the hash is taken as known. For an entry without a hash in
//! the registry, the seal of the first pull is also what the content must be from then on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use anomalens_base::{ContentHash, files_in};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    pub(super) sha256: ContentHash,
    pub(super) stamp: Stamp,
}

/// The cheap look at a file or folder that tells whether it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    files: u64,
    pub(super) bytes: u64,
    /// Of the file changed last, nanoseconds since 1970.
    modified: u64,
}

impl Stamp {
    pub(super) fn of_path(path: &Path) -> io::Result<Self> {
        let mut stamp = Self {
            files: 0,
            bytes: 0,
            modified: 0,
        };
        for file in files_in(path)? {
            let age = file
                .metadata
                .modified()?
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            stamp.files += 1;
            stamp.bytes += file.metadata.len();
            stamp.modified = stamp
                .modified
                .max(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
        }
        Ok(stamp)
    }
}

impl Seal {
    /// Hashes the file or folder at `path`.
    pub(super) fn of_path(path: &Path) -> io::Result<Self> {
        // Looked at before hashing: a change meanwhile makes the seal stale rather than wrong.
        let stamp = Stamp::of_path(path)?;
        Ok(Self {
            sha256: ContentHash::of_path(path)?,
            stamp,
        })
    }

    /// The seal in `file`; an unreadable one counts as none.
    pub(super) fn load(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    pub(super) fn save(&self, file: &Path) -> io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Not tempfile's private mode: users may share a cache.
        let mut new = tempfile::Builder::new().make_in(folder, |path| File::create_new(path))?;
        new.write_all(&serde_json::to_vec(self)?)?;
        new.persist(file)?;
        Ok(())
    }
}
