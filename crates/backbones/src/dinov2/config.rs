//! The configuration of a DINOv2 network, read from the shapes of its weights.

use crate::BackboneError;
use crate::checkpoint::Checkpoint;

/// Channels per attention head, the same in every published size.
const HEAD_WIDTH: usize = 64;

/// The feed-forward half of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForwardKind {
    /// Two linear layers with exact GELU between them; the width in the middle.
    Gelu(usize),
    /// SwiGLU: one linear layer to twice this width, its halves multiplied (ViT-g).
    SwiGlu(usize),
}

/// What the shapes of a DINOv2 checkpoint say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
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
    /// Kind and width of the feed-forward layers.
    pub feed_forward: FeedForwardKind,
}

/// The published sizes without registers whose weights can be seeded: name, width and blocks; patches
/// of 14 pixels, trained on 518 pixels.
const PUBLISHED: [(&str, usize, usize); 3] = [
    ("dinov2-vit-s14", 384, 12),
    ("dinov2-vit-b14", 768, 12),
    ("dinov2-vit-l14", 1024, 24),
];

/// The names of networks whose weights can be seeded.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PUBLISHED.iter().map(|(name, ..)| *name)
}

/// The tensors of the network `name`.
pub(crate) fn shapes(name: &str) -> Option<Vec<(String, Vec<usize>)>> {
    const PATCH: usize = 14;
    let (_, width, blocks) = *PUBLISHED.iter().find(|(known, ..)| *known == name)?;
    let positions = 1 + (518 / PATCH).pow(2);
    let mut shapes = vec![
        ("embeddings.cls_token".to_owned(), vec![1, 1, width]),
        (
            "embeddings.position_embeddings".to_owned(),
            vec![1, positions, width],
        ),
    ];
    let mut layer = |name: String, shape: &[usize]| {
        shapes.push((format!("{name}.weight"), shape.to_vec()));
        shapes.push((format!("{name}.bias"), shape[..1].to_vec()));
    };
    let projection = "embeddings.patch_embeddings.projection";
    layer(projection.to_owned(), &[width, 3, PATCH, PATCH]);
    for block in (0..blocks).map(|i| format!("encoder.layer.{i}")) {
        for part in ["query", "key", "value"] {
            layer(
                format!("{block}.attention.attention.{part}"),
                &[width, width],
            );
        }
        layer(format!("{block}.attention.output.dense"), &[width, width]);
        layer(format!("{block}.mlp.fc1"), &[4 * width, width]);
        layer(format!("{block}.mlp.fc2"), &[width, 4 * width]);
        layer(format!("{block}.norm1"), &[width]);
        layer(format!("{block}.norm2"), &[width]);
    }
    layer("layernorm".to_owned(), &[width]);
    let scale =
        |i: usize| (1..=2).map(move |n| format!("encoder.layer.{i}.layer_scale{n}.lambda1"));
    let scales = (0..blocks).flat_map(scale);
    shapes.extend(scales.map(|name| (name, vec![width])));
    Some(shapes)
}

impl Config {
    /// Reads the configuration from the shapes in `checkpoint`.
    ///
    /// # Errors
    /// [`BackboneError::MissingTensor`] if a tensor that gives a size is not there,
    /// [`BackboneError::Config`] if the sizes contradict each other.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, BackboneError> {
        let shape = |name: &str| {
            checkpoint
                .shape(name)
                .ok_or_else(|| BackboneError::MissingTensor {
                    name: name.to_owned(),
                    expected: vec![],
                })
        };
        let impossible = |reason: String| BackboneError::Config(reason);
        let &[width, 3, patch, patch_width] =
            shape("embeddings.patch_embeddings.projection.weight")?
        else {
            return Err(impossible(
                "the patch projection is not [width, 3, side, side]".into(),
            ));
        };
        let &[1, positions, _] = shape("embeddings.position_embeddings")? else {
            return Err(impossible(
                "the position embedding is not [1, n, width]".into(),
            ));
        };
        let position_side = positions.saturating_sub(1).isqrt();
        if patch != patch_width || width == 0 || patch == 0 {
            return Err(impossible(format!(
                "patches of {patch} x {patch_width} pixels"
            )));
        }
        if position_side == 0 || position_side.pow(2) + 1 != positions {
            return Err(impossible(format!(
                "{positions} positions are not a square grid + 1"
            )));
        }
        if width % HEAD_WIDTH != 0 {
            return Err(impossible(format!(
                "the width {width} is no multiple of {HEAD_WIDTH}"
            )));
        }
        let mlp = "encoder.layer.0.mlp";
        let feed_forward = match checkpoint.shape(&format!("{mlp}.weights_in.weight")) {
            Some(&[twice, _]) => FeedForwardKind::SwiGlu(twice / 2),
            _ => match *shape(&format!("{mlp}.fc1.weight"))? {
                [middle, _] => FeedForwardKind::Gelu(middle),
                ref shape => {
                    let reason = format!("the feed-forward layer has the shape {shape:?}");
                    return Err(impossible(reason));
                }
            },
        };
        Ok(Self {
            width,
            blocks: checkpoint.count("encoder.layer", "norm1.weight"),
            heads: width / HEAD_WIDTH,
            patch,
            position_side,
            feed_forward,
        })
    }

    /// The usual name of a network of this size.
    pub(crate) fn name(&self) -> String {
        let Self {
            width,
            blocks,
            patch,
            ..
        } = self;
        match (width, blocks) {
            (384, 12) => format!("DINOv2 ViT-S/{patch}"),
            (768, 12) => format!("DINOv2 ViT-B/{patch}"),
            (1024, 24) => format!("DINOv2 ViT-L/{patch}"),
            (1536, 40) => format!("DINOv2 ViT-g/{patch}"),
            _ => format!("DINOv2 of width {width} with {blocks} blocks, patch {patch}"),
        }
    }
}
