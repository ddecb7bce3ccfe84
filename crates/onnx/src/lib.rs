//! Networks as ONNX: written without any other library, and run by ONNX Runtime on what it has.
//!
//! ```text
//! model/     graphs, and the messages of onnx.proto that they are stored as
//! network/   a network of `anomalens_backbones` as a part of a graph
//! runtime/   ONNX Runtime, opened when it is needed: devices, and the encoder that runs on them
//! ```

mod error;
pub mod model;
pub mod network;
mod runtime;

pub use error::OnnxError;
pub use runtime::{
    Bytes, Device, Devices, LIBRARY_VARIABLE, Numbers, cosine, on_devices, open_on, run_file,
    smallest_cosine,
};
