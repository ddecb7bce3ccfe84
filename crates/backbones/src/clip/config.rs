//! The configuration of a CLIP network, read from the shapes of its weights.

use super::ClipTensors;
use crate::BackboneError;

/// Channels per attention head in every published tower but the vision tower of ViT-H/14.
const HEAD_WIDTH: usize = 64;

/// Width and blocks of the one published tower with another head width, and that width.
const WIDE_HEADS: (usize, usize, usize) = (1280, 32, 80);

/// More tokens than any text encoder takes; attention needs memory for their square.
const LONGEST_CONTEXT: usize = 4096;

/// What the shapes of the vision tower's weights say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisionConfig {
    /// Length of a token.
    pub width: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Side of the square grid that the position embedding was trained on.
    pub position_side: usize,
    /// Length of an embedding in the space shared with texts.
    pub embedding: usize,
}

/// What the shapes of the text tower's weights say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextConfig {
    /// Length of a token.
    pub width: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Tokens in a text, with start, end and padding.
    pub context: usize,
    /// Number of different tokens.
    pub vocabulary: usize,
    /// Length of an embedding in the space shared with images.
    pub embedding: usize,
}

impl VisionConfig {
    /// Reads the configuration from the shapes in `tensors`.
    ///
    /// # Errors
    /// [`BackboneError::MissingTensor`] if a tensor that gives a size is not there,
    /// [`BackboneError::Config`] if the sizes contradict each other.
    pub fn of(tensors: &ClipTensors) -> Result<Self, BackboneError> {
        let [width, patch] = match shape(tensors, "visual.conv1.weight")?[..] {
            [width, 3, patch, other] if patch == other && patch > 0 => [width, patch],
            ref shape => return Err(impossible("patch projection", shape)),
        };
        let position_side = match shape(tensors, "visual.positional_embedding")?[..] {
            [positions, _] if is_square_and_one(positions) => (positions - 1).isqrt(),
            ref shape => return Err(impossible("position embedding", shape)),
        };
        let embedding = match shape(tensors, "visual.proj")?[..] {
            [_, embedding] => embedding,
            ref shape => return Err(impossible("projection", shape)),
        };
        let blocks = tensors.count("visual.transformer.resblocks", "ln_1.weight");
        Ok(Self {
            width,
            blocks,
            heads: heads(width, blocks)?,
            patch,
            position_side,
            embedding,
        })
    }

    /// The usual name of a network of this size.
    pub(crate) fn name(&self) -> String {
        let Self {
            width,
            blocks,
            patch,
            position_side,
            ..
        } = self;
        let side = position_side * patch;
        match (width, blocks, patch, side) {
            (768, 12, _, 224) => format!("CLIP ViT-B/{patch}"),
            (896, 12, 16, 240) => "CLIP ViT-B/16+ 240".to_owned(),
            (1024, 24, _, 224) => format!("CLIP ViT-L/{patch}"),
            (1024, 24, _, _) => format!("CLIP ViT-L/{patch}@{side}"),
            (1280, 32, _, 224) => format!("CLIP ViT-H/{patch}"),
            _ => format!("CLIP of width {width} with {blocks} blocks, patch {patch}"),
        }
    }
}

impl TextConfig {
    /// Reads the configuration from the shapes in `tensors`.
    ///
    /// # Errors
    /// As [`VisionConfig::of`].
    pub fn of(tensors: &ClipTensors) -> Result<Self, BackboneError> {
        let [vocabulary, width] = match shape(tensors, "token_embedding.weight")?[..] {
            [vocabulary, width] => [vocabulary, width],
            ref shape => return Err(impossible("token embedding", shape)),
        };
        let context = match shape(tensors, "positional_embedding")?[..] {
            [context, _] if context <= LONGEST_CONTEXT => context,
            ref shape => return Err(impossible("position embedding of texts", shape)),
        };
        let embedding = match shape(tensors, "text_projection")?[..] {
            [_, embedding] => embedding,
            ref shape => return Err(impossible("text projection", shape)),
        };
        let blocks = tensors.count("transformer.resblocks", "ln_1.weight");
        Ok(Self {
            width,
            blocks,
            heads: heads(width, blocks)?,
            context,
            vocabulary,
            embedding,
        })
    }
}

/// The shape of a tensor that must be there.
fn shape(tensors: &ClipTensors, name: &str) -> Result<Vec<usize>, BackboneError> {
    tensors
        .shape(name)
        .ok_or_else(|| BackboneError::MissingTensor {
            name: name.to_owned(),
            expected: vec![],
        })
}

fn heads(width: usize, blocks: usize) -> Result<usize, BackboneError> {
    let head = match (width, blocks) {
        (w, b) if (w, b) == (WIDE_HEADS.0, WIDE_HEADS.1) => WIDE_HEADS.2,
        _ => HEAD_WIDTH,
    };
    if width == 0 || !width.is_multiple_of(head) {
        return Err(BackboneError::Config(format!(
            "the width {width} is no multiple of {head}"
        )));
    }
    Ok(width / head)
}

fn is_square_and_one(positions: usize) -> bool {
    positions > 1 && (positions - 1).isqrt().pow(2) + 1 == positions
}

fn impossible(what: &str, shape: &[usize]) -> BackboneError {
    BackboneError::Config(format!("the {what} has the shape {shape:?}"))
}
