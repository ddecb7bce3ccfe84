//! Detectors as ONNX files, as a user meets them. What the files give is compared in `tests/export`, and by
//! the program itself where ONNX Runtime is here (`ANOMALENS_ORT`, or a Python package).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use common::{Run, Sandbox};

const TINY: &str = "--weights tiny.safetensors";

/// A sandbox with normal images in `good`, fitted as `nut.detector` with these arguments too.
fn sandbox(fit: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pictures(3, 4, 2);
    sandbox.data();
    let fit = sandbox.run(&format!("fit -o nut.detector {TINY} {fit}"));
    assert_eq!(fit.code, Some(0), "{fit:?}");
    sandbox
}

fn export(sandbox: &Sandbox, arguments: &str) -> Run {
    sandbox.run(&format!("export nut.detector {TINY} {arguments}"))
}

/// The result as JSON; with `CI` set it must have been run.
fn exported(sandbox: &Sandbox, arguments: &str) -> serde_json::Value {
    let run = export(sandbox, &format!("{arguments} --json"));
    assert_eq!(run.code, Some(0), "{run:?}");
    let result: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let was_run = result["check"]["runtime"].is_string();
    assert!(was_run || std::env::var_os("CI").is_none(), "{result}");
    result
}

fn names(ports: &serde_json::Value) -> Vec<&str> {
    let ports = ports.as_array().unwrap().iter();
    ports.map(|port| port["name"].as_str().unwrap()).collect()
}

#[test]
fn a_detector_is_written_with_its_decisions() {
    let sandbox = sandbox("--method anomaly-dino --normal good --set image_size=56");
    let told = export(&sandbox, "-o nut.onnx");
    assert_eq!(told.code, Some(0), "{told:?}");
    let without_check = told.stdout.lines().take(3).collect::<Vec<_>>().join("\n");
    insta::with_settings!({filters => vec![(r"\d+\.\d+ MB", "N MB")]}, {
        insta::assert_snapshot!("exported", without_check);
    });
    let calibrate = format!("calibrate --detector nut.detector --data folder:data {TINY}");
    assert_eq!(sandbox.run(&calibrate).code, Some(0));
    let result = exported(&sandbox, "-o nut.onnx --dynamic-batch");
    let expected = ["score", "map", "anomaly_map", "decision"];
    assert_eq!(names(&result["outputs"]), expected, "{result}");
    assert_eq!(result["inputs"][0]["shape"], serde_json::json!([56, 56, 3]));
    let wide = exported(&sandbox, "-o wide.onnx --size 84x56");
    assert_eq!(wide["outputs"][1]["shape"], serde_json::json!([4, 6]));
    exported(&sandbox, "-o half.onnx --half");
    exported(&sandbox, "-o contrib.onnx --contrib");
}

#[test]
fn other_methods_are_written_too() {
    for (method, settings) in [
        ("patchcore", "--set image_size=64 --set crop=56"),
        ("padim", "--set image_size=64 --set crop=56"),
        ("spade", "--set image_size=64 --set crop=56"),
    ] {
        let sandbox = sandbox(&format!("--method {method} --normal good {settings}"));
        let result = exported(&sandbox, "-o nut.onnx");
        assert_eq!(result["part"], "detector", "{method}: {result}");
    }
}

#[test]
fn networks_are_written_alone() {
    let sandbox = sandbox("--method musc --set image_size=56");
    let run = export(&sandbox, "-o nut.onnx");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stderr.contains("only the networks were written"),
        "{run:?}"
    );
    let result = exported(&sandbox, "-o nut.onnx --part encoder");
    assert_eq!(result["part"], "encoder");
    let outputs = names(&result["outputs"]);
    for name in ["block_12", "block_12_class", "embedding"] {
        assert!(outputs.contains(&name), "{result}");
    }
}

#[test]
fn mistakes_leave_nothing() {
    let joint = sandbox("--method musc --set image_size=56");
    let single = sandbox("--method anomaly-dino --normal good --set image_size=56");
    let cut = sandbox("--method patchcore --normal good --set image_size=64 --set crop=56");
    let masked =
        sandbox("--method anomaly-dino --normal good --set image_size=56 --set masking=on");
    let mut told = vec![];
    for (sandbox, arguments) in [
        (&joint, "-o bad.onnx --part detector"),
        (&single, "-o bad.onnx --size 60x56"),
        (&single, "-o bad.onnx --size 60"),
        (&single, "-o nowhere/bad.onnx"),
        (&single, "-o nut.detector"),
        (&cut, "-o bad.onnx --size 84x84"),
        (&masked, "-o bad.onnx --part detector"),
    ] {
        let run = export(sandbox, arguments);
        assert_ne!(run.code, Some(0), "{arguments}");
        assert!(!sandbox.path("bad.onnx").exists(), "{arguments}");
        told.push(format!("{arguments}\n{}", run.stderr.trim()));
    }
    insta::assert_snapshot!("export_mistakes", told.join("\n\n"));
}
