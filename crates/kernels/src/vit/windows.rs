//! Windows of patches that go through the network by themselves (WinCLIP, section 4.2).

use super::work::{Plan, Rules, Workspace, feed_forward, finish};
use crate::attention::{AttentionOutput, AttentionScratch};
use crate::features::{FeatureMap, Grid};
use crate::parallel::{Parallel, Shared, Workers};
use crate::product::Epilogue;
use crate::request::{LayerId, TokenStage};

/// What the windows of one side need on their way.
#[derive(Default)]
pub(super) struct WindowScratch {
    /// The tokens of all windows, one window after the other.
    tokens: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    class: Vec<f32>,
    threads: Vec<AttentionScratch>,
}

impl Workspace {
    /// Fills those of `maps` that are of windows; the tokens must be those before the first block.
    pub(super) fn windows(&mut self, plan: &Plan, workers: Workers, maps: &mut [FeatureMap]) {
        for map in maps {
            if let LayerId::Window(side) = map.layer {
                self.windows_of(plan, side, &mut map.tokens, workers);
            }
        }
    }

    /// The embeddings of the windows of `side` x `side` patches, row by row.
    fn windows_of(&mut self, plan: &Plan, side: usize, to: &mut [f32], workers: Workers) {
        let (vit, rules) = (plan.vit, Rules::of(plan));
        let width = vit.width;
        let Self {
            linear,
            tokens: all,
            hidden,
            window:
                WindowScratch {
                    tokens,
                    qkv,
                    attended,
                    class,
                    threads,
                },
            ..
        } = self;
        let each = 1 + side * side;
        let Grid { rows, columns } = plan.grid;
        let row = |place: usize| &all[place * width..][..width];
        tokens.clear();
        for y in 0..=rows - side {
            for x in 0..=columns - side {
                tokens.extend_from_slice(row(0));
                for y in y..y + side {
                    let first = 1 + y * columns + x;
                    tokens.extend_from_slice(&all[first * width..][..side * width]);
                }
            }
        }
        let count = tokens.len() / (each * width);
        qkv.resize(3 * tokens.len(), 0.0);
        attended.resize(tokens.len(), 0.0);
        threads.resize_with(
            workers.threads().max(threads.len()),
            AttentionScratch::default,
        );
        for block in &vit.blocks {
            let norm = rules.norm(&block.norm1);
            let (norm, store) = (Some(norm.as_ref()), Epilogue::Store);
            (block.qkv).forward_by(tokens, norm, qkv, store, linear, workers);
            let (targets, scratch) = (Shared::new(attended), Shared::new(threads));
            workers.for_each_on(count, |window, thread| {
                let of_window = each * width;
                let qkv = &qkv[3 * window * of_window..][..3 * of_window];
                // SAFETY: each window is one task's.
                let to = unsafe { targets.part(window * of_window, of_window) };
                // SAFETY: a thread does one task at a time.
                let scratch = unsafe { &mut scratch.part(thread, 1)[0] };
                let output = &mut [AttentionOutput { own: None, to }];
                vit.attention
                    .forward(qkv, output, scratch, Parallel::Serial);
            });
            let add = Epilogue::Add;
            (block.output).forward_by(attended, None, tokens, add, linear, workers);
            feed_forward(&rules, block, tokens, (linear, hidden), workers);
        }
        class.clear();
        for window in tokens.chunks_exact(each * width) {
            class.extend_from_slice(&window[..width]);
        }
        let stage = TokenStage::Projected;
        finish(vit, &rules, stage, class, to, linear, workers);
    }
}
