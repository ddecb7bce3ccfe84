//! One tile: sums in registers over a stretch of the depth.

use std::hint::black_box;

use super::stretch::Stretch;
use super::{PANEL, TILE_ROWS};
use crate::simd::{Dot, Lanes, Simd};

/// Words of a panel that are fetched before they are needed: some 600 cycles, for what comes from
/// beyond the second-level cache.
const AHEAD: usize = 48;

/// Sums of a tile on their way to a layer's end.
#[repr(align(64))]
pub(crate) struct Tile(pub(crate) [f32; TILE_ROWS * PANEL]);

/// What one tile is computed from.
pub(super) struct Operands<'a> {
    pub(super) rows: *const u32,
    pub(super) stride: usize,
    /// Those of the stretch, as wide as the words of rows.
    pub(super) weights: *const f32,
    pub(super) stretch: Stretch<'a>,
    /// The sums to start from, and from row to row of them.
    pub(super) start: Option<(*const f32, usize)>,
    pub(super) to: *mut f32,
    pub(super) to_stride: usize,
    /// The end of a layer, if it is computed before the sums are written.
    pub(super) end: Option<End>,
}

/// An end of a layer that is so simple that sums need not be written first:
/// `sum * row factor * column factor + bias`, perhaps the residual, and bounds.
#[derive(Clone, Copy)]
pub(super) struct End {
    /// Those of the tile's columns; whole vectors can be read.
    pub(super) bias: Option<*const f32>,
    pub(super) column_factors: Option<*const f32>,
    /// Those of the tile's rows.
    pub(super) row_factors: *const f32,
    /// Columns of the tile that are written.
    pub(super) columns: usize,
    pub(super) adds: bool,
    pub(super) bounds: Option<(f32, f32)>,
}

impl Operands<'_> {
    /// A tile of `rows` rows, at most those of the instruction set, and so many vectors.
    #[inline(always)]
    pub(super) unsafe fn tile_of<D: Dot, const VECTORS: usize>(&self, rows: usize) {
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
