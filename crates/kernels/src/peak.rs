//! The most that the processor's arithmetic can do: loops on registers alone, against which the
//! kernels are measured.

use std::time::{Duration, Instant};

use crate::engine::{Engine, Precision};
use crate::format::Format;

/// How long a loop is repeated.
const TIME: Duration = Duration::from_millis(100);

/// Instructions before the loop's branch, and turns of the loop.
#[cfg(target_arch = "x86_64")]
const WIDTH: u64 = 12;
#[cfg(target_arch = "x86_64")]
const STEPS: u64 = 20_000;

/// A loop of independent instructions on the registers of a size.
#[cfg(target_arch = "x86_64")]
macro_rules! instructions {
    ($instruction:literal, $register:literal) => {
        // SAFETY: whoever makes the loop has looked for the instruction; only registers that are
        // named change.
        || unsafe {
            std::arch::asm!(
                concat!("vpxor xmm15, xmm15, xmm15"),
                "2:",
                concat!($instruction, " ", $register, "0, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "1, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "2, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "3, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "4, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "5, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "6, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "7, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "8, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "9, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "10, ", $register, "15, ", $register, "15"),
                concat!($instruction, " ", $register, "11, ", $register, "15, ", $register, "15"),
                "dec {steps}",
                "jnz 2b",
                steps = inout(reg) STEPS => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm15") _,
                options(nomem, nostack),
            )
        }
    };
}

/// The most operations per second (additions and multiplications, in thousands of millions) of one
/// thread with the instruction that `engine` uses for `precision`; none where no loop is known.
pub fn peak(engine: Engine, precision: Precision) -> Option<f64> {
    let kernel = engine.kernel(precision);
    let (run, operations) = registers(kernel.name, kernel.format)?;
    run();
    let (mut turns, start) = (0, Instant::now());
    let mut shortest = f64::MAX;
    while start.elapsed() < TIME || turns < 3 {
        let start = Instant::now();
        run();
        shortest = shortest.min(start.elapsed().as_secs_f64());
        turns += 1;
    }
    Some(operations * 1e-9 / shortest)
}

/// The loop of a kernel and its operations.
#[cfg(target_arch = "x86_64")]
fn registers(name: &str, format: Format) -> Option<(fn(), f64)> {
    let (run, operations): (fn(), u64) = match (name.split(' ').next()?, format) {
        ("avx2", Format::F32 | Format::Bf16) => (instructions!("vfmadd231ps", "ymm"), 16),
        ("avx2", Format::Int8) => (instructions!("vpmaddwd", "ymm"), 32),
        ("avx-vnni", Format::Int8) => (instructions!("{{vex}} vpdpbusd", "ymm"), 64),
        ("avx512", Format::F32) => (instructions!("vfmadd231ps", "zmm"), 32),
        ("avx512", Format::Bf16) => (instructions!("vdpbf16ps", "zmm"), 64),
        ("avx512", Format::F16) => (instructions!("vfmadd231ph", "zmm"), 64),
        ("avx512", Format::Int8) => (instructions!("vpdpbusd", "zmm"), 128),
        #[cfg(target_os = "linux")]
        ("amx", _) => {
            let (run, operations) = crate::amx::registers(format);
            return Some((run, operations as f64));
        }
        _ => return None,
    };
    Some((run, (WIDTH * STEPS * operations) as f64))
}

#[cfg(not(target_arch = "x86_64"))]
fn registers(_: &str, _: Format) -> Option<(fn(), f64)> {
    None
}
