//! What a method wants from a backbone.

use anomalens_backbones::FeatureRequest;
use anomalens_vision::Preprocess;
use serde::{Deserialize, Serialize};

use crate::DetectorError;

/// How pixels are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    /// Mean and deviation of CLIP's training images.
    Clip,
    /// Those of ImageNet.
    Imagenet,
}

impl Normalisation {
    /// Images stretched to a square of `size` pixels and normalised.
    pub(crate) fn square(self, size: u32) -> Preprocess {
        match self {
            Self::Clip => Preprocess::clip_square(size),
            Self::Imagenet => Preprocess::imagenet_square(size),
        }
    }

    /// The shorter side resized to `size`, the central square of that, normalised.
    pub(crate) fn centre_crop(self, size: u32) -> Preprocess {
        Preprocess {
            resize: Preprocess::clip_centre_crop(size).resize,
            ..self.square(size)
        }
    }
}

/// The way of an image up to its features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputSpec {
    /// From pixels to the network's input.
    pub preprocess: Preprocess,
    /// Which features are taken.
    pub request: FeatureRequest,
    /// Side in pixels of the overlapping tiles in which larger inputs go through the network; none do if
    /// `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<usize>,
}

impl InputSpec {
    /// Images preprocessed like this, in one pass through the network.
    pub fn new(preprocess: Preprocess, request: FeatureRequest) -> Self {
        Self {
            preprocess,
            request,
            tiles: None,
        }
    }

    /// Images stretched to a square of `image_size` pixels, normalised as ImageNet's, and the tokens
    /// of `blocks`; or why these settings of `method` cannot be.
    pub(crate) fn square(
        method: &'static str,
        image_size: u32,
        blocks: &[usize],
    ) -> Result<Self, DetectorError> {
        let refuse = |reason: &str| Err(DetectorError::settings(method, reason));
        if blocks.is_empty() {
            return refuse("`blocks` names no block");
        }
        if image_size == 0 {
            return refuse("`image_size` must be above 0");
        }
        Ok(Self::new(
            Preprocess::imagenet_square(image_size),
            FeatureRequest::blocks(blocks.iter().copied()),
        ))
    }

    /// The request that serves both, if one pass through the network can.
    pub fn join(&self, other: &Self) -> Option<Self> {
        if self.preprocess != other.preprocess || self.tiles != other.tiles {
            return None;
        }
        Some(Self {
            preprocess: self.preprocess.clone(),
            request: self.request.join(&other.request)?,
            tiles: self.tiles,
        })
    }
}
