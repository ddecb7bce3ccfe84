//! The published sizes of CLIP, and the names and shapes of their weights.

use super::{TextConfig, VisionConfig};
use crate::Activation;

/// A CLIP network: both towers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Architecture {
    /// The image encoder.
    pub vision: VisionConfig,
    /// The text encoder.
    pub text: TextConfig,
    /// What the published weights of this size were trained with.
    pub activation: Activation,
}

/// Name; vision: width, blocks, heads, patch, side of the grid; text: width, blocks; embedding.
type Row = (&'static str, [usize; 5], [usize; 2], usize);

const PUBLISHED: [Row; 6] = [
    ("clip-vit-b32", [768, 12, 12, 32, 7], [512, 12], 512),
    ("clip-vit-b16", [768, 12, 12, 16, 14], [512, 12], 512),
    (
        "clip-vit-b16-plus-240",
        [896, 12, 14, 16, 15],
        [640, 12],
        640,
    ),
    ("clip-vit-l14", [1024, 24, 16, 14, 16], [768, 12], 768),
    ("clip-vit-l14-336", [1024, 24, 16, 14, 24], [768, 12], 768),
    ("clip-vit-h14", [1280, 32, 16, 14, 16], [1024, 24], 1024),
];

/// The sizes whose weights are LAION's; all others are OpenAI's.
const LAION: [&str; 2] = ["clip-vit-b16-plus-240", "clip-vit-h14"];

/// Tokens in a text and in the vocabulary, the same in every size.
const CONTEXT: usize = 77;
const VOCABULARY: usize = 49_408;

impl Architecture {
    /// The names of the published sizes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PUBLISHED.iter().map(|(name, ..)| *name)
    }

    /// The sizes that OpenAI published.
    pub(super) fn of_openai() -> impl Iterator<Item = Self> {
        Self::names()
            .filter(|name| !LAION.contains(name))
            .filter_map(Self::named)
    }

    /// The published size called `name`.
    pub fn named(name: &str) -> Option<Self> {
        let &(
            _,
            [width, blocks, heads, patch, position_side],
            [text_width, text_blocks],
            embedding,
        ) = PUBLISHED.iter().find(|(known, ..)| *known == name)?;
        let activation = if LAION.contains(&name) {
            Activation::Gelu
        } else {
            Activation::QuickGelu
        };
        Some(Self {
            activation,
            vision: VisionConfig {
                width,
                blocks,
                heads,
                patch,
                position_side,
                embedding,
            },
            text: TextConfig {
                width: text_width,
                blocks: text_blocks,
                heads: text_width / 64,
                context: CONTEXT,
                vocabulary: VOCABULARY,
                embedding,
            },
        })
    }

    /// Every tensor's name (OpenAI's) and shape.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let Self { vision, text, .. } = self;
        let mut shapes: Vec<(String, Vec<usize>)> = vec![];
        let mut add = |name: &str, shape: &[usize]| shapes.push((name.to_owned(), shape.to_vec()));
        let (width, patch) = (vision.width, vision.patch);
        add("visual.conv1.weight", &[width, 3, patch, patch]);
        add("visual.class_embedding", &[width]);
        let positions = 1 + vision.position_side.pow(2);
        add("visual.positional_embedding", &[positions, width]);
        add("visual.proj", &[width, vision.embedding]);
        add("token_embedding.weight", &[text.vocabulary, text.width]);
        add("positional_embedding", &[text.context, text.width]);
        add("text_projection", &[text.width, text.embedding]);
        add("logit_scale", &[]);
        for (norm, width) in [
            ("visual.ln_pre", width),
            ("visual.ln_post", width),
            ("ln_final", text.width),
        ] {
            add(&format!("{norm}.weight"), &[width]);
            add(&format!("{norm}.bias"), &[width]);
        }
        for (tower, width, blocks) in [
            ("visual.transformer", width, vision.blocks),
            ("transformer", text.width, text.blocks),
        ] {
            for i in 0..blocks {
                for (layer, shape) in block_shapes(width) {
                    add(&format!("{tower}.resblocks.{i}.{layer}"), &shape);
                }
            }
        }
        shapes
    }
}

/// The tensors of one block.
fn block_shapes(width: usize) -> [(&'static str, Vec<usize>); 12] {
    [
        ("ln_1.weight", vec![width]),
        ("ln_1.bias", vec![width]),
        ("attn.in_proj_weight", vec![3 * width, width]),
        ("attn.in_proj_bias", vec![3 * width]),
        ("attn.out_proj.weight", vec![width, width]),
        ("attn.out_proj.bias", vec![width]),
        ("ln_2.weight", vec![width]),
        ("ln_2.bias", vec![width]),
        ("mlp.c_fc.weight", vec![4 * width, width]),
        ("mlp.c_fc.bias", vec![4 * width]),
        ("mlp.c_proj.weight", vec![width, 4 * width]),
        ("mlp.c_proj.bias", vec![width]),
    ]
}
