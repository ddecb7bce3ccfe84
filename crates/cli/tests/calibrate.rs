//! Thresholds and probabilities as a user meets them: chosen, kept in the detector file, shown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use common::{Run, Sandbox};
use serde_json::Value;

const TINY: &str = "--weights tiny.safetensors";

/// A sandbox with `nut.detector`, labelled images in `data` and others in `test`.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pictures(3, 4, 2);
    sandbox.data();
    let fit = sandbox.run(&format!("fit --normal good -o nut.detector {TINY}"));
    assert_eq!(fit.code, Some(0), "{fit:?}");
    sandbox
}

fn calibrate(sandbox: &Sandbox, arguments: &str) -> Run {
    let run = sandbox.run(&format!(
        "calibrate --detector nut.detector {arguments} {TINY}"
    ));
    assert_eq!(run.code, Some(0), "{run:?}");
    run
}

/// Compares without numbers that depend on the processor.
fn assert_told(snapshot: &str, text: &str) {
    insta::with_settings!({filters => vec![(r"-?\d+\.\d+(e-?\d+)?", "N")]}, {
        insta::assert_snapshot!(snapshot, text);
    });
}

#[test]
fn a_calibrated_detector_decides() {
    let sandbox = sandbox();
    let told = calibrate(&sandbox, "--data folder:data");
    assert_told("calibrated", &(told.stdout + &told.stderr));
    let found = sandbox.run(&format!(
        "detect test --detector nut.detector -o out --json --no-pictures {TINY}"
    ));
    assert_eq!(found.code, Some(0), "{found:?}");
    for line in found.lines() {
        let bad = line["image"].as_str().unwrap().contains("bad");
        assert_eq!(line["anomalous"], bad, "{line}");
        let probability = line["probability"].as_f64().unwrap();
        assert_eq!(probability > 0.5, bad, "{line}");
    }
    let table = sandbox.read("out/results.csv");
    let heading = "image,score,anomalous,probability,regions,heat_map,overlay,map,warnings,error";
    assert_eq!(table.lines().next(), Some(heading));
    assert_eq!(table.matches(",true,0.").count(), 2, "{table}");
    assert_eq!(table.matches(",false,0.").count(), 4, "{table}");
    let shown = sandbox.run(&format!(
        "detect test --detector nut.detector -o out --no-pictures {TINY}"
    ));
    let decided: Vec<&str> = shown
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .take(7)
        .collect();
    let expected = [&["decision"][..], &["anomalous"; 2], &["normal"; 4]].concat();
    assert_eq!(decided, expected, "{shown:?}");
    assert!(
        shown
            .stdout
            .contains("\n2 of 6 images are anomalous: score "),
        "{shown:?}"
    );
}

#[test]
fn evaluation_tells_decisions() {
    let sandbox = sandbox();
    calibrate(&sandbox, "--data folder:data --only 1/2 --rule cost=5:1");
    let eval = format!("eval --detector nut.detector --data folder:data --only 2/2 {TINY}");
    let json = sandbox.run(&format!("{eval} --json --report r.html"));
    assert_eq!(json.code, Some(0), "{json:?}");
    let line = &json.lines()[0];
    assert_eq!(line["calibration"]["rule"], "cost=5:1");
    let decided = &line["decisions"][0];
    assert_eq!(decided["class"], "nut");
    assert_eq!(decided["false_negatives"], 0, "{decided}");
    let bins = decided["reliability"]["bins"].as_array().unwrap();
    let counted: u64 = bins.iter().filter_map(|bin| bin["images"].as_u64()).sum();
    assert_eq!(line["images"], counted);
    let report = sandbox.read("r.html");
    assert!(report.contains("share that is anomalous"));
    assert!(report.contains("(cost=5:1, chosen from"));
    let text = sandbox.run(&eval);
    assert!(text.stdout.contains("decisions: "), "{text:?}");
    assert!(text.stdout.contains("Brier score"), "{text:?}");
}

#[test]
fn normal_images_alone_keep_a_rate() {
    let sandbox = sandbox();
    (0..19).for_each(|i| sandbox.picture(&format!("more/{i}.png"), i, false));
    let told = calibrate(&sandbox, "--normal more -o line.detector --json");
    let line = &told.lines()[0];
    assert_eq!(line["calibration"]["rule"], "fpr=0.05");
    assert_eq!(line["calibration"]["normal"], 19);
    assert_eq!(line["calibration"]["probability"], Value::Null);
    assert_eq!(line["on_these_images"]["false_positives"], 0);
    assert_eq!(line["guarantee"]["expected"], 0.05);
    let text = calibrate(&sandbox, "--normal more -o line.detector");
    assert_told("calibrated_by_normal_images", &text.stdout);
    let before = sandbox.run(&format!(
        "detect test --detector nut.detector -o before --json --no-pictures {TINY}"
    ));
    let after = sandbox.run(&format!(
        "detect test --detector line.detector -o after --json --no-pictures {TINY}"
    ));
    for (before, after) in before.lines().iter().zip(after.lines()) {
        assert_eq!(
            before["score"], after["score"],
            "calibration changes no score"
        );
        assert_eq!(before["anomalous"], Value::Null);
        assert!(after["anomalous"].is_boolean());
        assert_eq!(after["probability"], Value::Null);
    }
    let mixed = sandbox.run(&format!(
        "detect test --detector line.detector -o before --no-pictures {TINY}"
    ));
    assert_eq!(
        mixed.code,
        Some(1),
        "decided and undecided results do not mix"
    );
}

#[test]
fn mistakes_are_told_and_leave_the_file_as_it_was() {
    let sandbox = sandbox();
    let fit = sandbox.run(&format!("fit --method musc -o musc.detector {TINY}"));
    assert_eq!(fit.code, Some(0), "{fit:?}");
    sandbox.write("torn/0.png", b"not a picture");
    for class in ["bolt", "nut"] {
        sandbox.picture(&format!("two/{class}/test/good/0.png"), 1, false);
        sandbox.picture(&format!("two/{class}/test/blot/0.png"), 1, true);
    }
    let before = std::fs::read(sandbox.path("nut.detector")).unwrap();
    // (arguments, exit code)
    let cases = [
        ("--detector nut.detector", 2),
        (
            "--detector nut.detector --normal test --data folder:data",
            2,
        ),
        ("--detector nut.detector --normal test --rule fpr=5%", 2),
        ("--detector nut.detector --normal test --rule best", 2),
        ("--detector missing.detector --normal test", 1),
        ("--detector nut.detector --normal good/", 1),
        ("--detector nut.detector --normal test --rule f1", 1),
        ("--detector nut.detector --normal test --rule fpr=0.01", 1),
        (
            "--detector nut.detector --data folder:data --rule recall=0.9",
            1,
        ),
        ("--detector nut.detector --data folder:data --class bolt", 1),
        ("--detector nut.detector --data folder:data -o missing/x", 1),
        ("--detector nut.detector --data folder:two", 1),
        ("--detector nut.detector --normal torn --rule fpr=0.5", 1),
        ("--detector musc.detector --normal test", 1),
    ];
    let told: String = cases
        .iter()
        .map(|(arguments, code)| {
            let run = sandbox.run(&format!("calibrate {arguments} {TINY}"));
            assert_eq!(run.code, Some(*code), "{arguments}: {run:?}");
            assert_eq!(run.stdout, "", "{arguments}");
            format!(
                "$ anomalens calibrate {arguments}\n{}\n",
                run.stderr.trim_end()
            )
        })
        .collect();
    insta::assert_snapshot!("mistakes", told);
    let after = std::fs::read(sandbox.path("nut.detector")).unwrap();
    assert!(before == after, "the detector file changed");
}
