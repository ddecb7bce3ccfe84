//! Every kind of file that `zoo/generate.py` can make, compared with what Pillow makes of it.
//!
//! Needs Python with the packages in `zoo/requirements.txt`: that of `ANOMALENS_PYTHON`, of
//! `target/python` (made by `.ci/run`), or `python3`. Where it is missing the test says so and does
//! nothing; in CI that is a failure.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that may be skipped aloud"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use anomalens_vision::{Image, ImageError};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zoo");

/// A Python that has the packages.
fn python() -> Option<PathBuf> {
    let of_ci = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/python/bin/python"
    );
    let named = std::env::var_os("ANOMALENS_PYTHON").map(PathBuf::from);
    named
        .into_iter()
        .chain([of_ci.into(), "python3".into()])
        .find(|python| {
            let check = Command::new(python)
                .args(["-c", "import PIL, numpy, tifffile, imagecodecs"])
                .output();
            check.is_ok_and(|output| output.status.success())
        })
}

/// Width, height and RGB pixels of a reference.
fn reference(path: &Path) -> (u32, u32, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let number = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    (number(0), number(4), bytes[8..].to_vec())
}

/// What is wrong with a decoded file, if anything.
fn complaint(path: &Path, tolerance: u8, expected: &str) -> Option<String> {
    let image = match (Image::open(path), expected) {
        (Ok(image), "pillow" | "source") => image,
        (Err(ImageError::Damaged { .. } | ImageError::UnsupportedFeature { .. }), "refused") => {
            return None;
        }
        (Ok(_), _) => return Some("is read, and should be refused".to_owned()),
        (Err(error), _) => return Some(format!("fails: {error}")),
    };
    let (width, height, pixels) = reference(&path.with_added_extension("rgb"));
    if (image.width(), image.height()) != (width, height) {
        return Some(format!("has {} x {} pixels", image.width(), image.height()));
    }
    let pairs = image.as_bytes().iter().zip(&pixels);
    let differences = pairs.map(|(found, expected)| found.abs_diff(*expected));
    let largest = differences.clone().max().unwrap_or(0);
    let count = differences.filter(|&d| d > tolerance).count();
    (count > 0).then(|| {
        let share = 100.0 * count as f64 / pixels.len() as f64;
        format!("differs by up to {largest} in {share:.1} % of its samples")
    })
}

#[test]
fn files_decode_as_pillow_decodes_them() {
    let Some(python) = python() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI needs Python with the packages in tests/zoo/requirements.txt"
        );
        eprintln!(
            "SKIPPED: no Python with the packages in crates/vision/tests/zoo/requirements.txt"
        );
        return;
    };
    let zoo = tempfile::tempdir().unwrap();
    let made = Command::new(python)
        .arg(Path::new(FOLDER).join("generate.py"))
        .arg(zoo.path())
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let index = std::fs::read_to_string(zoo.path().join("index.tsv")).unwrap();
    let mut complaints = vec![];
    let mut count = 0;
    for line in index.lines() {
        let [name, tolerance, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        count += 1;
        let tolerance = tolerance.parse().unwrap();
        if let Some(complaint) = complaint(&zoo.path().join(name), tolerance, expected) {
            complaints.push(format!("{name} ({expected}) {complaint}"));
        }
    }
    assert!(count > 1000, "only {count} files were made");
    assert!(
        complaints.is_empty(),
        "{} of {count}:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}
