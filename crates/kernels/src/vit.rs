//! Vision transformers (Dosovitskiy et al., 2021) with pre-norm blocks, as CLIP and DINOv2 have
//! them, from plain slices of weights.
//!
//! A network may carry a second, local stream from some block on (DPAM, AnomalyCLIP section 3.3):
//! it adds up attentions of another kind, computed from the first stream, and skips the
//! feed-forward layers.

use std::sync::{Mutex, PoisonError};

use crate::attention::{Attention, AttentionKind, AttentionOutput, AttentionScratch};
use crate::engine::{Engine, Precision};
use crate::error::ShapeError;
use crate::linear::{LinearScratch, PackedLinear};
use crate::parallel::{Parallel, Shared};
use crate::product::Epilogue;
use crate::rows::{LayerNorm, layer_norm};

/// What the weights do not tell.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Attention heads.
    pub heads: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Epsilon of every layer norm.
    pub epsilon: f32,
    /// What stands between the feed-forward layers: [`Epilogue::Gelu`] or
    /// [`Epilogue::QuickGelu`].
    pub activation: Epilogue,
    /// The second stream.
    pub local: Option<LocalStream>,
}

/// The second stream of DPAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalStream {
    /// The first block that has it, counted from 1.
    pub from: usize,
    /// What attends to what.
    pub kind: AttentionKind,
}

/// Weight `[outputs, inputs]` and bias `[outputs]`.
#[derive(Debug, Clone, Copy)]
pub struct LinearWeights<'a> {
    /// Row by row.
    pub weight: &'a [f32],
    /// One for each output.
    pub bias: &'a [f32],
}

/// The weights of a layer norm.
#[derive(Debug, Clone, Copy)]
pub struct NormWeights<'a> {
    /// One for each input.
    pub weight: &'a [f32],
    /// One for each input.
    pub bias: &'a [f32],
}

/// The weights of one block.
#[derive(Debug, Clone, Copy)]
pub struct BlockWeights<'a> {
    /// Before attention.
    pub norm1: NormWeights<'a>,
    /// Queries, keys and values, in this order.
    pub qkv: LinearWeights<'a>,
    /// After attention.
    pub output: LinearWeights<'a>,
    /// LayerScale after attention, if there is one.
    pub scale1: Option<&'a [f32]>,
    /// Before the feed-forward layers.
    pub norm2: NormWeights<'a>,
    /// The first feed-forward layer.
    pub up: LinearWeights<'a>,
    /// The second one.
    pub down: LinearWeights<'a>,
    /// LayerScale after the feed-forward layers, if there is one.
    pub scale2: Option<&'a [f32]>,
}

/// The weights of a network.
#[derive(Debug, Clone)]
pub struct VitWeights<'a> {
    /// `[width, 3 * patch * patch]` and a bias, which may be zeros.
    pub patch: LinearWeights<'a>,
    /// `[width]`
    pub class_token: &'a [f32],
    /// CLIP's layer norm before the first block.
    pub norm: Option<NormWeights<'a>>,
    /// One for each block.
    pub blocks: Vec<BlockWeights<'a>>,
}

/// A network, packed for one engine and precision.
pub struct Vit {
    config: VitConfig,
    width: usize,
    engine: Engine,
    patch: PackedLinear,
    class_token: Vec<f32>,
    norm: Option<LayerNorm>,
    blocks: Vec<Block>,
    attention: Attention,
    /// Workspaces that are not in use; each keeps its size.
    workspaces: Mutex<Vec<Workspace>>,
}

struct Block {
    norm1: LayerNorm,
    qkv: PackedLinear,
    output: PackedLinear,
    norm2: LayerNorm,
    up: PackedLinear,
    down: PackedLinear,
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

/// The tokens of a batch after one block.
#[derive(Debug, Clone, PartialEq)]
pub struct VitTokens {
    /// The block, counted from 1.
    pub block: usize,
    /// `[batch, 1 + patches, width]`, the class token first; of the local stream where there is
    /// one.
    pub tokens: Vec<f32>,
    /// `[batch, width]`: the class token of the first stream.
    pub class_token: Vec<f32>,
}

impl Vit {
    /// Packs a network.
    ///
    /// # Errors
    /// [`ShapeError`] names what does not fit.
    pub fn new(
        engine: Engine,
        precision: Precision,
        config: VitConfig,
        weights: &VitWeights,
    ) -> Result<Self, ShapeError> {
        let width = weights.class_token.len();
        let head_width = width.checked_div(config.heads).unwrap_or(0);
        ShapeError::check("class token", head_width * config.heads, width)?;
        // The first layer sees pixels, whose range does not suit 8 bits.
        let patch_precision = match precision {
            Precision::Int8 => Precision::Half,
            other => other,
        };
        let reader = Reader {
            engine,
            precision,
            epsilon: config.epsilon,
        };
        let pixels = 3 * config.patch * config.patch;
        let patch = Reader {
            precision: patch_precision,
            ..reader
        };
        Ok(Self {
            width,
            engine,
            patch: patch.linear("patch projection", weights.patch, pixels, width, None)?,
            class_token: weights.class_token.to_vec(),
            norm: weights
                .norm
                .map(|norm| reader.norm(norm, width))
                .transpose()?,
            blocks: weights
                .blocks
                .iter()
                .map(|weights| Block::new(&reader, weights, width))
                .collect::<Result<_, _>>()?,
            attention: Attention::new(engine, precision, config.heads, head_width),
            workspaces: Mutex::default(),
            config,
        })
    }

    /// Length of a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The tokens after `wanted` blocks (counted from 1, ascending), with the position embedding
    /// `positions`, `[1 + patches, width]`, for images of this size. Blocks after the last wanted
    /// one are skipped.
    ///
    /// # Errors
    /// [`ShapeError`] if the images or the position embedding do not fit, or there is no such
    /// block.
    pub fn encode(
        &self,
        images: Images,
        positions: &[f32],
        wanted: &[usize],
    ) -> Result<Vec<VitTokens>, ShapeError> {
        let patch = self.config.patch;
        let (rows, columns) = (images.height / patch, images.width / patch);
        ShapeError::check("image's height", images.height, rows * patch)?;
        ShapeError::check("image's width", images.width, columns * patch)?;
        let tokens = 1 + rows * columns;
        ShapeError::check("position embedding", positions.len(), tokens * self.width)?;
        let pixels = 3 * images.height * images.width;
        let batch = images.pixels.len().checked_div(pixels).unwrap_or(0);
        ShapeError::check("batch of images", images.pixels.len(), batch * pixels)?;
        if let Some(&block) = wanted
            .iter()
            .find(|&&block| block == 0 || block > self.blocks.len())
        {
            ShapeError::check("list of wanted blocks", block, self.blocks.len())?;
        }

        let mut results: Vec<VitTokens> = wanted
            .iter()
            .map(|&block| VitTokens {
                block,
                tokens: vec![0.0; batch * tokens * self.width],
                class_token: vec![0.0; batch * self.width],
            })
            .collect();
        let shared: Vec<_> = results
            .iter_mut()
            .map(|result| {
                (
                    Shared::new(&mut result.tokens),
                    Shared::new(&mut result.class_token),
                )
            })
            .collect();
        let encode = |image: usize, parallel: Parallel| {
            let pixels = &images.pixels[image * pixels..(image + 1) * pixels];
            let mut workspace = self.workspaces().pop().unwrap_or_default();
            workspace.embed(self, pixels, images, positions, parallel);
            workspace.run(self, wanted, parallel, |i, local, class| {
                let (tokens, class_token) = &shared[i];
                // SAFETY: every image has parts of its own, and is encoded once.
                unsafe {
                    tokens
                        .part(image * local.len(), local.len())
                        .copy_from_slice(local);
                    class_token
                        .part(image * class.len(), class.len())
                        .copy_from_slice(class);
                }
            });
            self.workspaces().push(workspace);
        };
        // As many images as there are threads keep each other out of the way; what is left of a
        // batch is done by all threads together.
        let threads = Parallel::Pool.threads();
        let apart = batch / threads * threads;
        Parallel::Pool.for_each(apart, |image| encode(image, Parallel::Serial));
        (apart..batch).for_each(|image| encode(image, Parallel::Pool));
        Ok(results)
    }

    fn workspaces(&self) -> std::sync::MutexGuard<'_, Vec<Workspace>> {
        self.workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Packs layers, checking their shapes.
#[derive(Clone, Copy)]
struct Reader {
    engine: Engine,
    precision: Precision,
    epsilon: f32,
}

impl Reader {
    fn norm(&self, norm: NormWeights, width: usize) -> Result<LayerNorm, ShapeError> {
        ShapeError::check("weight of a layer norm", norm.weight.len(), width)?;
        ShapeError::check("bias of a layer norm", norm.bias.len(), width)?;
        Ok(LayerNorm::new(norm.weight, norm.bias, self.epsilon))
    }

    /// A layer, with every output multiplied by its `scale`.
    fn linear(
        &self,
        what: &'static str,
        layer: LinearWeights,
        inputs: usize,
        outputs: usize,
        scale: Option<&[f32]>,
    ) -> Result<PackedLinear, ShapeError> {
        ShapeError::check(what, layer.weight.len(), inputs * outputs)?;
        ShapeError::check(what, layer.bias.len(), outputs)?;
        let Some(scale) = scale else {
            return PackedLinear::new(self.engine, self.precision, layer.weight, layer.bias);
        };
        ShapeError::check("LayerScale", scale.len(), outputs)?;
        let rows = layer.weight.chunks_exact(inputs).zip(scale);
        let weight: Vec<f32> = rows
            .flat_map(|(row, scale)| row.iter().map(move |x| x * scale))
            .collect();
        let bias: Vec<f32> = layer
            .bias
            .iter()
            .zip(scale)
            .map(|(x, scale)| x * scale)
            .collect();
        PackedLinear::new(self.engine, self.precision, &weight, &bias)
    }
}

impl Block {
    fn new(reader: &Reader, weights: &BlockWeights, width: usize) -> Result<Self, ShapeError> {
        let middle = weights.up.bias.len();
        Ok(Self {
            norm1: reader.norm(weights.norm1, width)?,
            qkv: reader.linear("query, key and value", weights.qkv, width, 3 * width, None)?,
            output: reader.linear(
                "attention's output",
                weights.output,
                width,
                width,
                weights.scale1,
            )?,
            norm2: reader.norm(weights.norm2, width)?,
            up: reader.linear("first feed-forward layer", weights.up, width, middle, None)?,
            down: reader.linear(
                "second feed-forward layer",
                weights.down,
                middle,
                width,
                weights.scale2,
            )?,
        })
    }
}

/// What one image needs on its way; nothing is allocated for a second image of the same size.
#[derive(Default)]
struct Workspace {
    linear: LinearScratch,
    attention: AttentionScratch,
    /// The image's patches, as rows.
    patches: Vec<f32>,
    tokens: Vec<f32>,
    /// The second stream.
    local: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    attended_local: Vec<f32>,
    hidden: Vec<f32>,
}

impl Workspace {
    /// Class and patch tokens before the first block.
    fn embed(
        &mut self,
        vit: &Vit,
        pixels: &[f32],
        images: Images,
        positions: &[f32],
        parallel: Parallel,
    ) {
        let patch = vit.config.patch;
        let (rows, columns) = (images.height / patch, images.width / patch);
        self.patches.resize(rows * columns * 3 * patch * patch, 0.0);
        for (i, line) in self.patches.chunks_exact_mut(patch).enumerate() {
            // Lines of pixels: by row of the patch, colour, and patch.
            let (place, colour, y) = (i / (3 * patch), i / patch % 3, i % patch);
            let y = (colour * rows + place / columns) * patch + y;
            let start = y * images.width + place % columns * patch;
            line.copy_from_slice(&pixels[start..start + patch]);
        }
        self.tokens.clear();
        self.tokens.extend_from_slice(positions);
        let (class, patches) = self.tokens.split_at_mut(vit.width);
        for (class, x) in class.iter_mut().zip(&vit.class_token) {
            *class += x;
        }
        let linear = &mut self.linear;
        vit.patch.forward(
            &self.patches,
            None,
            patches,
            Epilogue::Add,
            linear,
            parallel,
        );
        if let Some(norm) = &vit.norm {
            self.qkv.resize(self.tokens.len(), 0.0);
            layer_norm(vit.engine, norm, &self.tokens, &mut self.qkv, parallel);
            self.tokens.copy_from_slice(&self.qkv);
        }
    }

    /// Runs the blocks up to the last wanted one; `done` gets the index of each wanted block, all
    /// tokens, and the class token of the first stream.
    fn run(
        &mut self,
        vit: &Vit,
        wanted: &[usize],
        parallel: Parallel,
        mut done: impl FnMut(usize, &[f32], &[f32]),
    ) {
        let last = wanted.iter().copied().max().unwrap_or(0);
        let width = vit.width;
        for (block, number) in vit.blocks[..last].iter().zip(1..) {
            let local = vit.config.local.filter(|local| number >= local.from);
            if let Some(local) = local {
                if number == local.from.max(1) {
                    self.local.clone_from(&self.tokens);
                }
                // After the last block only the class token of the first stream is of use.
                let rows = if number == last {
                    1
                } else {
                    self.tokens.len() / width
                };
                self.block(vit, block, rows, Some(local.kind), parallel);
            } else {
                self.block(vit, block, self.tokens.len() / width, None, parallel);
            }
            if let Some(i) = wanted.iter().position(|&wanted| wanted == number) {
                let tokens = if local.is_some() {
                    &self.local
                } else {
                    &self.tokens
                };
                done(i, tokens, &self.tokens[..width]);
            }
        }
    }

    /// One block: the first `rows` tokens of the first stream, and all of the local one.
    fn block(
        &mut self,
        vit: &Vit,
        block: &Block,
        rows: usize,
        local: Option<AttentionKind>,
        parallel: Parallel,
    ) {
        let count = self.tokens.len();
        let used = rows * vit.width;
        self.qkv.resize(3 * count, 0.0);
        self.attended.resize(count, 0.0);
        self.attended_local.resize(count, 0.0);
        let Self {
            linear,
            attention,
            tokens,
            qkv,
            attended,
            attended_local,
            ..
        } = self;
        block.qkv.forward(
            tokens,
            Some(&block.norm1),
            qkv,
            Epilogue::Store,
            linear,
            parallel,
        );
        let attended = &mut attended[..used];
        let first = AttentionOutput {
            kind: AttentionKind::Qk,
            to: attended,
        };
        match local {
            Some(kind) => {
                let to = &mut attended_local[..];
                let second = AttentionOutput { kind, to };
                vit.attention
                    .forward(qkv, &mut [first, second], attention, parallel);
                let to = &mut self.local;
                block
                    .output
                    .forward(attended_local, None, to, Epilogue::Add, linear, parallel);
            }
            None => vit
                .attention
                .forward(qkv, &mut [first], attention, parallel),
        }
        let tokens = &mut tokens[..used];
        block
            .output
            .forward(attended, None, tokens, Epilogue::Add, linear, parallel);
        self.hidden.resize(rows * block.up.outputs(), 0.0);
        let (hidden, norm) = (&mut self.hidden, Some(&block.norm2));
        block.up.forward(
            tokens,
            norm,
            hidden,
            vit.config.activation,
            linear,
            parallel,
        );
        block
            .down
            .forward(hidden, None, tokens, Epilogue::Add, linear, parallel);
    }
}
