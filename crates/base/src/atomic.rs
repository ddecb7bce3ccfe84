//! Files that are never half written: a temporary file in the same folder, flushed to the disk, then
//! a rename.
//!
//! The temporary file is called `.NAME.new`. A run that is killed leaves it there, and the next one
//! that writes the same file takes it over, so that such files do not pile up. It is locked while it
//! is written: who finds it locked takes a name of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::ContentHash;

/// Writes `bytes` to `path`, replacing an existing file in one step; see [`replace_file`].
///
/// # Errors
/// Whatever the operating system reports; the target is then as it was before.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_file(path, |file| file.write_all(bytes))
}

/// As [`write_atomic`], but does not wait for the disk: after a power failure the file may hold
/// anything. For caches, whose files carry a checksum.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_cached(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = Temporary::create(folder_of(path), path)?;
    temporary.file.write_all(bytes)?;
    temporary.persist(path)
}

/// Replaces the file at `path` in one step by what `write` writes. The new content is on the disk
/// before the old one goes, so that a power failure leaves one of the two.
///
/// # Errors
/// That of `write`, or whatever the operating system reports; the target is then as it was before,
/// and nothing else is left.
pub fn replace_file<T>(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    let folder = folder_of(path);
    let mut temporary = Temporary::create(folder, path)?;
    let written = write(&mut temporary.file)?;
    temporary.file.sync_all()?;
    temporary.persist(path)?;
    sync_folder(folder);
    Ok(written)
}

/// The folder of a file. A bare file name has the parent "", which means the current folder.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A locked temporary file, which is removed unless it becomes the target.
struct Temporary {
    file: File,
    path: PathBuf,
    persisted: bool,
}

impl Temporary {
    fn create(folder: &Path, target: &Path) -> io::Result<Self> {
        let name = temporary_name(target)?;
        if let Some(temporary) = Self::take_over(folder.join(&name))? {
            return Ok(temporary);
        }
        // Another writer has it.
        let mut suffix = name;
        suffix.push(".");
        for attempt in 0_u32.. {
            let mut name = suffix.clone();
            name.push(format!("{}.{attempt}", std::process::id()));
            let path = folder.join(name);
            match File::create_new(&path) {
                Ok(file) => return Ok(Self::new(file, path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn new(file: File, path: PathBuf) -> Self {
        Self {
            file,
            path,
            persisted: false,
        }
    }

    /// The file at `path`, new or left by a run that was killed; none if it is in use.
    fn take_over(path: PathBuf) -> io::Result<Option<Self>> {
        let file = match File::create_new(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match File::options().write(true).open(&path) {
                    Ok(file) => file,
                    // It has gone meanwhile, or belongs to somebody else.
                    Err(_) => return Ok(None),
                }
            }
            Err(error) => return Err(error),
        };
        // The lock is of the file, not of its name, which another writer may have given away.
        if file.try_lock().is_err() || !is_file_at(&file, &path) {
            return Ok(None);
        }
        // From here on the file is removed if anything fails.
        let temporary = Self::new(file, path);
        temporary.file.set_len(0)?;
        Ok(Some(temporary))
    }

    fn persist(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.persisted = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.persisted {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether `file` is the one file that is called `path` and nothing else: no link that would lead to
/// another file.
#[cfg(unix)]
fn is_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino(), metadata.nlink());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => {
            let open = identity(open);
            open.2 == 1 && open == identity(named)
        }
        _ => false,
    }
}

/// Elsewhere an open file keeps its name.
#[cfg(not(unix))]
fn is_file_at(_file: &File, path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// `.NAME.new`, or a hash in place of a long name.
fn temporary_name(target: &Path) -> io::Result<OsString> {
    /// File systems take 255 bytes; the name gets a few more.
    const LONGEST: usize = 200;
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = OsString::from(".");
    if name.len() > LONGEST {
        temporary.push(ContentHash::of_bytes(name.as_encoded_bytes()).short());
    } else {
        temporary.push(name);
    }
    temporary.push(".new");
    Ok(temporary)
}

/// Makes a rename in `folder` durable, where the system can.
fn sync_folder(folder: &Path) {
    // Some file systems refuse it; the file's content is safe all the same.
    if cfg!(unix) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(255);
        for name in ["a", long.as_str()] {
            let path = folder.path().join(name);
            for content in ["first", "second"] {
                write_atomic(&path, content.as_bytes()).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), content);
            }
        }
        assert_eq!(names(folder.path()), ["a", &long]);
    }

    #[test]
    fn a_target_that_cannot_be_replaced_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "").unwrap();
        assert!(write_atomic(&path, b"x").is_err());
        assert!(path.join("inside").is_file());
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();
        let failing = |file: &mut File| {
            file.write_all(b"half of the new")?;
            Err::<(), _>(io::Error::other("no space"))
        };
        assert!(replace_file(&path, failing).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn what_a_killed_run_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let temporary = folder.path().join(".a.new");
        for (write, content) in [
            (write_atomic as fn(&Path, &[u8]) -> io::Result<()>, "new"),
            (write_cached, "newer"),
        ] {
            fs::write(&temporary, "a long half of another content").unwrap();
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names(folder.path()), ["a"]);
        }
    }

    #[test]
    fn writers_at_the_same_time_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace_file(&path, |file| {
            file.write_all(b"out")?;
            write_atomic(&path, b"inner")?;
            file.write_all(b"er")
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "outer");
        assert_eq!(names(folder.path()), ["a"]);
        let contents: Vec<String> = (0..8).map(|i| i.to_string().repeat(10_000)).collect();
        std::thread::scope(|scope| {
            for content in &contents {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomic(path, content.as_bytes()).unwrap();
                    }
                });
            }
        });
        assert!(contents.contains(&fs::read_to_string(&path).unwrap()));
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        let temporary = folder.path().join(".a.new");
        for hard in [false, true] {
            fs::write(&victim, "precious").unwrap();
            match hard {
                true => fs::hard_link(&victim, &temporary).unwrap(),
                false => std::os::unix::fs::symlink(&victim, &temporary).unwrap(),
            }
            write_atomic(&folder.path().join("a"), b"x").unwrap();
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
            fs::remove_file(&temporary).unwrap();
        }
    }
}
