//! Vision transformers (Dosovitskiy et al., 2021) with pre-norm blocks, as CLIP and DINOv2 have
//! them, from plain slices of weights.
//!
//! Beside the network's own stream of tokens a local one can start at any block (DPAM, AnomalyCLIP
//! section 3.3): it adds up attentions of another kind, computed from the own stream, and skips
//! the feed-forward layers.

mod saved;
mod smooth;
mod unpack;
mod weights;
mod windows;
mod work;

use std::sync::{Mutex, PoisonError};

use crate::attention::Attention;
use crate::engine::{Engine, Precision};
use crate::error::ShapeError;
use crate::features::{Grid, ImageFeatures};
use crate::linear::PackedLinear;
use crate::parallel::{Shared, Workers};
use crate::product::Epilogue;
use crate::request::{FeatureRequest, LayerId};
use crate::rows::LayerNorm;
use crate::worker_group::lead;
pub use saved::VitSizes;
pub use smooth::Calibration;
pub use unpack::{UnpackedBlock, UnpackedHead, UnpackedStem};
use weights::{Block, Packer};
pub use weights::{BlockWeights, HeadWeights, LinearWeights, NormWeights, StemWeights};
use work::{Plan, Workspace};

/// What the weights do not say.
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

/// A batch of images of one size, normalised as the network wants them.
#[derive(Debug, Clone)]
pub struct Images<'a> {
    /// Each `[3, height, width]`.
    pub pixels: Vec<&'a [f32]>,
    /// A multiple of the patch's side.
    pub height: usize,
    /// A multiple of the patch's side.
    pub width: usize,
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
        ShapeError::check("class token", width, width.max(1))?;
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

    /// What is wanted of each of `images`, with the position embedding `positions`,
    /// `[1 + patches, width]`, for images of this size.
    ///
    /// # Errors
    /// [`ShapeError`] if the images or the position embedding do not fit, or there is no such
    /// layer.
    pub fn encode(
        &self,
        images: &Images,
        positions: &[f32],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, ShapeError> {
        let grid = self.grid(images, positions)?;
        for layer in &request.layers {
            let (what, expected) = match *layer {
                LayerId::Block(number) if self.has(number) => continue,
                LayerId::Window(side) if (1..=grid.rows.min(grid.columns)).contains(&side) => {
                    continue;
                }
                LayerId::Window(_) => ("side of wanted windows", grid.rows.min(grid.columns)),
                LayerId::Block(_) | LayerId::Stage(_) => {
                    ("list of wanted layers", self.blocks.len())
                }
            };
            return Err(ShapeError {
                what,
                expected,
                found: layer.number(),
            });
        }
        if request.departures.activation.is_some() && self.config.activation == Epilogue::SwiGlu {
            return Err(ShapeError {
                what: "other activation of a network with gates",
                expected: 0,
                found: 1,
            });
        }
        let plan = Plan {
            vit: self,
            request,
            positions,
            grid,
        };
        let batch = images.pixels.len();
        let mut features: Vec<ImageFeatures> = (0..batch).map(|_| plan.room()).collect();
        let shared = Shared::new(&mut features);
        let encode = |image: usize, workers: Workers| {
            let mut workspace = self.workspaces().pop().unwrap_or_default();
            workspace.embed(&plan, images.pixels[image], workers);
            // SAFETY: every image is encoded once.
            let features = unsafe { &mut shared.part(image, 1)[0] };
            workspace.windows(&plan, workers, &mut features.maps);
            workspace.run(&plan, workers, &mut features.maps);
            if let Some(embedding) = &mut features.embedding {
                workspace.embedding(&plan, embedding);
            }
            self.workspaces().push(workspace);
        };
        // As many images as there are threads keep each other out of the way; what is left of a
        // batch is done by all threads together.
        let threads = Workers::Pool.threads();
        let apart = batch / threads * threads;
        Workers::Pool.for_each(apart, |image| encode(image, Workers::Serial));
        if apart < batch {
            lead(|leader| {
                (apart..batch).for_each(|image| encode(image, Workers::Group(leader)));
            });
        }
        Ok(features)
    }

    /// Whether there is a block of this number, counted from 1.
    fn has(&self, block: usize) -> bool {
        (1..=self.blocks.len()).contains(&block)
    }

    /// The patches of each image.
    fn grid(&self, images: &Images, positions: &[f32]) -> Result<Grid, ShapeError> {
        let patch = self.config.patch;
        let (rows, columns) = (images.height / patch, images.width / patch);
        ShapeError::check("image's height", images.height, rows * patch)?;
        ShapeError::check("image's width", images.width, columns * patch)?;
        // Products that overflow are larger than any slice.
        let tokens = rows.saturating_mul(columns).saturating_add(1);
        let expected = tokens.saturating_mul(self.width);
        ShapeError::check("position embedding", positions.len(), expected)?;
        let expected = images.height.saturating_mul(images.width).saturating_mul(3);
        for pixels in &images.pixels {
            ShapeError::check("image", pixels.len(), expected)?;
        }
        Ok(Grid { rows, columns })
    }

    fn workspaces(&self) -> std::sync::MutexGuard<'_, Vec<Workspace>> {
        self.workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
