//! What a method wants from a backbone.

use anomalens_backbones::FeatureRequest;
use anomalens_vision::Preprocess;
use serde::{Deserialize, Serialize};

/// The way of an image up to its features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// From pixels to the network's input.
    pub preprocess: Preprocess,
    /// Which features are taken.
    pub request: FeatureRequest,
}

impl Setup {
    /// The request that serves both, if one pass through the network can.
    pub fn join(&self, other: &Self) -> Option<Self> {
        let same = self.preprocess == other.preprocess
            && self.request.differs_in_blocks_only(&other.request);
        same.then(|| {
            let blocks = self.request.blocks.iter().chain(&other.request.blocks);
            let request = FeatureRequest {
                blocks: FeatureRequest::blocks(blocks.copied()).blocks,
                ..self.request.clone()
            };
            Self {
                preprocess: self.preprocess.clone(),
                request,
            }
        })
    }
}
