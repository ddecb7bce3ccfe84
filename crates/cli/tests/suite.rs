//! `anomalens bench SUITE` as a user meets it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use common::Sandbox;

const TINY: &str = "--weights tiny.safetensors";

/// Two textures with drawn defects, small enough for tests.
const DRAWN: &str = "synthetic:textures,seed=3,materials=2,images=4,side=56";

#[test]
fn a_suite_is_measured_once_and_written_as_tables() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let suite = format!(
        "bench local --method lens,anomaly-dino,musc --data {DRAWN} --data folder:data --shots 1,2 --seed 0,1 -o bench \
         --resolution 56 --set image_size=56 {TINY}"
    );
    let whole = sandbox.run(&suite);
    assert_eq!(whole.code, Some(0), "{whole:?}");
    // Three classes, of each lens and anomaly-dino with two numbers of shots and two seeds, and musc.
    let lines = |sandbox: &Sandbox| -> Vec<serde_json::Value> {
        let text = sandbox.read("bench/results.jsonl");
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    let cells = lines(&sandbox);
    assert_eq!(cells.len(), 3 * (4 + 4 + 1));
    assert_eq!(cells[0]["method"], "lens");
    assert_eq!(cells[0]["images"].as_array().unwrap().len(), 8);
    let told = "features: 0.01 GB in DIR/cache/features; ";
    assert!(whole.stderr.contains(told), "{whole:?}");
    let missing =
        "missing: sdd: neither --root nor --data sdd:PATH is given; get KolektorSDD from ";
    assert!(whole.stderr.contains(missing), "{whole:?}");
    let markdown = sandbox.read("bench/tables.md");
    let tables: Vec<&str> = markdown.split("\n## ").skip(1).collect();
    insta::with_settings!({ filters => vec![(r"[−+]?<?\d\.\d+", "[number]"), (r"DIR/[^ |]*", "[path]")] }, {
        insta::assert_snapshot!("tables", tables.join("\n## "));
    });
    for name in ["tables.html", "tables.csv"] {
        assert!(
            sandbox
                .read(&format!("bench/{name}"))
                .contains("anomaly-dino"),
            "{name}"
        );
    }

    // What is there is kept, a line that was cut off is made again, and all gives the same.
    let text = sandbox.read("bench/results.jsonl");
    let cut = &text[..text.len() - 100];
    let rest = &cut[text.find('\n').unwrap() + 1..];
    sandbox.write("bench/results.jsonl", rest.as_bytes());
    let again = sandbox.run(&suite);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(
        again.stderr.contains("25 of 27 results were there already"),
        "{again:?}"
    );
    assert!(
        again.stderr.contains("; 16 images looked up, 0 encoded")
            || again.stderr.contains(", 0 encoded"),
        "{again:?}"
    );
    let without_date = |text: &str| text.split_once("\n\n    ").unwrap().1.to_owned();
    assert_eq!(
        without_date(&sandbox.read("bench/tables.md")),
        without_date(&markdown)
    );
    assert_eq!(lines(&sandbox).len(), cells.len());

    // Other settings, other results; with and without kept features they are the same.
    let kept = sandbox.run(&format!(
        "{suite} --set anomaly-dino.top_fraction=0.5 --json"
    ));
    assert!(
        kept.stderr.contains("15 of 27 results were there already"),
        "{kept:?}"
    );
    let off = format!("{suite} --set anomaly-dino.top_fraction=0.5 --json --feature-cache off");
    let off = sandbox.run(&off.replace("-o bench", "-o other"));
    assert_eq!(
        sandbox.read("other/tables.csv"),
        sandbox.read("bench/tables.csv")
    );
    assert!(!off.stderr.contains("features:"), "{off:?}");
    assert_eq!(kept.lines().len(), 2 * 5 + 2 * 5);

    let other = sandbox.run(&suite.replace("local", "inctrl"));
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(
        other.stderr.contains("choose another folder with --output"),
        "{other:?}"
    );
}

#[test]
fn methods_learn_from_one_data_set_to_be_measured_on_others() {
    let sandbox = Sandbox::new();
    sandbox.data();
    let suite = format!(
        "bench local --data {DRAWN} --data folder:data --method anomalyclip,inctrl --shots 1 --seed 0 \
         --epochs 1 --resolution 56 --set image_size=56 --set anomalyclip.blocks=[2] -o bench {TINY}"
    );
    let learned = sandbox.run(&format!(
        "{suite} --train-on folder:data --train-on {DRAWN}"
    ));
    assert_eq!(learned.code, Some(0), "{learned:?}");
    let text = sandbox.read("bench/results.jsonl");
    let cells: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(cells.len(), 3 * 2, "{learned:?}");
    // Each data set is trained on the other.
    for cell in &cells {
        let train_on = if cell["data"] == "folder:data" {
            "synthetic_textures"
        } else {
            "folder_data"
        };
        let learned = cell["settings"]["learned"].as_str().unwrap();
        assert!(learned.contains(train_on), "{cell}");
        assert!(sandbox.path(&format!("bench/trained/{learned}")).is_file());
    }
    let again = sandbox.run(&format!(
        "{suite} --train-on folder:data --train-on {DRAWN}"
    ));
    assert!(
        again.stderr.contains("6 of 6 results were there already"),
        "{again:?}"
    );

    // Without its train_on a method fails, and others are measured.
    let alone = sandbox.run(
        &suite
            .replace("-o bench", "-o alone")
            .replace("inctrl", "musc"),
    );
    assert_eq!(alone.code, Some(1), "{alone:?}");
    let told = "failed: anomalyclip on folder:data: the data set `magnetic-tile`, which methods are \
                to be trained on, was not given";
    assert!(alone.stderr.contains(told), "{alone:?}");
    assert_eq!(sandbox.read("alone/results.jsonl").lines().count(), 3);
}

#[test]
fn what_was_learned_is_tuned_on_masks_of_the_target() {
    let sandbox = Sandbox::new();
    sandbox.class("sets/mvtec/bottle");
    for (part, images) in [("test", 2), ("trainval", 3)] {
        for i in 0..images {
            sandbox.picture(&format!("sets/TN3K/{part}-image/{i}.png"), i, true);
            sandbox.mask(&format!("sets/TN3K/{part}-mask/{i}.png"));
        }
    }
    let run = sandbox.run(&format!(
        "bench tn3k --root sets --epochs 1 --resolution 56 --set image_size=56 -o bench --json {TINY}"
    ));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!run.stderr.contains("missing"), "{run:?}");
    let lines = run.lines();
    let found: Vec<&str> = lines
        .iter()
        .map(|line| line["method"].as_str().unwrap())
        .collect();
    assert_eq!(found, ["anomalyclip", "anomalyclip tuned on tn3k-training"]);
    let published = |line: usize| lines[line]["published"].as_array().unwrap().len();
    assert_eq!((published(0), published(1)), (1, 0));
    // All images are anomalous: nothing is said of all of them together.
    for line in &lines {
        let metrics = line["metrics"].as_array().unwrap();
        let names: Vec<&str> = metrics
            .iter()
            .map(|m| m["metric"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "image AP",
                "image F1-max",
                "pixel AUROC",
                "pixel AP",
                "AUPRO",
                "AUPRO 200"
            ]
        );
    }
    assert_ne!(
        lines[0]["metrics"][2]["mean"],
        lines[1]["metrics"][2]["mean"]
    );
    let alone = sandbox.run(&format!(
        "train --data tn3k-training:sets/TN3K -o x.detector {TINY}"
    ));
    assert!(
        alone
            .stderr
            .contains("there are no normal images to learn from"),
        "{alone:?}"
    );
}

#[test]
fn what_is_wrong_with_one_data_set_does_not_stop_a_suite() {
    let sandbox = Sandbox::new();
    sandbox.data();
    for i in 0..3 {
        sandbox.picture(&format!("sets/brain_mri/no/{i}.png"), i, false);
        sandbox.picture(&format!("sets/brain_mri/yes/{i}.png"), i, true);
    }
    sandbox.write("sets/head_ct/readme.txt", b"to be unpacked");
    let run = sandbox.run(&format!(
        "bench local --root sets --data folder:data --method anomaly-dino --shots 2,9 --seed 0 -o bench {TINY}"
    ));
    assert_eq!(run.code, Some(1), "{run:?}");
    let told = run
        .stderr
        .lines()
        .filter(|line| !line.starts_with("features"));
    insta::assert_snapshot!("failures", told.collect::<Vec<_>>().join("\n"));
    assert_eq!(sandbox.read("bench/results.jsonl").lines().count(), 2);
    let told = sandbox.read("bench/tables.md");
    for part in [
        "missing: headct: ",
        "failed: anomaly-dino on brainmri: 9 shots",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

/// A suite of 26 results.
#[cfg(unix)]
const LONG_SUITE: &str = "bench local --data synthetic:textures,materials=13,images=8,side=56 \
    --method musc,anomaly-dino --seed 0 --shots 2 --set image_size=56 --resolution 56";

/// Starts that suite, stops it by a signal as soon as it has three results, and returns how it ended
/// and how many results are kept in `folder`.
#[cfg(unix)]
fn stopped(sandbox: &Sandbox, folder: &str, signal: &str) -> (std::process::ExitStatus, usize) {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("anomalens"))
        .args(format!("{LONG_SUITE} {TINY} -o {folder}").split_whitespace())
        .current_dir(sandbox.path("."))
        .env("ANOMALENS_CACHE", sandbox.path("cache"))
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let lines = || {
        let text = std::fs::read_to_string(sandbox.path(&format!("{folder}/results.jsonl")));
        text.unwrap_or_default().lines().count()
    };
    while lines() < 3 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let kill = std::process::Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let status = child.wait().unwrap();
    let kept = lines();
    assert!((3..26).contains(&kept), "{kept}");
    (status, kept)
}

#[cfg(unix)]
#[test]
fn the_tables_of_an_interrupted_suite_hold_what_is_there() {
    let sandbox = Sandbox::new();
    let (status, kept) = stopped(&sandbox, "bench", "-INT");
    assert_eq!(status.code(), Some(1));
    let tables = sandbox.read("bench/tables.md");
    assert!(
        tables.contains("interrupted: some results are missing"),
        "{tables}"
    );
    let lines = sandbox.read("bench/tables.csv");
    let rows = lines.lines().filter(|line| line.contains(",image AUROC,"));
    assert_eq!(rows.count(), kept);
}

#[cfg(unix)]
#[test]
fn a_suite_that_is_killed_goes_on_where_it_stopped() {
    let sandbox = Sandbox::new();
    stopped(&sandbox, "killed", "-KILL");
    assert!(!sandbox.path("killed/tables.md").exists());
    let rest = sandbox.run(&format!("{LONG_SUITE} {TINY} -o killed"));
    assert_eq!(rest.code, Some(0), "{rest:?}");
    assert!(
        rest.stderr.contains(" of 26 results were there already"),
        "{rest:?}"
    );
    let whole = sandbox.run(&format!("{LONG_SUITE} {TINY} -o whole --feature-cache off"));
    assert_eq!(whole.code, Some(0), "{whole:?}");
    assert_eq!(
        sandbox.read("killed/tables.csv"),
        sandbox.read("whole/tables.csv")
    );
}
