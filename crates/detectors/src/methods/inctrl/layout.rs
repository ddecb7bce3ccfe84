//! Which blocks and shots meet in a training step.
//!
//! The reference stacks features block by block and shot by shot, and then reads them as if they
//! were stacked image by image: in a batch of several, an image meets blocks and shots of others.
//! The published checkpoints were trained that way; here it is a setting kept for comparison.

use serde::{Deserialize, Serialize};

/// How the features of a batch are put together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchLayout {
    /// Each image with its own shots, block by block, as the paper describes it.
    #[default]
    Intended,
    /// As the reference code does it.
    Reference,
}

/// The sizes of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchSize {
    /// Images to be scored.
    pub(super) images: usize,
    /// Shots of each.
    pub(super) shots: usize,
    /// Blocks whose tokens are compared.
    pub(super) blocks: usize,
}

/// The tokens of one image, or of one shot of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) block: usize,
    pub(super) image: usize,
}

/// A shot of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShotOf {
    pub(super) image: usize,
    pub(super) shot: usize,
}

impl BatchLayout {
    /// What stands for block `block` of image `image`: whose tokens, and the shots (and their
    /// block) that they are compared with.
    pub(super) fn comparison(
        self,
        size: BatchSize,
        image: usize,
        block: usize,
    ) -> (Tokens, Vec<(usize, ShotOf)>) {
        let BatchSize {
            images,
            shots,
            blocks,
        } = size;
        match self {
            Self::Intended => {
                let shots = (0..shots).map(|shot| (block, ShotOf { image, shot }));
                (Tokens { block, image }, shots.collect())
            }
            Self::Reference => {
                let place = blocks * image + block;
                let query = Tokens {
                    block: place / images,
                    image: place % images,
                };
                let prompts = (0..shots).map(|shot| {
                    let prompt = place * shots + shot;
                    let of_block = prompt % (shots * images);
                    let shot = ShotOf {
                        shot: of_block / images,
                        image: of_block % images,
                    };
                    (prompt / (shots * images), shot)
                });
                (query, prompts.collect())
            }
        }
    }

    /// The shots whose embeddings stand for those of image `image`.
    pub(super) fn embeddings(self, size: BatchSize, image: usize) -> Vec<ShotOf> {
        let shots = 0..size.shots;
        match self {
            Self::Intended => shots.map(|shot| ShotOf { image, shot }).collect(),
            Self::Reference => shots
                .map(|shot| {
                    let place = image * size.shots + shot;
                    ShotOf {
                        shot: place / size.images,
                        image: place % size.images,
                    }
                })
                .collect(),
        }
    }
}
