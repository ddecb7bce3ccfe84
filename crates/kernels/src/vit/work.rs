//! One image on its way through a network.

use std::borrow::Cow;

use super::Vit;
use super::weights::Block;
use super::windows::WindowScratch;
use crate::attention::AttentionScratch;
use crate::features::{FeatureMap, Grid, ImageFeatures};
use crate::linear::LinearScratch;
use crate::parallel::Workers;
use crate::product::Epilogue;
use crate::request::{Departures, Embedding, FeatureRequest, LayerId, SelfAttention, TokenStage};
use crate::rows::{LayerNorm, Rows, layer_norm_by};

/// What is the same for all images of a batch.
pub(super) struct Plan<'a> {
    pub(super) vit: &'a Vit,
    pub(super) request: &'a FeatureRequest,
    /// `[1 + rows * columns, width]`
    pub(super) positions: &'a [f32],
    /// The patches of each image.
    pub(super) grid: Grid,
}

impl Plan<'_> {
    /// Room for the features of one image.
    pub(super) fn room(&self) -> ImageFeatures {
        let (vit, request, grid) = (self.vit, self.request, self.grid);
        let dim = match request.stage {
            TokenStage::Projected => vit.embedding_width(),
            TokenStage::Block | TokenStage::Normed | TokenStage::Keys => vit.width,
        };
        let map = |&layer: &LayerId| {
            let (grid, dim, class_token) = match layer {
                LayerId::Window(side) => {
                    let grid = Grid {
                        rows: grid.rows + 1 - side,
                        columns: grid.columns + 1 - side,
                    };
                    (grid, vit.embedding_width(), None)
                }
                LayerId::Block(_) | LayerId::Stage(_) => (grid, dim, Some(vec![0.0; dim])),
            };
            FeatureMap {
                layer,
                grid,
                dim,
                tokens: vec![0.0; grid.len() * dim],
                class_token,
            }
        };
        ImageFeatures {
            maps: request.layers.iter().map(map).collect(),
            embedding: request.embedding.map(|_| vec![0.0; vit.embedding_width()]),
            further: vec![],
        }
    }
}

/// How the layers of a network are computed.
pub(super) struct Rules {
    activation: Epilogue,
    /// Of every layer norm; its own if none.
    epsilon: Option<f32>,
}

impl Rules {
    /// Those of a request.
    pub(super) fn of(plan: &Plan) -> Self {
        let Departures {
            activation,
            norm_epsilon,
            ..
        } = plan.request.departures;
        Self {
            activation: activation.map_or(plan.vit.config.activation, |it| it.epilogue()),
            epsilon: norm_epsilon.map(|exponent| 0.1_f64.powi(exponent.into()) as f32),
        }
    }

    /// Those that the network was trained with.
    pub(super) fn trained(vit: &Vit) -> Self {
        Self {
            activation: vit.config.activation,
            epsilon: None,
        }
    }

    /// A layer norm of the network by these rules.
    pub(super) fn norm<'a>(&self, norm: &'a LayerNorm) -> Cow<'a, LayerNorm> {
        match self.epsilon {
            Some(epsilon) => Cow::Owned(norm.with_epsilon(epsilon)),
            None => Cow::Borrowed(norm),
        }
    }
}

/// What one image needs on its way; nothing is allocated for a second image of the same size.
#[derive(Default)]
pub(super) struct Workspace {
    pub(super) linear: LinearScratch,
    attention: AttentionScratch,
    /// The image's patches, as rows.
    patches: Vec<f32>,
    /// The network's own stream.
    pub(super) tokens: Vec<f32>,
    local: Vec<f32>,
    normed: Vec<f32>,
    qkv: Rows,
    attended: Rows,
    attended_local: Rows,
    /// Queries, keys and values, where only one of them is wanted; then that one.
    values: [Vec<f32>; 2],
    pub(super) hidden: Rows,
    pub(super) window: WindowScratch,
}

impl Workspace {
    /// Class and patch tokens before the first block.
    pub(super) fn embed(&mut self, plan: &Plan, pixels: &[f32], workers: Workers) {
        let vit = plan.vit;
        let patch = vit.config.patch;
        let Grid { rows, columns } = plan.grid;
        self.patches.resize(rows * columns * 3 * patch * patch, 0.0);
        for (i, line) in self.patches.chunks_exact_mut(patch).enumerate() {
            // Lines of pixels: by row of the patch, colour, and patch.
            let (place, colour, y) = (i / (3 * patch), i / patch % 3, i % patch);
            let y = (colour * rows + place / columns) * patch + y;
            let start = (y * columns + place % columns) * patch;
            line.copy_from_slice(&pixels[start..start + patch]);
        }
        self.tokens.clear();
        self.tokens.extend_from_slice(plan.positions);
        let (class, patches) = self.tokens.split_at_mut(vit.width);
        let times = 1.0 + f32::from(u8::from(plan.request.departures.class_twice));
        for (class, x) in class.iter_mut().zip(&vit.class_token) {
            *class += times * x;
        }
        let linear = &mut self.linear;
        vit.patch
            .forward_by(&self.patches, None, patches, Epilogue::Add, linear, workers);
        if let Some(norm) = &vit.norm {
            let norm = Rules::of(plan).norm(norm);
            self.normed(vit, &norm, workers);
            self.tokens.copy_from_slice(&self.normed);
        }
    }

    /// How many tokens there are.
    pub(super) fn tokens(&self, vit: &Vit) -> usize {
        self.tokens.len() / vit.width
    }

    /// The tokens after a layer norm.
    pub(super) fn normed(&mut self, vit: &Vit, norm: &LayerNorm, workers: Workers) -> &[f32] {
        let (tokens, linear) = (&self.tokens, &mut self.linear);
        self.normed.resize(tokens.len(), 0.0);
        layer_norm_by(vit.engine, norm, tokens, &mut self.normed, linear, workers);
        &self.normed
    }

    /// Runs the blocks that anything wanted depends on, and fills `maps` with the tokens after
    /// theirs.
    pub(super) fn run(&mut self, plan: &Plan, workers: Workers, maps: &mut [FeatureMap]) {
        let (vit, request) = (plan.vit, plan.request);
        let last_wanted = request.last_block();
        let last = match request.embedding {
            Some(_) => vit.blocks.len(),
            None => last_wanted,
        };
        let (all, rules) = (self.tokens(vit), Rules::of(plan));
        for (block, number) in vit.blocks[..last].iter().zip(1..) {
            let local = request
                .attention
                .filter(|local| (local.first_block.max(1)..=last_wanted).contains(&number));
            if local.is_some_and(|local| number == local.first_block.max(1)) {
                self.local.clone_from(&self.tokens);
            }
            let layer = LayerId::Block(number);
            if request.stage == TokenStage::Keys {
                for map in maps.iter_mut().filter(|map| map.layer == layer) {
                    self.keys(vit, &rules, block, map, workers);
                }
            }
            // The tokens of the own stream that something after this block needs.
            let rows = match request.layers.contains(&layer) {
                _ if number < last => all,
                true if local.is_none() => all,
                _ => usize::from(request.embedding.is_some()),
            };
            let own = local.map(|local| local.attention);
            self.attend(vit, &rules, block, rows, own, workers);
            if rows > 0 {
                self.feed_forward(vit, &rules, block, rows, workers);
            }
            if local.is_some_and(|local| local.feed_forward) {
                let scratch = (&mut self.linear, &mut self.hidden);
                feed_forward(&rules, block, &mut self.local, scratch, workers);
            }
            if request.stage == TokenStage::Keys {
                continue;
            }
            let tokens = match local {
                Some(_) => &self.local,
                None => &self.tokens,
            };
            let (class, patches) = tokens.split_at(vit.width);
            for map in maps.iter_mut().filter(|map| map.layer == layer) {
                let to_class = map.class_token.as_mut().map(|to| (class, to));
                for (from, to) in to_class.into_iter().chain([(patches, &mut map.tokens)]) {
                    let linear = &mut self.linear;
                    finish(vit, &rules, request.stage, from, to, linear, workers);
                }
            }
        }
    }

    /// The keys of a block, whose input the tokens are, after its output layer.
    fn keys(
        &mut self,
        vit: &Vit,
        rules: &Rules,
        block: &Block,
        to: &mut FeatureMap,
        workers: Workers,
    ) {
        let width = vit.width;
        let part = self.part(vit, rules, block, 1, workers);
        let mut out = vec![0.0; part.len()];
        let (linear, store) = (&mut self.linear, Epilogue::Store);
        (block.output).forward_by(&self.values[1], None, &mut out, store, linear, workers);
        let (class, patches) = out.split_at(width);
        if let Some(to) = &mut to.class_token {
            to.copy_from_slice(class);
        }
        to.tokens.copy_from_slice(patches);
    }

    /// Queries (0), keys (1) or values (2) of a block, whose input the tokens are; they stay in
    /// `values[1]`.
    fn part(
        &mut self,
        vit: &Vit,
        rules: &Rules,
        block: &Block,
        part: usize,
        workers: Workers,
    ) -> &[f32] {
        let width = vit.width;
        let [all_three, one] = &mut self.values;
        all_three.resize(3 * self.tokens.len(), 0.0);
        let norm = rules.norm(&block.norm1);
        let (norm, store) = (Some(norm.as_ref()), Epilogue::Store);
        let linear = &mut self.linear;
        (block.qkv).forward_by(&self.tokens, norm, all_three, store, linear, workers);
        one.clear();
        for row in all_three.chunks_exact(3 * width) {
            one.extend_from_slice(&row[part * width..][..width]);
        }
        one
    }

    /// The image's embedding, after the last block.
    pub(super) fn embedding(&mut self, plan: &Plan, to: &mut [f32]) {
        let vit = plan.vit;
        let class = &self.tokens[..vit.width];
        let (linear, serial) = (&mut self.linear, Workers::Serial);
        match (plan.request.embedding, &vit.projection) {
            (Some(Embedding::Direct), Some(projection)) => {
                projection.forward_by(class, None, to, Epilogue::Store, linear, serial);
            }
            (Some(Embedding::Direct), None) => to.copy_from_slice(class),
            _ => {
                let (rules, stage) = (Rules::of(plan), TokenStage::Projected);
                finish(vit, &rules, stage, class, to, linear, serial);
            }
        }
    }

    /// The first half of a block: attention of the first `rows` tokens of the own stream, and of
    /// all of the local one, in which `local` attends to itself.
    pub(super) fn attend(
        &mut self,
        vit: &Vit,
        rules: &Rules,
        block: &Block,
        rows: usize,
        local: Option<SelfAttention>,
        workers: Workers,
    ) {
        let (width, all) = (vit.width, self.tokens(vit));
        let (store, add) = (Epilogue::Store, Epilogue::Add);
        let alone = local == Some(SelfAttention::Alone);
        if alone {
            self.part(vit, rules, block, 2, workers);
            let (linear, to) = (&mut self.linear, &mut self.local);
            (block.output).forward_by(&self.values[1], None, to, add, linear, workers);
            if rows == 0 {
                return;
            }
        }
        let local = local.filter(|_| !alone);
        let Self {
            linear,
            attention,
            tokens,
            qkv,
            attended,
            attended_local,
            ..
        } = self;
        let norm = rules.norm(&block.norm1);
        let norm = Some(norm.as_ref());
        let to = (&mut *qkv, vit.attention.input_format());
        block
            .qkv
            .forward_to(to, tokens, norm, store, linear, workers);
        let format = vit.attention.output_format(block.output.input_format());
        let mut outputs = vec![(None, attended.target(rows, width, format), rows)];
        if local.is_some() {
            outputs.push((local, attended_local.target(all, width, format), all));
        }
        // SAFETY: the targets have been made for so many rows.
        unsafe { vit.attention.attend(qkv, all, &outputs, attention, workers) };
        if local.is_some() {
            let to = &mut self.local;
            block
                .output
                .forward_from(attended_local, to, add, linear, workers);
        }
        if rows > 0 {
            let to = &mut tokens[..rows * width];
            block
                .output
                .forward_from(attended, to, add, linear, workers);
        }
    }

    /// The second half of a block, for the first `rows` tokens of the own stream.
    pub(super) fn feed_forward(
        &mut self,
        vit: &Vit,
        rules: &Rules,
        block: &Block,
        rows: usize,
        workers: Workers,
    ) {
        let scratch = (&mut self.linear, &mut self.hidden);
        let tokens = &mut self.tokens[..rows * vit.width];
        feed_forward(rules, block, tokens, scratch, workers);
    }
}

/// The second half of a block, for `tokens`.
pub(super) fn feed_forward(
    rules: &Rules,
    block: &Block,
    tokens: &mut [f32],
    (linear, hidden): (&mut LinearScratch, &mut Rows),
    workers: Workers,
) {
    let norm = rules.norm(&block.norm2);
    let (norm, to) = (
        Some(norm.as_ref()),
        (&mut *hidden, block.down.input_format()),
    );
    let activation = rules.activation;
    block
        .up
        .forward_to(to, tokens, norm, activation, linear, workers);
    let add = Epilogue::Add;
    block
        .down
        .forward_from(hidden, tokens, add, linear, workers);
}

/// Brings the tokens `from` to a stage.
pub(super) fn finish(
    vit: &Vit,
    rules: &Rules,
    stage: TokenStage,
    from: &[f32],
    to: &mut [f32],
    linear: &mut LinearScratch,
    workers: Workers,
) {
    let norm = rules.norm(&vit.final_norm);
    let norm = norm.as_ref();
    match (stage, &vit.projection) {
        (TokenStage::Block, _) => to.copy_from_slice(from),
        (TokenStage::Projected, Some(projection)) => {
            let norm = Some(norm);
            projection.forward_by(from, norm, to, Epilogue::Store, linear, workers);
        }
        _ => layer_norm_by(vit.engine, norm, from, to, linear, workers),
    }
}
