//! How long PatchCore's coreset takes:
//!
//!     cargo run --release -p anomalens-detectors --example coreset_speed -- FILE WIDTH PART
//!
//! FILE holds rows of WIDTH float32 numbers, little endian. Prints JSON: seconds, and
//! the rows that were taken. `benchmarks/patchcore_coreset.py` compares it with PyTorch.

#![allow(clippy::print_stdout)] // It is a program.

use std::time::Instant;

use anomalens_detectors::methods::patchcore::choose_coreset;
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, width, part] = arguments.as_slice() else {
        return Err("FILE WIDTH PART are needed".into());
    };
    let bytes = std::fs::read(file)?;
    let (words, _) = bytes.as_chunks::<4>();
    let rows: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    let start = Instant::now();
    let taken = choose_coreset(&rows, width.parse()?, part.parse()?, 0)?;
    let result = json!({
        "seconds": start.elapsed().as_secs_f64(),
        "taken": taken,
    });
    println!("{result}");
    Ok(())
}
