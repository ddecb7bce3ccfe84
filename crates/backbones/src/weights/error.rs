//! What can go wrong on the way to verified weights, and what the user can do about it.

use std::io;
use std::path::PathBuf;

use super::store::{CACHE_VARIABLE, MODELS_VARIABLE, Origin};
use anomalens_base::ContentHash;

/// Weights or data that are unavailable.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The registry has no such name.
    #[error("nothing is called `{name}`{} (`anomalens models list` shows all names)", suggestion(.nearest))]
    UnknownName {
        /// What was asked for.
        name: String,
        /// The most similar name there is.
        nearest: Option<String>,
    },

    /// A registry that does not follow the format.
    #[error("the registry is not valid: {reason}")]
    InvalidRegistry {
        /// What is wrong where.
        reason: String,
    },

    /// The platform names no cache folder.
    #[error(
        "this machine has no cache folder: set {CACHE_VARIABLE} to a folder for weights and data"
    )]
    NoCacheFolder,

    /// The path given by the user does not exist.
    #[error("{} does not exist: correct the path given for weights (--weights or {MODELS_VARIABLE})", .path.display())]
    GivenPathMissing {
        /// The path as given.
        path: PathBuf,
    },

    /// A file or folder that is not what it should be.
    #[error(
        "{} is not {name} as published: its SHA-256 is {found}, expected {expected}; {}",
        .path.display(), remedy(*.origin)
    )]
    WrongContent {
        /// The entry's name.
        name: String,
        /// The file or folder.
        path: PathBuf,
        /// The hash that it must have.
        expected: ContentHash,
        /// The hash that it has.
        found: ContentHash,
        /// Whose file it is.
        origin: Origin,
    },

    /// The cache folder cannot be written.
    #[error(
        "cannot write to the cache folder {}: {source}; set {CACHE_VARIABLE} to a folder that can be written",
        .path.display()
    )]
    CacheNotWritable {
        /// The cache folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A file that is there cannot be read.
    #[error("cannot read {}: {source}; check that it may be read", .path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// Not on this machine, and no source gave it.
    #[error(
        "{name} is not on this machine and cannot be fetched:{}\n{advice}",
        .attempts.iter().map(|attempt| format!("\n  - {}: {}", attempt.source, attempt.error)).collect::<String>()
    )]
    Unavailable {
        /// The entry's name.
        name: String,
        /// Every source tried, in order.
        attempts: Vec<Attempt>,
        /// How to get it here without network.
        advice: String,
    },
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!(": did you mean `{name}`?"))
        .unwrap_or_default()
}

fn remedy(origin: Origin) -> String {
    match origin {
        Origin::Cache => "run `anomalens models pull` to fetch it again".to_owned(),
        Origin::Given => format!(
            "replace it, or take it out of {MODELS_VARIABLE}, or name it with --weights to use it as it is"
        ),
    }
}

/// One source that was tried, and why it gave nothing.
#[derive(Debug)]
pub struct Attempt {
    /// The source, for people.
    pub source: String,
    /// Why it gave nothing.
    pub error: SourceError,
}

/// Why one source gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A folder without the file.
    #[error("no {file} there")]
    Absent {
        /// The file or folder looked for.
        file: String,
    },

    /// The network may not be used.
    #[error("not asked, because {reason}")]
    Offline {
        /// What forbids it.
        reason: String,
    },

    /// The server has no such file.
    #[error("{url} does not exist (HTTP 404)")]
    NotFound {
        /// The address asked.
        url: String,
    },

    /// The server wants other rights.
    #[error(
        "access to {url} was refused (HTTP {status}): if the repository is private or gated, set HF_TOKEN"
    )]
    Refused {
        /// The address asked.
        url: String,
        /// 401 or 403.
        status: u16,
    },

    /// The server failed.
    #[error("{url} answered HTTP {status}")]
    Status {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },

    /// The server could not be reached, or the connection broke.
    #[error("{url} cannot be fetched: {reason}")]
    Network {
        /// The address asked.
        url: String,
        /// The cause.
        reason: String,
        /// Whether trying again soon may help.
        transient: bool,
    },

    /// Neither the registry nor the server says what the file must be.
    #[error("neither the registry nor the server declares a SHA-256, so it could not be verified")]
    NoDeclaredHash,

    /// Not the published content; it was deleted.
    #[error("{what} has SHA-256 {found}, expected {expected}")]
    WrongContent {
        /// What was hashed.
        what: String,
        /// The hash that it must have.
        expected: ContentHash,
        /// The hash that it has.
        found: ContentHash,
    },

    /// Not the published size.
    #[error("{what} has {found} bytes, expected {expected}")]
    WrongSize {
        /// What was measured.
        what: String,
        /// The size that it must have.
        expected: u64,
        /// The size that it has, or has at least.
        found: u64,
    },

    /// No usable Python.
    #[error("no Python with pip was found (tried {tried}): install one, or put it into the PATH")]
    NoPython {
        /// The programs tried.
        tried: String,
    },

    /// pip failed.
    #[error("`pip download {requirement}` failed: {reason}")]
    Pip {
        /// `NAME==VERSION`.
        requirement: String,
        /// What pip says.
        reason: String,
    },

    /// A wheel that cannot be read, or lacks what it should hold.
    #[error("the wheel cannot be used: {reason}")]
    Wheel {
        /// What is wrong.
        reason: String,
    },

    /// A wheel with a file that would be written outside its folder.
    #[error("the wheel is not safe to unpack: `{member}` leads out of its folder")]
    UnsafeMember {
        /// The file's path inside the wheel.
        member: String,
    },

    /// The disk failed or is full.
    #[error("cannot write {}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SourceError {
    /// For `map_err`: an I/O error with its path.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Whether trying again soon may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Network { transient, .. } => *transient,
            // Request timeout, too many requests, and the server's own failures.
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..),
            _ => false,
        }
    }
}
