//! Vision transformers (Dosovitskiy et al., 2021) with pre-norm blocks, as CLIP and DINOv2 have
//! them, from plain slices of weights.
//!
//! Beside the network's own stream of tokens a local one can start at any block (DPAM, AnomalyCLIP
//! section 3.3): it adds up attentions of another kind, computed from the own stream, and skips
//! the feed-forward layers.

mod saved;
mod smooth;
mod weights;
mod work;

use std::sync::{Mutex, PoisonError};

use crate::attention::{Attention, AttentionKind};
use crate::engine::{Engine, Precision};
use crate::error::ShapeError;
use crate::linear::PackedLinear;
use crate::parallel::{Parallel, Shared};
use crate::product::Epilogue;
use crate::rows::LayerNorm;
use crate::team::Team;
pub use saved::VitSizes;
pub use smooth::Calibration;
use weights::{Block, Packer};
pub use weights::{BlockWeights, HeadWeights, LinearWeights, NormWeights, StemWeights};
use work::{Plan, Workspace};

/// What the weights do not tell.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Attention heads.
    pub heads: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Epsilon of every layer norm.
    pub epsilon: f32,
    /// What stands between the feed-forward layers: [`Epilogue::Gelu`], [`Epilogue::QuickGelu`]
    /// or [`Epilogue::SwiGlu`].
    pub activation: Epilogue,
}

/// What is wanted of a batch. Work that nothing of it needs is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VitRequest {
    /// The blocks after which tokens are taken, counted from 1, ascending.
    pub blocks: Vec<usize>,
    /// How far those tokens have come.
    pub stage: VitStage,
    /// The local stream, from which tokens are taken where it runs.
    pub local: Option<LocalStream>,
    /// The class token of the own stream after the last block, projected.
    pub embedding: Option<VitEmbedding>,
}

/// How far tokens have come when they are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VitStage {
    /// As the block leaves them.
    #[default]
    Block,
    /// After the final layer norm.
    Normed,
    /// After the final layer norm and the projection, where there is one.
    Projected,
}

/// What is done to the class token before its projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VitEmbedding {
    /// The final layer norm.
    Normed,
    /// Nothing.
    Direct,
}

/// The local stream of DPAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalStream {
    /// The first block that has it, counted from 1.
    pub from: usize,
    /// What attends to what.
    pub kind: AttentionKind,
}

/// A batch of images, `[batch, 3, height, width]`, normalised as the network wants them.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// Row by row, colour by colour, image by image.
    pub pixels: &'a [f32],
    /// A multiple of the patch's side.
    pub height: usize,
    /// A multiple of the patch's side.
    pub width: usize,
}

/// What was wanted of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct VitFeatures {
    /// One entry for each wanted block.
    pub blocks: Vec<VitTokens>,
    /// `[batch, embedding width]`
    pub embedding: Option<Vec<f32>>,
}

/// The tokens of a batch after one block.
#[derive(Debug, Clone, PartialEq)]
pub struct VitTokens {
    /// The block, counted from 1.
    pub block: usize,
    /// `[batch, width]`, or the embedding's width if projected.
    pub class_token: Vec<f32>,
    /// `[batch, patches, width]`, or the embedding's width if projected.
    pub patch_tokens: Vec<f32>,
}

/// A network, packed for one engine and precision.
pub struct Vit {
    config: VitConfig,
    width: usize,
    engine: Engine,
    precision: Precision,
    patch: PackedLinear,
    class_token: Vec<f32>,
    norm: Option<LayerNorm>,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    projection: Option<PackedLinear>,
    attention: Attention,
    /// Workspaces that are not in use; each keeps its size.
    workspaces: Mutex<Vec<Workspace>>,
}

impl Vit {
    /// Packs a network without its blocks, which [`push`](Self::push) adds.
    ///
    /// # Errors
    /// [`ShapeError`] names what does not fit.
    pub fn new(
        engine: Engine,
        precision: Precision,
        config: VitConfig,
        stem: &StemWeights,
        head: &HeadWeights,
    ) -> Result<Self, ShapeError> {
        let width = stem.class_token.len();
        let head_width = width.checked_div(config.heads).unwrap_or(0);
        ShapeError::check("class token", head_width * config.heads, width)?;
        let packer = Packer {
            engine,
            precision,
            config: &config,
            width,
        };
        let pixels = 3 * config.patch * config.patch;
        let wide = packer.wide();
        let projection = head.projection.map(|weight| {
            let outputs = weight.len() / width;
            let bias = &vec![0.0; outputs][..];
            let layer = LinearWeights { weight, bias };
            wide.linear("final projection", layer, width, outputs, None)
        });
        Ok(Self {
            width,
            engine,
            precision,
            patch: wide.linear("patch projection", stem.patch, pixels, width, None)?,
            class_token: stem.class_token.to_vec(),
            norm: stem.norm.map(|norm| packer.norm(norm)).transpose()?,
            blocks: vec![],
            final_norm: packer.norm(head.norm)?,
            projection: projection.transpose()?,
            attention: Attention::new(engine, precision, config.heads, head_width),
            workspaces: Mutex::default(),
            config,
        })
    }

    /// Packs the next block, with weights fitted to the images of `calibration` if there are any:
    /// the same function, of which 8-bit products then make smaller errors.
    ///
    /// # Errors
    /// [`ShapeError`] names what does not fit.
    pub fn push(
        &mut self,
        weights: &BlockWeights,
        calibration: Option<&mut Calibration>,
    ) -> Result<(), ShapeError> {
        let packer = Packer {
            engine: self.engine,
            precision: self.precision,
            config: &self.config,
            width: self.width,
        };
        let block = match calibration {
            None => packer.block(weights)?,
            Some(calibration) => {
                let wide = packer.wide().block(weights)?;
                let [first, second] = calibration.fit(self, &wide, weights);
                packer.block(&BlockWeights {
                    norm1: first.norm(),
                    qkv: first.layer(),
                    norm2: second.norm(),
                    up: second.layer(),
                    ..*weights
                })?
            }
        };
        self.blocks.push(block);
        Ok(())
    }

    /// The formats of its numbers, for people and for names of files: `int8-bfloat16`.
    pub fn format_name(engine: Engine, precision: Precision) -> String {
        let name = |precision| engine.kernel(precision).format.name();
        match (name(precision), name(precision.wide())) {
            (narrow, wide) if narrow == wide => narrow.to_owned(),
            (narrow, wide) => format!("{narrow}-{wide}"),
        }
    }

    /// Length of a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Length of a projected token.
    pub fn embedding_width(&self) -> usize {
        let projection = self.projection.as_ref();
        projection.map_or(self.width, PackedLinear::outputs)
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// What is wanted of `images`, with the position embedding `positions`,
    /// `[1 + patches, width]`, for images of this size.
    ///
    /// # Errors
    /// [`ShapeError`] if the images or the position embedding do not fit, or there is no such
    /// block.
    pub fn encode(
        &self,
        images: Images,
        positions: &[f32],
        request: &VitRequest,
    ) -> Result<VitFeatures, ShapeError> {
        let (rows, columns, batch) = self.grid(&images, positions)?;
        let (patches, pixels) = (rows * columns, 3 * images.height * images.width);
        if let Some(&block) = request
            .blocks
            .iter()
            .find(|&&block| block == 0 || block > self.blocks.len())
        {
            ShapeError::check("list of wanted blocks", block, self.blocks.len())?;
        }

        let width = match request.stage {
            VitStage::Projected => self.embedding_width(),
            VitStage::Block | VitStage::Normed => self.width,
        };
        let tokens = |&block: &usize| VitTokens {
            block,
            class_token: vec![0.0; batch * width],
            patch_tokens: vec![0.0; batch * patches * width],
        };
        let mut features = VitFeatures {
            blocks: request.blocks.iter().map(tokens).collect(),
            embedding: request
                .embedding
                .map(|_| vec![0.0; batch * self.embedding_width()]),
        };
        let blocks: Vec<_> = features
            .blocks
            .iter_mut()
            .map(|tokens| {
                (
                    Shared::new(&mut tokens.class_token),
                    Shared::new(&mut tokens.patch_tokens),
                )
            })
            .collect();
        let embedding = features.embedding.as_deref_mut().map(Shared::new);
        let plan = Plan {
            vit: self,
            request,
            positions,
            rows,
            columns,
        };
        let encode = |image: usize, parallel: Parallel| {
            let pixels = &images.pixels[image * pixels..(image + 1) * pixels];
            let mut workspace = self.workspaces().pop().unwrap_or_default();
            workspace.embed(&plan, pixels, parallel);
            let tokens = |i: usize| {
                let (class_token, patch_tokens) = &blocks[i];
                let patches = patches * width;
                // SAFETY: every image has parts of its own, and is encoded once.
                unsafe {
                    (
                        class_token.part(image * width, width),
                        patch_tokens.part(image * patches, patches),
                    )
                }
            };
            workspace.run(&plan, parallel, tokens);
            if let Some(embedding) = &embedding {
                let width = self.embedding_width();
                // SAFETY: as above.
                let embedding = unsafe { embedding.part(image * width, width) };
                workspace.embedding(&plan, embedding);
            }
            self.workspaces().push(workspace);
        };
        // As many images as there are threads keep each other out of the way; what is left of a
        // batch is done by all threads together.
        let threads = Parallel::Pool.threads();
        let apart = batch / threads * threads;
        Parallel::Pool.for_each(apart, |image| encode(image, Parallel::Serial));
        if apart < batch {
            Team::gather(|team| {
                (apart..batch).for_each(|image| encode(image, Parallel::Team(team)));
            });
        }
        Ok(features)
    }

    /// Patches from top to bottom and from left to right, and the number of images.
    fn grid(
        &self,
        images: &Images,
        positions: &[f32],
    ) -> Result<(usize, usize, usize), ShapeError> {
        let patch = self.config.patch;
        let (rows, columns) = (images.height / patch, images.width / patch);
        ShapeError::check("image's height", images.height, rows * patch)?;
        ShapeError::check("image's width", images.width, columns * patch)?;
        let tokens = 1 + rows * columns;
        ShapeError::check("position embedding", positions.len(), tokens * self.width)?;
        let pixels = 3 * images.height * images.width;
        let batch = images.pixels.len().checked_div(pixels).unwrap_or(0);
        ShapeError::check("batch of images", images.pixels.len(), batch * pixels)?;
        Ok((rows, columns, batch))
    }

    fn workspaces(&self) -> std::sync::MutexGuard<'_, Vec<Workspace>> {
        self.workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
