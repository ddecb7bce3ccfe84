//! Which features of an image are wanted.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Activation;

/// A layer of a network, counted from 1 as in the papers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerId {
    /// A block of a transformer.
    Block(usize),
    /// A stage of a convolutional network.
    Stage(usize),
    /// The embeddings of windows of a transformer's patches (WinCLIP, section 4.2): each window, of so
    /// many patches on either side, goes through the whole network by itself with the class token. The
    /// windows are one patch apart; their grid is that of their upper left corners.
    Window(usize),
}

impl LayerId {
    /// The pixels that a network sees, as tokens of length 3: what is before its first stage.
    pub const PIXELS: Self = Self::Stage(0);

    /// Its number among those of its kind; the side of a window.
    pub fn number(self) -> usize {
        let (Self::Block(number) | Self::Stage(number) | Self::Window(number)) = self;
        number
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Block(number) => write!(f, "block {number}"),
            Self::Stage(number) => write!(f, "stage {number}"),
            Self::Window(side) => write!(f, "windows of {side}x{side} patches"),
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
    /// What is computed otherwise than the network was trained.
    #[serde(default, skip_serializing_if = "Departures::is_none")]
    pub departures: Departures,
}

/// What published implementations compute otherwise than the network was trained, so that their
/// results can be had again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Departures {
    /// Another function between feed-forward layers: exact GELU on weights of OpenAI in APRIL-GAN
    /// and MaskCLIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// The epsilon of layer norms is 10 to the power of minus this: 6 in MaskCLIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_epsilon: Option<u8>,
    /// The class token is added twice: DenseCLIP.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub class_twice: bool,
}

impl Departures {
    /// Whether everything is computed as the network was trained.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
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
    /// The keys of the block's own attention after its output layer, of all heads side by side
    /// (MaskCLIP, section 3.2).
    Keys,
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
    /// Whether the local stream goes through the feed-forward layers too, as MaskCLIP's does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub feed_forward: bool,
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
    /// Every token attends to itself alone, so that its value is the result (MaskCLIP, section 3.1).
    #[serde(rename = "none")]
    Alone,
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
            LayerId::Stage(_) | LayerId::Window(_) => 0,
        };
        self.layers.iter().map(block).max().unwrap_or(0)
    }

    /// The sides of the windows whose embeddings are taken.
    pub fn windows(&self) -> impl Iterator<Item = usize> {
        self.layers.iter().filter_map(|layer| match *layer {
            LayerId::Window(side) => Some(side),
            LayerId::Block(_) | LayerId::Stage(_) => None,
        })
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
