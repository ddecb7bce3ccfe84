//! Two thousand mutations of the inputs of each target, in a process of its own with little memory
//! and time. A failure names target and seed, and its input is kept.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code
#![allow(clippy::print_stderr)] // reports what was tried

use std::fs;
use std::path::Path;
use std::process::Command;

use anomalens_fuzz::{TARGETS, Target, target};

/// Mutations of each target; `ANOMALENS_MUTATIONS` sets another number.
const COUNT: u64 = 2000;

/// Address space of the process, in KiB.
const MEMORY: u64 = 1 << 20;

/// Processor time of the process, in seconds. A run takes a few.
const SECONDS: u64 = 120;

/// Failures after which no more are looked for.
const ENOUGH: usize = 5;

fn survive(name: &str) {
    let target = target(name).unwrap();
    let inputs = target.inputs();
    let count = std::env::var("ANOMALENS_MUTATIONS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(COUNT);
    let end = inputs.count() + count;
    let folder = tempfile::tempdir().unwrap();
    let progress = folder.path().join("progress");
    let (mut from, mut accepted) = (0, 0);
    let mut failures: Vec<String> = Vec::new();
    while from < end && failures.len() < ENOUGH {
        let limited = format!("ulimit -v {MEMORY}; ulimit -t {SECONDS}; exec \"$@\"");
        let output = Command::new("sh")
            .args(["-c", &limited, "sh", env!("CARGO_BIN_EXE_mutations"), name])
            .args([from.to_string(), end.to_string()])
            .arg(&progress)
            .env("RAYON_NUM_THREADS", "1")
            .env("TMPDIR", folder.path())
            .output()
            .unwrap();
        let told = fs::read_to_string(&progress).unwrap();
        let told: Vec<u64> = told.split(' ').map(|n| n.parse().unwrap()).collect();
        accepted += told[1];
        from = told[0] + 1;
        if output.status.success() {
            break;
        }
        let saved = save(target, &target.input(&inputs, told[0]), told[0]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        failures.push(format!(
            "{name}, seed {}: {}; the input is kept in {saved}\n{}",
            told[0],
            output.status,
            stderr.lines().take(8).collect::<Vec<_>>().join("\n")
        ));
    }
    eprintln!("{name}: {end} inputs, {accepted} accepted");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    // Repairs must let some through, or nothing behind the checksums is tried. The networks of InCTRL, ACR,
    // DenseCLIP and ZOC are many small members of an archive: nearly every change hits its structure.
    let is_fine = matches!(name, "inctrl" | "acr" | "denseclip" | "zoc");
    assert!(
        accepted > inputs.count() || is_fine && accepted > 0,
        "{name}: mutations are refused at the door, {accepted} of {end} were accepted"
    );
}

/// Keeps the input of a failure where the build's files are; what it shows belongs into `corpus/`.
fn save(target: &Target, bytes: &[u8], seed: u64) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failures");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}-{seed}", target.name));
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            survive(stringify!($name));
        })*

        #[test]
        fn every_target_is_here_and_its_seeds_are_accepted() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),*]);
            for target in &TARGETS {
                for (i, seed) in (target.seeds)().iter().enumerate() {
                    assert!((target.parse)(seed), "seed {i} of {}", target.name);
                    let mut repaired = seed.clone();
                    (target.repair)(&mut repaired);
                    assert!(repaired == *seed, "seed {i} of {} is whole", target.name);
                }
                let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
                assert!(file.join(format!("{}.rs", target.name)).is_file(), "{}", target.name);
            }
        }
    };
}

targets!(image mask safetensors archive pickle onnx packed feature_cache detector anomalyclip inctrl
    acr regad april_gan zoc vocabulary coop denseclip method_settings data_ref manifest coco meta shots results);
