//! What can go wrong in an evaluation.

use std::path::PathBuf;
use std::sync::Arc;

use anomalens_detectors::{DetectorError, SourceError};
use anomalens_metrics::MetricError;
use anomalens_vision::{GeometryError, ImageError};
use thiserror::Error;

/// An error that ends an evaluation; a single unreadable image does not.
#[derive(Debug, Error)]
pub enum EvaluationError {
    /// The data set cannot be used.
    #[error(transparent)]
    Data(#[from] anomalens_datasets::Error),
    /// A method failed.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// A normal image that was drawn as a shot cannot be used.
    #[error(transparent)]
    Shot(#[from] SourceError),
    /// An image to calibrate with cannot be used.
    #[error("an image to calibrate with cannot be used: {0}; mend it or take it out")]
    Calibration(Arc<SourceError>),
    /// A mask cannot be read.
    #[error(transparent)]
    Mask(#[from] ImageError),
    /// A map or mask cannot be brought to the size that is wanted.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The metrics cannot be computed from what was found.
    #[error(transparent)]
    Metric(#[from] MetricError),
    /// A mask does not fit its image.
    #[error(
        "the mask {mask} is {mask_width} x {mask_height} pixels, but its image {image} is \
         {image_width} x {image_height}: `anomalens data check` lists every such pair"
    )]
    MaskSize {
        /// The mask file.
        mask: PathBuf,
        /// Its width.
        mask_width: u32,
        /// Its height.
        mask_height: u32,
        /// The image file.
        image: PathBuf,
        /// Its width.
        image_width: u32,
        /// Its height.
        image_height: u32,
    },
}
