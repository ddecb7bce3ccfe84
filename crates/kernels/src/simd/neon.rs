//! NEON: vectors of four numbers, and the 8-bit products of the extension DotProd.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Dot, Simd, narrow_one_by_one};
use crate::format::{self, Format};

/// NEON, which every processor of this architecture has.
pub(crate) struct Neon;

// SAFETY of every block below: NEON is always there; the caller vouches for the pointers.
impl Simd for Neon {
    type Vector = float32x4_t;
    const LANES: usize = 4;
    const ROWS: usize = 6;
    const VECTORS: usize = 4;
    const BLOCKED: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> float32x4_t {
        unsafe {
            let mut lanes = [0.0; 4];
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            vld1q_f32(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: float32x4_t) {
        unsafe { vst1q_f32(to, x) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, x: float32x4_t, count: usize) {
        unsafe {
            let mut lanes = [0.0; 4];
            vst1q_f32(lanes.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }

    #[inline(always)]
    unsafe fn add(x: float32x4_t, y: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(x, y) }
    }

    #[inline(always)]
    unsafe fn sub(x: float32x4_t, y: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(x, y) }
    }

    #[inline(always)]
    unsafe fn mul(x: float32x4_t, y: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(x, y) }
    }

    #[inline(always)]
    unsafe fn fma(x: float32x4_t, y: float32x4_t, z: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(z, x, y) }
    }

    #[inline(always)]
    unsafe fn min(x: float32x4_t, y: float32x4_t) -> float32x4_t {
        unsafe { vminq_f32(x, y) }
    }

    #[inline(always)]
    unsafe fn max(x: float32x4_t, y: float32x4_t) -> float32x4_t {
        unsafe { vmaxq_f32(x, y) }
    }

    #[inline(always)]
    unsafe fn abs(x: float32x4_t) -> float32x4_t {
        unsafe { vabsq_f32(x) }
    }

    #[inline(always)]
    unsafe fn reciprocal(x: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(vdupq_n_f32(1.0), x) }
    }

    #[inline(always)]
    unsafe fn round(x: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(x) }
    }

    #[inline(always)]
    unsafe fn scale(x: float32x4_t, n: float32x4_t) -> float32x4_t {
        unsafe {
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased)))
        }
    }

    #[inline(always)]
    unsafe fn total(x: float32x4_t) -> f32 {
        unsafe { vaddvq_f32(x) }
    }

    #[inline(always)]
    unsafe fn largest(x: float32x4_t) -> f32 {
        unsafe { vmaxvq_f32(x) }
    }

    #[inline(always)]
    unsafe fn narrow(x: float32x4_t, format: Format, to: *mut u8) {
        unsafe {
            match format {
                Format::F32 => vst1q_f32(to.cast(), x),
                Format::Int8 => {
                    let halves = vqmovn_s32(vcvtnq_s32_f32(x));
                    let bytes = vqmovn_s16(vcombine_s16(halves, halves));
                    let bytes = veor_u8(vreinterpret_u8_s8(bytes), vdup_n_u8(128));
                    let word = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes));
                    to.cast::<u32>().write_unaligned(word);
                }
                _ => narrow_one_by_one::<Self>(x, format, to),
            }
        }
    }
}

/// Float32 products.
pub(crate) struct F32;

impl Dot for F32 {
    type Simd = Neon;
    type Rows = format::F32;
    type Weights = format::F32;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn dot(sums: float32x4_t, a: u32, b: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_n_f32(sums, b, f32::from_bits(a)) }
    }
}

/// Four 8-bit integers with sums in 32 bits. Both operands are signed: activations lose what they
/// have added, and layers make up for it in what sums start from.
pub(crate) struct Int8;

impl Dot for Int8 {
    type Simd = Neon;
    type Rows = format::Int8;
    type Weights = format::Int8;
    const CARRY: Option<usize> = None;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn dot(sums: float32x4_t, a: u32, b: float32x4_t) -> float32x4_t {
        unsafe {
            let a = vreinterpretq_s8_u32(vdupq_n_u32(a ^ 0x8080_8080));
            let sums = vreinterpretq_s32_f32(sums);
            vreinterpretq_f32_s32(add_products(sums, a, vreinterpretq_s8_f32(b)))
        }
    }

    #[inline(always)]
    unsafe fn finish(sums: float32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(vreinterpretq_s32_f32(sums)) }
    }
}

/// The sums with the products of fours. Written out, since the intrinsic is not stable.
///
/// # Safety
/// The processor must have DotProd.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn add_products(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as for this function; nothing but a register changes.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
