//! Finds anomalies in images without training on the target data.
//!
//! This crate is the façade: every part of the project under one name, and the `anomalens`
//! program (`src/cli/`, one file per command).
//!
//! ```text
//! vision      images in and out, heat maps
//! kernels     the CPU's inner loops
//! backbones   pretrained networks and where their weights come from
//! detectors   the methods; detector files
//! datasets    layouts of labelled data sets
//! metrics     AUROC, AP, F1-max, AUPRO
//! evaluation  detectors over data sets; reports
//! ```

pub use anomalens_backbones as backbones;
pub use anomalens_datasets as datasets;
pub use anomalens_detectors as detectors;
pub use anomalens_evaluation as evaluation;
pub use anomalens_kernels as kernels;
pub use anomalens_metrics as metrics;
pub use anomalens_vision as vision;
