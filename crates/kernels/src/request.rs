//! Which features of an image are wanted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A layer of a network, counted from 1 as in the papers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerId {
    /// A block of a transformer.
    Block(usize),
    /// A stage of a convolutional network.
    Stage(usize),
}

impl LayerId {
    /// The pixels that a network sees, as tokens of length 3: what is before its first stage.
    pub const PIXELS: Self = Self::Stage(0);

    /// Its number among those of its kind.
    pub fn number(self) -> usize {
        let (Self::Block(number) | Self::Stage(number)) = self;
        number
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Block(number) => write!(f, "block {number}"),
            Self::Stage(number) => write!(f, "stage {number}"),
        }
    }
}

/// Which features of an image are wanted. Work that none of them needs is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureRequest {
    /// The layers after which tokens are taken, in the order in which they are returned.
    pub layers: Vec<LayerId>,
    /// What is done to the tokens of each of them.
    #[serde(default)]
    pub stage: TokenStage,
    /// The local stream that tokens are taken from, where it runs; else the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Dpam>,
    /// How the image's embedding is made, if it is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
    /// How the position embedding is brought to other grids; the network's own rule if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<PositionResize>,
}

/// How a position embedding is brought to another grid than it was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionResize {
    /// Bilinear, half-pixel centres, no antialiasing: AnomalyCLIP and the CLIP baselines.
    Bilinear,
    /// Bicubic (a = -0.75), no antialiasing: DINOv2 of Hugging Face and in ONNX files, MuSc's CLIP.
    Bicubic,
    /// The same with the scale `(new + 0.1) / trained`, as in the original DINOv2 repository.
    BicubicPadded,
    /// Bicubic (a = -0.5) with antialiasing: VAND and OpenCLIP.
    BicubicAntialias,
}

/// How far tokens have come when they are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenStage {
    /// As the layer leaves them.
    #[default]
    Block,
    /// After the network's final layer norm.
    Normed,
    /// After the final layer norm and the projection to the space that CLIP's images and texts
    /// share; networks without a projection leave it out.
    Projected,
}

/// A second, local stream of tokens (AnomalyCLIP's diagonally prominent attention map, section
/// 3.3): from `first_block` on every block adds to it the attention of one projection to itself,
/// computed from the network's own stream, and no feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpam {
    /// The first block that the local stream has, counted from 1; it starts from that block's
    /// input.
    pub first_block: usize,
    /// What attends to itself.
    pub attention: SelfAttention,
}

/// The projection that attends to itself; the values are always V.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SelfAttention {
    /// V-V.
    #[serde(rename = "vv")]
    Values,
    /// Q-Q.
    #[serde(rename = "qq")]
    Queries,
    /// K-K.
    #[serde(rename = "kk")]
    Keys,
}

/// How the class token after the last block becomes the image's embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Embedding {
    /// Final layer norm, then projection, as CLIP was trained.
    Normed,
    /// Projection alone, as AnomalyCLIP's reference does.
    Direct,
}

impl FeatureRequest {
    /// The tokens of `layers` (in any order, repeats are dropped) as the layers leave them.
    pub fn layers(layers: impl IntoIterator<Item = LayerId>) -> Self {
        let mut layers: Vec<LayerId> = layers.into_iter().collect();
        layers.sort_unstable();
        layers.dedup();
        Self {
            layers,
            ..Self::default()
        }
    }

    /// The same for the blocks of a transformer.
    pub fn blocks(blocks: impl IntoIterator<Item = usize>) -> Self {
        Self::layers(blocks.into_iter().map(LayerId::Block))
    }

    /// The same tokens at another stage.
    pub fn at(self, stage: TokenStage) -> Self {
        Self { stage, ..self }
    }

    /// The last block after which tokens are taken; 0 if none are.
    pub fn last_block(&self) -> usize {
        let block = |layer: &LayerId| match *layer {
            LayerId::Block(number) => number,
            LayerId::Stage(_) => 0,
        };
        self.layers.iter().map(block).max().unwrap_or(0)
    }

    /// One request for the layers of both; none if they differ in anything but their layers.
    pub fn join(&self, other: &Self) -> Option<Self> {
        let layers = self.layers.iter().chain(&other.layers);
        let joined = |request: &Self| Self {
            layers: Self::layers(layers.clone().copied()).layers,
            ..request.clone()
        };
        let (mine, others) = (joined(self), joined(other));
        (mine == others).then_some(mine)
    }
}
