//! What `detect` keeps and what it does again; which files it takes; what it writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anomalens::vision::Image;
use common::{Run, Sandbox};
use serde_json::Value;

/// A sandbox with normal images, three good and one bad image, and a detector.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pictures(2, 3, 1);
    let fit = sandbox.run("fit --normal good -o nut.detector --weights tiny.safetensors");
    assert_eq!(fit.code, Some(0), "{fit:?}");
    sandbox
}

/// `detect` with the detector, `--json` and `arguments`; its records by image.
fn detect(sandbox: &Sandbox, arguments: &str) -> BTreeMap<String, Value> {
    let run = sandbox.run(&format!(
        "detect --detector nut.detector -o out --weights tiny.safetensors --json {arguments}"
    ));
    assert_eq!(run.code, Some(0), "{arguments}: {run:?}");
    by_image(&run)
}

fn by_image(run: &Run) -> BTreeMap<String, Value> {
    let lines = run.lines();
    let count = lines.len();
    let records: BTreeMap<String, Value> = lines
        .into_iter()
        .map(|line| (line["image"].as_str().unwrap().to_owned(), line))
        .collect();
    assert_eq!(records.len(), count, "an image has two records");
    records
}

/// All files below `out`, as paths.
fn files(sandbox: &Sandbox) -> BTreeSet<String> {
    fn below(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => below(&path, root, found),
                path => {
                    let path = path.strip_prefix(root).unwrap();
                    found.insert(path.to_string_lossy().into_owned());
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    let root = sandbox.path("out");
    below(&root, &root, &mut found);
    found
}

fn table(sandbox: &Sandbox) -> BTreeSet<String> {
    let table = sandbox.read("out/results.csv");
    let images = table.lines().skip(1);
    images
        .map(|line| line.split(',').next().unwrap().to_owned())
        .collect()
}

#[test]
fn a_file_that_was_replaced_is_scored_again() {
    let sandbox = sandbox();
    let before = detect(&sandbox, "test");
    assert_eq!(detect(&sandbox, "test"), before);
    // The bad image under a good one's name, as old and as large as that was.
    let path = sandbox.path("test/good-0.png");
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::copy(sandbox.path("test/bad-0.png"), &path).unwrap();
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    let after = detect(&sandbox, "test");
    let score = |records: &BTreeMap<String, Value>, name: &str| records[name]["score"].clone();
    assert_eq!(
        score(&after, "test/good-0.png"),
        score(&before, "test/bad-0.png")
    );
    for name in ["test/good-1.png", "test/good-2.png", "test/bad-0.png"] {
        assert_eq!(score(&after, name), score(&before, name), "{name}");
    }
    assert_eq!(sandbox.read("out/results.jsonl").lines().count(), 4);
}

#[test]
fn an_image_has_one_record_however_its_path_is_written() {
    let sandbox = sandbox();
    let before = detect(&sandbox, "test");
    for arguments in [
        "./test",
        "test/",
        "test ./test",
        "test test/bad-0.png",
        "good/../test",
    ] {
        let records = detect(&sandbox, arguments);
        assert_eq!(records.len(), 4, "{arguments}");
        let scores = |records: &BTreeMap<String, Value>| -> Vec<Value> {
            records
                .values()
                .map(|record| record["score"].clone())
                .collect()
        };
        assert_eq!(scores(&records), scores(&before), "{arguments}");
        assert_eq!(table(&sandbox).len(), 4, "{arguments}");
    }
}

#[test]
fn results_tell_the_present_state() {
    let sandbox = sandbox();
    detect(&sandbox, "test");
    assert!(files(&sandbox).contains("overlays/good-2.png.png"));
    std::fs::remove_file(sandbox.path("test/good-2.png")).unwrap();
    let records = detect(&sandbox, "test");
    assert_eq!(records.len(), 3);
    let images = ["test/bad-0.png", "test/good-0.png", "test/good-1.png"];
    assert_eq!(table(&sandbox), images.map(str::to_owned).into());
    let left = files(&sandbox);
    assert!(!left.iter().any(|file| file.contains("good-2")), "{left:?}");
    assert_eq!(sandbox.read("out/results.jsonl").lines().count(), 3);
}

#[test]
fn what_is_wanted_now_is_made_now() {
    let sandbox = sandbox();
    let without = detect(&sandbox, "test --no-pictures");
    assert!(without.values().all(|record| record["overlay"].is_null()));
    let with = detect(&sandbox, "test");
    assert!(with.values().all(|record| record["overlay"].is_string()));
    // What is there already is kept.
    assert_eq!(detect(&sandbox, "test --no-pictures"), with);
    let picture = sandbox.path("out/overlays/bad-0.png.png");
    let inferno = std::fs::read(&picture).unwrap();
    detect(&sandbox, "test --colours jet");
    assert_ne!(std::fs::read(&picture).unwrap(), inferno);
    std::fs::remove_file(&picture).unwrap();
    detect(&sandbox, "test --colours jet");
    assert!(picture.is_file());
}

#[test]
fn a_group_that_changed_is_scored_again() {
    let sandbox = sandbox();
    let run = |what: &str| {
        let run = sandbox.run(
            "detect test --method musc -o out --no-pictures --weights tiny.safetensors --json",
        );
        assert_eq!(run.code, Some(0), "{what}: {run:?}");
        by_image(&run)
    };
    let before = run("before");
    assert_eq!(run("the same"), before);
    sandbox.picture("test/bad-1.png", 5, true);
    let after = run("one more");
    assert_eq!(after.len(), 5);
    let fresh = sandbox
        .run("detect test --method musc -o other --no-pictures --weights tiny.safetensors --json");
    for (image, record) in by_image(&fresh) {
        assert_eq!(record["score"], after[&image]["score"], "{image}");
    }
    assert_ne!(
        after["test/bad-0.png"]["score"],
        before["test/bad-0.png"]["score"]
    );
}

#[test]
fn results_of_another_detector_are_replaced_only_on_demand() {
    let sandbox = sandbox();
    detect(&sandbox, "test");
    let other =
        "detect test/good-0.png test/bad-0.png --method musc -o out --weights tiny.safetensors";
    let refused = sandbox.run(other);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("--fresh"), "{refused:?}");
    assert_eq!(table(&sandbox).len(), 4);
    let fresh = sandbox.run(&format!("{other} --fresh"));
    assert_eq!(fresh.code, Some(0), "{fresh:?}");
    assert_eq!(table(&sandbox).len(), 2);
    let left = files(&sandbox);
    assert!(!left.iter().any(|file| file.contains("good-1")), "{left:?}");
}

#[test]
fn results_are_never_taken_for_images() {
    let sandbox = sandbox();
    let run = |output: &str| {
        sandbox.run(&format!(
            "detect test --detector nut.detector -o {output} --weights tiny.safetensors --json"
        ))
    };
    assert_eq!(run("test/out").lines().len(), 4);
    assert_eq!(
        run("test/more").lines().len(),
        4,
        "results in another folder"
    );
    let again = run("test/out");
    assert_eq!(again.lines().len(), 4, "{again:?}");
    assert!(again.stderr.contains("test/out holds results"), "{again:?}");
    assert!(
        again.stderr.contains("test/more holds results"),
        "{again:?}"
    );
    let same = run("test");
    assert_eq!(same.code, Some(1));
    assert!(same.stderr.contains("--output"), "{same:?}");
}

#[test]
fn a_threshold_can_be_given_and_changed() {
    let sandbox = sandbox();
    let undecided = detect(&sandbox, "test");
    assert!(
        undecided
            .values()
            .all(|record| record["anomalous"].is_null())
    );
    let scores: Vec<f64> = undecided
        .values()
        .map(|record| record["score"].as_f64().unwrap())
        .collect();
    let highest = scores.iter().copied().fold(0.0, f64::max);
    for (threshold, expected) in [(highest, 1), (0.0, 4), (2.0 * highest, 0)] {
        let records = detect(&sandbox, &format!("test --threshold {threshold}"));
        let anomalous = records
            .values()
            .filter(|record| record["anomalous"] == true);
        assert_eq!(anomalous.count(), expected, "{threshold}");
        let kept: Vec<f64> = records
            .values()
            .map(|record| record["score"].as_f64().unwrap())
            .collect();
        assert_eq!(kept, scores, "nothing is scored again");
    }
    assert_eq!(detect(&sandbox, "test"), undecided);
    let wrong = sandbox.run("detect test --threshold NaN");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn names_come_from_a_list_or_from_standard_input() {
    let sandbox = sandbox();
    sandbox.write("list.txt", b"test/bad-0.png\r\ntest/good-0.png\n\n");
    let expected = detect(&sandbox, "test/bad-0.png test/good-0.png");
    assert_eq!(detect(&sandbox, "--list list.txt"), expected);
    let arguments = "detect --detector nut.detector -o out --weights tiny.safetensors --json";
    for from_input in ["-", "--list -"] {
        let mut command = sandbox.command(&format!("{arguments} {from_input}"));
        let output = command
            .write_stdin("test/bad-0.png\ntest/good-0.png")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 2, "{from_input}");
    }
    sandbox.write("empty.txt", b"\n");
    for (arguments, code) in [("--list missing.txt", 1), ("--list empty.txt", 1), ("", 2)] {
        let run = sandbox.run(&format!("detect --detector nut.detector {arguments}"));
        assert_eq!(run.code, Some(code), "{arguments}: {run:?}");
    }
}

#[test]
fn maps_have_the_size_of_their_images() {
    let sandbox = sandbox();
    let records = detect(&sandbox, "test/bad-0.png --maps npy");
    let map = records["test/bad-0.png"]["map"].as_str().unwrap();
    assert_eq!(map, "maps/bad-0.png.npy");
    let bytes = std::fs::read(sandbox.path("out").join(map)).unwrap();
    let header = String::from_utf8_lossy(&bytes[..128]);
    assert!(header.contains("'shape': (48, 64)"), "{header}");
    let data = &bytes[bytes.len() - 4 * 48 * 64..];
    let values: Vec<f32> = data
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let highest = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
    let (x, y) = (highest.unwrap() % 64, highest.unwrap() / 64);
    assert!((14..40).contains(&x) && (6..32).contains(&y), "{x} {y}");
    let records = detect(&sandbox, "test/bad-0.png --maps tiff");
    assert_eq!(records["test/bad-0.png"]["map"], "maps/bad-0.png.tiff");
}

#[test]
fn a_line_that_was_cut_off_does_not_stop_a_run() {
    let sandbox = sandbox();
    let before = detect(&sandbox, "test");
    let mut lines = std::fs::read(sandbox.path("out/results.jsonl")).unwrap();
    lines.extend(b"{\"image\":\"test/teil-\xc3");
    std::fs::write(sandbox.path("out/results.jsonl"), lines).unwrap();
    assert_eq!(detect(&sandbox, "test"), before);
}

#[cfg(unix)]
mod unix {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn every_image_has_its_own_record_and_pictures() {
        let sandbox = sandbox();
        std::fs::create_dir_all(sandbox.path("odd/A/2")).unwrap();
        std::fs::create_dir_all(sandbox.path("odd/B")).unwrap();
        let long = [&[b'x'; 250][..], b".png"].concat();
        let names: [&[u8]; 10] = [
            b"teil_\xe4.png",
            b"teil_\xf6.png",
            b"teil_\xef\xbf\xbd.png",
            b"a\nb.png",
            b"a\x1b[2Jb.png",
            b"=1+1.png",
            b"A/2/x.png",
            b"A/x.png",
            b"B/x.png",
            &long,
        ];
        for (i, name) in names.iter().enumerate() {
            let path = sandbox.path("odd").join(OsStr::from_bytes(name));
            let source = ["test/good-0.png", "test/good-1.png", "test/bad-0.png"][i % 3];
            std::fs::copy(sandbox.path(source), path).unwrap();
        }
        let arguments = "detect odd odd/A odd/B --detector nut.detector -o out \
                         --weights tiny.safetensors";
        let run = sandbox.run(&format!("{arguments} --json"));
        assert_eq!(run.code, Some(0), "{run:?}");
        let lines = run.lines();
        assert_eq!(lines.len(), names.len());
        let mut pictures = BTreeSet::new();
        for line in &lines {
            for kind in ["heat_map", "overlay"] {
                let picture = line[kind].as_str().unwrap();
                assert!(sandbox.path("out").join(picture).is_file(), "{picture}");
                assert!(
                    pictures.insert(picture.to_owned()),
                    "{picture} is of two images"
                );
            }
        }
        let records: BTreeSet<String> = lines
            .iter()
            .map(|line| format!("{} {}", line["image"], line["image_bytes"]))
            .collect();
        assert_eq!(records.len(), names.len());
        // Nothing is scored again, and nothing reaches the terminal that could steer it.
        let again = sandbox.run(arguments);
        assert!(
            again.stderr.contains("10 of 10 are done already"),
            "{again:?}"
        );
        assert!(!again.stdout.contains('\x1b'), "{again:?}");
        assert!(again.stdout.contains(r"\u{1b}[2J"), "{again:?}");
        let table = sandbox.read("out/results.csv");
        assert!(!table.lines().any(|line| line.starts_with('=')), "{table}");
    }

    #[test]
    fn what_is_no_photo_is_left_out_and_what_is_broken_is_said() {
        use std::os::unix::fs::symlink;
        let sandbox = sandbox();
        for name in [
            "._good-0.png",
            ".thumbnails/a.png",
            "@eaDir/a.png",
            "__MACOSX/a.png",
        ] {
            sandbox.picture(&format!("test/{name}"), 1, false);
        }
        symlink(sandbox.path("test"), sandbox.path("test/loop")).unwrap();
        symlink(
            sandbox.path("nowhere.png"),
            sandbox.path("test/dangling.png"),
        )
        .unwrap();
        let run = sandbox
            .run("detect test --detector nut.detector -o out --weights tiny.safetensors --json");
        assert_eq!(run.code, Some(1), "{run:?}");
        let records = by_image(&run);
        assert_eq!(records.len(), 5, "{records:?}");
        assert!(records["test/dangling.png"]["error"].is_string());
        assert!(
            run.stderr.contains("1 of 5 images could not be used"),
            "{run:?}"
        );
        let scored = records.values().filter(|record| record["score"].is_f64());
        assert_eq!(scored.count(), 4);
    }

    #[test]
    fn a_reader_that_goes_away_does_not_hide_a_bad_image() {
        let sandbox = sandbox();
        let code = |images: &str| {
            let script = format!(
                "(\"$ANOMALENS\" detect {images} --detector nut.detector -o out --json \
                 --weights tiny.safetensors; echo $? > code) | true"
            );
            sandbox.shell(&script);
            sandbox.read("code").trim().to_owned()
        };
        assert_eq!(code("test"), "0");
        sandbox.write("test/bad.png", b"no picture");
        assert_eq!(code("test"), "1");
    }
}

#[test]
fn the_report_shows_every_image_and_what_is_doubtful() {
    let sandbox = sandbox();
    sandbox.write("test/flat.png", &common::png(64, 48, |_, _| [90; 3]));
    let records = detect(&sandbox, "test --report --threshold 5");
    let warnings = records["test/flat.png"]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{records:?}");
    assert!(records["test/bad-0.png"]["warnings"].is_null());
    let page = sandbox.read("out/report.html");
    for part in [
        "Anomalens on test",
        "test/bad-0.png",
        "test/flat.png",
        warnings[0].as_str().unwrap(),
        "data:image/",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

/// A detector of two networks is made, kept, used and refused as one of a single network is.
#[test]
fn two_networks_see_an_image() {
    let sandbox = sandbox();
    let two = "--weights tiny.safetensors --weights efficientnet-lite0-int8";
    let fit = sandbox.run(&format!(
        "fit --normal good -o two.detector --set networks=2 {two}"
    ));
    assert_eq!(fit.code, Some(0), "{fit:?}");
    assert!(
        fit.stdout.contains("EfficientNet-Lite0: input_size="),
        "{fit:?}"
    );
    let detect = |arguments: &str| {
        sandbox.run(&format!(
            "detect test --detector two.detector -o out --fresh --no-pictures --json {arguments}"
        ))
    };
    let first = detect("--weights tiny.safetensors");
    assert_eq!(first.code, Some(0), "{first:?}");
    let again = detect(two);
    let scores = |run: &Run| -> Vec<Value> {
        let lines = run.lines();
        lines.iter().map(|line| line["score"].clone()).collect()
    };
    assert_eq!(scores(&first), scores(&again));
    let one = by_image(&sandbox.run(
        "detect test --detector nut.detector -o one --no-pictures --json --weights tiny.safetensors",
    ));
    let joined = by_image(&first);
    assert!(
        one.iter()
            .all(|(image, line)| joined[image]["score"] != line["score"])
    );

    for (name, arguments, expected) in [
        (
            "another second network",
            "detect test --detector two.detector -o out --weights tiny.safetensors --weights tiny.safetensors",
            "made with the backbone efficientnet-lite0-int8",
        ),
        (
            "a third network",
            "detect test --detector two.detector -o out --weights tiny.safetensors \
             --weights efficientnet-lite0-int8 --weights tiny.safetensors",
            "--weights names 3 backbones, and the detector was made with 2",
        ),
        (
            "a method of one network",
            "detect test --method musc -o out --weights tiny.safetensors \
             --weights efficientnet-lite0-int8",
            "musc uses one backbone",
        ),
        (
            "training",
            "train --method lens --data synthetic:textures,side=56 -o x.lens --weights tiny.safetensors \
             --weights efficientnet-lite0-int8",
            "one backbone is used here, and --weights names 2",
        ),
        (
            "blocks of a convolutional network",
            "fit --normal good -o x.detector --weights efficientnet-lite0-int8 --set blocks=[6]",
            "not both",
        ),
    ] {
        let run = sandbox.run(arguments);
        assert_eq!(run.code, Some(1), "{name}: {run:?}");
        assert!(run.stderr.contains(expected), "{name}: {run:?}");
    }
    // Features that are kept between runs come from both, too, and stages are timed for both.
    sandbox.data();
    let measured = sandbox.run(&format!(
        "bench local --data folder:data --shots 1 --seed 0 --set networks=2 --method lens \
         --feature-cache cache -o bench --json {two}"
    ));
    assert_eq!(measured.code, Some(0), "{measured:?}");
    let timed = sandbox.run(&format!(
        "bench pipeline good --set networks=2 --runs 1 --json {two}"
    ));
    assert_eq!(timed.code, Some(0), "{timed:?}");
    let alone = sandbox.run("fit --normal good -o lite.detector --weights efficientnet-lite0-int8");
    assert_eq!(alone.code, Some(0), "{alone:?}");
}

/// With the weights in the program: a spot of 160 pixels and one of 20 on a photo of 12 megapixels, and
/// overlays at the photo's size that leave it as it is where nothing is wrong.
#[test]
fn a_small_spot_on_a_large_photo_is_found_in_its_place() {
    const SIZE: (u32, u32) = (4000, 3000);
    /// Pixels of the photo that a patch covers: 14 of 1344 of the network's input.
    const PATCH: i64 = 14 * 3000 / 1344;
    let sandbox = Sandbox::new();
    let photo = |name: &str, seed: u32, spot: Option<(i64, i64, i64)>| {
        let shade = |x: u32, y: u32| {
            let grain = (x / 4 * 73 + y / 4 * 179 + seed * 31).wrapping_mul(2_654_435_761) >> 27;
            let stripes = 12.0 * (f64::from(y) / 37.0).sin();
            let dark = spot.is_some_and(|(column, row, width)| {
                let (across, down) = (i64::from(x) - column, i64::from(y) - row);
                4 * (across * across + down * down) < width * width
            });
            let shade = 112.0 + stripes + f64::from(grain);
            if dark { 0.55 * shade } else { shade }
        };
        let pixels = common::png(SIZE.0, SIZE.1, |x, y| [shade(x, y) as u8; 3]);
        sandbox.write(name, &pixels);
    };
    photo("good/0.png", 0, None);
    photo("good/1.png", 1, None);
    let fit = sandbox.run("fit --normal good --set reference_augmentation=upright -o x.detector");
    assert_eq!(fit.code, Some(0), "{fit:?}");
    assert!(
        fit.stdout
            .contains("a patch covers 31 of them, in tiles of"),
        "{fit:?}"
    );
    let spots = [("a", (2600, 900, 160)), ("b", (700, 2100, 20))];
    for (name, spot) in spots {
        photo(&format!("test/{name}.png"), 2, Some(spot));
    }
    let run = sandbox.run("detect test --detector x.detector --json -o out");
    assert_eq!(run.code, Some(0), "{run:?}");
    for (line, (name, (column, row, width))) in run.lines().iter().zip(spots) {
        let found = |key: &str| line["regions"][0][key].as_i64().unwrap();
        let (half, [x, y]) = (width / 2, [found("x"), found("y")]);
        for (side, found, expected) in [
            ("left", x, column - half),
            ("right", x + found("width"), column + half),
            ("top", y, row - half),
            ("bottom", y + found("height"), row + half),
        ] {
            let off = (found - expected).abs();
            assert!(
                off <= 3 * PATCH,
                "{name}: {side} {found}, not {expected}: {line}"
            );
        }
        let overlay = Image::open(sandbox.path(&format!("out/overlays/{name}.png.png"))).unwrap();
        assert_eq!((overlay.width(), overlay.height()), SIZE);
        let before = Image::open(sandbox.path(&format!("test/{name}.png"))).unwrap();
        let outer = &line["regions"][0]["outer"];
        let [left, top, width, height] =
            ["x", "y", "width", "height"].map(|key| outer[key].as_u64().unwrap() as u32);
        let is_within =
            |x: u32, y: u32| (left..left + width).contains(&x) && (top..top + height).contains(&y);
        let places = (0..SIZE.0)
            .step_by(100)
            .flat_map(|x| (0..SIZE.1).step_by(100).map(move |y| (x, y)));
        let (mut all, mut kept) = (0, 0);
        for (x, y) in places.filter(|&(x, y)| !is_within(x, y)) {
            all += 1;
            kept += u32::from(overlay.pixel(x, y) == before.pixel(x, y));
        }
        assert!(all > 300 && 10 * kept > 8 * all, "{name}: {kept} of {all}");
    }
}
