//! AVX-512: vectors of sixteen numbers, and the products of the extensions BF16, FP16 and VNNI.
//!
//! On the Xeons with FP16 its products are twice as fast as float32's, while those of BF16 are
//! only half as fast; on Zen 4 those of BF16 are twice as fast (see docs/performance.md).

use std::arch::x86_64::*;

use super::{Dot, Simd};
use crate::format::{self, F16_TERMS, Format};

/// AVX-512 F, BW, DQ and VL.
pub(crate) struct Avx512;

// SAFETY of every block below: the caller vouches for the instruction set and the pointers.
impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;
    const ROWS: usize = 14;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(((1_u32 << count) - 1) as u16, from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, x: __m512, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, ((1_u32 << count) - 1) as u16, x) }
    }

    #[inline(always)]
    unsafe fn add(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_add_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn sub(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn mul(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn fma(x: __m512, y: __m512, z: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(x, y, z) }
    }

    #[inline(always)]
    unsafe fn min(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_min_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn max(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_max_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn abs(x: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(x) }
    }

    #[inline(always)]
    unsafe fn reciprocal(x: __m512) -> __m512 {
        // One step of Newton's method on an estimate of 14 bits.
        unsafe {
            let estimate = _mm512_rcp14_ps(x);
            let error = _mm512_fnmadd_ps(x, estimate, _mm512_set1_ps(1.0));
            _mm512_fmadd_ps(estimate, error, estimate)
        }
    }

    #[inline(always)]
    unsafe fn round(x: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    unsafe fn scale(x: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(x, n) }
    }

    #[inline(always)]
    unsafe fn total(x: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(x) }
    }

    #[inline(always)]
    unsafe fn largest(x: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(x) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const u32, stride: usize, to: *mut u32, to_stride: usize) {
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(i * stride).cast());
            }
            // Squares of 2, then of 4, within lanes of 128 bits; then the lanes themselves.
            let mut pairs = rows;
            for i in (0..16).step_by(2) {
                pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
                pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
            }
            let mut fours = pairs;
            for i in (0..16).step_by(4) {
                for j in 0..2 {
                    let (x, y) = (pairs[i + j], pairs[i + j + 2]);
                    fours[i + 2 * j] = _mm512_shuffle_ps::<0x44>(x, y);
                    fours[i + 2 * j + 1] = _mm512_shuffle_ps::<0xee>(x, y);
                }
            }
            for i in 0..4 {
                let (x, y) = (fours[i], fours[i + 4]);
                let (z, w) = (fours[i + 8], fours[i + 12]);
                let (even_low, odd_low) = (
                    _mm512_shuffle_f32x4::<0x88>(x, y),
                    _mm512_shuffle_f32x4::<0xdd>(x, y),
                );
                let (even_high, odd_high) = (
                    _mm512_shuffle_f32x4::<0x88>(z, w),
                    _mm512_shuffle_f32x4::<0xdd>(z, w),
                );
                for (column, row) in [
                    (i, _mm512_shuffle_f32x4::<0x88>(even_low, even_high)),
                    (i + 4, _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high)),
                    (i + 8, _mm512_shuffle_f32x4::<0xdd>(even_low, even_high)),
                    (i + 12, _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high)),
                ] {
                    _mm512_storeu_ps(to.add(column * to_stride).cast(), row);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn narrow(x: __m512, format: Format, to: *mut u8) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe {
            match format {
                Format::F32 => _mm512_storeu_ps(to.cast(), x),
                Format::F16 => {
                    _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<NEAREST>(x));
                }
                Format::Bf16 => {
                    // Rounds to even in integers: BF16 may be missing.
                    let bits = _mm512_castps_si512(x);
                    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), splat(1));
                    let bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, splat(0x7fff)));
                    let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
                    _mm256_storeu_si256(to.cast(), halves);
                }
                Format::Int8 => {
                    let bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x));
                    _mm_storeu_si128(to.cast(), _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
                }
                // Only where there are no 8-bit products.
                Format::Int16 => super::narrow_one_by_one::<Self>(x, format, to),
            }
        }
    }
}

#[inline(always)]
unsafe fn splat(x: i32) -> __m512i {
    unsafe { _mm512_set1_epi32(x) }
}

/// Float32 products.
pub(crate) struct F32;

impl Dot for F32 {
    type Simd = Avx512;
    type Rows = format::F32;
    type Weights = format::F32;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn dot(sums: __m512, a: u32, b: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(_mm512_set1_ps(f32::from_bits(a)), b, sums) }
    }
}

/// Pairs of bfloat16 with sums in float32.
pub(crate) struct Bf16;

impl Dot for Bf16 {
    type Simd = Avx512;
    type Rows = format::Bf16;
    type Weights = format::Bf16;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn dot(sums: __m512, a: u32, b: __m512) -> __m512 {
        // SAFETY (of the transmutes): vectors of one size without invalid values.
        unsafe {
            let a: __m512bh = std::mem::transmute(splat(a as i32));
            _mm512_dpbf16_ps(sums, a, std::mem::transmute::<__m512, __m512bh>(b))
        }
    }
}

/// Pairs of float16: each lane holds the sums of the even and of the odd products in float16,
/// and both are carried over to float32 before their rounding errors or sizes grow.
pub(crate) struct F16;

impl Dot for F16 {
    type Simd = Avx512;
    type Rows = format::F16;
    type Weights = format::F16;
    const CARRY: Option<usize> = Some(F16_TERMS);

    #[inline(always)]
    unsafe fn dot(sums: __m512, a: u32, b: __m512) -> __m512 {
        unsafe {
            let a = _mm512_castsi512_ph(splat(a as i32));
            _mm512_castph_ps(_mm512_fmadd_ph(
                a,
                _mm512_castps_ph(b),
                _mm512_castps_ph(sums),
            ))
        }
    }

    #[inline(always)]
    unsafe fn carry(total: __m512, sums: __m512) -> __m512 {
        // Moved three bits down, a float16's fields are where a float32 has them, with an
        // exponent that is 112 too small; the product makes up for that.
        unsafe {
            let rebias = _mm512_set1_ps(f32::from_bits((112 + 127) << 23));
            let mask = splat(0x8fff_e000_u32 as i32);
            let wide = |x| _mm512_castsi512_ps(_mm512_and_si512(_mm512_srai_epi32::<3>(x), mask));
            let odd = _mm512_castps_si512(sums);
            let even = _mm512_slli_epi32::<16>(odd);
            let total = _mm512_fmadd_ps(wide(odd), rebias, total);
            _mm512_fmadd_ps(wide(even), rebias, total)
        }
    }
}

/// Four 8-bit integers, the first operand unsigned, with sums in 32 bits.
pub(crate) struct Int8;

impl Dot for Int8 {
    type Simd = Avx512;
    type Rows = format::Int8;
    type Weights = format::Int8;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn dot(sums: __m512, a: u32, b: __m512) -> __m512 {
        unsafe {
            let (sums, b) = (_mm512_castps_si512(sums), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_dpbusd_epi32(sums, splat(a as i32), b))
        }
    }

    #[inline(always)]
    unsafe fn finish(sums: __m512) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(sums)) }
    }
}
