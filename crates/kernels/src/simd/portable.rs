//! Vectors as plain arrays, for any processor: the compiler makes the best of them.

use super::{Dot, Simd};
use crate::format;

/// Arrays of eight numbers.
pub(crate) struct Portable;

const LANES: usize = 8;
type V = [f32; LANES];

#[inline(always)]
fn map(x: V, f: impl Fn(f32) -> f32) -> V {
    x.map(f)
}

#[inline(always)]
fn zip(x: V, y: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(x[i], y[i]))
}

impl Simd for Portable {
    type Vector = V;
    const LANES: usize = LANES;
    const ROWS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 3 };

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        // SAFETY: the caller vouches for the pointer; arrays need no more alignment than f32.
        unsafe { from.cast::<V>().read() }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> V {
        // SAFETY: the caller vouches for `count` lanes.
        std::array::from_fn(|i| {
            if i < count {
                unsafe { *from.add(i) }
            } else {
                0.0
            }
        })
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: V) {
        // SAFETY: the caller vouches for the pointer.
        unsafe { to.cast::<V>().write(x) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, x: V, count: usize) {
        for (i, &x) in x.iter().take(count).enumerate() {
            // SAFETY: the caller vouches for `count` lanes.
            unsafe { *to.add(i) = x }
        }
    }

    #[inline(always)]
    unsafe fn add(x: V, y: V) -> V {
        zip(x, y, |x, y| x + y)
    }

    #[inline(always)]
    unsafe fn sub(x: V, y: V) -> V {
        zip(x, y, |x, y| x - y)
    }

    #[inline(always)]
    unsafe fn mul(x: V, y: V) -> V {
        zip(x, y, |x, y| x * y)
    }

    #[inline(always)]
    unsafe fn fma(x: V, y: V, z: V) -> V {
        // A fused instruction where there is one: without it `mul_add` is a function call.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        std::array::from_fn(|i| match fused {
            true => x[i].mul_add(y[i], z[i]),
            false => x[i] * y[i] + z[i],
        })
    }

    #[inline(always)]
    unsafe fn min(x: V, y: V) -> V {
        zip(x, y, f32::min)
    }

    #[inline(always)]
    unsafe fn max(x: V, y: V) -> V {
        zip(x, y, f32::max)
    }

    #[inline(always)]
    unsafe fn abs(x: V) -> V {
        map(x, f32::abs)
    }

    #[inline(always)]
    unsafe fn reciprocal(x: V) -> V {
        map(x, f32::recip)
    }

    #[inline(always)]
    unsafe fn round(x: V) -> V {
        // Adding 1.5 * 2^23 pushes the fraction out.
        map(x, |x| (x + 12_582_912.0) - 12_582_912.0)
    }

    #[inline(always)]
    unsafe fn scale(x: V, n: V) -> V {
        zip(x, n, |x, n| {
            x * f32::from_bits(((n as i32 + 127) as u32) << 23)
        })
    }

    #[inline(always)]
    unsafe fn total(x: V) -> f32 {
        x.iter().sum()
    }

    #[inline(always)]
    unsafe fn largest(x: V) -> f32 {
        x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// Float32 products.
pub(crate) struct F32;

impl Dot for F32 {
    type Simd = Portable;
    type Rows = format::F32;
    type Weights = format::F32;
    const CARRY: Option<usize> = None;

    #[inline(always)]
    unsafe fn dot(sums: V, a: u32, b: V) -> V {
        // SAFETY: plain arithmetic.
        unsafe { Portable::fma(Portable::splat(f32::from_bits(a)), b, sums) }
    }
}
