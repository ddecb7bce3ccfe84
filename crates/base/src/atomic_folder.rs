//! Folders that are there only when they are complete: a temporary folder beside the target, then a
//! rename.
//!
//! A temporary folder is locked while it is filled. What a killed program left behind is not, and is
//! removed when the same target is made the next time; folders of any other name are left alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What names of temporary folders end with.
const SUFFIX: &str = ".anomalens-unfinished";

/// Characters of the target's name that a temporary name carries: names must not become too long.
const NAME_CHARS: usize = 40;

/// A folder on its way to its place. It is gone if it is dropped before
/// [`commit`](Self::commit).
#[derive(Debug)]
pub struct AtomicFolder {
    folder: TempDir,
    /// Held as long as the folder is filled; some systems cannot lock folders.
    _lock: Option<File>,
    target: PathBuf,
}

impl AtomicFolder {
    /// Starts a folder that becomes `target`; the folder above it is made if it is missing.
    ///
    /// # Errors
    /// Whatever the operating system reports.
    pub fn create(target: &Path) -> io::Result<Self> {
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            // A bare name has the parent "", which means the current folder.
            _ => Path::new("."),
        };
        fs::create_dir_all(parent)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let prefix: String = [".", &name].concat().chars().take(NAME_CHARS).collect();
        let prefix = prefix + ".";
        remove_leftovers(parent, &prefix);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Temporary folders are private by default; results follow the user's umask instead.
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        loop {
            let folder = builder.tempdir_in(parent)?;
            let lock = locked(folder.path());
            // Another process may have taken it for a leftover before it was locked.
            if folder.path().exists() {
                return Ok(Self {
                    folder,
                    _lock: lock,
                    target: target.to_owned(),
                });
            }
        }
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the folder in the target's place, which must be free or an empty folder.
    ///
    /// # Errors
    /// Whatever the operating system reports; the target is then as it was before.
    pub fn commit(self) -> io::Result<()> {
        // Fails for anything but an empty folder, which must not be in the way.
        let _ = fs::remove_dir(&self.target);
        fs::rename(self.folder.path(), &self.target)
    }
}

/// The lock of a folder, if nobody holds it.
fn locked(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    file.try_lock().is_ok().then_some(file)
}

/// Removes temporary folders in `parent` that nobody fills any more.
fn remove_leftovers(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let temporary = name.starts_with(prefix) && name.ends_with(SUFFIX);
        if temporary && locked(&entry.path()).is_some() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_is_there_when_it_is_complete() {
        let outer = tempfile::tempdir().unwrap();
        let target = outer.path().join("new/set");
        let folder = AtomicFolder::create(&target).unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        assert!(!target.exists());
        folder.commit().unwrap();
        assert_eq!(names(&target), ["a"]);
        assert_eq!(names(&outer.path().join("new")), ["set"]);
        // Given up, or in the way of something: nothing is left, nothing is lost.
        drop(AtomicFolder::create(&target).unwrap());
        assert!(AtomicFolder::create(&target).unwrap().commit().is_err());
        assert_eq!(names(&target), ["a"]);
        assert_eq!(names(&outer.path().join("new")), ["set"]);
    }

    #[test]
    #[cfg(unix)]
    fn what_a_killed_program_left_is_removed_and_what_is_not_ours_stays() {
        let outer = tempfile::tempdir().unwrap();
        let left = ".q.Xy12ab.anomalens-unfinished";
        let kept = [
            ".q.unfinished",
            "q.Xy12ab.anomalens-unfinished",
            "q.unfinished",
        ];
        for name in [left].iter().chain(&kept) {
            fs::create_dir(outer.path().join(name)).unwrap();
            fs::write(outer.path().join(name).join("a"), "").unwrap();
        }
        let target = outer.path().join("q");
        let first = AtomicFolder::create(&target).unwrap();
        // One that is being filled is no leftover.
        AtomicFolder::create(&target).unwrap().commit().unwrap();
        assert!(first.path().is_dir());
        drop(first);
        let mut expected: Vec<&str> = kept.to_vec();
        expected.push("q");
        expected.sort_unstable();
        assert_eq!(names(outer.path()), expected);
    }
}
