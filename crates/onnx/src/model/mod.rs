//! ONNX models, written without any other library: graphs, the messages that they are stored as, and
//! files.

mod file;
mod graph;
mod proto;
mod read;

pub use graph::{Attribute, Element, Float, Graph, Length, OPSET, Value};
pub use read::Summary;
