//! Networks on the devices that ONNX Runtime has.
//!
//! ```text
//! device     devices by their names
//! library    the library of ONNX Runtime, opened when it is needed
//! engine     a session with a thread of its own, and the memory that goes in and out
//! program    one graph on one device
//! encoder    the `ImageEncoder` that shares images out among devices
//! file       a model file, run once
//! gate       what a device computes, compared with the processor
//! ```

mod device;
mod encoder;
mod engine;
mod file;
mod gate;
mod library;
mod program;

pub(crate) use device::known_devices;
pub use device::{Device, Devices};
pub use encoder::{on_devices, open_on};
pub use file::{Bytes, Numbers, run_file};
pub use gate::{cosine, smallest_cosine};
pub use library::LIBRARY_VARIABLE;
