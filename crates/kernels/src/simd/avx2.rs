//! AVX2 with FMA: vectors of eight numbers.

use std::arch::x86_64::*;

use super::{Dot, Simd};
use crate::format::{self, Format};

/// AVX2 and FMA.
pub(crate) struct Avx2;

/// A mask of the first `count` lanes.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
    }
}

// SAFETY of every block below: the caller vouches for AVX2, FMA and the pointers.
impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;
    const ROWS: usize = 3;
    const VECTORS: usize = 4;
    const BLOCKED: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn fetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(from, first(count)) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, x: __m256, count: usize) {
        unsafe { _mm256_maskstore_ps(to, first(count), x) }
    }

    #[inline(always)]
    unsafe fn add(x: __m256, y: __m256) -> __m256 {
        unsafe { _mm256_add_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn sub(x: __m256, y: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn mul(x: __m256, y: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn fma(x: __m256, y: __m256, z: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(x, y, z) }
    }

    #[inline(always)]
    unsafe fn min(x: __m256, y: __m256) -> __m256 {
        unsafe { _mm256_min_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn max(x: __m256, y: __m256) -> __m256 {
        unsafe { _mm256_max_ps(x, y) }
    }

    #[inline(always)]
    unsafe fn abs(x: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), x) }
    }

    #[inline(always)]
    unsafe fn reciprocal(x: __m256) -> __m256 {
        unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), x) }
    }

    #[inline(always)]
    unsafe fn round(x: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    unsafe fn scale(x: __m256, n: __m256) -> __m256 {
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
        }
    }

    #[inline(always)]
    unsafe fn total(x: __m256) -> f32 {
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    unsafe fn largest(x: __m256) -> f32 {
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const u32, stride: usize, to: *mut u32, to_stride: usize) {
        unsafe {
            let row = |i: usize| _mm256_loadu_ps(from.add(i * stride).cast());
            // Squares of 2, then of 4, within lanes of 128 bits; then the lanes themselves.
            for half in 0..2 {
                let (x, y) = (
                    [row(0), row(1), row(2), row(3)],
                    [row(4), row(5), row(6), row(7)],
                );
                let pairs = |x: [__m256; 4]| match half {
                    0 => (
                        _mm256_unpacklo_ps(x[0], x[1]),
                        _mm256_unpacklo_ps(x[2], x[3]),
                    ),
                    _ => (
                        _mm256_unpackhi_ps(x[0], x[1]),
                        _mm256_unpackhi_ps(x[2], x[3]),
                    ),
                };
                let ((x, z), (y, w)) = (pairs(x), pairs(y));
                let fours = [
                    (
                        _mm256_shuffle_ps::<0x44>(x, z),
                        _mm256_shuffle_ps::<0x44>(y, w),
                    ),
                    (
                        _mm256_shuffle_ps::<0xee>(x, z),
                        _mm256_shuffle_ps::<0xee>(y, w),
                    ),
                ];
                for (i, (low, high)) in fours.into_iter().enumerate() {
                    let column = 2 * half + i;
                    let (x, y) = (
                        _mm256_permute2f128_ps::<0x20>(low, high),
                        _mm256_permute2f128_ps::<0x31>(low, high),
                    );
                    _mm256_storeu_ps(to.add(column * to_stride).cast(), x);
                    _mm256_storeu_ps(to.add((column + 4) * to_stride).cast(), y);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn narrow(x: __m256, format: Format, to: *mut u8) {
        unsafe {
            match format {
                Format::F32 => _mm256_storeu_ps(to.cast(), x),
                Format::Bf16 => {
                    // Rounds to even.
                    let bits = _mm256_castps_si256(x);
                    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), splat(1));
                    let bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, splat(0x7fff)));
                    let halves = _mm256_srli_epi32::<16>(bits);
                    _mm_storeu_si128(to.cast(), join(_mm256_packus_epi32(halves, halves)));
                }
                Format::Int8 => {
                    let wide = _mm256_cvtps_epi32(x);
                    let halves = join(_mm256_packs_epi32(wide, wide));
                    let bytes = _mm_packs_epi16(halves, halves);
                    _mm_storel_epi64(to.cast(), _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
                }
                Format::Int16 => {
                    let wide = _mm256_cvtps_epi32(x);
                    let halves = join(_mm256_packs_epi32(wide, wide));
                    let bytes = _mm_packs_epi16(halves, halves);
                    let bytes = _mm_xor_si128(bytes, _mm_set1_epi8(-128));
                    let order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 0, 0, 0, 0, 0, 0, 0, 0);
                    let bytes = _mm_shuffle_epi8(bytes, order);
                    _mm_storeu_si128(to.cast(), _mm_cvtepu8_epi16(bytes));
                }
                Format::F16 => super::narrow_one_by_one::<Self>(x, format, to),
            }
        }
    }
}

#[inline(always)]
unsafe fn splat(x: i32) -> __m256i {
    unsafe { _mm256_set1_epi32(x) }
}

/// The first halves of both lanes of 128 bits.
#[inline(always)]
unsafe fn join(x: __m256i) -> __m128i {
    unsafe { _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0x08>(x)) }
}

/// Float32 products.
pub(crate) struct F32;

impl Dot for F32 {
    type Simd = Avx2;
    type Rows = format::F32;
    type Weights = format::F32;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn dot(sums: __m256, a: u32, b: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(_mm256_set1_ps(f32::from_bits(a)), b, sums) }
    }
}

/// Float32 products with weights in bfloat16, which are half as many bytes.
pub(crate) struct Bf16Weights;

impl Dot for Bf16Weights {
    type Simd = Avx2;
    type Rows = format::F32;
    type Weights = format::Bf16;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn widen(weights: __m256, step: usize) -> __m256 {
        unsafe {
            let halves = _mm256_castps_si256(weights);
            _mm256_castsi256_ps(match step {
                0 => _mm256_slli_epi32::<16>(halves),
                _ => _mm256_and_si256(halves, splat(0xffff_0000_u32 as i32)),
            })
        }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m256, a: u32, b: __m256) -> __m256 {
        unsafe { F32::dot(sums, a, b) }
    }
}

/// Four 8-bit integers in two steps of two 16-bit products, whose sums fit 32 bits: the products of
/// bytes that there are would not always fit their 16.
pub(crate) struct Int8;

impl Dot for Int8 {
    type Simd = Avx2;
    type Rows = format::Int16;
    type Weights = format::Int8;
    // Each product needs a register of its own before it is added.
    const ROWS: usize = 2;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn widen(weights: __m256, step: usize) -> __m256 {
        unsafe {
            let bytes = _mm256_castps_si256(weights);
            let high = match step {
                0 => _mm256_slli_epi16::<8>(bytes),
                _ => bytes,
            };
            _mm256_castsi256_ps(_mm256_srai_epi16::<8>(high))
        }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m256, a: u32, b: __m256) -> __m256 {
        unsafe {
            let (sums, b) = (_mm256_castps_si256(sums), _mm256_castps_si256(b));
            let products = _mm256_madd_epi16(splat(a as i32), b);
            _mm256_castsi256_ps(_mm256_add_epi32(sums, products))
        }
    }

    #[inline(always)]
    unsafe fn finish(sums: __m256) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_castps_si256(sums)) }
    }
}

/// Four 8-bit integers, the first operand unsigned, with sums in 32 bits.
pub(crate) struct Vnni;

impl Dot for Vnni {
    type Simd = Avx2;
    type Rows = format::Int8;
    type Weights = format::Int8;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn dot(sums: __m256, a: u32, b: __m256) -> __m256 {
        unsafe {
            let (sums, b) = (_mm256_castps_si256(sums), _mm256_castps_si256(b));
            _mm256_castsi256_ps(_mm256_dpbusd_avx_epi32(sums, splat(a as i32), b))
        }
    }

    #[inline(always)]
    unsafe fn finish(sums: __m256) -> __m256 {
        unsafe { Int8::finish(sums) }
    }
}
