//! The program as a user meets it: what it prints, what it writes, how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

mod common;

use anomalens::AnomalyDetector;
use anomalens::backbones::weights::ContentHash;
use anomalens::detectors::DetectorFile;
use common::Sandbox;
use serde_json::json;

const TINY: &str = "--weights tiny.safetensors";

#[test]
fn few_shot_detection_finds_the_bad_images() {
    let sandbox = Sandbox::new();
    sandbox.pictures(3, 4, 2);
    let fit = sandbox.run(&format!("fit --normal good -o nut.detector --json {TINY}"));
    assert_eq!((fit.code, fit.stderr.as_str()), (Some(0), ""), "{fit:?}");
    assert_eq!(fit.lines()[0]["method"], "lens");
    assert_eq!(fit.lines()[0]["images"], 3);
    let found = sandbox.run(&format!(
        "detect test --detector nut.detector -o out --json {TINY}"
    ));
    assert_eq!(found.code, Some(0), "{found:?}");
    let lines = found.lines();
    assert_eq!(lines.len(), 6);
    let score = |name: &str| {
        let of = |line: &&serde_json::Value| line["image"].as_str().unwrap().ends_with(name);
        lines.iter().find(of).unwrap()["score"].as_f64().unwrap()
    };
    for good in 0..4 {
        for bad in 0..2 {
            assert!(score(&format!("good-{good}.png")) < score(&format!("bad-{bad}.png")));
        }
    }
    for line in &lines {
        for picture in ["heat_map", "overlay"] {
            let path = sandbox.path("out").join(line[picture].as_str().unwrap());
            let picture = anomalens::vision::Image::open(&path).unwrap();
            assert_eq!((picture.width(), picture.height()), (64, 48));
        }
    }
    assert_eq!(sandbox.read("out/results.jsonl").lines().count(), 6);
    assert_eq!(sandbox.read("out/results.csv").lines().count(), 7);
    let direct = sandbox.run(&format!("detect test --normal good -o out2 --json {TINY}"));
    let scores = |lines: &[serde_json::Value]| -> Vec<serde_json::Value> {
        lines.iter().map(|line| line["score"].clone()).collect()
    };
    assert_eq!(
        scores(&direct.lines()),
        scores(&lines),
        "fitted in place or from a file"
    );
}

#[test]
fn a_detector_encodes_as_it_was_made() {
    let sandbox = Sandbox::new();
    sandbox.pictures(2, 1, 1);
    let scores = |arguments: &str| {
        let run = sandbox.run(&format!(
            "detect test --json --no-pictures {arguments} {TINY}"
        ));
        assert_eq!(run.code, Some(0), "{run:?}");
        let lines = run.lines();
        lines
            .into_iter()
            .map(|line| line["score"].clone())
            .collect::<Vec<_>>()
    };
    let mut seen = vec![];
    for precision in ["f32", "half", "int8"] {
        let fit = format!("fit --normal good -o {precision}.detector --precision {precision}");
        assert_eq!(sandbox.run(&format!("{fit} {TINY}")).code, Some(0));
        let saved = scores(&format!("--detector {precision}.detector -o {precision}"));
        let direct = format!("--normal good --precision {precision} -o direct-{precision}");
        assert_eq!(saved, scores(&direct), "{precision}");
        seen.push(saved);
    }
    assert_ne!(seen[0], seen[2], "float32 and int8");
    let default = scores("--normal good -o default");
    assert_eq!(default, seen[1], "half is the default");
}

#[test]
fn nothing_normal_need_be_given() {
    let sandbox = Sandbox::new();
    sandbox.pictures(0, 5, 1);
    let found = sandbox.run(&format!(
        "detect test --method musc -o out --json --no-pictures {TINY}"
    ));
    assert_eq!(found.code, Some(0), "{found:?}");
    let alone = sandbox.run(&format!("detect test/bad-0.png -o alone --json {TINY}"));
    assert_eq!(alone.lines().len(), 1, "{alone:?}");
    assert!(alone.lines()[0]["score"].as_f64().unwrap() > 0.0);
    let lines = found.lines();
    let highest = lines.iter().max_by(|a, b| {
        a["score"]
            .as_f64()
            .unwrap()
            .total_cmp(&b["score"].as_f64().unwrap())
    });
    assert!(
        highest.unwrap()["image"]
            .as_str()
            .unwrap()
            .ends_with("bad-0.png")
    );
    assert!(!sandbox.path("out/overlays").exists());
}

#[test]
fn a_bad_image_is_told_and_the_others_are_scored() {
    let sandbox = Sandbox::new();
    sandbox.pictures(2, 2, 1);
    let whole = common::png(64, 48, |x, y| [x as u8, y as u8, 0]);
    sandbox.write("test/text.png", b"this is a note, not a picture");
    sandbox.write("test/empty.png", b"");
    sandbox.write("test/cut.png", &whole[..whole.len() / 2]);
    sandbox.write("test/cut.jpg", &jpeg()[..200]);
    sandbox.write("test/bomb.png", &png_header(60_000, 60_000));
    sandbox.write("test/dot.png", &common::png(1, 1, |_, _| [9, 9, 9]));
    let found = sandbox.run(&format!("detect test --normal good -o out --json {TINY}"));
    assert_eq!(found.code, Some(1), "{found:?}");
    let lines = found.lines();
    let failed: Vec<(&str, &str)> = lines
        .iter()
        .filter_map(|line| Some((line["image"].as_str()?, line["error"].as_str()?)))
        .collect();
    insta::assert_snapshot!(
        failed
            .iter()
            .map(|(_, error)| format!("{error}\n"))
            .collect::<String>()
    );
    assert_eq!(failed.len(), 5);
    assert_eq!(lines.len(), 9, "a 1 x 1 image is scored too");
    assert!(
        found.stderr.contains("5 of 9 images could not be used"),
        "{}",
        found.stderr
    );
    // Mended, only what failed is done again.
    for name in ["text.png", "empty.png", "cut.png", "cut.jpg", "bomb.png"] {
        sandbox.write(&format!("test/{name}"), &whole);
    }
    let again = sandbox.run(&format!("detect test --normal good -o out --json {TINY}"));
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(
        again.stderr.contains("4 of 9 are done already"),
        "{}",
        again.stderr
    );
    assert_eq!(sandbox.read("out/results.jsonl").lines().count(), 9);
}

/// A small JPEG.
fn jpeg() -> Vec<u8> {
    include_bytes!("small.jpg").to_vec()
}

/// A PNG that promises `width x height` pixels and has none.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = common::png(1, 1, |_, _| [0; 3]);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

#[test]
fn mistakes_are_told_in_one_sentence() {
    let sandbox = Sandbox::new();
    sandbox.pictures(1, 2, 1);
    sandbox.data();
    sandbox.write("empty/notes.txt", b"no pictures here");
    sandbox.write("file", b"");
    sandbox.write("broken.detector", b"not a detector");
    sandbox.write("other/run.json", b"{\"method\": \"another\"}");
    // (arguments, exit code)
    let cases = [
        ("", 2),
        ("detect", 2),
        ("detect missing", 1),
        ("detect empty", 1),
        ("detect test/bad-0.png --method musc", 1),
        ("detect test --detector missing.detector", 1),
        ("detect test --detector broken.detector", 1),
        ("detect test --method anomaly-dyno", 1),
        ("detect test --method anomaly-dino", 1),
        ("detect test --method musc --normal good", 1),
        (
            "detect test --normal good --set blokcs=[6] --weights tiny.safetensors",
            1,
        ),
        (
            "detect test --normal good --set blocks --weights tiny.safetensors",
            1,
        ),
        (
            "detect test --normal good --set blocks=[99] --weights tiny.safetensors",
            1,
        ),
        (
            "detect test --normal good -o file --weights tiny.safetensors",
            1,
        ),
        (
            "detect test --normal good -o other --weights tiny.safetensors",
            1,
        ),
        ("detect test --normal good --weights dinov2-smal", 1),
        ("detect test --normal good --weights elpv", 1),
        ("detect test --normal good --weights file", 1),
        ("fit --normal missing -o x.detector", 1),
        (
            "fit --normal good --shots 2 -o x.detector --weights tiny.safetensors",
            1,
        ),
        ("fit --normal good -o missing/x.detector", 1),
        ("fit --normal good -o good", 1),
        ("fit --normal empty -o x.detector", 1),
        ("eval --method anomaly-dino --data folder:missing", 1),
        ("eval --method anomaly-dino --data folder:empty", 1),
        ("eval --method anomaly-dino --data foldr:data", 2),
        ("eval --method anomaly-dino --data data", 2),
        (
            "eval --method anomaly-dino --data folder:data --shots 5 --weights tiny.safetensors",
            1,
        ),
        (
            "eval --method anomaly-dino --data folder:data --shots 0 --weights tiny.safetensors",
            1,
        ),
        ("eval --shots 0 --whole", 2),
        ("bench lokal --root data -o bench", 2),
        ("bench local --root data -o bench", 1),
        (
            "bench local --data folder:data --method anomaly-dyno -o bench",
            1,
        ),
        (
            "bench local --data folder:data --data folder:data -o bench",
            1,
        ),
        (
            "bench local --data folder:data --method musc --set anomaly-dino.block=6 -o bench --weights tiny.safetensors",
            1,
        ),
        ("bench local --data folder:data --shots two -o bench", 2),
        (
            "bench local --data folder:data --feature-cache file -o bench --weights tiny.safetensors",
            1,
        ),
        ("eval --method musc --data folder:data --published mvtek", 1),
        ("train --data folder:data -o missing/x.detector", 1),
        ("train --method musc --data folder:data -o x.detector", 1),
        (
            "train --data folder:data --set object_aware=true -o x.detector --weights tiny.safetensors",
            1,
        ),
        (
            "detect test --normal good --class nut --weights tiny.safetensors",
            1,
        ),
        (
            "bench ablation --train folder:data --test folder:data --only defualt -o ablation --weights tiny.safetensors",
            1,
        ),
        ("train --data folder:data --leave-out 3/2 -o x.detector", 2),
        (
            "train --data folder:data --set prompt=text -o x.detector --weights tiny.safetensors",
            1,
        ),
        (
            "detect test --method anomalyclip --weights tiny.safetensors",
            1,
        ),
        (
            "detect test --normal good --weights seeded:7:clip-vit-l15",
            1,
        ),
        ("data draw textures,sed=1 -o drawn", 2),
        ("data draw empty -o drawn", 1),
        ("data draw textures,images=1,side=8 -o test", 1),
        ("detect test --normal good --precision f16", 2),
        (
            "detect test --detector half.detector --precision int8 --weights tiny.safetensors",
            1,
        ),
        ("models path dinov2-small", 1),
        ("models path dinov2-smol", 1),
    ];
    let fit = sandbox.run(&format!("fit --normal good -o half.detector {TINY}"));
    assert_eq!(fit.code, Some(0), "{fit:?}");
    let told: String = cases
        .iter()
        .map(|(arguments, code)| {
            let run = sandbox.run(arguments);
            assert_eq!(run.code, Some(*code), "{arguments}: {run:?}");
            assert_eq!(run.stdout, "", "{arguments}");
            format!("$ anomalens {arguments}\n{}\n", run.stderr.trim_end())
        })
        .collect();
    insta::assert_snapshot!(told);
}

#[test]
fn the_instruction_set_can_be_chosen() {
    let sandbox = Sandbox::new();
    sandbox.pictures(1, 1, 1);
    let run = |cpu: &str| {
        let arguments = format!("detect test --normal good --no-pictures -o {cpu} {TINY}");
        let output = sandbox
            .command(&arguments)
            .env("ANOMALENS_CPU", cpu)
            .output();
        output.unwrap()
    };
    assert!(run("portable").status.success());
    let unknown = run("sse9");
    assert_eq!(unknown.status.code(), Some(1));
    let message = String::from_utf8(unknown.stderr).unwrap();
    assert!(
        message.contains("ANOMALENS_CPU") && message.contains("avx2"),
        "{message}"
    );
}

#[test]
fn weights_that_are_not_here_are_told_with_what_to_do() {
    let sandbox = Sandbox::new();
    sandbox.pictures(1, 1, 1);
    let run = sandbox.run("detect test --normal good --weights dinov2-s-focus");
    assert_eq!(run.code, Some(1));
    insta::assert_snapshot!(run.stderr);
}

/// The sandbox has an empty cache and forbids downloads.
#[cfg(feature = "embedded")]
#[test]
fn everything_works_without_any_download() {
    let sandbox = Sandbox::new();
    let draw = sandbox.run("data draw textures,seed=3,materials=1,images=4,side=112 -o set");
    assert_eq!(draw.code, Some(0), "{draw:?}");
    let fit = sandbox.run("fit --normal set/weave-001/train/good -o weave.detector");
    assert_eq!(fit.code, Some(0), "{fit:?}");
    let detect = sandbox.run("detect set/weave-001/test --detector weave.detector --json");
    assert_eq!(detect.code, Some(0), "{detect:?}");
    let score = |line: &serde_json::Value| line["score"].as_f64().unwrap();
    let is_good = |line: &serde_json::Value| line["image"].as_str().unwrap().contains("good");
    let (good, bad): (Vec<_>, Vec<_>) = detect.lines().into_iter().partition(is_good);
    assert_eq!((good.len(), bad.len()), (4, 4));
    // Not all drawn defects are found, but the worst image is none of the good ones.
    let worst = |lines: &[serde_json::Value]| lines.iter().map(score).fold(0.0, f64::max);
    assert!(worst(&bad) > 1.5 * worst(&good), "{detect:?}");
}

#[cfg(feature = "embedded")]
#[test]
fn the_demo_without_network_says_that_its_defects_are_synthetic() {
    let sandbox = Sandbox::new();
    let run = sandbox.run("demo --json");
    assert_eq!(run.code, Some(0), "{run:?}");
    let result = &run.lines()[0];
    assert_eq!(result["backbone"], "dinov2-s-focus-int8");
    let note = result["note"].as_str().unwrap();
    assert!(
        note.contains("synthetic defects on generated textures"),
        "{note}"
    );
    for run in result["results"].as_array().unwrap() {
        assert_eq!(run["data"], "synthetic defects");
        assert!(run["image_auroc"].as_f64().unwrap() > 0.5, "{run}");
    }
    let report = std::fs::read_to_string(sandbox.path("anomalens-demo/report.html")).unwrap();
    assert!(report.contains("synthetic defects on generated textures, not real ones"));
}

/// The demo, sent Ctrl-C `delay` after it has its images: its exit code, output and messages.
#[cfg(all(unix, feature = "embedded"))]
fn interrupted_demo(
    sandbox: &Sandbox,
    delay: std::time::Duration,
) -> (Option<i32>, String, String) {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    let mut child = Command::new(assert_cmd::cargo::cargo_bin("anomalens"))
        .args(["demo", "--json"])
        .current_dir(sandbox.path("."))
        .env("ANOMALENS_CACHE", sandbox.path("cache"))
        .env("ANOMALENS_OFFLINE", "1")
        .env_remove("ANOMALENS_MODELS")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    let (mut stdout, mut stderr) = (String::new(), String::new());
    while !stderr.contains("solar-cell images are unavailable") {
        assert_ne!(messages.read_line(&mut stderr).unwrap(), 0, "{stderr}");
    }
    std::thread::sleep(delay);
    let mut kill = Command::new("kill");
    kill.args(["-INT", &child.id().to_string()]);
    assert!(kill.status().unwrap().success(), "{stderr}");
    messages.read_to_string(&mut stderr).unwrap();
    let mut results = child.stdout.take().unwrap();
    results.read_to_string(&mut stdout).unwrap();
    (child.wait().unwrap().code(), stdout, stderr)
}

#[cfg(all(unix, feature = "embedded"))]
#[test]
fn a_demo_interrupted_before_the_first_image_says_so() {
    let sandbox = Sandbox::new();
    let (code, stdout, stderr) = interrupted_demo(&sandbox, std::time::Duration::ZERO);
    let end = "error: interrupted before the first image was scored; no report was written\n";
    assert!(stderr.ends_with(end), "{stderr}");
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(!sandbox.path("anomalens-demo/report.html").exists());
}

/// Later and later, until Ctrl-C comes between the first image and the last.
#[cfg(all(unix, feature = "embedded"))]
#[test]
fn an_interrupted_demo_writes_its_report() {
    let sandbox = Sandbox::new();
    let stdout = (0..10).find_map(|attempt| {
        let delay = std::time::Duration::from_millis(100 << attempt);
        let (code, stdout, stderr) = interrupted_demo(&sandbox, delay);
        assert_eq!(code, Some(1), "{stderr}");
        (!stdout.is_empty()).then_some(stdout)
    });
    let stdout = stdout.unwrap();
    let result: serde_json::Value = serde_json::from_str(stdout.trim()).unwrap();
    assert_eq!(result["interrupted"], true);
    let report = std::fs::read_to_string(sandbox.path("anomalens-demo/report.html")).unwrap();
    assert!(report.contains("Interrupted: at least "), "{stdout}");
}

#[test]
fn a_data_set_is_evaluated_by_its_list_as_by_its_folders() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let run = sandbox.run("data meta --data folder:data -o data/meta.json");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stdout, "10 images written to data/meta.json\n");
    let printed = sandbox.run("data meta --data folder:data").stdout;
    assert_eq!(printed, sandbox.read("data/meta.json"));

    let metrics = |data: &str| {
        let run = sandbox.run(&format!(
            "eval --method anomaly-dino --shots 2 --data {data} --json {TINY}"
        ));
        assert_eq!(run.code, Some(0), "{run:?}");
        run.lines()[0]["classes"].clone()
    };
    let by_folders = metrics("folder:data");
    assert!(by_folders[0]["pixel_auroc"].is_f64(), "{by_folders}");
    assert_eq!(metrics("meta:data/meta.json"), by_folders);

    let mut table = "path,label,split,kind,class,mask\n".to_owned();
    for (folder, count) in [("train/good", 4), ("test/blot", 3), ("test/good", 3)] {
        let (split, kind) = folder.split_once('/').unwrap();
        for i in 0..count {
            let (label, mask) = match kind {
                "good" => ("normal", String::new()),
                _ => ("anomalous", format!("nut/ground_truth/{kind}/{i}_mask.png")),
            };
            table += &format!("nut/{folder}/{i}.png,{label},{split},{kind},nut,{mask}\n");
        }
    }
    sandbox.write("data/table.csv", table.as_bytes());
    assert_eq!(metrics("manifest:data/table.csv"), by_folders);
}

#[test]
fn boxes_in_a_file_are_masks() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let image = |folder: &str, i: usize| format!("nut/{folder}/{i}.png");
    let good = (0..4).map(|i| image("train/good", i));
    let names: Vec<String> = good.chain((0..3).map(|i| image("test/blot", i))).collect();
    let images = names.iter().enumerate();
    let images = images.map(|(id, name)| json!({"id": id, "file_name": name}));
    let boxes = (4..7).map(|id| json!({"image_id": id, "bbox": [20, 12, 14, 14]}));
    let file = json!({
        "images": images.collect::<Vec<_>>(),
        "annotations": boxes.collect::<Vec<_>>(),
    });
    sandbox.write("data/coco.json", file.to_string().as_bytes());
    let run = sandbox.run(&format!(
        "eval --method anomaly-dino --shots 2 --data coco:data/coco.json --json --report r.html {TINY}"
    ));
    assert_eq!(run.code, Some(0), "{run:?}");
    let pixel_auroc = run.lines()[0]["pixel_auroc"].as_f64().unwrap();
    assert!(pixel_auroc > 0.9, "{pixel_auroc}");
    let report = sandbox.read("r.html");
    assert!(
        report.contains("Pixel level"),
        "no pixel metrics in the report"
    );
}

#[test]
fn evaluation_prints_metrics_and_writes_a_report() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let one = "eval --method anomaly-dino --shots 2 --seed 1 --data folder:data --json";
    let run = sandbox.run(&format!("{one} --report report.html {TINY}"));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let line = &run.lines()[0];
    for (key, expected) in [("data", "folder"), ("method", "anomaly-dino")] {
        assert_eq!(line[key], expected);
    }
    assert_eq!(
        (&line["shots"], &line["seed"], &line["images"]),
        (&2.into(), &1.into(), &6.into())
    );
    for metric in [
        "image_auroc",
        "image_ap",
        "pixel_auroc",
        "aupro",
        "aupro_200_steps",
    ] {
        let value = line[metric].as_f64().unwrap();
        assert!(value > 0.9 && value <= 1.0, "{metric}: {value}");
    }
    assert!(line["seconds"].as_f64().unwrap() > 0.0);
    let report = sandbox.read("report.html");
    assert!(report.contains("test/blot/0.png") && report.contains("anomalens eval"));

    let several = sandbox.run(&format!(
        "eval --method anomaly-dino --shots 1,2 --seed 0,1 --data folder:data {TINY}"
    ));
    assert_eq!(several.code, Some(0), "{several:?}");
    assert_eq!(
        several
            .stdout
            .lines()
            .filter(|line| line.starts_with("folder"))
            .count(),
        4
    );
    assert!(
        several
            .stdout
            .contains("anomaly-dino, 2 shots, 2 seeds: image AUROC 1.000 ± 0.000"),
        "{several:?}"
    );

    let beside = sandbox.run(&format!(
        "eval --method anomaly-dino --data folder:data --published tn3k {TINY}"
    ));
    let told = "AnomalyCLIP      -            -         -        0.815      0.504  Zhou et al.";
    assert!(beside.stdout.contains(told), "{beside:?}");

    let fitted = sandbox.run(&format!(
        "fit --normal data/nut/train -o nut.detector {TINY}"
    ));
    assert_eq!(fitted.code, Some(0), "{fitted:?}");
    let ready = sandbox.run(&format!(
        "eval --detector nut.detector --data folder:data --json {TINY}"
    ));
    assert_eq!(ready.lines()[0]["shots"], serde_json::Value::Null);
    assert_eq!(ready.lines()[0]["image_auroc"], 1.0);
}

#[test]
fn training_goes_on_where_it_stopped_and_gives_the_same_detector() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let train = "train --data folder:data --weights tiny.safetensors --set blocks=[2] \
                 --set image_size=56 --batch 2 --learning-rate 0.01";
    let whole = sandbox.run(&format!(
        "{train} -o whole.detector --epochs 3 --json --report losses.html"
    ));
    assert_eq!(whole.code, Some(0), "{whole:?}");
    let told: serde_json::Value = serde_json::from_str(&whole.stdout).unwrap();
    assert_eq!(told["epochs"].as_array().unwrap().len(), 3);
    for file in ["log.jsonl", "loss.svg", "checkpoint.safetensors"] {
        let path = format!("whole.detector.training/{file}");
        assert!(sandbox.path(&path).is_file(), "{path}");
    }
    let seconds = |name: &str| told[name].as_f64().unwrap();
    assert!(seconds("seconds") < seconds("seconds_without_cache"));
    assert!(
        sandbox
            .read("losses.html")
            .contains("dice anomalous</text>")
    );
    // Two epochs, then the third: as if the run had been interrupted. Where features are kept
    // changes nothing.
    let parts = format!("{train} -o parts.detector --cache disk");
    assert_eq!(sandbox.run(&format!("{parts} --epochs 2")).code, Some(0));
    let rest = sandbox.run(&format!("{parts} --epochs 3"));
    assert!(rest.stderr.contains("after epoch 2"), "{rest:?}");
    let scores = |detector: &str| {
        let evaluated = sandbox.run(&format!(
            "eval --detector {detector} --data folder:data --weights tiny.safetensors --json"
        ));
        assert_eq!(evaluated.code, Some(0), "{evaluated:?}");
        let mut result: serde_json::Value = serde_json::from_str(&evaluated.stdout).unwrap();
        result["seconds"] = 0.into();
        result
    };
    assert_eq!(scores("whole.detector"), scores("parts.detector"));

    let report = sandbox.run(
        "eval --detector parts.detector --data folder:data --weights tiny.safetensors --report r.html",
    );
    assert_eq!(report.code, Some(0), "{report:?}");
    assert!(sandbox.read("r.html").contains("dice anomalous</text>"));

    // Training resumes on another part of the data, from what was learned before.
    let start = "--trained whole.detector.training/prompts.pth";
    let tuned = sandbox.run(&format!(
        "{train} {start} --leave-out 1/3 -o tuned.detector --json"
    ));
    assert_eq!(tuned.code, Some(0), "{tuned:?}");
    let first = |run: &common::Run| run.lines()[0]["epochs"][0]["loss"].as_f64().unwrap();
    assert!(first(&tuned) < first(&whole), "{tuned:?}");
    let used = sandbox.run(&format!(
        "fit --method anomalyclip {start} -o used.detector {TINY}"
    ));
    assert_eq!(used.code, Some(0), "{used:?}");
    let other = sandbox.run(&format!("{train} --trained tiny.safetensors -o o.detector"));
    assert_eq!(other.code, Some(1), "{other:?}");

    // One image alone, and a folder.
    for (images, count) in [("data/nut/test/blot/0.png", 1), ("data/nut/test", 6)] {
        let found = sandbox.run(&format!(
            "detect {images} --detector parts.detector -o out-{count} --json {TINY}"
        ));
        assert_eq!(found.code, Some(0), "{found:?}");
        let scores = found.lines();
        let scores = scores.iter().map(|line| line["score"].as_f64().unwrap());
        let scores: Vec<f64> = scores.collect();
        assert_eq!(scores.len(), count);
        assert!(scores.iter().all(|s| (0.0..=1.0).contains(s)), "{scores:?}");
    }

    let other = sandbox.run(&format!("{parts} --epochs 4 --seed 5"));
    assert_eq!(other.code, Some(1));
    assert!(other.stderr.contains("other data or settings"), "{other:?}");
}

#[cfg(unix)]
#[test]
fn a_training_run_that_is_killed_loses_one_epoch_at_most() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let train = "train --data folder:data --weights tiny.safetensors --set blocks=[2] \
                 --set image_size=56 --batch 1 --epochs 40";
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("anomalens"))
        .args(format!("{train} -o killed.detector").split_whitespace())
        .current_dir(sandbox.path("."))
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let epochs = || {
        let log = sandbox.path("killed.detector.training/log.jsonl");
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.lines().count()
    };
    while epochs() < 2 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = epochs();
    assert!((2..40).contains(&kept), "{kept}");
    let rest = sandbox.run(&format!("{train} -o killed.detector --json"));
    // The checkpoint is written before the log.
    let from = [kept, kept + 1].map(|epoch| format!("going on after epoch {epoch}\n"));
    assert!(
        from.iter().any(|text| rest.stderr.contains(text)),
        "{rest:?}"
    );
    let whole = sandbox.run(&format!("{train} -o whole.detector --json"));
    let losses = |run: &common::Run| -> Vec<f64> {
        let epochs = run.lines()[0]["epochs"].as_array().unwrap().clone();
        let losses = epochs.iter().map(|epoch| epoch["loss"].as_f64().unwrap());
        losses.collect()
    };
    assert_eq!(losses(&rest), losses(&whole));
}

#[test]
fn variants_of_a_method_are_compared_in_a_table() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let ablation = "bench ablation --train folder:data --test folder:data --epochs 1 --part 1/2 \
                    --weights tiny.safetensors --set image_size=56 -o ablation";
    let some = sandbox.run(&format!("{ablation} --only default,global-only --json"));
    assert_eq!(some.code, Some(0), "{some:?}");
    let found = some.lines();
    let names: Vec<&str> = found
        .iter()
        .map(|l| l["variant"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["default", "global-only"]);
    assert_eq!(sandbox.read("ablation/results.jsonl").lines().count(), 2);
    assert!(
        sandbox
            .read("ablation/ablation.md")
            .contains("| global-only | ")
    );
    sandbox.write(
        "grid.json",
        br#"{"default": {}, "cold": {"temperature": 0.01}}"#,
    );
    let own = sandbox.run(&format!("{ablation} --grid grid.json"));
    assert_eq!(own.code, Some(0), "{own:?}");
    assert!(
        own.stdout.contains("| cold | `temperature=0.01` | "),
        "{own:?}"
    );
    assert_eq!(sandbox.read("ablation/results.jsonl").lines().count(), 3);
}

#[test]
fn the_ablations_of_a_paper_need_its_data_sets() {
    let sandbox = Sandbox::new();
    sandbox.class("sets/mvtec/bottle");
    let ablation = "bench ablation --root sets --epochs 1 --only default --resolution 56 \
                    --weights tiny.safetensors --set image_size=56 -o ablation";
    let missing = sandbox.run(ablation);
    assert_eq!(missing.code, Some(1), "{missing:?}");
    let told =
        "error: missing: visa: there is no folder visa or visa 20220922 in sets; get VisA from ";
    assert!(missing.stderr.starts_with(told), "{missing:?}");
    let mut table = "object,split,label,image,mask\n".to_owned();
    for i in 0..2 {
        for (label, mask) in [("normal", ""), ("anomaly", "candle/mask.png")] {
            let image = format!("candle/{label}-{i}.png");
            sandbox.picture(&format!("sets/visa/{image}"), i, label == "anomaly");
            table += &format!("candle,test,{label},{image},{mask}\n");
        }
    }
    sandbox.mask("sets/visa/candle/mask.png");
    sandbox.write("sets/visa/split_csv/1cls.csv", table.as_bytes());
    let both = sandbox.run(ablation);
    assert_eq!(both.code, Some(0), "{both:?}");
    // Each is taught by the other.
    for (teacher, measured) in [("mvtec", "visa"), ("visa", "mvtec")] {
        let table = sandbox.read(&format!("ablation/from-{teacher}/ablation.md"));
        assert!(table.contains(&format!("## {measured}\n")), "{table}");
    }
}

#[test]
fn a_pipeline_is_measured_stage_by_stage() {
    let sandbox = Sandbox::new();
    sandbox.pictures(0, 2, 1);
    for method in ["lens", "anomaly-dino", "inctrl", "musc", "anomalyclip"] {
        let run = sandbox.run(&format!(
            "bench pipeline test --runs 1 --method {method} --set image_size=56 --json {TINY}"
        ));
        assert_eq!(run.code, Some(0), "{run:?}");
        let stages = run.lines()[0]["stages_one_after_another"].clone();
        let shares = stages.as_object().unwrap().values();
        let shares: Vec<f64> = shares.map(|s| s["share"].as_f64().unwrap()).collect();
        assert_eq!(shares.len(), 4);
        assert!(
            (shares.iter().sum::<f64>() - 1.0).abs() < 0.01,
            "{shares:?}"
        );
    }
}

#[test]
fn inctrl_is_trained_fitted_and_gets_other_shots() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let train = "train --method inctrl --data folder:data --weights tiny.safetensors --batch 2 \
                 --set blocks=[2] --set image_size=56 --set episode_shots=1";
    let whole = sandbox.run(&format!("{train} -o whole.inctrl --epochs 2 --json"));
    assert_eq!(whole.code, Some(0), "{whole:?}");
    // All ten images of the data set, those set apart for training too.
    assert_eq!(whole.lines()[0]["images"], 10);
    assert!(
        sandbox
            .path("whole.inctrl.training/checkpoint.pyth")
            .is_file()
    );
    let parts = format!("{train} -o parts.inctrl");
    assert_eq!(sandbox.run(&format!("{parts} --epochs 1")).code, Some(0));
    let rest = sandbox.run(&format!("{parts} --epochs 2"));
    assert!(rest.stderr.contains("after epoch 1"), "{rest:?}");
    assert!(
        rest.stdout
            .contains("now: anomalens fit --method inctrl --trained"),
        "{rest:?}"
    );

    let scores = |arguments: &str| {
        let evaluated = sandbox.run(&format!("eval --data folder:data --json {arguments}"));
        assert_eq!(evaluated.code, Some(0), "{evaluated:?}");
        let mut result = evaluated.lines()[0].clone();
        result["seconds"] = 0.into();
        result
    };
    let weights = "--weights tiny.safetensors";
    let eval = |trained: &str| format!("--method inctrl --trained {trained} --shots 2 {weights}");
    let from_whole = scores(&eval("whole.inctrl"));
    assert_eq!(from_whole, scores(&eval("parts.inctrl")));
    // The original's format holds the same.
    let published = format!(
        "{} --set blocks=[2] --set image_size=56",
        eval("whole.inctrl.training/checkpoint.pyth")
    );
    assert_eq!(from_whole, scores(&published));
    scores(&format!("{} --save-shots shots.txt", eval("whole.inctrl")));
    assert_eq!(sandbox.read("shots.txt").lines().count(), 2);
    let mut listed = scores(&format!(
        "--method inctrl --trained whole.inctrl --shots-list shots.txt {weights}"
    ));
    assert_eq!(listed["shots"], 2);
    listed["seed"] = from_whole["seed"].clone();
    assert_eq!(listed, from_whole);
    assert_eq!(
        scores(&format!("{} --class nut", eval("whole.inctrl"))),
        from_whole
    );

    let good = "data/nut/train/good";
    let fit = sandbox.run(&format!(
        "fit --method inctrl --trained whole.inctrl --normal {good}/0.png {good}/1.png \
         -o nut.detector {weights}"
    ));
    assert_eq!(fit.code, Some(0), "{fit:?}");
    let revised = sandbox.run(&format!(
        "fit --detector nut.detector --add {good}/2.png --remove 0.png -o nut.detector --json \
         {weights}"
    ));
    assert_eq!(revised.code, Some(0), "{revised:?}");
    assert_eq!(
        revised.lines()[0]["shots"],
        serde_json::json!(["1.png", "2.png"])
    );
    let ready = scores(&format!("--detector nut.detector {weights}"));
    assert_eq!(ready["images"], 6);

    for (arguments, code, expected) in [
        (
            format!("fit --method inctrl --normal {good} -o x {weights}"),
            1,
            "learned from auxiliary data first",
        ),
        (
            format!("fit --detector nut.detector --remove 9.png -o x {weights}"),
            1,
            "the references are: 1.png, 2.png",
        ),
        (
            format!("fit --detector nut.detector -o x {weights}"),
            1,
            "--add PATH or --remove",
        ),
        ("fit --add data -o x".to_owned(), 2, "--detector"),
        (
            format!(
                "eval --data folder:data --class nit {}",
                eval("whole.inctrl")
            ),
            1,
            "did you mean `nut`",
        ),
        (
            format!("detect data --detector whole.inctrl -o out {weights}"),
            1,
            "learns from normal images",
        ),
    ] {
        let run = sandbox.run(&arguments);
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.contains(expected), "{run:?}");
    }
}

#[test]
fn numbers_are_unpacked_to_pictures() {
    let sandbox = Sandbox::new();
    let zeros = vec!["0.5"; 4 * 28 * 28].join(",");
    for digit in 0..10 {
        sandbox.write(
            &format!("digits/{digit}.json"),
            format!("{{\"data\":[{zeros}]}}").as_bytes(),
        );
    }
    let unpacked = sandbox.run("data unpack digits -o mnist");
    assert_eq!(unpacked.stdout, "40 images written to mnist\n");
    let checked = sandbox.run("data check mnist:mnist --json");
    let report: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
    let test = report["counts"].as_array().unwrap().iter();
    let test = test.filter(|count| count["class"] == "7" && count["split"] == "test");
    assert_eq!(
        test.map(|count| count["samples"].as_u64().unwrap())
            .sum::<u64>(),
        10
    );
    assert_eq!(sandbox.run("data unpack digits -o mnist").code, Some(1));
}

#[test]
fn a_mask_of_another_size_ends_the_evaluation() {
    let sandbox = Sandbox::new();
    sandbox.data();
    sandbox.write(
        "data/nut/ground_truth/blot/1_mask.png",
        &common::png(32, 48, |_, _| [255; 3]),
    );
    let run = sandbox.run(&format!(
        "eval --method anomaly-dino --data folder:data {TINY}"
    ));
    assert_eq!(run.code, Some(1), "{run:?}");
    insta::assert_snapshot!(run.stderr);
    let check = sandbox.run("data check folder:data");
    assert_eq!(check.code, Some(1), "{check:?}");
    insta::assert_snapshot!("data_check", check.stdout);
}

#[test]
fn a_detector_is_bound_to_its_backbone() {
    let sandbox = Sandbox::new();
    sandbox.pictures(2, 1, 1);
    sandbox.run(&format!("fit --normal good -o nut.detector {TINY}"));
    let mut weights = std::fs::read(sandbox.path("tiny.safetensors")).unwrap();
    let last = weights.len() - 1;
    weights[last] ^= 1;
    sandbox.write("other.safetensors", &weights);
    let run = sandbox.run("detect test --detector nut.detector --weights other.safetensors");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr
            .contains("use the same weights or fit the detector again"),
        "{run:?}"
    );
}

#[test]
fn a_detector_is_fitted_on_the_training_images_of_data_sets() {
    let sandbox = Sandbox::new();
    let sets = ["seed=1", "seed=2"]
        .map(|seed| format!("--data synthetic:textures,{seed},materials=2,images=3,side=28"));
    let fit = |method: &str, rest: &str| {
        let sets = sets.join(" ");
        sandbox.run(&format!(
            "fit --method {method} {sets} {rest} -o set.detector --json {TINY}"
        ))
    };
    // (normal images drawn of each set, images in all)
    for (draw, images) in [("", 12), ("--shots 2 --seed 3", 4)] {
        let run = fit("anomaly-dino", draw);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.lines()[0]["images"], images, "{draw}");
    }
    let run = fit("musc", "");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("needs no normal images"), "{run:?}");
}

/// The order of a folder's images is that of file names in each folder, not that of full paths. It
/// matters to `anomaly-dino`, not to `lens`.
#[test]
fn the_library_fits_the_same_detector_on_a_folder() {
    let sandbox = Sandbox::new();
    let names = [
        "b.png",
        "a/2.png",
        "a/10.png",
        "a-b/1.png",
        "a.png",
        "é.png",
    ];
    for (i, name) in (0..).zip(names) {
        sandbox.picture(&format!("good/{name}"), i, false);
    }
    sandbox.picture("good/a/.trash/3.png", 3, true);
    let detect = sandbox.run(&format!("detect good --normal good {TINY} -o out"));
    assert_eq!(detect.code, Some(0), "{detect:?}");
    std::fs::rename(sandbox.path("out"), sandbox.path("good/out")).unwrap(); // left out

    let load = |name: &str| DetectorFile::load(&sandbox.path(name)).unwrap().detector;
    for method in ["lens", "anomaly-dino"] {
        let by_program = |normal: &str| {
            let options = format!("--method {method} {TINY} -o program.detector");
            let fit = sandbox.run(&format!("fit {options} --normal {normal}"));
            assert_eq!(fit.code, Some(0), "{fit:?}");
            load("program.detector").state()
        };
        let weights = sandbox.path("tiny.safetensors").display().to_string();
        let library = AnomalyDetector::builder().method(method).weights(&weights);
        let library = library.fit_dir(sandbox.path("good")).unwrap();
        library.save(sandbox.path("library.detector")).unwrap();
        let library = load("library.detector").state();
        assert!(by_program("good") == library, "{method}");
        // The same names in another order.
        let is_order_free = by_program("good/é.png good/b.png good") == library;
        assert_eq!(is_order_free, method == "lens", "{method}");
    }
}

/// The program expands patterns itself, for shells that do not or where they are quoted.
#[test]
fn normal_images_are_named_by_a_pattern() {
    let sandbox = Sandbox::new();
    sandbox.pictures(12, 1, 0);
    sandbox.write("good/1.txt", b"no image");
    for (pattern, expected) in [
        ("good/1*.png", &["1.png", "10.png", "11.png"][..]),
        ("good/[23].*", &["2.png", "3.png"]),
        ("g?od/1?.png", &["good/10.png", "good/11.png"]),
    ] {
        let options = format!("--normal {pattern}");
        let fit = sandbox.run(&format!("fit {options} {TINY} -o some.detector"));
        assert_eq!(fit.code, Some(0), "{fit:?}");
        let file = DetectorFile::load(&sandbox.path("some.detector")).unwrap();
        assert_eq!(file.detector.references(), expected, "{pattern}");
        let [by_pattern, by_file] = [&options, "--detector some.detector"].map(|options| {
            let _ = std::fs::remove_dir_all(sandbox.path("out"));
            let run = sandbox.run(&format!("detect test {options} {TINY} -o out --json"));
            assert_eq!(run.code, Some(0), "{run:?}");
            run.lines()[0]["score"].as_f64().unwrap()
        });
        assert_eq!(by_pattern, by_file, "{pattern}");
    }
    let run = sandbox.run("fit --normal bad/*.png -o some.detector");
    assert_eq!(run.code, Some(1), "{run:?}");
    let expected = "error: cannot find bad/*.png; check the path\n";
    assert_eq!(run.stderr, expected);
}

#[test]
fn drawn_sets_are_kept_and_equal_to_those_written() {
    let sandbox = Sandbox::new();
    let recipe = "textures,seed=4,materials=2,images=3,side=28";
    let eval = |data: &str| {
        let run = sandbox.run(&format!(
            "eval --method anomaly-dino --shots 2 --data {data} --json {TINY}"
        ));
        assert_eq!(run.code, Some(0), "{run:?}");
        let result: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(result["images"], 12, "{result}");
        (result["image_auroc"].clone(), result["pixel_auroc"].clone())
    };
    let first = eval(&format!("synthetic:{recipe}"));
    assert!(first.1.is_number(), "{first:?}");
    assert_eq!(eval(&format!("synthetic:{recipe}")), first);
    let written = sandbox.run(&format!("data draw {recipe} -o set"));
    assert_eq!(written.stdout, "18 images: folder:set\n");
    assert_eq!(eval("folder:set"), first);
}

#[test]
fn weight_files_are_shown_and_verified() {
    let sandbox = Sandbox::new();
    let shown = sandbox.run("models show tiny.safetensors");
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let hash = ContentHash::of_path(&sandbox.path("tiny.safetensors")).unwrap();
    for line in [
        "network    DINOv2 of width 64 with 12 blocks, patch 14".to_owned(),
        format!("SHA-256    {hash}"),
        "blocks     12 of width 64, 1 heads".to_owned(),
        "activation gelu".to_owned(),
    ] {
        assert!(shown.stdout.lines().any(|l| l == line), "{line}: {shown:?}");
    }
    let shown = sandbox.run("models show tiny.safetensors --json");
    assert_eq!(shown.lines()[0]["activation"], "gelu");
    assert_eq!(shown.lines()[0]["sha256"], hash.to_string());
    let none = sandbox.run("models show small.png");
    assert_eq!(none.code, Some(1), "{none:?}");

    let nothing = sandbox.run("models verify");
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), ""));
    // The registry has the hash of one, and records that of the other.
    let files = [
        "dinov2-small.safetensors",
        "clip-vit-b16-plus-240.safetensors",
    ];
    for file in files {
        sandbox.write(&format!("cache/{file}"), b"something else");
    }
    let hash = ContentHash::of_bytes(b"something else");
    let verified = sandbox.run("models verify");
    assert_eq!(verified.code, Some(1), "{verified:?}");
    let [damaged, fine] = files.map(|file| format!("SHA-256 {hash}, DIR/cache/{file}"));
    assert_eq!(
        verified.stdout,
        format!("dinov2-small: damaged, {damaged}\nclip-vit-b16-plus-240: verified, {fine}\n")
    );
    let pinned = sandbox.read(&format!("cache/{}.sha256", files[1]));
    assert_eq!(pinned, format!("{hash}  {}\n", files[1]));
    sandbox.write(&format!("cache/{}", files[1]), b"something else again");
    let changed = sandbox.run("models verify clip-vit-b16-plus-240 --json");
    assert_eq!(changed.code, Some(1), "{changed:?}");
    assert_eq!(changed.lines()[0]["state"], "damaged");
}

#[test]
fn the_first_line_says_what_computes() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let detect = format!("detect data/nut/test --normal data/nut/train/good {TINY}");
    for (precision, bits) in [("f32", "32-bit weights"), ("int8", "-bit weights")] {
        let mut command = sandbox.command(&format!("{detect} --precision {precision}"));
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let first = stderr.lines().next().unwrap();
        assert!(first.starts_with("backbone tiny.safetensors: "), "{stderr}");
        assert!(
            first.contains(bits) && first.contains(" thread"),
            "{stderr}"
        );
    }
    let mut command = sandbox.command(&format!("{detect} --precision int8"));
    let output = command.env("ANOMALENS_CPU", "portable").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected =
        "no vector instructions, 32-bit weights (the processor has no 8-bit instructions)";
    assert!(
        stderr.lines().next().unwrap().contains(expected),
        "{stderr}"
    );
}

#[test]
fn training_names_missing_blocks_before_it_lists_data() {
    let sandbox = Sandbox::new();
    for method in ["anomalyclip", "inctrl"] {
        let run = sandbox.run(&format!(
            "train --method {method} --data folder:nowhere -o x --weights dinov2-s-focus-int8 \
             --set blocks=[3,11]"
        ));
        assert_eq!(run.code, Some(1), "{run:?}");
        let told = [
            "cannot be trained on dinov2-s-focus-int8",
            "dinov2-s-focus has all blocks",
            "hold the blocks up to 10 only",
        ];
        assert!(told.iter().all(|told| run.stderr.contains(told)), "{run:?}");
    }
    // The default has them all; it is not on this machine.
    let run = sandbox.run("train --data folder:nowhere -o x");
    assert!(
        run.stderr.contains("dinov2-s-focus is not on this machine"),
        "{run:?}"
    );
}

#[test]
fn the_lists_are_readable() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!("models_list", sandbox.run("models list").stdout);
    insta::assert_snapshot!("data_list", sandbox.run("data list").stdout);
    insta::assert_snapshot!("help", sandbox.run("--help").stdout);
    insta::assert_snapshot!("methods", sandbox.run("methods").stdout);
    assert_eq!(sandbox.run("methods --json").lines()[0]["name"], "lens");
    insta::assert_snapshot!("help_detect", sandbox.run("detect --help").stdout);
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_detector_file() {
    let sandbox = Sandbox::new();
    sandbox.pictures(4, 0, 0);
    let fit = format!("fit --normal good -o nut.detector {TINY}");
    assert_eq!(sandbox.run(&format!("{fit} --shots 1")).code, Some(0));
    let before = std::fs::read(sandbox.path("nut.detector")).unwrap();
    // No file may grow beyond 8 KB: the same error path as a full disk, on any machine.
    let run = sandbox.shell(&format!(
        "trap '' XFSZ; ulimit -f 16; exec \"$ANOMALENS\" {fit}"
    ));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr
            .contains("cannot write the detector file nut.detector"),
        "{run:?}"
    );
    assert!(
        run.stderr.contains("an older file there is unchanged"),
        "{run:?}"
    );
    assert_eq!(std::fs::read(sandbox.path("nut.detector")).unwrap(), before);
    let left: Vec<_> = std::fs::read_dir(sandbox.path("."))
        .unwrap()
        .flatten()
        .collect();
    assert!(
        !left
            .iter()
            .any(|entry| entry.file_name().to_string_lossy().starts_with(".tmp"))
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let sandbox = Sandbox::new();
    sandbox.pictures(1, 1, 1);
    // Nobody, not even root, can make a folder there.
    let run = sandbox.run(&format!(
        "detect test --normal good -o /sys/anomalens {TINY}"
    ));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("cannot write /sys/anomalens"),
        "{run:?}"
    );
    assert!(
        run.stderr.contains("choose another folder with --output"),
        "{run:?}"
    );
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_resumes_where_it_stopped() {
    use std::process::Stdio;
    use std::time::Duration;

    let sandbox = Sandbox::new();
    sandbox.pictures(2, 120, 0);
    let detect = format!("detect test --normal good -o out {TINY}");
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("anomalens"))
        .args(detect.split_whitespace())
        .current_dir(sandbox.path("."))
        .env("ANOMALENS_CACHE", sandbox.path("cache"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = || {
        let text = std::fs::read_to_string(sandbox.path("out/results.jsonl")).unwrap_or_default();
        text.lines().count()
    };
    while lines() == 0 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let kill = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("the same command resumes there"),
        "{stderr}"
    );
    let done = lines();
    assert!((1..120).contains(&done), "{done}");

    let again = sandbox.run(&detect);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(
        again
            .stderr
            .contains(&format!("{done} of 120 are done already")),
        "{again:?}"
    );
    assert_eq!(lines(), 120);
}
