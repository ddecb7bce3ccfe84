//! What every backbone offers: images in, class and patch tokens after chosen blocks out.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::BackboneError;
use crate::clip::ClipText;

/// How many patches an image was cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub columns: usize,
}

impl Grid {
    /// Patches in the whole image.
    pub fn len(self) -> usize {
        self.rows * self.columns
    }

    /// Whether there is no patch at all.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Which features are wanted. Blocks are counted from 1, as the papers do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureRequest {
    /// The blocks after which tokens are taken, ascending and without repeats.
    pub blocks: Vec<usize>,
    /// What is done to the tokens of every wanted block.
    #[serde(default)]
    pub stage: TokenStage,
    /// The local stream that tokens are taken from, where it runs; else the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpam: Option<Dpam>,
    /// How the image's embedding is made, if it is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
}

/// How far tokens have come when they are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenStage {
    /// As the block leaves them.
    #[default]
    Block,
    /// After the network's final layer norm.
    Normed,
    /// After the final layer norm and the projection to the space that CLIP's images and texts
    /// share; networks without a projection leave it out.
    Projected,
}

/// A second, local stream beside the network's own: from `first_block` on every block adds its
/// attention of one projection to itself, and no feed-forward layer (AnomalyCLIP's diagonally
/// prominent attention map, section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpam {
    /// The first block that the local stream has, counted from 1; it starts from that block's
    /// input.
    pub first_block: usize,
    /// What attends to itself.
    pub attention: SelfAttention,
}

/// The projection that attends to itself.
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
    /// The tokens of `blocks` (in any order, repeats are dropped) as the blocks leave them.
    pub fn blocks(blocks: impl IntoIterator<Item = usize>) -> Self {
        let mut blocks: Vec<usize> = blocks.into_iter().collect();
        blocks.sort_unstable();
        blocks.dedup();
        Self {
            blocks,
            stage: TokenStage::Block,
            dpam: None,
            embedding: None,
        }
    }

    /// The same tokens at another stage.
    pub fn at(self, stage: TokenStage) -> Self {
        Self { stage, ..self }
    }

    /// Whether `other` differs in nothing but the blocks.
    pub fn differs_in_blocks_only(&self, other: &Self) -> bool {
        let rest = |request: &Self| (request.stage, request.dpam, request.embedding);
        rest(self) == rest(other)
    }
}

/// The tokens of a batch after one block.
#[derive(Debug, Clone)]
pub struct BlockFeatures {
    /// The block, counted from 1.
    pub block: usize,
    /// `[batch, width]`.
    pub class_token: Tensor,
    /// `[batch, rows * columns, width]`, row by row.
    pub patch_tokens: Tensor,
}

/// The features of a batch of images of one size.
#[derive(Debug, Clone)]
pub struct Features {
    /// The patches of each image.
    pub grid: Grid,
    /// One entry for each wanted block, ascending.
    pub blocks: Vec<BlockFeatures>,
    /// `[batch, embedding width]`, if it was asked for.
    pub embedding: Option<Tensor>,
}

impl Features {
    /// The tokens after `block` (counted from 1), if they were asked for.
    pub fn block(&self, block: usize) -> Option<&BlockFeatures> {
        self.blocks.iter().find(|features| features.block == block)
    }

    /// The features of each image of the batch, as plain numbers.
    ///
    /// # Errors
    /// Only those of the tensor library.
    pub fn into_images(self) -> Result<Vec<ImageFeatures>, BackboneError> {
        let tensors = self.blocks.iter().map(|block| &block.class_token);
        let batch = tensors
            .chain(&self.embedding)
            .next()
            .map_or(0, |tensor| tensor.dims()[0]);
        let tokens = |features: &BlockFeatures, i: usize| -> candle_core::Result<BlockTokens> {
            Ok(BlockTokens {
                block: features.block,
                class_token: features.class_token.get(i)?.to_vec1()?,
                patch_tokens: features.patch_tokens.get(i)?.flatten_all()?.to_vec1()?,
            })
        };
        (0..batch)
            .map(|i| {
                let blocks = self.blocks.iter().map(|features| tokens(features, i));
                let embedding = self.embedding.as_ref();
                Ok(ImageFeatures {
                    grid: self.grid,
                    blocks: blocks.collect::<Result<_, _>>()?,
                    embedding: embedding.map(|e| e.get(i)?.to_vec1()).transpose()?,
                })
            })
            .collect::<candle_core::Result<_>>()
            .map_err(BackboneError::from)
    }
}

/// The features of one image, on the CPU.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFeatures {
    /// The patches of the image.
    pub grid: Grid,
    /// One entry for each wanted block, ascending.
    pub blocks: Vec<BlockTokens>,
    /// `[embedding width]`, if it was asked for.
    pub embedding: Option<Vec<f32>>,
}

impl ImageFeatures {
    /// The tokens after `block` (counted from 1), if they are there.
    pub fn block(&self, block: usize) -> Option<&BlockTokens> {
        self.blocks.iter().find(|tokens| tokens.block == block)
    }
}

/// The tokens of one image after one block.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockTokens {
    /// The block, counted from 1.
    pub block: usize,
    /// `[width]`.
    pub class_token: Vec<f32>,
    /// `[rows * columns, width]`, row by row.
    pub patch_tokens: Vec<f32>,
}

/// A frozen network that turns images into features.
///
/// The result for an image does not depend on the other images of its batch, nor on how many
/// threads there are.
pub trait ImageEncoder: Send + Sync {
    /// A name for people, such as `DINOv2 ViT-S/14`.
    fn name(&self) -> &str;

    /// Length of a token.
    fn width(&self) -> usize;

    /// Length of an embedding and of a projected token.
    fn embedding_width(&self) -> usize {
        self.width()
    }

    /// How many blocks there are.
    fn blocks(&self) -> usize;

    /// Side of a patch, in pixels.
    fn patch(&self) -> usize;

    /// The text encoder that shares the space of the embeddings, read anew each time; none where
    /// the network has none.
    ///
    /// # Errors
    /// [`BackboneError`] that names the tensor which is missing or has a wrong shape.
    fn text_encoder(&self) -> Result<Option<ClipText>, BackboneError> {
        Ok(None)
    }

    /// Encodes `images`, `[batch, 3, height, width]` in float32, normalised as the network wants
    /// them, with sides that are multiples of [`patch`](Self::patch).
    ///
    /// # Errors
    /// [`BackboneError::InputShape`] and [`BackboneError::NoSuchBlock`] for what does not fit the
    /// network.
    fn encode(&self, images: &Tensor, request: &FeatureRequest) -> Result<Features, BackboneError>;
}
