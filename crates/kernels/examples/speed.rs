//! The speed of every kernel of this machine on the shapes of the networks, beside the most that
//! the machine's arithmetic can do in a loop on registers.
//!
//!     cargo run --release -p anomalens-kernels --example speed [THREADS [FILTER]]
//!
//! A filter chooses lines, such as `float16/ViT-L 518 up`.
//!
//! A measurement is the shortest of many runs; peaks are measured before each table, since other
//! work on the machine moves both.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use anomalens_kernels::{
    Attention, AttentionKind, AttentionOutput, AttentionScratch, Engine, Epilogue, LayerNorm,
    LinearScratch, PackedLinear, Parallel, Precision,
};

/// Tokens, inputs and outputs of the linear layers.
const LAYERS: [(&str, usize, usize, usize); 8] = [
    ("ViT-S 224 qkv", 257, 384, 1152),
    ("ViT-S 224 out", 257, 384, 384),
    ("ViT-S 224 up", 257, 384, 1536),
    ("ViT-S 224 down", 257, 1536, 384),
    ("ViT-L 518 qkv", 1370, 1024, 3072),
    ("ViT-L 518 out", 1370, 1024, 1024),
    ("ViT-L 518 up", 1370, 1024, 4096),
    ("ViT-L 518 down", 1370, 4096, 1024),
];

/// Tokens and heads of the attentions; heads are 64 wide.
const ATTENTIONS: [(&str, usize, usize); 2] = [("ViT-S 224", 257, 6), ("ViT-L 518", 1370, 16)];

fn main() {
    let filter = std::env::args().nth(2).unwrap_or_default();
    let threads = std::env::args().nth(1).and_then(|count| count.parse().ok());
    let threads = threads.unwrap_or(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    match pool {
        Ok(pool) => pool.install(|| run(threads, &filter)),
        Err(error) => println!("no threads: {error}"),
    }
}

fn run(threads: usize, filter: &str) {
    let peaks = peaks();
    println!("peak of one thread, Gop/s:");
    for (name, speed) in &peaks {
        println!("  {name:<12} {speed:7.1}");
    }
    println!("\nGop/s with {threads} thread(s); in brackets the part of the peak that is");
    for engine in Engine::all() {
        let mut seen = vec![];
        for precision in [Precision::F32, Precision::Half, Precision::Int8] {
            let name = engine.kernel_name(precision);
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            println!("\n{name}");
            let numbers = name.rsplit(' ').next().unwrap_or_default();
            let width = if name.starts_with("avx2") { 0.5 } else { 1.0 };
            let peak = peaks.iter().find(|(name, _)| *name == numbers);
            let peak = peak.map(|(_, speed)| speed * width * threads as f64);
            let line = |label: &str, speed: &dyn Fn() -> f64| {
                if !format!("{name}/{label}").contains(filter) {
                    return;
                }
                let speed = speed();
                let part = peak.map_or(String::new(), |peak| format!("({:.2})", speed / peak));
                println!("  {label:<26} {speed:7.1} {part}");
            };
            for (label, rows, inputs, outputs) in LAYERS {
                line(label, &|| linear(engine, precision, rows, inputs, outputs));
            }
            if precision != Precision::Int8 {
                for (label, tokens, heads) in ATTENTIONS {
                    let speed = |kinds| attention(engine, precision, tokens, heads, kinds);
                    let both = [AttentionKind::Qk, AttentionKind::Vv];
                    line(&format!("{label} attention"), &|| speed(&both[..1]));
                    line(&format!("{label} attention + V-V"), &|| speed(&both));
                }
            }
        }
    }
}

/// Seconds of the shortest of the runs that fit in half a second.
fn shortest(mut run: impl FnMut()) -> f64 {
    run();
    let begin = Instant::now();
    let mut best = f64::MAX;
    while begin.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.61).sin()).collect()
}

fn linear(engine: Engine, precision: Precision, rows: usize, inputs: usize, outputs: usize) -> f64 {
    let weight = numbers(inputs * outputs);
    let Ok(layer) = PackedLinear::new(engine, precision, &weight, &numbers(outputs)) else {
        return f64::NAN;
    };
    let norm = LayerNorm::new(&numbers(inputs), &numbers(inputs), 1e-5);
    let input = numbers(rows * inputs);
    let mut output = vec![0.0; rows * outputs];
    let mut scratch = LinearScratch::default();
    let seconds = shortest(|| {
        let epilogue = Epilogue::QuickGelu;
        layer.forward(
            &input,
            Some(&norm),
            &mut output,
            epilogue,
            &mut scratch,
            Parallel::Pool,
        );
    });
    2e-9 * (rows * inputs * outputs) as f64 / seconds
}

fn attention(
    engine: Engine,
    precision: Precision,
    tokens: usize,
    heads: usize,
    kinds: &[AttentionKind],
) -> f64 {
    let width = heads * 64;
    let attention = Attention::new(engine, precision, heads, 64);
    let qkv = numbers(tokens * 3 * width);
    let mut results = vec![vec![0.0; tokens * width]; kinds.len()];
    let mut scratch = AttentionScratch::default();
    let seconds = shortest(|| {
        let outputs = kinds.iter().zip(&mut results);
        let mut outputs: Vec<_> = outputs
            .map(|(&kind, to)| AttentionOutput { kind, to })
            .collect();
        attention.forward(&qkv, &mut outputs, &mut scratch, Parallel::Pool);
    });
    4e-9 * (kinds.len() * tokens * tokens * width) as f64 / seconds
}

/// What one thread can do at most with each kind of number, in vectors of 512 bits.
#[cfg(target_arch = "x86_64")]
fn peaks() -> Vec<(&'static str, f64)> {
    let mut peaks = vec![];
    macro_rules! peak {
        ($name:literal, $instruction:literal, $operations:expr) => {{
            const STEPS: u64 = 20_000;
            let seconds = shortest(|| {
                // SAFETY: the instruction is there, see below; all registers are named.
                unsafe {
                    std::arch::asm!(
                        "vpxord zmm30, zmm30, zmm30",
                        "2:",
                        concat!($instruction, " zmm0, zmm30, zmm30"),
                        concat!($instruction, " zmm1, zmm30, zmm30"),
                        concat!($instruction, " zmm2, zmm30, zmm30"),
                        concat!($instruction, " zmm3, zmm30, zmm30"),
                        concat!($instruction, " zmm4, zmm30, zmm30"),
                        concat!($instruction, " zmm5, zmm30, zmm30"),
                        concat!($instruction, " zmm6, zmm30, zmm30"),
                        concat!($instruction, " zmm7, zmm30, zmm30"),
                        concat!($instruction, " zmm8, zmm30, zmm30"),
                        concat!($instruction, " zmm9, zmm30, zmm30"),
                        "dec {steps}",
                        "jnz 2b",
                        steps = inout(reg) STEPS => _,
                        out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                        out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                        out("zmm8") _, out("zmm9") _, out("zmm30") _,
                        options(nomem, nostack),
                    )
                }
            });
            peaks.push(($name, (STEPS * 10 * $operations) as f64 * 1e-9 / seconds));
        }};
    }
    if is_x86_feature_detected!("avx512f") {
        peak!("float32", "vfmadd231ps", 32);
    }
    if is_x86_feature_detected!("avx512bf16") {
        peak!("bfloat16", "vdpbf16ps", 64);
    }
    if is_x86_feature_detected!("avx512fp16") {
        peak!("float16", "vfmadd231ph", 64);
    }
    if is_x86_feature_detected!("avx512vnni") {
        peak!("int8", "vpdpbusd", 128);
    }
    peaks
}

/// What one thread can do at most is only known for x86.
#[cfg(not(target_arch = "x86_64"))]
fn peaks() -> Vec<(&'static str, f64)> {
    vec![]
}
