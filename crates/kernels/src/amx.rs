//! AMX: tiles of 16 x 16 sums, of bfloat16 or 8-bit products. The instructions are written out,
//! since their intrinsics are not stable; Linux must be asked for the tile registers first.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::ops::Range;
use std::sync::OnceLock;

use crate::attention::{Softmax, largest, softmax, transpose};
use crate::format::Format;
use crate::kernel::{AVX512_F32, Kernel};
use crate::product::{PANEL, Product, Sink, TILE_ROWS, Tile};
use crate::rows::{Conversion, convert};
use crate::simd::Dot;
use crate::simd::avx512::{self, Avx512};

/// Bfloat16 on AMX.
pub(crate) static BF16: Kernel = Kernel {
    name: "amx bfloat16",
    format: Format::Bf16,
    input: Format::Bf16,
    signed: false,
    rows: TILE_ROWS,
    product: product_bf16,
    convert: convert_bf16,
    pack: convert_bf16,
    softmax: softmax_bf16,
    transpose: transpose_panel,
    largest: largest_of,
    depthwise: AVX512_F32.depthwise,
    pool: AVX512_F32.pool,
    wide: AVX512_F32.wide,
};

/// 8-bit integers on AMX.
pub(crate) static INT8: Kernel = Kernel {
    name: "amx int8",
    format: Format::Int8,
    input: Format::Int8,
    signed: false,
    rows: TILE_ROWS,
    product: product_int8,
    convert: convert_int8,
    pack: convert_int8,
    softmax: softmax_int8,
    transpose: transpose_panel,
    largest: largest_of,
    depthwise: AVX512_F32.depthwise,
    pool: AVX512_F32.pool,
    wide: AVX512_F32.wide,
};

/// Whether the processor has AMX with both kinds of products and the system lets us use it.
pub(crate) fn available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        /// CPUID leaf 7, EDX: AMX-BF16, AMX-TILE, AMX-INT8.
        const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
        /// CPUID leaf 1, ECX: the system has switched XSAVE on.
        const OSXSAVE: u32 = 1 << 27;
        /// XCR0: tile configuration and tile data.
        const TILE_STATE: u64 = 1 << 17 | 1 << 18;
        if __cpuid(0).eax < 7
            || __cpuid(1).ecx & OSXSAVE == 0
            || __cpuid_count(7, 0).edx & FEATURES != FEATURES
        {
            return false;
        }
        // SAFETY: OSXSAVE says that the instruction may be used.
        unsafe { read_xcr0() & TILE_STATE == TILE_STATE && permitted() }
    })
}

#[target_feature(enable = "xsave")]
unsafe fn read_xcr0() -> u64 {
    // SAFETY: the caller has seen OSXSAVE.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the tile registers, for all threads of the process.
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: arch_prctl(2) with this request only sets a flag of the process; a kernel that
    // does not know it returns an error.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

// SAFETY of the functions below: a kernel of this file is reached only through an engine that has
// seen AMX and AVX-512, for which they are compiled; slices carry their lengths, which the generic
// functions check.

/// Preparation of operands is that of AVX-512.
macro_rules! preparation {
    ($convert:ident, $softmax:ident, $dot:ty) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn $convert(job: &Conversion, words: &mut [u32]) -> f32 {
            // SAFETY: AVX-512 is there, see above.
            unsafe { convert::<Avx512, <$dot as Dot>::Rows>(job, words) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn $softmax(job: &Softmax, row: &mut [f32], words: &mut [u32]) -> f32 {
            // SAFETY: AVX-512 is there, see above.
            unsafe { softmax::<$dot>(job, row, words) }
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn transpose_panel(rows: &[u32], stride: usize, panel: &mut [u32]) {
    // SAFETY: AVX-512 is there, see above.
    unsafe { transpose::<Avx512>(rows, stride, panel) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn largest_of(rows: &[f32], width: usize, stride: usize) -> f32 {
    // SAFETY: AVX-512 is there, see above.
    unsafe { largest::<Avx512>(rows, width, stride) }
}

preparation!(convert_bf16, softmax_bf16, avx512::Bf16);
preparation!(convert_int8, softmax_int8, avx512::Int8);

/// Palette 1 with eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The thread's tile registers, in use. They are released when this is dropped, also by a panic:
/// the system would save and restore 8 KiB of them with every switch of threads.
struct Tiles;

impl Tiles {
    /// Sets the tiles up, filled with zeros.
    ///
    /// # Safety
    /// The processor must have AMX, and the system must have permitted it.
    #[inline(always)]
    unsafe fn configure() -> Self {
        // SAFETY: AMX is there; the configuration is one of palette 1, and lives for ever.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const CONFIGURATION,
                options(nostack, readonly),
            );
        }
        Self
    }
}

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the tiles were configured, so AMX is there; nothing in them is needed any more.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// Rows of a tile register.
const HALF: usize = 16;

/// Adds the products of 16 words of 32 rows with those of a panel, or of 16 rows: tiles 0 to 3 hold
/// the sums, 4 and 5 the rows, 6 and 7 the panel.
macro_rules! step {
    ($instruction:literal, $rows:expr, $stride:expr, $panel:expr, $count:expr) => {
        asm!(
            "tileloadd tmm4, [{rows} + {stride}]",
            "tileloadd tmm6, [{panel} + {line}]",
            "tileloadd tmm7, [{panel} + {line} + 64]",
            concat!($instruction, " tmm0, tmm4, tmm6"),
            concat!($instruction, " tmm1, tmm4, tmm7"),
            rows = in(reg) $rows,
            panel = in(reg) $panel,
            stride = in(reg) $stride * 4,
            line = in(reg) PANEL * 4,
            options(nostack, readonly),
        );
        if $count > HALF {
            asm!(
                "tileloadd tmm5, [{rows} + {stride}]",
                concat!($instruction, " tmm2, tmm5, tmm6"),
                concat!($instruction, " tmm3, tmm5, tmm7"),
                rows = in(reg) $rows.add(HALF * $stride),
                stride = in(reg) $stride * 4,
                options(nostack, readonly),
            );
        }
    };
}

/// A product whose sums `$instruction` adds up, integers if `$whole`.
///
/// Tiles take their time, in which everything else can be done: while they work on some rows, the
/// layer's end of the rows before is computed, a few rows with each step.
macro_rules! product {
    ($name:ident, $instruction:literal, $whole:expr) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        unsafe fn $name(job: &Product) {
            // The depth is a multiple of 16 words, see `Packed`.
            let steps = job.depth / HALF;
            // SAFETY: AMX is there, see above; the job's pointers are valid for the sizes beside
            // them, and its rows are readable up to whole tiles.
            unsafe {
                let _tiles = Tiles::configure();
                let (mut last, mut turn) = (Block::default(), 0);
                let mut buffers = [const { Tile([0.0; TILE_ROWS * PANEL]) }; 2];
                for panel in 0..job.panel_count {
                    for first in (0..job.row_count).step_by(TILE_ROWS) {
                        let count = TILE_ROWS.min(job.row_count - first);
                        let block = Block {
                            first,
                            count,
                            panel,
                        };
                        clear_or_start(job, panel);
                        let rows = job.rows.add(first * job.stride);
                        let words = job.panels.add(panel * job.depth * PANEL);
                        let (mut part, mut word) = (0, 0);
                        for at in 0..steps {
                            let start = job.parts[part] + word;
                            let (rows, words) = (rows.add(start), words.add(at * HALF * PANEL));
                            word += HALF;
                            if word >= job.used && part + 1 < job.parts.len() {
                                (part, word) = (part + 1, 0);
                            }
                            prefetch(job, &block, at);
                            step!($instruction, rows, job.stride, words, count);
                            let ended = at * last.count / steps..(at + 1) * last.count / steps;
                            finish(job, &last, ended, &mut buffers[turn ^ 1], $whole);
                        }
                        store(job, &block, &mut buffers[turn]);
                        (last, turn) = (block, turn ^ 1);
                    }
                }
                finish(job, &last, 0..last.count, &mut buffers[turn ^ 1], $whole);
            }
        }
    };
}

/// Rows and the panel that tiles hold the sums of.
#[derive(Default)]
struct Block {
    first: usize,
    count: usize,
    panel: usize,
}

product!(product_bf16, "tdpbf16ps", false);
product!(product_int8, "tdpbusd", true);

/// Turns of a loop on registers alone.
const TURNS: u64 = 5_000;

macro_rules! tiles_alone {
    ($instruction:literal) => {
        // SAFETY: whoever makes the loop has looked for AMX; only tiles change.
        || unsafe {
            asm!(
                "ldtilecfg [{configuration}]",
                "tilezero tmm4",
                "tilezero tmm5",
                "tilezero tmm6",
                "tilezero tmm7",
                "2:",
                concat!($instruction, " tmm0, tmm4, tmm6"),
                concat!($instruction, " tmm1, tmm4, tmm7"),
                concat!($instruction, " tmm2, tmm5, tmm6"),
                concat!($instruction, " tmm3, tmm5, tmm7"),
                "dec {turns}",
                "jnz 2b",
                "tilerelease",
                configuration = in(reg) &raw const CONFIGURATION,
                turns = inout(reg) TURNS => _,
                options(nostack, readonly),
            )
        }
    };
}

/// A loop on registers alone, see `peak.rs`, and its operations.
pub(crate) fn registers(format: Format) -> (fn(), u64) {
    let (run, per_word): (fn(), u64) = match format {
        Format::Int8 => (tiles_alone!("tdpbusd"), 4),
        _ => (tiles_alone!("tdpbf16ps"), 2),
    };
    // Four products of 16 x 16 sums over 16 words.
    (run, TURNS * 4 * 2 * (16 * 16 * 16) * per_word)
}

/// Sets the sums to zero, or to the column's start in every row.
#[inline(always)]
unsafe fn clear_or_start(job: &Product, panel: usize) {
    // SAFETY: `Tiles` has set the tiles up; the start has a word for each column, and a stride of zero reads one row sixteen times.
    unsafe {
        match job.start {
            None => asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem),
            ),
            Some(start) => asm!(
                "tileloadd tmm0, [{start} + {zero}]",
                "tileloadd tmm1, [{start} + {zero} + 64]",
                "tileloadd tmm2, [{start} + {zero}]",
                "tileloadd tmm3, [{start} + {zero} + 64]",
                start = in(reg) start.add(panel * PANEL),
                zero = in(reg) 0_usize,
                options(nostack, readonly),
            ),
        }
    }
}

/// Fetches part of the next panel, all of it in the course of this one: weights come from beyond
/// the second-level cache, and a tile waits for each of its lines. With each step of a block a few,
/// since many at once would be waited for themselves.
#[inline(always)]
unsafe fn prefetch(job: &Product, block: &Block, step: usize) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    const LINE: usize = 16;
    /// Lines of a panel for each step.
    const LINES: usize = HALF * PANEL / LINE;
    // All blocks but the last, which may be short, share the work.
    let blocks = (job.row_count / TILE_ROWS).max(1);
    let share = LINES.div_ceil(blocks);
    let first = (block.first / TILE_ROWS * share).min(LINES);
    let next = (block.panel + 1) * job.depth * PANEL + step * HALF * PANEL;
    for line in first..(first + share).min(LINES) {
        // SAFETY: nothing is read, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(job.panels.wrapping_add(next + line * LINE).cast()) }
    }
}

/// Writes the sums of a block where they go, or to `tile` if a layer's end is to come.
#[inline(always)]
unsafe fn store(job: &Product, block: &Block, tile: &mut Tile) {
    let (to, stride) = match &job.sink {
        // SAFETY: whoever takes plain sums has room for whole tiles.
        Sink::Plain { to, stride } => unsafe {
            (to.add(block.first * stride + block.panel * PANEL), *stride)
        },
        Sink::Layer(_) => (tile.0.as_mut_ptr(), PANEL),
    };
    // SAFETY: `Tiles` has set the tiles up; `to` has room for whole tiles.
    unsafe {
        asm!(
            "tilestored [{low} + {stride}], tmm0",
            "tilestored [{low} + {stride} + 64], tmm1",
            low = in(reg) to,
            stride = in(reg) stride * 4,
            options(nostack),
        );
        if block.count > HALF {
            asm!(
                "tilestored [{high} + {stride}], tmm2",
                "tilestored [{high} + {stride} + 64], tmm3",
                high = in(reg) to.add(HALF * stride),
                stride = in(reg) stride * 4,
                options(nostack),
            );
        }
    }
}

/// Ends some rows of the sums that [`store`] left in `tile`, after a conversion from integers if
/// `whole`.
#[inline(always)]
unsafe fn finish(job: &Product, block: &Block, part: Range<usize>, tile: &mut Tile, whole: bool) {
    use std::arch::x86_64::{_mm512_cvtepi32_ps, _mm512_load_si512, _mm512_store_ps};
    let Sink::Layer(layer) = &job.sink else {
        return;
    };
    // SAFETY: AVX-512 is there, see above; a tile holds the rows of a block.
    unsafe {
        if whole {
            for vector in 2 * part.start..2 * part.end {
                let vector = tile.0.as_mut_ptr().add(vector * HALF);
                _mm512_store_ps(vector, _mm512_cvtepi32_ps(_mm512_load_si512(vector.cast())));
            }
        }
        layer.finish::<Avx512>(tile, block.first, part, block.panel * PANEL);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::buffer::Buffer;
    use crate::product::{Epilogue, Layer, Target};

    /// Whether this thread's tiles are released: their configuration is all zeros then.
    fn released() -> bool {
        let mut configuration = [0xff_u8; 64];
        // SAFETY: the test has looked for AMX; the instruction writes 64 bytes.
        unsafe {
            asm!("sttilecfg [{}]", in(reg) &raw mut configuration, options(nostack));
        }
        configuration == [0; 64]
    }

    #[test]
    fn tiles_are_released_after_a_product_and_after_a_panic() {
        if !available() {
            return;
        }
        for (kernel, factors) in [(&BF16, 32), (&INT8, 32), (&BF16, 31), (&INT8, 31)] {
            let (rows, panels) = (Buffer::zeros(32 * HALF), Buffer::zeros(HALF * PANEL));
            let mut output = vec![0.0_f32; 32 * PANEL];
            // A layer's end counts the factors of its rows, and panics if one is missing.
            let job = Product {
                rows: rows.words().as_ptr(),
                stride: HALF,
                row_count: 32,
                panels: panels.words().as_ptr(),
                panel_count: 1,
                depth: HALF,
                parts: &[0],
                used: HALF,
                start: None,
                sink: Sink::Layer(Layer {
                    row_factors: &vec![1.0; factors],
                    column_factors: None,
                    bias: None,
                    last: Epilogue::Store,
                    to: Target {
                        start: output.as_mut_ptr().cast(),
                        stride: PANEL,
                        format: Format::F32,
                    },
                    columns: PANEL,
                }),
            };
            // SAFETY: AMX is there; all sizes are those of the buffers.
            let run = AssertUnwindSafe(|| unsafe { (kernel.product)(&job) });
            assert_eq!(catch_unwind(run).is_ok(), factors == 32, "{}", kernel.name);
            assert!(released(), "{} with {factors} factors", kernel.name);
        }
    }
}
