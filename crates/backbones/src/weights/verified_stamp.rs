//! What was verified, so that a start does not hash again.
//!
//! A verified stamp is a small JSON file: the hash of a file or folder, and the sizes and times that
//! it had when it was hashed. While those are unchanged the hash is taken as known. One of the times
//! is that of the last change of any kind, which programs cannot set (Unix only): a file that was
//! exchanged for another of the same size and age is hashed again.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anomalens_base::{ContentHash, files_in, write_atomic};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VerifiedStamp {
    pub(super) sha256: ContentHash,
    pub(super) stamp: Stamp,
}

/// The cheap look at a file or folder that shows whether it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    files: u64,
    pub(super) bytes: u64,
    /// Of the file changed last, nanoseconds since 1970.
    modified: u64,
    /// The same of the last change of any kind; zero where the system does not know it.
    #[serde(default)]
    changed: u64,
}

impl Stamp {
    pub(super) fn of_path(path: &Path) -> io::Result<Self> {
        let mut stamp = Self {
            files: 0,
            bytes: 0,
            modified: 0,
            changed: 0,
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
            stamp.changed = stamp.changed.max(changed(&file.metadata));
        }
        Ok(stamp)
    }
}

impl VerifiedStamp {
    /// Hashes the file or folder at `path`.
    pub(super) fn of_path(path: &Path) -> io::Result<Self> {
        // Looked at before hashing: a change meanwhile makes the stamp stale rather than wrong.
        let stamp = Stamp::of_path(path)?;
        Ok(Self {
            sha256: ContentHash::of_path(path)?,
            stamp,
        })
    }

    /// The one in `file`; an unreadable one counts as none.
    pub(super) fn load(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    pub(super) fn save(&self, file: &Path) -> io::Result<()> {
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        write_atomic(file, &serde_json::to_vec(self)?)
    }
}

/// When anything about a file changed last, nanoseconds since 1970.
fn changed(metadata: &Metadata) -> u64 {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let seconds = u64::try_from(metadata.ctime()).unwrap_or_default();
        let rest = u64::try_from(metadata.ctime_nsec()).unwrap_or_default();
        seconds.saturating_mul(1_000_000_000).saturating_add(rest)
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        0
    }
}
