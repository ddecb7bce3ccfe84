//! The speed of every kernel of this machine on the shapes of the networks, compared with the most that
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
    Attention, AttentionOutput, AttentionScratch, Engine, Epilogue, LayerNorm, LinearScratch,
    PackedLinear, Parallel, Precision, SelfAttention, peak,
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
    println!("Gop/s with {threads} thread(s); in brackets the part of the peak that is");
    let mut seen = vec![];
    for engine in Engine::all() {
        for precision in [Precision::F32, Precision::Half, Precision::Int8] {
            let name = engine.kernel_name(precision);
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            println!("\n{name}");
            let peak = peak(engine, precision).map(|speed| speed * threads as f64);
            if let Some(peak) = peak {
                println!("  {:<26} {peak:7.1}", "loop on registers");
            }
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
                    let both = [None, Some(SelfAttention::Values)];
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
    let layer = PackedLinear::new(engine, precision, &weight, &numbers(outputs));
    let norm = LayerNorm::new(&numbers(inputs), &numbers(inputs), 1e-5);
    let (Ok(layer), Ok(norm)) = (layer, norm) else {
        return f64::NAN;
    };
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
    kinds: &[Option<SelfAttention>],
) -> f64 {
    let width = heads * 64;
    let attention = Attention::new(engine, precision, heads, 64);
    let qkv = numbers(tokens * 3 * width);
    let mut results = vec![vec![0.0; tokens * width]; kinds.len()];
    let mut scratch = AttentionScratch::default();
    let seconds = shortest(|| {
        let outputs = kinds.iter().zip(&mut results);
        let mut outputs: Vec<_> = outputs
            .map(|(&own, to)| AttentionOutput { own, to })
            .collect();
        attention.forward(&qkv, &mut outputs, &mut scratch, Parallel::Pool);
    });
    4e-9 * (kinds.len() * tokens * tokens * width) as f64 / seconds
}
