//! Finds anomalies in images without training on the target data.
//!
//! This crate is the façade: every part of the project under one name.
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
//! report      the HTML pages
//! benchmark   the papers' tables
//! ```

pub use anomalens_backbones as backbones;
pub use anomalens_base as base;
pub use anomalens_benchmark as benchmark;
pub use anomalens_datasets as datasets;
pub use anomalens_detectors as detectors;
pub use anomalens_evaluation as evaluation;
pub use anomalens_kernels as kernels;
pub use anomalens_metrics as metrics;
pub use anomalens_report as report;
pub use anomalens_synthetic as synthetic;
pub use anomalens_vision as vision;
