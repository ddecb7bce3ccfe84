//! The matrix product under every layer: rows of words times panels of packed words.
//!
//! ```text
//! stretch   the depth in parts, of which the weights stay in the first-level cache
//! tile      sums in registers
//! end       what layers do to sums before they are written
//! ```
//!
//! A panel holds [`PANEL`] columns, word by word: `panel[word][column]`. Where the depth is one
//! stretch, a tile of sums stays in registers over all of it, while the panel streams from the
//! second-level cache; else a few rows' sums wait in memory from stretch to stretch.

mod end;
mod stretch;
mod tile;

use std::hint::black_box;

use crate::buffer::Buffer;
use crate::format::Format;
use crate::simd::{Dot, Simd};

pub use end::Epilogue;
pub(crate) use end::Layer;
use stretch::{Room, Stretches, fetch_share, widen};
pub(crate) use tile::Tile;
use tile::{End, Operands};

/// Columns in a panel.
pub(crate) const PANEL: usize = 32;

/// The most rows of any tile; room for that many must follow the last row of what is written.
pub(crate) const TILE_ROWS: usize = 32;

/// `rows * panels`; the pointers must be valid for the sizes that stand beside them.
pub(crate) struct Product<'a> {
    /// Rows of `depth` words, `stride` words apart.
    pub(crate) rows: *const u32,
    pub(crate) stride: usize,
    pub(crate) row_count: usize,
    /// Panels of `depth * PANEL` words, one after the other, on cache lines.
    pub(crate) panels: *const u32,
    pub(crate) panel_count: usize,
    pub(crate) depth: usize,
    /// Where the parts of a row begin, in words from its own beginning; the weights that they meet
    /// follow one another in the panels.
    pub(crate) parts: &'a [usize],
    /// Words of each part that are not padding; kernels may leave out the others. Whole cache lines
    /// if there are several parts.
    pub(crate) used: usize,
    /// For each column the sum to start from, in the kernel's own type.
    pub(crate) start: Option<*const f32>,
    pub(crate) sink: Sink<'a>,
}

/// Where sums go.
pub(crate) enum Sink<'a> {
    /// To memory as they are, whole panels wide.
    Plain { to: *mut f32, stride: usize },
    /// Through the end of a layer.
    Layer(Layer<'a>),
}

/// A target that tasks write parts of which do not overlap.
#[derive(Clone, Copy)]
pub(crate) struct SharedTarget(pub(crate) Target);

// SAFETY: to write is unsafe, and whoever does it keeps tasks apart.
unsafe impl Send for SharedTarget {}
// SAFETY: as above.
unsafe impl Sync for SharedTarget {}

impl SharedTarget {
    /// The part that starts with a number.
    pub(crate) fn from(&self, row: usize, column: usize) -> Target {
        Target {
            start: self.0.at(row, column),
            ..self.0
        }
    }
}

/// Rows of numbers to write, in float32 or, whole vectors at a time, in bfloat16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) start: *mut u32,
    /// Words from row to row.
    pub(crate) stride: usize,
    pub(crate) format: Format,
}

impl Target {
    /// Whether a layer can write its `columns` columns in `format`.
    pub(crate) fn takes(format: Format, last: Epilogue, columns: usize) -> bool {
        match format {
            Format::F32 => true,
            // Whole cache lines, so that nothing but zeros can follow in a row.
            Format::Bf16 => {
                columns.is_multiple_of(PANEL) && !last.adds() && last != Epilogue::SwiGlu
            }
            Format::F16 | Format::Int8 | Format::Int16 => false,
        }
    }

    /// The place of a number.
    pub(crate) fn at(self, row: usize, column: usize) -> *mut u32 {
        let word = row * self.stride + column / self.format.per_word();
        self.start.wrapping_add(word)
    }
}

/// Computes a product with the instruction `D`.
///
/// # Safety
/// The processor must have the instruction, the caller must be compiled for it, and the pointers
/// must be valid for the sizes beside them.
#[inline(always)]
pub(crate) unsafe fn product<D: Dot>(job: &Product) {
    let width = D::Simd::VECTORS * D::Simd::LANES;
    let blocks = job.row_count.div_ceil(D::ROWS).max(1);
    // Blocks of nearly one size: a last one of a row or two would be slow.
    let (size, larger) = (job.row_count / blocks, job.row_count % blocks);
    let edge = |block: usize| block * size + block.min(larger);
    let simple = match &job.sink {
        Sink::Layer(layer) => layer.simple(job),
        _ => None,
    };
    // Blocks that weights stay in the first-level cache for.
    let together = match D::Simd::BLOCKED {
        true => TILE_ROWS / D::ROWS,
        false => 1,
    };
    let mut tile = Tile([0.0; TILE_ROWS * PANEL]);
    let mut room = Room::new();
    for panel in 0..job.panel_count {
        let columns = match &job.sink {
            Sink::Plain { .. } => PANEL,
            Sink::Layer(layer) => (layer.columns - panel * PANEL).min(PANEL),
        };
        for group in (0..blocks).step_by(together) {
            let group = group..blocks.min(group + together);
            let top = edge(group.start);
            for column in (0..columns).step_by(width) {
                for stretch in Stretches::<D>::new(job) {
                    let from = (panel * job.depth + stretch.at) * PANEL + column;
                    // SAFETY: the stretch lies within the panel; the room is that of a stretch.
                    let weights = unsafe {
                        let weights = job.panels.add(from).cast::<f32>();
                        match D::STEPS {
                            1 => weights,
                            _ => widen::<D>(weights, stretch.words(), &mut room),
                        }
                    };
                    let share =
                        (stretch.words() / D::STEPS * PANEL / Buffer::LINE).div_ceil(blocks);
                    for block in group.clone() {
                        let (first, count) = (edge(block), edge(block + 1) - edge(block));
                        // SAFETY: `first + count` is at most the number of rows, `panel` and
                        // `column` lie within the panels; the tile has PANEL columns and a row for
                        // each of the group.
                        unsafe {
                            let sums = tile.0.as_mut_ptr().add((first - top) * PANEL + column);
                            let (to, to_stride) = match &job.sink {
                                _ if !stretch.last => (sums, PANEL),
                                Sink::Plain { to, stride } => {
                                    (to.add(first * stride + panel * PANEL + column), *stride)
                                }
                                Sink::Layer(layer) if simple.is_some() => {
                                    let at = layer.to.at(first, panel * PANEL + column);
                                    (at.cast(), layer.to.stride)
                                }
                                Sink::Layer(_) => (sums, PANEL),
                            };
                            let start = job.start.map(|start| start.add(panel * PANEL + column));
                            let operands = Operands {
                                // Or else the compiler computes this place again for every word.
                                rows: black_box(job.rows.add(first * job.stride)),
                                stride: job.stride,
                                weights,
                                start: match stretch.first {
                                    true => start.map(|start| (start, 0)),
                                    false => Some((sums.cast_const(), PANEL)),
                                },
                                to,
                                to_stride,
                                end: simple.filter(|_| stretch.last).map(|simple| End {
                                    bias: simple
                                        .bias
                                        .map(|bias| bias.wrapping_add(panel * PANEL + column)),
                                    column_factors: simple.column_factors.map(|factors| {
                                        factors.wrapping_add(panel * PANEL + column)
                                    }),
                                    row_factors: simple.row_factors.wrapping_add(first),
                                    columns: columns - column,
                                    ..simple
                                }),
                                stretch,
                            };
                            if D::Simd::BLOCKED {
                                fetch_share::<D>(job, panel, &stretch, (block, share));
                            }
                            // Of a last panel that is half empty only what is there.
                            match (columns - column).div_ceil(D::Simd::LANES) {
                                1 => operands.tile_of::<D, 1>(count),
                                2 => operands.tile_of::<D, 2>(count),
                                3 if D::Simd::VECTORS > 2 => operands.tile_of::<D, 3>(count),
                                _ if D::Simd::VECTORS > 2 => operands.tile_of::<D, 4>(count),
                                _ => operands.tile_of::<D, 2>(count),
                            }
                        }
                    }
                }
            }
            if let Sink::Layer(layer) = &job.sink
                && simple.is_none()
            {
                // SAFETY: the tile holds the sums of the group's rows.
                unsafe {
                    let rows = edge(group.end) - top;
                    layer.finish::<D::Simd>(&tile, top, 0..rows, panel * PANEL);
                }
            }
        }
    }
}
