//! The matrix product under every layer: rows of words times panels of packed words.
//!
//! A panel holds [`PANEL`] columns, word by word: `panel[word][column]`. A tile of sums stays in
//! registers over the whole depth, while the panel streams from the second-level cache; so there
//! are no partial sums in memory.

use std::hint::black_box;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::buffer::Buffer;
use crate::format::Format;
use crate::simd::{Dot, Lanes, Simd};

/// Columns in a panel.
pub(crate) const PANEL: usize = 32;

/// Words of a panel that are fetched before they are needed: some 600 cycles, for what comes from
/// beyond the second-level cache.
const AHEAD: usize = 48;

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

/// What is done to a sum: `sum * row factor * column factor + bias`, then the last step.
pub(crate) struct Layer<'a> {
    pub(crate) row_factors: &'a [f32],
    /// Whole panels.
    pub(crate) column_factors: Option<&'a [f32]>,
    /// Whole panels.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) last: Epilogue,
    pub(crate) to: Target,
    /// Columns to write, at most those of all panels.
    pub(crate) columns: usize,
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

/// The last step of a layer, on `x = W a + b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Epilogue {
    /// The output becomes `x`.
    Store,
    /// The output becomes `max(x, 0)`.
    Relu,
    /// The output becomes `min(max(x, 0), 6)`.
    Relu6,
    /// The output becomes the exact GELU of `x`.
    Gelu,
    /// The output becomes `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x` is added to the output, which holds the residual.
    Add,
    /// The same, and the output becomes the sum where that is positive, else 0.
    AddRelu,
    /// SwiGLU (Shazeer, 2020): of every 32 columns the first 16 are gates `g`, the others values
    /// `v`, and the output becomes the 16 products `g * sigmoid(g) * v`.
    SwiGlu,
}

impl Epilogue {
    /// What no output is below, where that is little.
    pub(crate) fn lowest(self) -> Option<f32> {
        match self {
            // Minima of the two functions, rounded down.
            Self::Gelu => Some(-0.1700),
            Self::QuickGelu => Some(-0.1637),
            Self::Store | Self::Relu | Self::Relu6 | Self::Add | Self::AddRelu | Self::SwiGlu => {
                None
            }
        }
    }

    /// Whether the output holds something to add to.
    pub fn adds(self) -> bool {
        matches!(self, Self::Add | Self::AddRelu)
    }

    /// Columns of the output for `columns` of the product.
    pub(crate) fn columns(self, columns: usize) -> usize {
        match self {
            Self::SwiGlu => columns / 2,
            _ => columns,
        }
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
    let mut room = Room([const { MaybeUninit::uninit() }; ROOM * PANEL]);
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

/// Sums of a tile on their way to a layer's end.
#[repr(align(64))]
pub(crate) struct Tile(pub(crate) [f32; TILE_ROWS * PANEL]);

/// Words of a row in a stretch.
const fn depth<D: Dot>() -> usize {
    match D::Simd::BLOCKED {
        true => ROOM,
        false => usize::MAX,
    }
}

/// Words of a stretch that [`Room`] has place for.
const ROOM: usize = 192;

/// Wide weights of a stretch.
#[repr(align(64))]
struct Room([MaybeUninit<f32>; ROOM * PANEL]);

/// Weights of a panel from a place on, for so many words of the rows, made as wide as these.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
unsafe fn widen<D: Dot>(weights: *const f32, words: usize, room: &mut Room) -> *const f32 {
    let words = words.div_ceil(D::STEPS);
    assert!(words * D::STEPS <= ROOM, "a stretch that is too long");
    let to = room.0.as_mut_ptr().cast::<f32>();
    for word in 0..words {
        for vector in (0..PANEL).step_by(D::Simd::LANES) {
            // SAFETY: a panel has PANEL columns, and the room is long enough, see above.
            unsafe {
                let narrow = D::Simd::load(weights.add(word * PANEL + vector));
                for step in 0..D::STEPS {
                    let to = to.add((word * D::STEPS + step) * PANEL + vector);
                    D::Simd::store(to, D::widen(narrow, step));
                }
            }
        }
    }
    to
}

/// Fetches part of the next panel's stretch into the second-level cache, all of it in the course of
/// this panel's blocks, `share` lines with each: weights come from far, and only the first block would
/// wait for them.
#[inline(always)]
unsafe fn fetch_share<D: Dot>(
    job: &Product,
    panel: usize,
    stretch: &Stretch,
    (block, share): (usize, usize),
) {
    let lines = stretch.words() / D::STEPS * PANEL / Buffer::LINE;
    let next = ((panel + 1) * job.depth + stretch.at) * PANEL;
    for line in (block * share).min(lines)..((block + 1) * share).min(lines) {
        // SAFETY: nothing is read, whatever the address.
        unsafe { D::Simd::fetch(job.panels.wrapping_add(next + line * Buffer::LINE).cast()) }
    }
}

/// A part of the depth, of which the weights of a tile fit the first-level cache.
#[derive(Clone, Copy)]
struct Stretch<'a> {
    /// Where the words of parts begin, in words from the beginning of a row.
    parts: &'a [usize],
    /// The words of each of them.
    from: usize,
    count: usize,
    /// The first word of weights.
    at: usize,
    first: bool,
    last: bool,
}

impl Stretch<'_> {
    /// Words of a row.
    fn words(&self) -> usize {
        self.parts.len() * self.count
    }
}

/// All of a product's depth in stretches: some parts at once, or some words of one.
struct Stretches<'a, D> {
    parts: &'a [usize],
    used: usize,
    /// Parts and words at once.
    together: usize,
    most: usize,
    part: usize,
    word: usize,
    dot: PhantomData<D>,
}

impl<'a, D: Dot> Stretches<'a, D> {
    #[inline(always)]
    fn new(job: &Product<'a>) -> Self {
        let used = job.used.max(1);
        let pieces = used.div_ceil(depth::<D>());
        Self {
            parts: job.parts,
            used: job.used,
            together: (depth::<D>() / used).max(1),
            most: used.div_ceil(pieces).next_multiple_of(D::STEPS),
            part: 0,
            word: 0,
            dot: PhantomData,
        }
    }
}

impl<'a, D: Dot> Iterator for Stretches<'a, D> {
    type Item = Stretch<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Stretch<'a>> {
        let (part, from) = (self.part, self.word);
        if part >= self.parts.len() {
            return None;
        }
        let parts = &self.parts[part..self.parts.len().min(part + self.together)];
        let count = self.most.min(self.used - from);
        self.word += count;
        if self.word >= self.used {
            (self.part, self.word) = (part + parts.len(), 0);
        }
        Some(Stretch {
            parts,
            from,
            count,
            at: (part * self.used + from) / D::STEPS,
            first: (part, from) == (0, 0),
            last: self.part >= self.parts.len(),
        })
    }
}

/// What one tile is computed from.
struct Operands<'a> {
    rows: *const u32,
    stride: usize,
    /// Those of the stretch, as wide as the words of rows.
    weights: *const f32,
    stretch: Stretch<'a>,
    /// The sums to start from, and from row to row of them.
    start: Option<(*const f32, usize)>,
    to: *mut f32,
    to_stride: usize,
    /// The end of a layer, if it is computed before the sums are written.
    end: Option<End>,
}

/// An end of a layer that is so simple that sums need not be written first:
/// `sum * row factor * column factor + bias`, perhaps the residual, and bounds.
#[derive(Clone, Copy)]
struct End {
    /// Those of the tile's columns; whole vectors can be read.
    bias: Option<*const f32>,
    column_factors: Option<*const f32>,
    /// Those of the tile's rows.
    row_factors: *const f32,
    /// Columns of the tile that are written.
    columns: usize,
    adds: bool,
    bounds: Option<(f32, f32)>,
}

impl Operands<'_> {
    /// A tile of `rows` rows, at most those of the instruction set, and so many vectors.
    #[inline(always)]
    unsafe fn tile_of<D: Dot, const VECTORS: usize>(&self, rows: usize) {
        macro_rules! by_rows {
            ($($count:literal)*) => {
                match rows {
                    // SAFETY: as for this function.
                    $($count if $count <= D::ROWS => unsafe {
                        self.tile::<D, $count, VECTORS>()
                    },)*
                    _ => {}
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }

    #[inline(always)]
    unsafe fn tile<D: Dot, const ROWS: usize, const VECTORS: usize>(&self) {
        let lanes = D::Simd::LANES;
        let Stretch {
            parts,
            from,
            count,
            last,
            ..
        } = self.stretch;
        // SAFETY: the caller vouches for the pointers and the instruction set.
        unsafe {
            let zero = D::Simd::splat(0.0);
            let mut sums = [[zero; VECTORS]; ROWS];
            if let Some((start, stride)) = self.start {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        *sum = D::Simd::load(start.add(row * stride + vector * lanes));
                    }
                }
            }
            for (number, &start) in parts.iter().enumerate() {
                let at = number * count;
                match D::CARRY {
                    None => {
                        let place = (start + from, at);
                        self.accumulate::<D, ROWS, VECTORS>(&mut sums, place, count);
                    }
                    Some(step) => {
                        for first in (0..count).step_by(step) {
                            let mut part = [[zero; VECTORS]; ROWS];
                            let place = (start + from + first, at + first);
                            let count = step.min(count - first);
                            self.accumulate::<D, ROWS, VECTORS>(&mut part, place, count);
                            for (sums, part) in sums.iter_mut().zip(part) {
                                for (sum, part) in sums.iter_mut().zip(part) {
                                    *sum = D::carry(*sum, part);
                                }
                            }
                        }
                    }
                }
            }
            match self.end {
                None => {
                    for (row, sums) in sums.into_iter().enumerate() {
                        for (vector, sum) in sums.into_iter().enumerate() {
                            let to = self.to.add(row * self.to_stride + vector * lanes);
                            D::Simd::store(to, if last { D::finish(sum) } else { sum });
                        }
                    }
                }
                Some(end) => self.finish::<D, ROWS, VECTORS>(sums, end),
            }
        }
    }

    /// Writes sums through the end of a layer.
    ///
    /// # Safety
    /// As for [`product`].
    #[inline(always)]
    unsafe fn finish<D: Dot, const ROWS: usize, const VECTORS: usize>(
        &self,
        sums: [[Lanes<D>; VECTORS]; ROWS],
        end: End,
    ) {
        let lanes = D::Simd::LANES;
        // SAFETY: bias and row factors are those of the tile; of the target only the columns that
        // the layer has are touched.
        unsafe {
            let (least, most) = end.bounds.unwrap_or_default();
            let (least, most) = (D::Simd::splat(least), D::Simd::splat(most));
            for (vector, column) in (0..VECTORS).map(|vector| (vector, vector * lanes)) {
                let bias = match end.bias {
                    Some(bias) => D::Simd::load(bias.add(column)),
                    None => D::Simd::splat(0.0),
                };
                let factors = match end.column_factors {
                    Some(factors) => D::Simd::load(factors.add(column)),
                    None => D::Simd::splat(1.0),
                };
                let width = end.columns.saturating_sub(column).min(lanes);
                for (row, sums) in sums.iter().enumerate() {
                    let factor = D::Simd::splat(*end.row_factors.add(row));
                    let factor = D::Simd::mul(factor, factors);
                    let to = self.to.add(row * self.to_stride + column);
                    let mut x = D::Simd::fma(D::finish(sums[vector]), factor, bias);
                    if width == lanes {
                        if end.adds {
                            x = D::Simd::add(x, D::Simd::load(to));
                        }
                        if end.bounds.is_some() {
                            x = D::Simd::min(D::Simd::max(x, least), most);
                        }
                        D::Simd::store(to, x);
                    } else {
                        if end.adds {
                            x = D::Simd::add(x, D::Simd::load_part(to, width));
                        }
                        if end.bounds.is_some() {
                            x = D::Simd::min(D::Simd::max(x, least), most);
                        }
                        D::Simd::store_part(to, x, width);
                    }
                }
            }
        }
    }

    /// Adds the products of `count` words of the rows, from a place in them and in the weights on.
    #[inline(always)]
    unsafe fn accumulate<D: Dot, const ROWS: usize, const VECTORS: usize>(
        &self,
        sums: &mut [[Lanes<D>; VECTORS]; ROWS],
        (start, at): (usize, usize),
        count: usize,
    ) {
        // A copy, or else the compiler keeps the sums in memory.
        let mut local = *sums;
        let weights = self.weights.wrapping_add(at * PANEL);
        if D::Simd::BLOCKED {
            // A whole line of columns: few numbers stay while many weights pass.
            let mut rows = [self.rows.wrapping_add(start); ROWS];
            for (row, place) in rows.iter_mut().enumerate() {
                *place = place.wrapping_add(row * self.stride);
            }
            // As for the first of them.
            let rows = black_box(rows);
            for word in 0..count {
                // SAFETY: as below.
                unsafe {
                    let a = rows.map(|row| *row.add(word));
                    for vector in 0..VECTORS {
                        let at = word * PANEL + vector * D::Simd::LANES;
                        let b = D::Simd::load(weights.add(at));
                        for (sums, a) in local.iter_mut().zip(a) {
                            sums[vector] = D::dot(sums[vector], a, b);
                        }
                    }
                }
            }
            *sums = local;
            return;
        }
        for word in 0..count {
            // SAFETY: the caller vouches for the pointers and the instruction set.
            unsafe {
                let weights = weights.add(word * PANEL);
                let mut b = [D::Simd::splat(0.0); VECTORS];
                for (vector, b) in b.iter_mut().enumerate() {
                    *b = D::Simd::load(weights.add(vector * D::Simd::LANES));
                    let ahead = AHEAD * PANEL + 16 * vector;
                    D::Simd::prefetch(weights.wrapping_add(ahead));
                }
                for (row, sums) in local.iter_mut().enumerate() {
                    let a = *self.rows.add(row * self.stride + start + word);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = D::dot(*sum, a, b);
                    }
                }
            }
        }
        *sums = local;
    }
}

impl Layer<'_> {
    /// The layer's end, if it is a simple one.
    fn simple(&self, job: &Product) -> Option<End> {
        let bounds = match self.last {
            Epilogue::Store | Epilogue::Add => None,
            Epilogue::Relu | Epilogue::AddRelu => Some((0.0, f32::INFINITY)),
            Epilogue::Relu6 => Some((0.0, 6.0)),
            Epilogue::Gelu | Epilogue::QuickGelu | Epilogue::SwiGlu => return None,
        };
        if self.to.format != Format::F32 {
            return None;
        }
        let columns = |each: Option<&[f32]>| each.map_or(usize::MAX, <[f32]>::len);
        assert!(
            self.row_factors.len() >= job.row_count
                && columns(self.bias).min(columns(self.column_factors)) >= job.panel_count * PANEL,
            "rows without factors or columns without factors or bias"
        );
        Some(End {
            bias: self.bias.map(<[f32]>::as_ptr),
            column_factors: self.column_factors.map(<[f32]>::as_ptr),
            row_factors: self.row_factors.as_ptr(),
            columns: self.columns,
            adds: self.last.adds(),
            bounds,
        })
    }

    /// Ends those sums of `tile` that are in its rows `part`, for the panel at `column`; the tile's
    /// rows are those of the product from `first` on.
    ///
    /// # Safety
    /// As for [`product`].
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd>(
        &self,
        tile: &Tile,
        first: usize,
        part: Range<usize>,
        column: usize,
    ) {
        assert!(
            first + part.end <= self.row_factors.len() && part.end <= TILE_ROWS,
            "rows without factors"
        );
        // SAFETY: factors and bias are whole panels; `width` columns are left in each row.
        unsafe {
            if self.last == Epilogue::SwiGlu {
                const HALF: usize = PANEL / 2;
                for at in (0..HALF).step_by(S::LANES) {
                    let gates = self.columns_at::<S>(column + at);
                    let values = self.columns_at::<S>(column + HALF + at);
                    for row in part.clone() {
                        let factor = self.row_factor::<S>(first + row);
                        let from = tile.0.as_ptr().add(row * PANEL + at);
                        let gate = gates.end(S::load(from), factor);
                        let value = values.end(S::load(from.add(HALF)), factor);
                        let to = self.to.at(first + row, column / 2 + at).cast();
                        S::store(to, S::mul(swish::<S>(gate, 1.0), value));
                    }
                }
                return;
            }
            let narrow = self.to.format == Format::Bf16;
            match (self.last, narrow) {
                (Epilogue::Gelu, false) => self.end::<S, Gelu>(tile, first, part, column),
                (Epilogue::Gelu, true) => self.end_narrow::<S, Gelu>(tile, first, part, column),
                (Epilogue::QuickGelu, false) => self.end::<S, QuickGelu>(tile, first, part, column),
                (Epilogue::QuickGelu, true) => {
                    self.end_narrow::<S, QuickGelu>(tile, first, part, column)
                }
                (Epilogue::Relu, false) => self.end::<S, Relu>(tile, first, part, column),
                (Epilogue::Relu, true) => self.end_narrow::<S, Relu>(tile, first, part, column),
                (Epilogue::Relu6, false) => self.end::<S, Relu6>(tile, first, part, column),
                (Epilogue::Relu6, true) => self.end_narrow::<S, Relu6>(tile, first, part, column),
                (Epilogue::Add, _) => self.end::<S, Add>(tile, first, part, column),
                (Epilogue::AddRelu, _) => self.end::<S, AddRelu>(tile, first, part, column),
                (_, false) => self.end::<S, Store>(tile, first, part, column),
                (_, true) => self.end_narrow::<S, Store>(tile, first, part, column),
            }
        }
    }

    /// [`finish`](Self::finish) with a last step that is known when it is compiled.
    ///
    /// # Safety
    /// As for [`finish`](Self::finish), which has counted the row factors.
    #[inline(always)]
    unsafe fn end<S: Simd, L: Last>(
        &self,
        tile: &Tile,
        first: usize,
        part: Range<usize>,
        column: usize,
    ) {
        // SAFETY: the tile has PANEL columns, bias and factors are whole panels, rows have factors,
        // and of the target only those columns are touched that the layer has.
        unsafe {
            for at in (0..PANEL).step_by(S::LANES) {
                let column = column + at;
                let width = self.columns.saturating_sub(column).min(S::LANES);
                if width == 0 {
                    break;
                }
                let columns = self.columns_at::<S>(column);
                for row in part.clone() {
                    let sum = S::load(tile.0.as_ptr().add(row * PANEL + at));
                    let x = columns.end(sum, self.row_factor::<S>(first + row));
                    let to = self.to.at(first + row, column).cast();
                    let x = L::of::<S>(x);
                    match (L::ADDS, width == S::LANES) {
                        (false, true) => S::store(to, x),
                        (false, false) => S::store_part(to, x, width),
                        (true, true) => S::store(to, L::sum::<S>(S::add(x, S::load(to)))),
                        (true, false) => {
                            let sum = L::sum::<S>(S::add(x, S::load_part(to, width)));
                            S::store_part(to, sum, width)
                        }
                    }
                }
            }
        }
    }

    /// The same to bfloat16; columns are whole vectors.
    ///
    /// # Safety
    /// As for [`end`](Self::end), and the layer's columns are a multiple of PANEL, which
    /// [`Target::takes`] has checked.
    #[inline(always)]
    unsafe fn end_narrow<S: Simd, L: Last>(
        &self,
        tile: &Tile,
        first: usize,
        part: Range<usize>,
        column: usize,
    ) {
        // SAFETY: as in `end`; with whole vectors of columns, none is written beyond the last.
        unsafe {
            for at in (0..PANEL.min(self.columns.saturating_sub(column))).step_by(S::LANES) {
                let columns = self.columns_at::<S>(column + at);
                for row in part.clone() {
                    let sum = S::load(tile.0.as_ptr().add(row * PANEL + at));
                    let x = columns.end(sum, self.row_factor::<S>(first + row));
                    let to = self.to.at(first + row, column + at);
                    S::narrow(L::of::<S>(x), Format::Bf16, to.cast());
                }
            }
        }
    }

    /// What undoes a row's scaling.
    #[inline(always)]
    unsafe fn row_factor<S: Simd>(&self, row: usize) -> S::Vector {
        // SAFETY: the caller vouches for the instruction set; `finish` has counted the factors.
        unsafe { S::splat(*self.row_factors.get_unchecked(row)) }
    }

    /// Factors and bias of the vector of columns at `column`.
    #[inline(always)]
    unsafe fn columns_at<S: Simd>(&self, column: usize) -> Columns<S> {
        // SAFETY: factors and bias are whole panels.
        unsafe {
            Columns {
                factors: self.column_factors.map_or(S::splat(1.0), |factors| {
                    S::load(factors.as_ptr().add(column))
                }),
                bias: self
                    .bias
                    .map_or(S::splat(0.0), |bias| S::load(bias.as_ptr().add(column))),
            }
        }
    }
}

/// The last step of a layer on a vector of its outputs. (Each is compiled into a loop of its own;
/// a choice for every vector takes longer than most steps.)
trait Last {
    /// Whether the output holds something to add to.
    const ADDS: bool = false;

    /// # Safety
    /// The processor must have the instruction set.
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::Vector) -> S::Vector {
        x
    }

    /// What becomes of a sum with the residual.
    ///
    /// # Safety
    /// The processor must have the instruction set.
    #[inline(always)]
    unsafe fn sum<S: Simd>(x: S::Vector) -> S::Vector {
        x
    }
}

struct Store;
struct Relu;
struct Relu6;
struct Add;
struct AddRelu;
struct Gelu;
struct QuickGelu;

impl Last for Store {}

impl Last for Relu {
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::Vector) -> S::Vector {
        // SAFETY: arithmetic on a vector; the instruction set is there, see the trait.
        unsafe { S::max(x, S::splat(0.0)) }
    }
}

impl Last for Relu6 {
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::Vector) -> S::Vector {
        // SAFETY: arithmetic on a vector; the instruction set is there, see the trait.
        unsafe { S::min(S::max(x, S::splat(0.0)), S::splat(6.0)) }
    }
}

impl Last for Add {
    const ADDS: bool = true;
}

impl Last for AddRelu {
    const ADDS: bool = true;

    #[inline(always)]
    unsafe fn sum<S: Simd>(x: S::Vector) -> S::Vector {
        // SAFETY: arithmetic on a vector; the instruction set is there, see the trait.
        unsafe { S::max(x, S::splat(0.0)) }
    }
}

impl Last for Gelu {
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::Vector) -> S::Vector {
        // SAFETY: arithmetic on a vector; the instruction set is there, see the trait.
        unsafe { gelu::<S>(x) }
    }
}

impl Last for QuickGelu {
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::Vector) -> S::Vector {
        // SAFETY: arithmetic on a vector; the instruction set is there, see the trait.
        unsafe { swish::<S>(x, QUICK_GELU) }
    }
}

/// Factors and bias of a vector of columns.
struct Columns<S: Simd> {
    factors: S::Vector,
    bias: S::Vector,
}

impl<S: Simd> Columns<S> {
    /// `sum * row factor * column factor + bias`
    #[inline(always)]
    unsafe fn end(&self, sum: S::Vector, row_factor: S::Vector) -> S::Vector {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { S::fma(sum, S::mul(row_factor, self.factors), self.bias) }
    }
}

/// Numerator and denominator, in powers of x squared, of Eigen's rational approximation of
/// erf(x) / x on [-4, 4]; highest power first.
const ERF_NUMERATOR: [f32; 7] = [
    -2.726_142_3e-10,
    2.770_681_4e-8,
    -2.101_024e-6,
    -5.692_506_4e-5,
    -7.349_906_3e-4,
    -2.954_6e-3,
    -1.609_603_3e-2,
];
const ERF_DENOMINATOR: [f32; 5] = [
    -1.456_607_2e-5,
    -2.133_740_5e-4,
    -1.682_827e-3,
    -7.373_329_2e-3,
    -1.426_473_9e-2,
];

/// The exact GELU, `x * Phi(x)`, to 2e-6.
#[inline(always)]
unsafe fn gelu<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let scaled = S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = S::min(S::max(scaled, S::splat(-4.0)), S::splat(4.0));
        let square = S::mul(t, t);
        let numerator = S::mul(t, crate::simd::polynomial::<S>(&ERF_NUMERATOR, square));
        let denominator = crate::simd::polynomial::<S>(&ERF_DENOMINATOR, square);
        let half = S::mul(x, S::splat(0.5));
        S::fma(half, S::mul(numerator, S::reciprocal(denominator)), half)
    }
}

/// The rate of [`Epilogue::QuickGelu`].
const QUICK_GELU: f32 = 1.702;

/// `x * sigmoid(rate * x)`
#[inline(always)]
unsafe fn swish<S: Simd>(x: S::Vector, rate: f32) -> S::Vector {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let power = S::mul(x, S::splat(-rate * std::f32::consts::LOG2_E));
        let power = crate::simd::exp2::<S>(S::min(power, S::splat(126.0)));
        S::mul(x, S::reciprocal(S::add(S::splat(1.0), power)))
    }
}
