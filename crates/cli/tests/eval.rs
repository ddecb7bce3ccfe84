//! What `eval` measures apart from the usual metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::ops::ControlFlow;

use anomalens::backbones::weights::Store;
use anomalens::backbones::{Backbone, Precision};
use anomalens::datasets::DataSet;
use anomalens::detectors::{MethodSettings, find};
use anomalens::evaluation::{Candidate, RunOptions, evaluate};
use common::{Sandbox, png};

const EVAL: &str = "eval --method anomaly-dino --shots 2 --data folder:data \
                    --weights tiny.safetensors --breakdown";

/// The usual data, with a second kind of anomaly: a dot, of which the mask has two regions.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.data();
    sandbox.picture("data/nut/test/dot/0.png", 1, true);
    let mask = png(64, 48, |x, y| match (x, y) {
        (20..24, 12..14) | (30..33, 20..26) => [255; 3],
        _ => [0; 3],
    });
    sandbox.write("data/nut/ground_truth/dot/0_mask.png", &mask);
    sandbox
}

#[test]
fn defect_types_and_regions_are_reported() {
    let sandbox = sandbox();
    let run = sandbox.run(&format!("{EVAL} --json --resolution original"));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let class = &run.lines()[0]["classes"][0];
    let apart = &class["breakdown"];
    let types: Vec<(&str, u64)> = apart["defect_types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| {
            (
                result["defect_type"].as_str().unwrap(),
                result["images"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(types, [("blot", 3), ("dot", 1)]);
    let regions: Vec<(&str, u64)> = apart["regions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|region| {
            let (area, found) = (region["area"].as_u64(), region["found"].as_u64());
            assert!(found <= area);
            (region["defect_type"].as_str().unwrap(), area.unwrap())
        })
        .collect();
    // The sizes of the masks as they are.
    let mut expected = vec![("blot", 196); 3];
    expected.extend([("dot", 8), ("dot", 18)]);
    assert_eq!(regions, expected);
    assert!(apart["pixel_threshold"].is_number());

    let text = sandbox.run(EVAL);
    let types: Vec<String> = text
        .stdout
        .lines()
        .filter(|line| line.starts_with("nut ") || line.starts_with("class "))
        .map(|line| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            [&cells[..3], &cells[cells.len() - 2..cells.len() - 1]]
                .concat()
                .join(" ")
        })
        .collect();
    assert_eq!(
        types,
        ["class defect images regions", "nut blot 3 3", "nut dot 1 2"],
        "{text:?}"
    );
}

#[test]
fn aupimo_is_computed_or_told_why_not() {
    let sandbox = sandbox();
    let coarse = sandbox.run(&format!("{EVAL} --json --aupimo --resolution 32"));
    assert_eq!(coarse.code, Some(0), "{coarse:?}");
    assert!(coarse.lines()[0]["aupimo"].is_null());
    assert!(
        coarse
            .stderr
            .starts_with("nut: AUPIMO: AUPIMO is undefined: "),
        "{coarse:?}"
    );
    let fine = sandbox.run(&format!("{EVAL} --json --aupimo --resolution 600"));
    assert_eq!(fine.code, Some(0), "{fine:?}");
    let aupimo = fine.lines()[0]["aupimo"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&aupimo));
    // Three normal images are few.
    assert!(
        fine.stderr.starts_with("nut: AUPIMO is rough: "),
        "{fine:?}"
    );
}

#[test]
fn a_size_that_cannot_be_is_refused() {
    let sandbox = sandbox();
    for size in ["0", "4097", "originally"] {
        let run = sandbox.run(&format!("{EVAL} --resolution {size}"));
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(
            run.stderr
                .contains("give a number of pixels from 1 to 4096, or original"),
            "{run:?}"
        );
    }
}

#[test]
fn a_run_that_is_broken_off_gives_what_was_scored() {
    let sandbox = Sandbox::new();
    sandbox.data();
    sandbox.class("data/bolt");
    let reference = format!("folder:{}", sandbox.path("data").display());
    let data = DataSet::open(&reference.parse().unwrap()).unwrap();
    let weights = sandbox.path("tiny.safetensors").display().to_string();
    let store = Store::new(sandbox.path("cache"));
    let backbone = Backbone::open(&weights, Precision::F32, &store, &|_| {}).unwrap();
    let candidates = [Candidate::Method {
        method: find("anomaly-dino").unwrap(),
        options: MethodSettings::new(),
        trained: None,
        shots: 2,
        seed: 0,
    }];
    // Two classes of six images each, broken off before, in and after the first, and in the second.
    for (name, last, partial, classes, images) in [
        ("no result", 4, false, None, None),
        ("no result before the first image", 0, false, None, None),
        ("before the first image", 0, true, Some(0), Some(0)),
        ("first class", 4, true, Some(1), Some(4)),
        ("its end", 6, true, Some(1), Some(6)),
        ("second class", 8, true, Some(2), Some(8)),
        ("not broken off", 13, true, Some(2), Some(12)),
    ] {
        let options = RunOptions {
            partial,
            ..RunOptions::default()
        };
        let progress = &mut |done, total| {
            assert_eq!(total, 12);
            match done < last {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let encoder = backbone.encoder.as_ref();
        let found = evaluate(encoder, &data, &candidates, &options, progress).unwrap();
        let found = found.as_ref().map(|evaluations| &evaluations[0]);
        assert_eq!(found.map(|found| found.classes.len()), classes, "{name}");
        assert_eq!(found.map(|found| found.images), images, "{name}");
        assert_eq!(found.map_or(0, |found| found.failed), 0, "{name}");
    }
}

#[test]
fn speed_and_quality_are_measured_together() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let options = "--data folder:data --shots 1 --seed 0 -o tradeoff";
    let run = sandbox.run(&format!(
        "bench tradeoff {options} --size 56,112 --tiles auto,56 \
         --weights tiny.safetensors@f32,tiny.safetensors@half"
    ));
    assert_eq!(run.code, Some(0), "{run:?}");
    let cells = sandbox.read("tradeoff/tradeoff.csv");
    assert_eq!(cells.lines().count(), 1 + 2 * 2 * 2, "{cells}");
    for line in cells.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let auroc: f64 = fields[6].parse().unwrap();
        let speed: f64 = fields[9].parse().unwrap();
        assert!((0.0..=1.0).contains(&auroc) && speed > 0.0, "{line}");
    }
    assert_eq!(
        sandbox
            .read("tradeoff/tradeoff.svg")
            .matches("<circle")
            .count(),
        8
    );
    assert!(
        sandbox
            .read("tradeoff/tradeoff.md")
            .contains("| tiny.safetensors | half | 56 |")
    );
    for (arguments, expected) in [
        ("--size big", "neither a number of pixels nor `auto`"),
        ("--size 57 --weights tiny.safetensors", "multiples of 14"),
        ("--shots 0", "--shots 1 or more"),
        ("--method musc", "with normal images"),
        ("--weights tiny.safetensors@exact", "exact"),
        (
            "--method anomaly-dino --weights tiny.safetensors+tiny.safetensors",
            "uses one backbone",
        ),
    ] {
        let options = options.replace(
            "--shots 1 ",
            if arguments.contains("--shots") {
                ""
            } else {
                "--shots 1 "
            },
        );
        let run = sandbox.run(&format!("bench tradeoff {options} {arguments}"));
        assert_ne!(run.code, Some(0), "{arguments}: {run:?}");
        assert!(run.stderr.contains(expected), "{arguments}: {run:?}");
    }
}
