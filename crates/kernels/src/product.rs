//! The matrix product under every layer: rows of words times panels of packed words.
//!
//! A panel holds [`PANEL`] columns, word by word: `panel[word][column]`. A tile of sums stays in
//! registers over the whole depth, while the panel streams from the second-level cache; so there
//! are no partial sums in memory.

use std::ops::Range;

use serde::{Deserialize, Serialize};

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
    /// Where the parts of a row begin, in words from its own beginning; their words follow one another
    /// in the panels.
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
            Format::F16 | Format::Int8 => false,
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
    let lanes = D::Simd::LANES;
    let blocks = job.row_count.div_ceil(D::Simd::ROWS).max(1);
    let simple = match &job.sink {
        Sink::Layer(layer) if D::FORMAT == Format::F32 => layer.simple(job),
        _ => None,
    };
    let mut buffer = Tile([0.0; TILE_ROWS * PANEL]);
    for panel in 0..job.panel_count {
        for block in 0..blocks {
            // Blocks of nearly one size: a last one of a row or two would be slow.
            let first = block * job.row_count / blocks;
            let count = (block + 1) * job.row_count / blocks - first;
            // SAFETY: `first + count` is at most the number of rows, `panel` and `column` lie
            // within the panels; a tile's buffer has PANEL columns and TILE_ROWS rows.
            unsafe {
                let rows = job.rows.add(first * job.stride);
                let (to, stride) = match &job.sink {
                    Sink::Plain { to, stride } => (to.add(first * stride + panel * PANEL), *stride),
                    Sink::Layer(layer) if simple.is_some() => {
                        (layer.to.at(first, panel * PANEL).cast(), layer.to.stride)
                    }
                    Sink::Layer(_) => (buffer.0.as_mut_ptr(), PANEL),
                };
                let columns = match &job.sink {
                    Sink::Plain { .. } => PANEL,
                    Sink::Layer(layer) => (layer.columns - panel * PANEL).min(PANEL),
                };
                for column in (0..columns).step_by(2 * lanes) {
                    let operands = Operands {
                        rows,
                        stride: job.stride,
                        panel: job.panels.add(panel * job.depth * PANEL + column),
                        parts: job.parts,
                        used: job.used,
                        start: job.start.map(|start| start.add(panel * PANEL + column)),
                        to: to.add(column),
                        to_stride: stride,
                        end: simple.map(|simple| End {
                            bias: simple.bias.wrapping_add(panel * PANEL + column),
                            row_factors: simple.row_factors.wrapping_add(first),
                            columns: columns - column,
                            ..simple
                        }),
                    };
                    // Of a last panel that is half empty only what is there.
                    match columns - column > lanes {
                        true => operands.tile_of::<D, 2>(count),
                        false => operands.tile_of::<D, 1>(count),
                    }
                }
                if let Sink::Layer(layer) = &job.sink
                    && simple.is_none()
                {
                    layer.finish::<D::Simd>(&buffer, first, 0..count, panel * PANEL);
                }
            }
        }
    }
}

/// Sums of a tile on their way to a layer's end.
#[repr(align(64))]
pub(crate) struct Tile(pub(crate) [f32; TILE_ROWS * PANEL]);

/// What one tile is computed from.
struct Operands<'a> {
    rows: *const u32,
    stride: usize,
    panel: *const u32,
    parts: &'a [usize],
    used: usize,
    start: Option<*const f32>,
    to: *mut f32,
    to_stride: usize,
    /// The end of a layer, if it is computed before the sums are written.
    end: Option<End>,
}

/// An end of a layer that is so simple that sums need not be written first:
/// `sum * row factor + bias`, perhaps the residual, and bounds.
#[derive(Clone, Copy)]
struct End {
    /// Those of the tile's columns; whole vectors can be read.
    bias: *const f32,
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
                    $($count if $count <= D::Simd::ROWS => unsafe {
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
        // SAFETY: the caller vouches for the pointers and the instruction set.
        unsafe {
            let zero = D::Simd::splat(0.0);
            let mut first = [zero; VECTORS];
            if let Some(start) = self.start {
                for (vector, first) in first.iter_mut().enumerate() {
                    *first = D::Simd::load(start.add(vector * lanes));
                }
            }
            let mut sums = [first; ROWS];
            match D::CARRY {
                None => {
                    for (number, &start) in self.parts.iter().enumerate() {
                        let place = (start, number * self.used);
                        self.accumulate::<D, ROWS, VECTORS>(&mut sums, place, self.used);
                    }
                }
                Some(step) => {
                    for (number, &start) in self.parts.iter().enumerate() {
                        for first in (0..self.used).step_by(step) {
                            let mut part = [[zero; VECTORS]; ROWS];
                            let place = (start + first, number * self.used + first);
                            let count = step.min(self.used - first);
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
                            D::Simd::store(to, D::finish(sum));
                        }
                    }
                }
                // The only format of layers with such an end.
                Some(end) if D::FORMAT == Format::F32 => {
                    self.finish::<D, ROWS, VECTORS>(sums, end);
                }
                Some(_) => {}
            }
        }
    }

    /// Writes sums of float32 through the end of a layer.
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
                let bias = D::Simd::load(end.bias.add(column));
                let width = end.columns.saturating_sub(column).min(lanes);
                for (row, sums) in sums.iter().enumerate() {
                    let factor = D::Simd::splat(*end.row_factors.add(row));
                    let to = self.to.add(row * self.to_stride + column);
                    let mut x = D::Simd::fma(sums[vector], factor, bias);
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

    /// Adds the products of `count` words, from a place in the rows and in the panel on.
    #[inline(always)]
    unsafe fn accumulate<D: Dot, const ROWS: usize, const VECTORS: usize>(
        &self,
        sums: &mut [[Lanes<D>; VECTORS]; ROWS],
        (start, first): (usize, usize),
        count: usize,
    ) {
        // A copy, or else the compiler keeps the sums in memory.
        let mut local = *sums;
        for word in 0..count {
            // SAFETY: the caller vouches for the pointers and the instruction set.
            unsafe {
                let panel = self.panel.add((first + word) * PANEL).cast::<f32>();
                let mut b = [D::Simd::splat(0.0); VECTORS];
                for (vector, b) in b.iter_mut().enumerate() {
                    *b = D::Simd::load(panel.add(vector * D::Simd::LANES));
                    let ahead = AHEAD * PANEL + 16 * vector;
                    D::Simd::prefetch(panel.wrapping_add(ahead));
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
        let plain = self.to.format == Format::F32 && self.column_factors.is_none();
        let bias = self.bias.filter(|_| plain)?;
        assert!(
            self.row_factors.len() >= job.row_count && bias.len() >= job.panel_count * PANEL,
            "rows without factors or columns without bias"
        );
        Some(End {
            bias: bias.as_ptr(),
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
