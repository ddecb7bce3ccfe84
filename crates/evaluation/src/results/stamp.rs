//! Whether a file is still the one that was scored.

use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use anomalens_base::ContentHash;
use serde::{Deserialize, Serialize};

/// What distinguishes a file from one that took its place under the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Size in bytes.
    pub bytes: u64,
    /// Last modification, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ns: Option<u64>,
    /// Last change of the file's entry, in nanoseconds since 1970, where the system keeps it. It
    /// cannot be set, as the modification can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_ns: Option<u64>,
    /// SHA-256 of the content; none where nothing was scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<ContentHash>,
}

impl FileStamp {
    /// Size and times of the file at `path`, without its content.
    ///
    /// # Errors
    /// When the file is not there or cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let modified = metadata.modified().ok();
        let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            bytes: metadata.len(),
            modified_ns: modified.and_then(|age| age.as_nanos().try_into().ok()),
            changed_ns: changed(&metadata),
            sha256: None,
        })
    }

    /// The same with the hash of the content.
    ///
    /// # Errors
    /// When the file cannot be read, or is another by now.
    pub fn with_content(self, path: &Path) -> io::Result<Self> {
        let sha256 = ContentHash::of_path(path)?;
        if !self.same_entry(&Self::of(path)?) {
            return Err(io::Error::other("the file changed while it was scored"));
        }
        Ok(Self {
            sha256: Some(sha256),
            ..self
        })
    }

    /// Whether size and times are equal.
    pub fn same_entry(&self, other: &Self) -> bool {
        let entry = |stamp: &Self| (stamp.bytes, stamp.modified_ns, stamp.changed_ns);
        self.modified_ns.is_some() && entry(self) == entry(other)
    }

    /// Whether the file at `path`, which has the stamp `now`, has the content that this stamp is of.
    /// The content is read only where size or times differ.
    pub fn is_still(&self, now: &Self, path: &Path) -> bool {
        if self.same_entry(now) {
            return true;
        }
        // Copied to another place, or touched: the same content has the same results.
        self.bytes == now.bytes
            && self.sha256.is_some()
            && ContentHash::of_path(path).ok() == self.sha256
    }
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let nanoseconds = u64::try_from(metadata.ctime_nsec()).ok()?;
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(not(unix))]
fn changed(_: &Metadata) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_file_is_known_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, "first").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let before = FileStamp::of(&path).unwrap().with_content(&path).unwrap();
        let is_still = |what: &str| {
            let now = FileStamp::of(&path).unwrap();
            (before.is_still(&now, &path), what.to_owned())
        };
        assert_eq!(is_still("untouched"), (true, "untouched".to_owned()));
        let touch = || File::options().append(true).open(&path).unwrap();
        touch()
            .set_modified(modified + std::time::Duration::from_secs(9))
            .unwrap();
        assert_eq!(is_still("touched"), (true, "touched".to_owned()));
        // The same size and modification, another content: only the entry's change shows it.
        fs::write(&path, "other").unwrap();
        touch().set_modified(modified).unwrap();
        assert_eq!(is_still("replaced"), (false, "replaced".to_owned()));
        fs::write(&path, "longer content").unwrap();
        assert_eq!(is_still("grown"), (false, "grown".to_owned()));
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, "first").unwrap();
        let before = FileStamp::of(&path).unwrap();
        fs::write(&path, "second").unwrap();
        assert!(before.with_content(&path).is_err());
    }
}
