//! Finds weights and data on this machine, without network: what the user gives, then the cache.
//!
//! ```text
//! CACHE/FILE                 an entry's verified file or folder
//! CACHE/FILE.sha256          its hash at the first pull, where the registry has none
//! CACHE/FILE.verified.json   its verified stamp
//! CACHE/.given/              the stamps of files outside the cache, which may be read-only
//! CACHE/packed/              weights packed for this machine's kernels, made anew when missing
//! CACHE/features/            features that `bench SUITE` keeps, made anew when missing
//! CACHE/drawn/               drawn data sets, likewise
//! CACHE/.pull/               locks and downloads under way
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf, absolute};

use super::error::WeightsError;
use super::hub::Hub;
use super::registry::{Entry, Format, Source};
use super::verified_stamp::{Stamp, VerifiedStamp};
use anomalens_base::{ContentHash, write_atomic};

/// Environment variable: the cache folder, in place of the platform's.
pub const CACHE_VARIABLE: &str = "ANOMALENS_CACHE";
/// Environment variable: a folder of the user's, looked in before the cache.
pub const MODELS_VARIABLE: &str = "ANOMALENS_MODELS";
/// Environment variable: `1` forbids the network. `HF_HUB_OFFLINE` does the same.
pub const OFFLINE_VARIABLE: &str = "ANOMALENS_OFFLINE";
const HUB_OFFLINE_VARIABLE: &str = "HF_HUB_OFFLINE";
const HUB_ENDPOINT_VARIABLE: &str = "HF_ENDPOINT";
const HUB_TOKEN_VARIABLE: &str = "HF_TOKEN";

/// The Python programs tried, in order.
const PYTHONS: [&str; 2] = ["python3", "python"];

/// The weights and data on this machine, and the means to fetch more.
pub struct Store {
    pub(super) cache: PathBuf,
    pub(super) given: Option<PathBuf>,
    /// Why the network may not be used, if so.
    pub(super) offline: Option<String>,
    pub(super) hub: Hub,
    pub(super) pythons: Vec<PathBuf>,
}

/// What there is of an entry on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Nothing.
    Missing,
    /// Verified and ready for use.
    Ready(Located),
    /// Something else than what was published.
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// The hash that it must have.
        expected: ContentHash,
        /// The hash that it has.
        found: ContentHash,
        /// Whose file it is.
        origin: Origin,
    },
}

/// A verified file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Where it is.
    pub path: PathBuf,
    /// Its size, of a folder the sum over its files.
    pub bytes: u64,
    /// Its hash.
    pub sha256: ContentHash,
    /// Whose file it is.
    pub origin: Origin,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The user's.
    Given,
    /// Ours, in the cache.
    Cache,
}

impl Store {
    /// A store with its cache in `cache`, which regards no environment variable.
    pub fn new(cache: impl AsRef<Path>) -> Self {
        Self {
            cache: full(cache.as_ref()),
            given: None,
            offline: None,
            hub: Hub::new(None, None),
            pythons: PYTHONS.map(PathBuf::from).to_vec(),
        }
    }

    /// The store that the environment asks for: `ANOMALENS_CACHE`, `ANOMALENS_MODELS`,
    /// `ANOMALENS_OFFLINE`, and the hub's own `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`WeightsError::NoCacheFolder`] when neither the environment nor the platform names one.
    pub fn from_env() -> Result<Self, WeightsError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// As [`Store::from_env`], with `variable` in place of the environment.
    ///
    /// # Errors
    /// As [`Store::from_env`].
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, WeightsError> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        let cache = variable(CACHE_VARIABLE)
            .map(PathBuf::from)
            .or_else(|| Some(dirs::cache_dir()?.join("anomalens")))
            .ok_or(WeightsError::NoCacheFolder)?;
        let offline = [OFFLINE_VARIABLE, HUB_OFFLINE_VARIABLE]
            .into_iter()
            .find(|name| text(name).is_some_and(|value| is_yes(&value)))
            .map(|name| format!("{name} is set"));
        Ok(Self {
            given: variable(MODELS_VARIABLE).map(|path| full(Path::new(&path))),
            offline,
            hub: Hub::new(text(HUB_ENDPOINT_VARIABLE), text(HUB_TOKEN_VARIABLE)),
            ..Self::new(cache)
        })
    }

    /// Looks at `path` before the cache: a folder is searched by file name and by entry name and
    /// what is found is verified; a file is used for every entry that is a file, as it is.
    pub fn given(mut self, path: impl AsRef<Path>) -> Self {
        self.given = Some(full(path.as_ref()));
        self
    }

    /// Uses the Python at `program` in place of `python3` or `python` from the `PATH`.
    pub fn python(mut self, program: impl Into<PathBuf>) -> Self {
        self.pythons = vec![program.into()];
        self
    }

    /// Whether the network is forbidden.
    pub fn is_offline(&self) -> bool {
        self.offline.is_some()
    }

    /// Where `entry` is, or would be, in the cache.
    pub fn cached_path(&self, entry: &Entry) -> PathBuf {
        self.cache.join(&entry.file)
    }

    /// A folder of the cache for something that was made, not fetched.
    pub fn made_path(&self, name: &str) -> PathBuf {
        self.cache.join(name)
    }

    /// What there is of `entry` on this machine. Quick, unless a file changed since it was verified.
    ///
    /// # Errors
    /// When the given path does not exist, or what is there cannot be read.
    pub fn status(&self, entry: &Entry) -> Result<Status, WeightsError> {
        self.look_at(entry, Trust::Stamps)
    }

    /// As [`status`](Self::status), but everything is hashed again.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn verify(&self, entry: &Entry) -> Result<Status, WeightsError> {
        self.look_at(entry, Trust::Nothing)
    }

    fn look_at(&self, entry: &Entry, trust: Trust) -> Result<Status, WeightsError> {
        if let Some(path) = self.given_path(entry)? {
            let named_outright = self.given.as_ref() == Some(&path) && path.is_file();
            let expected = if named_outright { None } else { entry.sha256 };
            let stamp_file = self.stamp_of_given(&path);
            return verify(path, &stamp_file, expected, Origin::Given, trust);
        }
        let path = self.cached_path(entry);
        if !is_there(&path, entry.format) {
            return Ok(Status::Missing);
        }
        let stamp_file = self.stamp_file(entry);
        let status = verify(
            path,
            &stamp_file,
            self.expected(entry),
            Origin::Cache,
            trust,
        )?;
        if let Status::Ready(located) = &status {
            // A cache that cannot be written is still good to read from.
            let _ = self.pin(entry, located.sha256);
        }
        Ok(status)
    }

    /// What `entry` must be: as the registry says, or as it was at the first pull.
    pub(super) fn expected(&self, entry: &Entry) -> Option<ContentHash> {
        let pinned = || {
            let text = std::fs::read_to_string(self.cached_pin(entry)).ok()?;
            text.split_whitespace().next()?.parse().ok()
        };
        entry.sha256.or_else(pinned)
    }

    /// Where the hash of `entry` at its first pull is kept, as `sha256sum` prints it; none if the
    /// registry has its hash. Without this file the next content is accepted, and recorded.
    pub fn pin_file(&self, entry: &Entry) -> Option<PathBuf> {
        match entry.sha256 {
            Some(_) => None,
            None => Some(self.cached_pin(entry)),
        }
    }

    fn cached_pin(&self, entry: &Entry) -> PathBuf {
        self.cache.join(format!("{}.sha256", entry.file))
    }

    /// Records the hash of `entry`, unless one is known.
    pub(super) fn pin(&self, entry: &Entry, hash: ContentHash) -> std::io::Result<()> {
        match self.expected(entry) {
            Some(_) => Ok(()),
            None => {
                let line = format!("{hash}  {}\n", entry.file);
                write_atomic(&self.cached_pin(entry), line.as_bytes())
            }
        }
    }

    /// The verified file or folder of `entry`, if it is on this machine.
    ///
    /// # Errors
    /// As [`Store::status`], and [`WeightsError::WrongContent`] when it is damaged.
    pub fn locate(&self, entry: &Entry) -> Result<Option<Located>, WeightsError> {
        match self.status(entry)? {
            Status::Missing => Ok(None),
            Status::Ready(located) => Ok(Some(located)),
            Status::Damaged {
                path,
                expected,
                found,
                origin,
            } => Err(WeightsError::WrongContent {
                name: entry.name.clone(),
                path,
                expected,
                found,
                origin,
            }),
        }
    }

    /// Where packed copies of weight files are kept.
    pub(crate) fn packed_folder(&self) -> PathBuf {
        self.cache.join("packed")
    }

    /// Where it is remembered which devices compute what they should.
    pub fn devices_folder(&self) -> PathBuf {
        self.cache.join("devices")
    }

    /// The hash of a file of the user's; quick, unless it changed since it was hashed.
    pub(crate) fn hash(&self, path: &Path) -> Result<ContentHash, WeightsError> {
        let path = full(path);
        let stamp_file = self.stamp_of_given(&path);
        Ok(stamp(&path, &stamp_file, None, Trust::Stamps)?.sha256)
    }

    fn stamp_of_given(&self, path: &Path) -> PathBuf {
        self.cache.join(".given").join(format!(
            "{}.verified.json",
            ContentHash::of_bytes(path.as_os_str().as_encoded_bytes())
        ))
    }

    pub(super) fn stamp_file(&self, entry: &Entry) -> PathBuf {
        self.cache.join(format!("{}.verified.json", entry.file))
    }

    fn given_path(&self, entry: &Entry) -> Result<Option<PathBuf>, WeightsError> {
        let Some(root) = &self.given else {
            return Ok(None);
        };
        if !root.exists() {
            return Err(WeightsError::GivenPathMissing { path: root.clone() });
        }
        if root.is_file() {
            return Ok((entry.format != Format::Folder).then(|| root.clone()));
        }
        let folder = root.join(&entry.name);
        // A folder called as the entry may be a copy of its hub repository.
        let hub_names = entry.sources.iter().filter_map(|source| match source {
            Source::Hub(file) => Some(folder.join(&file.path)),
            Source::Python(_) => None,
        });
        Ok([
            root.join(&entry.file),
            folder.clone(),
            folder.join(&entry.file),
        ]
        .into_iter()
        .chain(hub_names)
        .find(|path| is_there(path, entry.format)))
    }
}

/// Whether what was hashed before need not be hashed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Stamps,
    Nothing,
}

fn verify(
    path: PathBuf,
    stamp_file: &Path,
    expected: Option<ContentHash>,
    origin: Origin,
    trust: Trust,
) -> Result<Status, WeightsError> {
    let found = stamp(&path, stamp_file, expected, trust)?;
    if let Some(expected) = expected.filter(|expected| *expected != found.sha256) {
        return Ok(Status::Damaged {
            path,
            expected,
            found: found.sha256,
            origin,
        });
    }
    Ok(Status::Ready(Located {
        path,
        bytes: found.stamp.bytes,
        sha256: found.sha256,
        origin,
    }))
}

/// The hash of what is at `path` now: the one kept in `stamp_file`, or a new one, which is kept if
/// the content is as `expected`.
fn stamp(
    path: &Path,
    stamp_file: &Path,
    expected: Option<ContentHash>,
    trust: Trust,
) -> Result<VerifiedStamp, WeightsError> {
    let unreadable = |source| WeightsError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if trust == Trust::Stamps {
        let stamp = Stamp::of_path(path).map_err(unreadable)?;
        if let Some(known) = VerifiedStamp::load(stamp_file).filter(|known| known.stamp == stamp) {
            return Ok(known);
        }
    }
    let verified = VerifiedStamp::of_path(path).map_err(unreadable)?;
    if expected.is_none_or(|expected| expected == verified.sha256) {
        // It only saves time: a cache that cannot be written is still good to read from.
        let _ = verified.save(stamp_file);
    }
    Ok(verified)
}

fn is_there(path: &Path, format: Format) -> bool {
    match format {
        Format::Folder => path.is_dir(),
        Format::Safetensors | Format::Onnx | Format::Pth => path.is_file(),
    }
}

/// Error texts must make sense in another working directory.
fn full(path: &Path) -> PathBuf {
    absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn is_yes(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "true" | "yes" | "on"
    )
}
