//! Finds anomalies in images without training on the target data.
//!
//! [`AnomalyDetector`] is the front door: a method and its backbone as one value. The parts below it
//! are here under one name each.
//!
//! ```text
//! base        atomic files, digests
//! vision      images in and out, heat maps
//! kernels     the CPU's inner loops
//! backbones   pretrained networks and where their weights come from
//! detectors   the methods; detector files
//! datasets    layouts of labelled data sets
//! synthetic   drawn defects with exact masks
//! metrics     AUROC, AP, F1-max, AUPRO
//! evaluation  detectors over data sets
//! onnx        networks as ONNX; GPUs and other devices
//! report      the HTML pages
//! benchmark   the papers' tables
//! ```

mod detector;
mod error;
mod inspection;

pub use detector::{AnomalyDetector, Builder};
pub use error::Error;
pub use inspection::Inspection;

pub use anomalens_backbones as backbones;
pub use anomalens_base as base;
pub use anomalens_benchmark as benchmark;
pub use anomalens_datasets as datasets;
pub use anomalens_detectors as detectors;
pub use anomalens_evaluation as evaluation;
pub use anomalens_kernels as kernels;
pub use anomalens_metrics as metrics;
pub use anomalens_onnx as onnx;
pub use anomalens_report as report;
pub use anomalens_synthetic as synthetic;
pub use anomalens_vision as vision;
