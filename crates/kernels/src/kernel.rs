//! The kernels of each instruction set: the generic code compiled for it, behind plain pointers.

use crate::attention::{Softmax, largest, softmax, transpose};
use crate::conv::{DepthwiseLine, PoolLine, Wide, depthwise, pool, wide};
use crate::format::{self, Format};
use crate::product::{Product, product};
use crate::rows::{Conversion, convert};
use crate::simd::portable;

/// One way to compute products, with what prepares its operands.
///
/// # Safety
/// The functions may only be called where the processor has the instructions; `Engine` sees to it
/// that no other kernel is reached.
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    /// How weights are held.
    pub(crate) format: Format,
    /// How rows are held: in the same way, or fewer numbers in each word.
    pub(crate) input: Format,
    /// Whether products take off what 8-bit activations have added.
    pub(crate) signed: bool,
    /// Rows of a whole tile.
    pub(crate) rows: usize,
    pub(crate) product: unsafe fn(&Product),
    /// Converts a row.
    pub(crate) convert: unsafe fn(&Conversion, &mut [u32]) -> f32,
    /// Converts a column of weights, as if it were a row.
    pub(crate) pack: unsafe fn(&Conversion, &mut [u32]) -> f32,
    pub(crate) softmax: unsafe fn(&Softmax, &mut [f32], &mut [u32]) -> f32,
    pub(crate) largest: unsafe fn(&[f32], usize, usize) -> f32,
    pub(crate) transpose: unsafe fn(&[u32], usize, &mut [u32]),
    pub(crate) depthwise: unsafe fn(&DepthwiseLine, &mut [f32]),
    pub(crate) pool: unsafe fn(&PoolLine, &mut [f32]),
    pub(crate) wide: unsafe fn(&Wide, *mut u32),
}

impl Kernel {
    /// Whether rows of `count` numbers that are held as `format` can be read where they are, with
    /// no zeros behind them.
    pub(crate) fn reads(&self, format: Format, count: usize) -> bool {
        let plain = self.input == Format::F32 && self.format == Format::F32;
        format == self.input && (plain || format.whole_lines(count))
    }
}

/// Float32 on any processor.
pub(crate) static PORTABLE: Kernel = Kernel {
    name: "portable float32",
    format: Format::F32,
    input: Format::F32,
    signed: false,
    rows: <portable::Portable as crate::simd::Simd>::ROWS,
    product: product::<portable::F32>,
    convert: convert::<portable::Portable, format::F32>,
    pack: convert::<portable::Portable, format::F32>,
    softmax: softmax::<portable::F32>,
    transpose: transpose::<portable::Portable>,
    largest: largest::<portable::Portable>,
    depthwise: depthwise::<portable::Portable>,
    pool: pool::<portable::Portable>,
    wide: wide::<portable::Portable>,
};

/// A kernel from an instruction set, the features that it needs, and a product.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! kernel {
    ($(#[$doc:meta])* $kernel:ident, $name:literal, $dot:ty, $features:literal) => {
        $(#[$doc])*
        pub(crate) static $kernel: Kernel = {
            type Vectors = <$dot as Dot>::Simd;
            // SAFETY of all of them: those of the generic functions.
            #[target_feature(enable = $features)]
            unsafe fn run(job: &Product) {
                unsafe { product::<$dot>(job) }
            }
            #[target_feature(enable = $features)]
            unsafe fn convert_row(job: &Conversion, words: &mut [u32]) -> f32 {
                unsafe { convert::<Vectors, <$dot as Dot>::Rows>(job, words) }
            }
            #[target_feature(enable = $features)]
            unsafe fn pack_column(job: &Conversion, words: &mut [u32]) -> f32 {
                unsafe { convert::<Vectors, <$dot as Dot>::Weights>(job, words) }
            }
            #[target_feature(enable = $features)]
            unsafe fn softmax_row(job: &Softmax, row: &mut [f32], words: &mut [u32]) -> f32 {
                unsafe { softmax::<$dot>(job, row, words) }
            }
            #[target_feature(enable = $features)]
            unsafe fn transpose_panel(rows: &[u32], stride: usize, panel: &mut [u32]) {
                unsafe { transpose::<Vectors>(rows, stride, panel) }
            }
            #[target_feature(enable = $features)]
            unsafe fn largest_of(rows: &[f32], width: usize, stride: usize) -> f32 {
                unsafe { largest::<Vectors>(rows, width, stride) }
            }
            #[target_feature(enable = $features)]
            unsafe fn depthwise_row(job: &DepthwiseLine, to: &mut [f32]) {
                unsafe { depthwise::<Vectors>(job, to) }
            }
            #[target_feature(enable = $features)]
            unsafe fn pool_row(job: &PoolLine, to: &mut [f32]) {
                unsafe { pool::<Vectors>(job, to) }
            }
            #[target_feature(enable = $features)]
            unsafe fn wide_panel(job: &Wide, to: *mut u32) {
                unsafe { wide::<Vectors>(job, to) }
            }
            Kernel {
                name: $name,
                format: <<$dot as Dot>::Weights as Holds>::FORMAT,
                input: <<$dot as Dot>::Rows as Holds>::FORMAT,
                signed: <$dot as Dot>::SIGNED,
                rows: <$dot as Dot>::ROWS,
                product: run,
                convert: convert_row,
                pack: pack_column,
                softmax: softmax_row,
                transpose: transpose_panel,
                largest: largest_of,
                depthwise: depthwise_row,
                pool: pool_row,
                wide: wide_panel,
            }
        };
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::*;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::format::Holds;
    use crate::simd::{Dot, avx2, avx512};

    kernel!(
        /// Float32 on AVX2.
        AVX2, "avx2 float32", avx2::F32, "avx2,fma"
    );
    kernel!(
        /// Float32 on AVX2 with weights in bfloat16.
        AVX2_BF16, "avx2 bfloat16-weights", avx2::Bf16Weights, "avx2,fma"
    );
    kernel!(
        /// 8-bit integers on AVX2, multiplied in 16 bits.
        AVX2_INT8, "avx2 int8", avx2::Int8, "avx2,fma"
    );
    kernel!(
        /// 8-bit integers on AVX-VNNI.
        AVX_VNNI_INT8, "avx-vnni int8", avx2::Vnni, "avx2,fma,avxvnni"
    );
    kernel!(
        /// Float32 on AVX-512.
        AVX512_F32, "avx512 float32", avx512::F32, "avx512f,avx512bw,avx512dq,avx512vl"
    );
    kernel!(
        /// Bfloat16 on AVX-512.
        AVX512_BF16, "avx512 bfloat16", avx512::Bf16,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
    );
    kernel!(
        /// Float16 on AVX-512.
        AVX512_F16, "avx512 float16", avx512::F16,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16"
    );
    kernel!(
        /// 8-bit integers on AVX-512.
        AVX512_INT8, "avx512 int8", avx512::Int8,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
    );
}

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::*;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::*;
    use crate::format::Holds;
    use crate::simd::{Dot, neon};

    kernel!(
        /// Float32 on NEON.
        NEON, "neon float32", neon::F32, "neon"
    );
    kernel!(
        /// 8-bit integers on NEON with DotProd.
        NEON_INT8, "neon-dot int8", neon::Int8, "neon,dotprod"
    );
}
