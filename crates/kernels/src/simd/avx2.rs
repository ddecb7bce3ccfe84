//! AVX2 with FMA: vectors of eight numbers.

use std::arch::x86_64::*;

use super::{Dot, Simd};
use crate::format::Format;

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
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
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
}

/// Float32 products.
pub(crate) struct F32;

impl Dot for F32 {
    type Simd = Avx2;
    const FORMAT: Format = Format::F32;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn dot(sums: __m256, a: u32, b: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(_mm256_set1_ps(f32::from_bits(a)), b, sums) }
    }
}
