//! From a name or a weight file to the encoder that it holds.

use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::clip::{Architecture, ClipTensors, ClipVision};
use crate::dinov2::DinoV2;
use crate::embedded::Embedded;
use crate::vit::VisionTransformer;
use crate::weights::{ContentHash, Kind, PullEvent, Registry, Store, WeightsError};
use crate::{BackboneError, ImageEncoder, Kernels, PackedCopy, Precision};

/// An encoder and which weights it was made from.
#[derive(Clone)]
pub struct Backbone {
    /// The name in the registry, or the weight file's name.
    pub name: String,
    /// The weight file's hash.
    pub sha256: ContentHash,
    /// How exactly it computes.
    pub precision: Precision,
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
    /// Opens `weights` on the CPU: the path of a weight file, a name in the registry (what is not
    /// on this machine is pulled), `seeded:SEED:ARCHITECTURE` for made-up weights, or the name of
    /// those in the program ([`EMBEDDED`](crate::EMBEDDED)), which have a precision of their own.
    ///
    /// # Errors
    /// [`OpenError`], with what to do where the weights cannot be had.
    pub fn open(
        weights: &str,
        precision: Precision,
        store: &Store,
        progress: &dyn Fn(PullEvent<'_>),
    ) -> Result<Self, OpenError> {
        let kernels = |original| {
            let mut kernels = Kernels::from_env(precision)?;
            // Float32 weights are copied rather than converted, which takes no time worth a file.
            kernels.copy = (precision != Precision::F32).then(|| PackedCopy {
                folder: store.packed_folder(),
                original,
            });
            Ok::<_, BackboneError>(kernels)
        };
        let path = Path::new(weights);
        if path.is_file() {
            let sha256 = store.hash(path)?;
            let name = path
                .file_name()
                .map_or_else(|| weights.into(), |n| n.to_string_lossy());
            return Ok(Self {
                name: name.into_owned(),
                sha256,
                precision,
                encoder: Network::open(path, &kernels(sha256)?)?.encoder(),
            });
        }
        if let Some(what) = weights.strip_prefix(SEEDED) {
            return Self::seeded(weights, what, precision);
        }
        if let Some(embedded) = Embedded::find(weights) {
            let network = embedded.open()?;
            return Ok(Self {
                name: weights.to_owned(),
                sha256: ContentHash::of_bytes(embedded.bytes),
                precision: network.precision,
                encoder: network.encoder,
            });
        }
        let entry = Registry::builtin().find(weights)?;
        if entry.kind != Kind::Backbone {
            return Err(OpenError::NotABackbone(weights.to_owned()));
        }
        let located = store.pull(entry, progress)?;
        Ok(Self {
            name: entry.name.clone(),
            sha256: located.sha256,
            precision,
            encoder: Network::open(&located.path, &kernels(located.sha256)?)?.encoder(),
        })
    }

    /// Made-up weights; their hash is that of what asks for them.
    fn seeded(weights: &str, what: &str, precision: Precision) -> Result<Self, OpenError> {
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
            precision,
            encoder: Arc::new(ClipVision::new(
                Arc::new(checkpoint),
                activation,
                &Kernels::from_env(precision)?,
            )?),
        })
    }
}

/// Opens a weight file of any known family and format, on the CPU.
///
/// # Errors
/// [`BackboneError`] for a file that cannot be read, is damaged, or holds no known network, and
/// for an instruction set that is not here.
pub fn load_encoder(
    path: &Path,
    precision: Precision,
) -> Result<Arc<dyn ImageEncoder>, BackboneError> {
    Ok(Network::open(path, &Kernels::from_env(precision)?)?.encoder())
}

/// Packs the weight file `from`, of any known family and format, into the file `to`, which
/// [`open_packed`](crate::open_packed) reads on any processor without the original: the first
/// `blocks` blocks, or all. [`Precision::Int8`] makes the smallest file.
///
/// # Errors
/// As [`load_encoder`], and [`BackboneError::Write`] if the file cannot be written.
pub fn write_packed(
    from: &Path,
    precision: Precision,
    blocks: Option<usize>,
    to: &Path,
) -> Result<(), BackboneError> {
    let original = ContentHash::of_path(from).map_err(|source| BackboneError::Read {
        path: from.to_owned(),
        source,
    })?;
    let kernels = Kernels {
        blocks,
        ..Kernels::from_env(precision)?
    };
    Network::open(from, &kernels)?
        .transformer()
        .write_packed(precision, original, to)
}

/// A network of any family.
enum Network {
    Clip(ClipVision),
    DinoV2(DinoV2),
}

impl Network {
    fn open(path: &Path, kernels: &Kernels) -> Result<Self, BackboneError> {
        let checkpoint = Checkpoint::open(path)?;
        if ClipTensors::new(&checkpoint).is_some() {
            let checkpoint = Arc::new(checkpoint);
            return Ok(Self::Clip(ClipVision::new(checkpoint, None, kernels)?));
        }
        if DinoV2::recognises(&checkpoint) {
            return Ok(Self::DinoV2(DinoV2::new(&checkpoint, kernels)?));
        }
        Err(BackboneError::UnknownFamily {
            path: path.to_owned(),
            known: "CLIP, DINOv2",
        })
    }

    fn encoder(self) -> Arc<dyn ImageEncoder> {
        match self {
            Self::Clip(network) => Arc::new(network),
            Self::DinoV2(network) => Arc::new(network),
        }
    }

    fn transformer(&self) -> &VisionTransformer {
        match self {
            Self::Clip(network) => network.transformer(),
            Self::DinoV2(network) => network.transformer(),
        }
    }
}
