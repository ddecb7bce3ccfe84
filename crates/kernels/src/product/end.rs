//! What layers do to sums before they are written: factors, bias and the last step.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::tile::{End, Tile};
use super::{PANEL, Product, TILE_ROWS, Target};
use crate::format::Format;
use crate::simd::Simd;

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

impl Layer<'_> {
    /// The layer's end, if it is a simple one.
    pub(super) fn simple(&self, job: &Product) -> Option<End> {
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
