//! From a name or a weight file to the encoder that it holds.

use std::fmt;
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use anomalens_base::replace_file;
use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::clip::{Architecture, ClipTensors, ClipVision};
use crate::cnn::{self, ConvEncoder};
use crate::dinov2::{self, DinoV2};
use crate::embedded::Embedded;
use crate::encoder::Together;
use crate::weights::{ContentHash, Kind, PullEvent, Registry, Store, WeightsError};
use crate::{
    Activation, BackboneError, Engine, ImageEncoder, Isa, Kernels, PackedCopy, Precision, resnet,
};

/// An encoder and which weights it was made from.
#[derive(Clone)]
pub struct Backbone {
    /// The name in the registry, or the weight file's name.
    pub name: String,
    /// The weight file's hash.
    pub sha256: ContentHash,
    /// How exactly it computes where the processor has the instructions.
    pub precision: Precision,
    /// What stands between the feed-forward layers, where the weights do not say it.
    pub activation: Option<Activation>,
    /// How it is computed on this processor.
    pub runs_as: RunsAs,
    /// The network, and beside it those of `companions`.
    pub encoder: Arc<dyn ImageEncoder>,
    /// Further networks that see the same images ([`Backbone::beside`]).
    pub companions: Vec<Backbone>,
}

/// What is left to choose about a backbone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackboneOptions {
    /// How exactly it computes; by default in half precision, or in the one precision that packed
    /// weights have.
    pub precision: Option<Precision>,
    /// What stands between the feed-forward layers of a CLIP network; by default what
    /// [`ClipTensors::activation`] finds.
    pub activation: Option<Activation>,
    /// Computes in float32 whatever its precision is: what a device is compared with that computes it
    /// in its own way.
    pub exact: bool,
}

impl From<Precision> for BackboneOptions {
    fn from(precision: Precision) -> Self {
        Self {
            precision: Some(precision),
            ..Self::default()
        }
    }
}

impl BackboneOptions {
    /// What products are computed in, where that is not the precision.
    fn computes(self) -> Option<Precision> {
        self.exact.then_some(Precision::F32)
    }
}

/// What computes a backbone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsAs {
    /// Another device than this processor.
    pub device: Option<String>,
    /// The instructions.
    pub isa: Isa,
    /// What it was made for.
    pub wanted: Precision,
    /// What products are computed in: a more exact precision where the processor has no
    /// instructions for the one that is wanted.
    pub precision: Precision,
}

impl RunsAs {
    /// How a network of this precision is computed here.
    ///
    /// # Errors
    /// [`BackboneError::Engine`] if `ANOMALENS_CPU` names what is not there.
    pub fn new(wanted: Precision) -> Result<Self, BackboneError> {
        let engine = Engine::from_env()?;
        Ok(Self {
            device: None,
            isa: engine.isa(),
            wanted,
            precision: engine.runs(wanted),
        })
    }
}

impl fmt::Display for RunsAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = |precision| match precision {
            Precision::F32 => "32-bit",
            Precision::Half => "16-bit",
            Precision::Int8 => "8-bit",
        };
        let device = self.device.as_deref();
        let title = device.unwrap_or(self.isa.title());
        write!(f, "{title}, {} weights", bits(self.precision))?;
        match device.is_some() || self.precision == self.wanted {
            true => Ok(()),
            false => write!(
                f,
                " (the processor has no {} instructions)",
                bits(self.wanted)
            ),
        }
    }
}

/// Why there is no backbone.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The weights are unavailable.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weights cannot be used.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// The name is not one of a backbone.
    #[error("`{0}` is a data set, not a backbone (`anomalens models list` shows the backbones)")]
    NotABackbone(String),
    /// Packed weights have one precision, and another one was asked for.
    #[error("{name} computes in {has} alone, not in {wanted}")]
    FixedPrecision {
        /// The weights.
        name: String,
        /// Their precision.
        has: Precision,
        /// What was asked for.
        wanted: Precision,
    },
    /// An activation was asked for of a network that has one of its own.
    #[error("{name} is no CLIP network: its activation is known and cannot be chosen")]
    FixedActivation {
        /// The weights.
        name: String,
    },
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

/// What names of random (seeded) weights start with.
const SEEDED: &str = "seeded:";

impl Backbone {
    /// Opens `weights` on the CPU: the path of a weight file, a name in the registry (what is not
    /// on this machine is pulled), `seeded:SEED:ARCHITECTURE` for random weights, or the name of
    /// those in the program ([`EMBEDDED`](crate::EMBEDDED)), which have a precision of their own.
    ///
    /// # Errors
    /// [`OpenError`], with what to do where the weights are unavailable, and for options that the
    /// weights do not have: never silently another precision.
    pub fn open(
        weights: &str,
        options: impl Into<BackboneOptions>,
        store: &Store,
        progress: &dyn Fn(PullEvent<'_>),
    ) -> Result<Self, OpenError> {
        let options = options.into();
        let path = Path::new(weights);
        if path.is_file() {
            let name = path.file_name();
            let name = name.map_or_else(|| weights.into(), |name| name.to_string_lossy());
            return Self::of_file(&name, path, store.hash(path)?, options, store);
        }
        if let Some(what) = weights.strip_prefix(SEEDED) {
            return Self::seeded(weights, what, options);
        }
        if let Some(embedded) = Embedded::find(weights) {
            return Self::embedded(embedded, options);
        }
        let entry = Registry::builtin().find(weights)?;
        if entry.kind != Kind::Backbone {
            return Err(OpenError::NotABackbone(weights.to_owned()));
        }
        let located = store.pull(entry, progress)?;
        let options = BackboneOptions {
            activation: options.activation.or(entry.activation),
            ..options
        };
        Self::of_file(&entry.name, &located.path, located.sha256, options, store)
    }

    fn of_file(
        name: &str,
        path: &Path,
        sha256: ContentHash,
        options: BackboneOptions,
        store: &Store,
    ) -> Result<Self, OpenError> {
        let precision = options.precision.unwrap_or_default();
        let computes = options.computes().unwrap_or(precision);
        let mut kernels = Kernels::from_env(computes)?;
        // Float32 weights are copied rather than converted, which takes no time worth a file.
        kernels.copy = (computes != Precision::F32).then(|| PackedCopy {
            folder: store.packed_folder(),
            original: sha256,
        });
        let network = Network::open(path, options.activation, &kernels)?;
        let activation = network.activation();
        if options.activation.is_some() && activation.is_none() {
            let name = name.to_owned();
            return Err(OpenError::FixedActivation { name });
        }
        Ok(Self {
            name: name.to_owned(),
            sha256,
            precision,
            activation,
            runs_as: RunsAs::new(computes)?,
            encoder: network.encoder(),
            companions: vec![],
        })
    }

    /// Those in the program.
    fn embedded(embedded: &Embedded, options: BackboneOptions) -> Result<Self, OpenError> {
        let name = embedded.name.to_owned();
        if options.activation.is_some() {
            return Err(OpenError::FixedActivation { name });
        }
        let network = embedded.open(options.computes())?;
        let has = network.precision;
        if let Some(wanted) = options.precision.filter(|&wanted| wanted != has) {
            return Err(OpenError::FixedPrecision { name, has, wanted });
        }
        Ok(Self {
            name,
            sha256: ContentHash::of_bytes(embedded.bytes),
            precision: has,
            activation: None,
            runs_as: RunsAs::new(options.computes().unwrap_or(has))?,
            encoder: network.encoder,
            companions: vec![],
        })
    }

    /// Random weights; their hash is that of what asks for them.
    fn seeded(weights: &str, what: &str, options: BackboneOptions) -> Result<Self, OpenError> {
        let (seed, name) = what.split_once(':').unwrap_or((what, ""));
        let unknown = || {
            let known = Architecture::names()
                .chain(dinov2::names())
                .chain(resnet::names());
            OpenError::Seeded {
                text: weights.to_owned(),
                known: known.collect::<Vec<_>>().join(", "),
            }
        };
        let seed: u64 = seed.parse().map_err(|_| unknown())?;
        let precision = options.precision.unwrap_or_default();
        let computes = options.computes().unwrap_or(precision);
        let kernels = Kernels::from_env(computes)?;
        let (activation, encoder): (_, Arc<dyn ImageEncoder>) =
            if let Some(architecture) = Architecture::named(name) {
                let checkpoint = Arc::new(Checkpoint::seeded(seed, architecture.shapes()));
                let activation = options.activation.unwrap_or(architecture.activation);
                let network = ClipVision::new(checkpoint, Some(activation), &kernels)?;
                (Some(activation), Arc::new(network))
            } else if let Some(shapes) = dinov2::shapes(name) {
                if options.activation.is_some() {
                    let name = weights.to_owned();
                    return Err(OpenError::FixedActivation { name });
                }
                let checkpoint = Checkpoint::seeded(seed, shapes);
                (None, Arc::new(DinoV2::new(&checkpoint, &kernels)?))
            } else {
                let shapes = resnet::shapes(name).ok_or_else(unknown)?;
                if options.activation.is_some() {
                    let name = weights.to_owned();
                    return Err(OpenError::FixedActivation { name });
                }
                let checkpoint = Checkpoint::seeded(seed, shapes);
                let plan = resnet::plan(&checkpoint)?;
                (
                    None,
                    Arc::new(ConvEncoder::new(&plan, &checkpoint, &kernels)?),
                )
            };
        Ok(Self {
            name: weights.to_owned(),
            sha256: ContentHash::of_bytes(weights.as_bytes()),
            precision,
            activation,
            runs_as: RunsAs::new(computes)?,
            encoder,
            companions: vec![],
        })
    }

    /// This network with `companions` beside it, for methods that join what several see.
    #[must_use]
    pub fn beside(self, companions: Vec<Self>) -> Self {
        if companions.is_empty() {
            return self;
        }
        let encoder = Arc::new(Together {
            first: self.encoder,
            companions: companions.iter().map(|one| one.encoder.clone()).collect(),
        });
        Self {
            encoder,
            companions,
            ..self
        }
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
    Ok(Network::open(path, None, &Kernels::from_env(precision)?)?.encoder())
}

/// Packs the weight file `from`, of any known family and format, into the file `to`, which
/// [`open_packed`](crate::open_packed) reads on any processor without the original: the first
/// `blocks` blocks (of a convolutional network stages), or all. [`Precision::Int8`] makes the smallest file.
///
/// # Errors
/// As [`load_encoder`], and [`BackboneError::Write`] if the file cannot be written.
pub fn write_packed(
    from: &Path,
    precision: Precision,
    blocks: Option<usize>,
    to: &Path,
) -> Result<(), BackboneError> {
    let write = |network: &Network, original| {
        replace_file(to, |file| network.write(precision, original, file))
    };
    pack(from, precision, blocks, write)?.map_err(|source| BackboneError::Write {
        path: to.to_owned(),
        source,
    })
}

/// Packs a weight file, and hands the network and the file's hash to `write`.
pub(crate) fn pack<T>(
    from: &Path,
    precision: Precision,
    blocks: Option<usize>,
    write: impl FnOnce(&Network, ContentHash) -> T,
) -> Result<T, BackboneError> {
    let original = ContentHash::of_path(from).map_err(|source| BackboneError::Read {
        path: from.to_owned(),
        source,
    })?;
    let kernels = Kernels {
        blocks,
        ..Kernels::from_env(precision)?
    };
    let network = Network::open(from, None, &kernels)?;
    Ok(write(&network, original))
}

/// A network of any family.
pub(crate) enum Network {
    Clip(ClipVision),
    DinoV2(DinoV2),
    Convolutional(ConvEncoder),
}

/// The families, for people.
pub(crate) const FAMILIES: &str = "CLIP, DINOv2, ResNet, EfficientNet-Lite";

impl Network {
    fn open(
        path: &Path,
        activation: Option<Activation>,
        kernels: &Kernels,
    ) -> Result<Self, BackboneError> {
        let checkpoint = Checkpoint::open(path)?;
        if ClipTensors::new(&checkpoint).is_some() {
            let checkpoint = Arc::new(checkpoint);
            return Ok(Self::Clip(ClipVision::new(
                checkpoint, activation, kernels,
            )?));
        }
        if DinoV2::recognises(&checkpoint) {
            return Ok(Self::DinoV2(DinoV2::new(&checkpoint, kernels)?));
        }
        if let Some(plan) = cnn::plan(&checkpoint) {
            let network = ConvEncoder::new(&plan?, &checkpoint, kernels)?;
            return Ok(Self::Convolutional(network));
        }
        Err(BackboneError::UnknownFamily {
            path: path.to_owned(),
            known: FAMILIES,
        })
    }

    /// The activation that the weights do not say.
    fn activation(&self) -> Option<Activation> {
        match self {
            Self::Clip(network) => Some(network.activation()),
            Self::DinoV2(_) | Self::Convolutional(_) => None,
        }
    }

    fn encoder(self) -> Arc<dyn ImageEncoder> {
        match self {
            Self::Clip(network) => Arc::new(network),
            Self::DinoV2(network) => Arc::new(network),
            Self::Convolutional(network) => Arc::new(network),
        }
    }

    /// Writes the packed network from the start of `file` on.
    pub(crate) fn write(
        &self,
        precision: Precision,
        original: ContentHash,
        file: &mut (impl Write + Seek),
    ) -> io::Result<()> {
        match self {
            Self::Clip(network) => network.transformer().write(precision, original, file),
            Self::DinoV2(network) => network.transformer().write(precision, original, file),
            Self::Convolutional(network) => network.write(precision, original, file),
        }
    }
}
