//! What can go wrong with models and devices.

use std::path::PathBuf;

use anomalens_backbones::{BackboneError, Grid, LayerId};
use thiserror::Error;

/// An error of this crate.
#[derive(Debug, Error)]
pub enum OnnxError {
    /// No device has this name.
    #[error("`{0}` is no device; use cpu, auto, {known}", known = crate::runtime::known_devices())]
    UnknownDevice(String),
    /// ONNX Runtime is not here.
    #[error(
        "{device} needs the library of ONNX Runtime, which was not found: {install}, or name it with \
         {variable}=FILE", variable = crate::runtime::LIBRARY_VARIABLE
    )]
    NoLibrary {
        /// What needs it.
        device: String,
        /// The command that installs it.
        install: String,
    },
    /// The library of ONNX Runtime cannot be used.
    #[error("the library of ONNX Runtime {path} cannot be used: {reason}")]
    Library {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library was built without what a device needs.
    #[error("the library of ONNX Runtime {path} was built without {device}: {install}")]
    NoProvider {
        /// What needs it.
        device: String,
        /// The library.
        path: PathBuf,
        /// The command that installs one that has it.
        install: String,
    },
    /// A device does not start or does not take the network.
    #[error("{device} cannot be used: {reason}")]
    Device {
        /// The device.
        device: String,
        /// ONNX Runtime's reason.
        reason: String,
    },
    /// A device computes something else than the processor.
    #[error(
        "{device} computes other features of {network} than the processor: the cosine of the worst \
         token is {cosine:.4}, at least {least} is needed; use --device cpu"
    )]
    Differs {
        /// The device.
        device: String,
        /// The network.
        network: String,
        /// The smallest cosine.
        cosine: f32,
        /// What is needed.
        least: f32,
    },
    /// Nothing is known of a network but its features.
    #[error("{0} cannot be written as a graph: only its features are known")]
    NoBlueprint(String),
    /// A layer is not in the graph.
    #[error("the network has no {0}")]
    NoLayer(LayerId),
    /// A window of patches is larger than the image.
    #[error(
        "windows of {side}x{side} patches do not fit into an image of {} x {} patches", grid.rows, grid.columns
    )]
    WindowTooLarge {
        /// Patches on either side of the window.
        side: usize,
        /// Those of the image.
        grid: Grid,
    },
    /// A model file is not what was written.
    #[error("the model file {path} cannot be used: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The network cannot give what is wanted.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
}

impl From<OnnxError> for BackboneError {
    fn from(error: OnnxError) -> Self {
        match error {
            OnnxError::Backbone(error) => error,
            error => Self::Device(error.to_string()),
        }
    }
}
