//! From a name or a weight file to the encoder that it holds.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::clip::{Architecture, ClipTensors, ClipVision};
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
    /// Seeded weights are asked for in a way that is not understood.
    #[error(
        "`{text}` does not name seeded weights: write seeded:SEED:ARCHITECTURE with one of {known}"
    )]
    Seeded {
        /// What was asked for.
        text: String,
        /// The architectures.
        known: String,
    },
}

/// What names of made-up weights start with.
const SEEDED: &str = "seeded:";

impl Backbone {
    /// Opens `weights`, which is the path of a weight file, a name in the registry (what is not on
    /// this machine is pulled), or `seeded:SEED:ARCHITECTURE` for made-up weights.
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
        if let Some(what) = weights.strip_prefix(SEEDED) {
            return Self::seeded(weights, what);
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

    /// Made-up weights; their hash is that of what asks for them.
    fn seeded(weights: &str, what: &str) -> Result<Self, OpenError> {
        let (seed, name) = what.split_once(':').unwrap_or((what, ""));
        let (Ok(seed), Some(architecture)) = (seed.parse(), Architecture::named(name)) else {
            return Err(OpenError::Seeded {
                text: weights.to_owned(),
                known: Architecture::names().collect::<Vec<_>>().join(", "),
            });
        };
        let checkpoint = Checkpoint::seeded(seed, architecture.shapes());
        let activation = Some(architecture.activation);
        Ok(Self {
            name: weights.to_owned(),
            sha256: ContentHash::of_bytes(weights.as_bytes()),
            encoder: Arc::new(ClipVision::new(
                Arc::new(checkpoint),
                activation,
                &Device::Cpu,
            )?),
        })
    }
}

/// Opens a weight file of any known family and format, on the CPU.
///
/// # Errors
/// [`BackboneError`] for a file that cannot be read, is damaged, or holds no known network.
pub fn load_encoder(path: &Path) -> Result<Arc<dyn ImageEncoder>, BackboneError> {
    let checkpoint = Checkpoint::open(path)?;
    if ClipTensors::new(&checkpoint).is_some() {
        let checkpoint = Arc::new(checkpoint);
        return Ok(Arc::new(ClipVision::new(checkpoint, None, &Device::Cpu)?));
    }
    if DinoV2::recognises(&checkpoint) {
        return Ok(Arc::new(DinoV2::new(&checkpoint, &Device::Cpu)?));
    }
    Err(BackboneError::UnknownFamily {
        path: path.to_owned(),
        known: "CLIP, DINOv2",
    })
}
