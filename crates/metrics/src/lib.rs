//! Metrics of anomaly detection: slices in, numbers out.
//!
//! ```text
//! image.rs      auroc, average_precision, f1_max, Confusion       one score per image
//! operating.rs  OperatingPoint                                  what is found at a rate of false alarms
//! curves.rs     roc_curve, precision_recall_curve, thin           points for plots
//! delong.rs     delong, auroc_interval                            whether two AUROCs differ
//! interval.rs   bootstrap, Interval                               how sure a metric is
//! threshold.rs  Rule, Threshold                                   where to draw the line
//! guarantee.rs  Guarantee                                         what it promises of later images
//! platt.rs      Platt, Reliability                                scores as probabilities
//! pixel.rs      PixelMetrics::compute, compute_each               one anomaly map and mask per image
//! aupro.rs      area under the per-region-overlap curve, exact, and that curve
//! steps.rs      the same by 200 thresholds, as several papers print it
//! pimo.rs       Aupimo: overlap per image at very low false-positive rates
//! overlap.rs    region_overlaps: how much of each region a threshold finds
//! regions.rs    Regions: 8-connected regions of a mask
//! peaks.rs      peaks: regions around the peaks of a map
//! buckets.rs    how 100 million pixels are put in order without keeping them
//! ranking.rs    AUROC, AP and F1-max from scores in descending order, ties merged
//! normal.rs     the normal distribution
//! error.rs      MetricError
//! ```
//!
//! Everything but AUPIMO and the 200 steps is exact: every distinct score is a threshold, equal
//! scores count as one, counts are integers. Results do not depend on the number of threads. Scores
//! may be any `f32` but NaN; higher means more anomalous, and an item is called anomalous where
//! `score >= threshold`.
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
mod delong;
mod error;
mod guarantee;
mod image;
mod interval;
mod normal;
mod operating;
mod overlap;
mod peaks;
mod pimo;
mod pixel;
mod platt;
mod ranking;
mod regions;
mod steps;
mod threshold;

pub use aupro::ProPoint;
pub use curves::{
    CurvePoint, PrecisionRecallPoint, RocPoint, precision_recall_curve, roc_curve, thin,
};
pub use delong::{DeLong, auroc_interval, auroc_standard_error, delong};
pub use error::{Class, Level, MetricError};
pub use guarantee::{BOUND_CONFIDENCE, Guarantee};
pub use image::{Confusion, auroc, average_precision, f1_max};
pub use interval::{ImageMetric, Interval, bootstrap, bootstrap_values};
pub use operating::OperatingPoint;
pub use overlap::{RegionOverlap, region_overlaps};
pub use peaks::{Peak, peaks};
pub use pimo::{Aupimo, PimoOptions};
pub use pixel::{DEFAULT_FPR_LIMIT, PixelMetrics, PixelOptions, ScoredMask};
pub use platt::{Bin, Platt, Reliability};
pub use ranking::F1Max;
pub use regions::{Region, Regions};
pub use threshold::{Rule, Threshold};
