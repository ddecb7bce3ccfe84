//! From a name or a weight file to the encoder that it holds.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::dinov2::DinoV2;
use crate::weights::{ContentHash, Kind, PullEvent, Registry, Store, WeightsError};
use crate::{BackboneError, ImageEncoder};

/// An encoder and which weights it was made from.
#[derive(Clone)]
pub struct Backbone {
    /// The name in the registry, or the weight file's name.
    pub name: String,
    /// The weight file's hash.
    pub sha256: ContentHash,
    /// The network.
    pub encoder: Arc<dyn ImageEncoder>,
}

/// Why there is no backbone.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The weights are not to be had.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weights cannot be used.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// The name is not one of a backbone.
    #[error("`{0}` is a data set, not a backbone (`anomalens models list` shows the backbones)")]
    NotABackbone(String),
}

impl Backbone {
    /// Opens `weights`, which is the path of a weight file or a name in the registry; what is not
    /// on this machine is pulled.
    ///
    /// # Errors
    /// [`OpenError`], with what to do where the weights cannot be had.
    pub fn open(
        weights: &str,
        store: &Store,
        progress: &dyn Fn(PullEvent<'_>),
    ) -> Result<Self, OpenError> {
        let path = Path::new(weights);
        if path.is_file() {
            let sha256 = ContentHash::of_path(path).map_err(|source| BackboneError::Read {
                path: path.to_owned(),
                source,
            })?;
            let name = path
                .file_name()
                .map_or_else(|| weights.into(), |n| n.to_string_lossy());
            return Ok(Self {
                name: name.into_owned(),
                sha256,
                encoder: load_encoder(path)?,
            });
        }
        let entry = Registry::builtin().find(weights)?;
        if entry.kind != Kind::Backbone {
            return Err(OpenError::NotABackbone(weights.to_owned()));
        }
        let located = store.pull(entry, progress)?;
        let encoder = load_encoder(&located.path)?;
        Ok(Self {
            name: entry.name.clone(),
            sha256: located.sha256,
            encoder,
        })
    }
}

/// Opens a weight file of any known family and format, on the CPU.
///
/// # Errors
/// [`BackboneError`] for a file that cannot be read, is damaged, or holds no known network.
pub fn load_encoder(path: &Path) -> Result<Arc<dyn ImageEncoder>, BackboneError> {
    let checkpoint = Checkpoint::open(path)?;
    if DinoV2::recognises(&checkpoint) {
        return Ok(Arc::new(DinoV2::new(&checkpoint, &Device::Cpu)?));
    }
    Err(BackboneError::UnknownFamily {
        path: path.to_owned(),
        known: "DINOv2",
    })
}
