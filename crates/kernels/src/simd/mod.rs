//! One interface to the vectors of every instruction set, so that each algorithm is written once.
//!
//! The functions are inlined into a caller that is compiled for the instruction set; calling them
//! on a processor without it is undefined, which is why all of them are `unsafe`.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;

use crate::format::{Format, Holds};

/// A vector of float32 and what can be done with it.
///
/// # Safety
/// The processor must have the instruction set; pointers must be valid for the lanes named.
pub(crate) trait Simd {
    /// The vector.
    type Vector: Copy;
    /// Numbers in a vector, at least 4.
    const LANES: usize;
    /// Rows of a tile of sums that fits the registers.
    const ROWS: usize;
    /// Vectors of a tile, two or four.
    const VECTORS: usize = 2;
    /// Whether sums are put aside after a part of the depth, so that its weights stay in the
    /// first-level cache while the rows pass by.
    const BLOCKED: bool = false;

    unsafe fn splat(x: f32) -> Self::Vector;
    /// Fetches a cache line, which may lie anywhere.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    /// Fetches a cache line into the second-level cache.
    #[inline(always)]
    unsafe fn fetch(_from: *const f32) {}
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// The first `count` lanes, the others zero.
    unsafe fn load_part(from: *const f32, count: usize) -> Self::Vector;
    unsafe fn store(to: *mut f32, x: Self::Vector);
    /// The first `count` lanes.
    unsafe fn store_part(to: *mut f32, x: Self::Vector, count: usize);
    unsafe fn add(x: Self::Vector, y: Self::Vector) -> Self::Vector;
    unsafe fn sub(x: Self::Vector, y: Self::Vector) -> Self::Vector;
    unsafe fn mul(x: Self::Vector, y: Self::Vector) -> Self::Vector;
    /// `x * y + z`
    unsafe fn fma(x: Self::Vector, y: Self::Vector, z: Self::Vector) -> Self::Vector;
    unsafe fn min(x: Self::Vector, y: Self::Vector) -> Self::Vector;
    unsafe fn max(x: Self::Vector, y: Self::Vector) -> Self::Vector;
    unsafe fn abs(x: Self::Vector) -> Self::Vector;
    /// `1 / x` to the last two bits.
    unsafe fn reciprocal(x: Self::Vector) -> Self::Vector;
    unsafe fn round(x: Self::Vector) -> Self::Vector;
    /// `x * 2^n` for whole `n` in [-126, 126].
    unsafe fn scale(x: Self::Vector, n: Self::Vector) -> Self::Vector;
    unsafe fn total(x: Self::Vector) -> f32;
    unsafe fn largest(x: Self::Vector) -> f32;

    /// Turns a square of words on its side; rows are `stride` and `to_stride` words apart.
    #[inline(always)]
    unsafe fn transpose(from: *const u32, stride: usize, to: *mut u32, to_stride: usize) {
        for row in 0..Self::LANES {
            for column in 0..Self::LANES {
                // SAFETY: the caller vouches for both squares.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * stride + column) }
            }
        }
    }

    /// Writes a whole vector in `format` at `to`; 8-bit integers have 128 added.
    #[inline(always)]
    unsafe fn narrow(x: Self::Vector, format: Format, to: *mut u8) {
        // SAFETY: as for this function.
        unsafe { narrow_one_by_one::<Self>(x, format, to) }
    }
}

/// [`Simd::narrow`] number by number.
///
/// # Safety
/// As for [`Simd`].
unsafe fn narrow_one_by_one<S: Simd + ?Sized>(x: S::Vector, format: Format, to: *mut u8) {
    let mut values = [0.0; 16];
    let mut words = [0; 16];
    let count = format.words(S::LANES);
    // SAFETY: no vector has more than 16 lanes, and `to` has room for one.
    unsafe {
        S::store(values.as_mut_ptr(), x);
        let values = &values[..S::LANES];
        format.convert(values, &mut words[..count]);
        std::ptr::copy_nonoverlapping(words.as_ptr().cast(), to, count * 4);
    }
}

/// An instruction that multiplies words and adds up.
///
/// # Safety
/// As for [`Simd`].
pub(crate) trait Dot {
    /// The vectors it works on.
    type Simd: Simd;
    /// How words of rows hold numbers.
    type Rows: Holds;
    /// How words of weights do: in the same way, or more in each.
    type Weights: Holds;
    /// Rows of a tile of sums that fits the registers.
    const ROWS: usize = Self::Simd::ROWS;
    /// Whether it takes off what 8-bit activations have added.
    const SIGNED: bool = false;
    /// Words of a row for each word of weights.
    const STEPS: usize =
        Self::Weights::FORMAT.per_word() / <Self::Rows as Holds>::FORMAT.per_word();
    /// Words after which sums are carried over to float32; none for sums that are wide enough.
    const CARRY: Option<usize>;

    /// Of words of weights the numbers for the word number `step` of the row, as wide as these.
    #[inline(always)]
    unsafe fn widen(weights: Lanes<Self>, _step: usize) -> Lanes<Self> {
        weights
    }

    /// `sums + a . b` with the word `a` against every lane of `b`.
    unsafe fn dot(sums: Lanes<Self>, a: u32, b: Lanes<Self>) -> Lanes<Self>;

    /// `total + sums`, where sums are carried.
    #[inline(always)]
    unsafe fn carry(total: Lanes<Self>, _sums: Lanes<Self>) -> Lanes<Self> {
        total
    }

    /// The sums as float32.
    #[inline(always)]
    unsafe fn finish(sums: Lanes<Self>) -> Lanes<Self> {
        sums
    }
}

/// The vector of an instruction.
pub(crate) type Lanes<D> = <<D as Dot>::Simd as Simd>::Vector;

/// Powers of ln 2 over factorials, highest first: 2^x on [-0.5, 0.5] to 2e-7.
const EXP2: [f32; 7] = [
    1.540_353e-4,
    1.333_355_8e-3,
    9.618_129e-3,
    5.550_411e-2,
    2.402_265e-1,
    std::f32::consts::LN_2,
    1.0,
];

/// `2^x`, at least 2^-126, for x up to 126.
#[inline(always)]
pub(crate) unsafe fn exp2<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { exp2_by::<S>(&EXP2, x) }
}

/// `2^x` to 5e-5, which a 16-bit format does not notice.
#[inline(always)]
pub(crate) unsafe fn exp2_rough<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { exp2_by::<S>(&EXP2[2..], x) }
}

#[inline(always)]
unsafe fn exp2_by<S: Simd>(terms: &[f32], x: S::Vector) -> S::Vector {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let x = S::max(x, S::splat(-126.0));
        let whole = S::round(x);
        let part = S::sub(x, whole);
        S::scale(polynomial::<S>(terms, part), whole)
    }
}

/// A polynomial, highest power first.
#[inline(always)]
pub(crate) unsafe fn polynomial<S: Simd>(terms: &[f32], x: S::Vector) -> S::Vector {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let mut sum = S::splat(terms[0]);
        for &term in &terms[1..] {
            sum = S::fma(sum, x, S::splat(term));
        }
        sum
    }
}
