//! Metrics of anomaly detection: slices in, numbers out.
//!
//! ```text
//! image.rs      auroc, average_precision, f1_max, Confusion       one score per image
//! curves.rs     roc_curve, precision_recall_curve, thin           their plots
//! pixel.rs      PixelMetrics::compute                             one anomaly map and mask per image
//! aupro.rs      area under the per-region-overlap curve, exact
//! steps.rs      the same by 200 thresholds, as several papers print it
//! regions.rs    8-connected regions of a mask
//! buckets.rs    how 100 million pixels are put in order with little memory
//! ranking.rs    AUROC, AP and F1-max from scores in descending order, ties merged
//! error.rs      MetricError
//! ```
//!
//! Everything is exact: every distinct score is a threshold, equal scores count as one, counts are
//! integers. Results do not depend on the number of threads. Scores may be any `f32` but NaN;
//! higher means more anomalous, and an item is called anomalous where `score >= threshold`.
//!
//! ```
//! use anomalens_metrics::{auroc, f1_max};
//!
//! let scores = [0.1, 0.4, 0.35, 0.8];
//! let labels = [false, false, true, true];
//! assert_eq!(auroc(&scores, &labels), Ok(0.75));
//! assert_eq!(f1_max(&scores, &labels)?.threshold, 0.35);
//! # Ok::<(), anomalens_metrics::MetricError>(())
//! ```

mod aupro;
mod buckets;
mod curves;
mod error;
mod image;
mod pixel;
mod ranking;
mod regions;
mod steps;

pub use curves::{
    CurvePoint, PrecisionRecallPoint, RocPoint, precision_recall_curve, roc_curve, thin,
};
pub use error::{Class, Level, MetricError};
pub use image::{Confusion, auroc, average_precision, f1_max};
pub use pixel::{DEFAULT_FPR_LIMIT, PixelMetrics, PixelOptions, ScoredMask};
pub use ranking::F1Max;
pub use steps::NumpyRules;
