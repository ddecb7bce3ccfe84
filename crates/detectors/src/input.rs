//! What a method wants from a backbone.

use anomalens_backbones::{self as backbones, FeatureRequest, ImageEncoder, LayerId};
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
    /// From -1 to 1: EfficientNet-Lite.
    Levels,
    /// Mean and deviation of CIFAR-10: ZOC.
    Cifar,
}

/// Mean and deviation of CIFAR-10 as ZOC has them.
const CIFAR: backbones::Normalisation = backbones::Normalisation {
    mean: [0.4913, 0.4821, 0.4465],
    std: [0.2470, 0.2434, 0.2615],
};

impl Normalisation {
    /// Images stretched to a square of `size` pixels and normalised.
    pub(crate) fn square(self, size: u32) -> Preprocess {
        match self {
            Self::Clip => Preprocess::clip_square(size),
            Self::Imagenet => Preprocess::imagenet_square(size),
            Self::Levels => Self::with(backbones::Normalisation::LEVELS, size),
            Self::Cifar => Self::with(CIFAR, size),
        }
    }

    fn with(
        backbones::Normalisation { mean, std }: backbones::Normalisation,
        size: u32,
    ) -> Preprocess {
        Preprocess {
            mean,
            std,
            ..Preprocess::imagenet_square(size)
        }
    }

    /// What `encoder` was trained with.
    pub(crate) fn of(encoder: &dyn ImageEncoder) -> Self {
        let found = encoder.spec().normalisation;
        let known = [
            (backbones::Normalisation::CLIP, Self::Clip),
            (backbones::Normalisation::LEVELS, Self::Levels),
        ];
        let known = known.into_iter().find(|(of, _)| *of == found);
        known.map_or(Self::Imagenet, |(_, it)| it)
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
    /// The network, of several that see the same images; 0 is the first.
    #[serde(default, skip_serializing_if = "is_first")]
    pub network: usize,
    /// From pixels to the network's input.
    pub preprocess: Preprocess,
    /// Which features are taken.
    pub request: FeatureRequest,
    /// Side in pixels of the overlapping tiles in which larger inputs go through the network; none do if
    /// `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<usize>,
    /// Side in cells of the squares over which the maps of a convolutional network are averaged before
    /// they are joined to one map on the finest grid (PatchCore, section 3.1);
    /// they stay as they are if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_cells: Option<usize>,
}

impl InputSpec {
    /// Images preprocessed like this, in one pass through the network.
    pub fn new(preprocess: Preprocess, request: FeatureRequest) -> Self {
        Self {
            network: 0,
            preprocess,
            request,
            tiles: None,
            join_cells: None,
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
        let request = self.request.join(&other.request)?;
        let with = |one: &Self| Self {
            request: request.clone(),
            ..one.clone()
        };
        // A joined map is of all layers of its request: another one would change it.
        // And pixels come from no network.
        let stays = |one: &Self| {
            let alone = one.join_cells.is_some() || one.request.layers.contains(&LayerId::PIXELS);
            !alone || one.request == request
        };
        (with(self) == with(other) && stays(self) && stays(other)).then(|| with(self))
    }
}

fn is_first(network: &usize) -> bool {
    *network == 0
}
