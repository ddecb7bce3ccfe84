//! Images of more than 8 bits, and what is said about files.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Sandbox;

const TINY: &str = "--weights tiny.safetensors --precision f32 --no-pictures --json";

/// A grey TIFF of 64 x 48 pixels with samples of 16 bits.
fn tiff(sample: impl Fn(u16, u16) -> u16) -> Vec<u8> {
    let fields: [[u32; 3]; 8] = [
        [256, 3, 64],
        [257, 3, 48],
        [258, 3, 16],
        [259, 3, 1],
        [262, 3, 1],
        [273, 4, 8 + 2 + 8 * 12 + 4],
        [278, 3, 48],
        [279, 4, 64 * 48 * 2],
    ];
    let mut bytes = b"II*\0\x08\0\0\0\x08\0".to_vec();
    for [tag, kind, value] in fields {
        bytes.extend((tag as u16).to_le_bytes());
        bytes.extend((kind as u16).to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for y in 0..48 {
        bytes.extend((0..64).flat_map(|x| sample(x, y).to_le_bytes()));
    }
    bytes
}

/// A level of 8 bits.
fn level(x: u16, y: u16) -> u16 {
    90 + (x / 8 % 2) * 40 + if x > 40 && y > 30 { 100 } else { 0 }
}

#[test]
fn twelve_bits_in_sixteen_are_scored_by_the_stated_depth() {
    let sandbox = Sandbox::new();
    let grey = common::png(64, 48, |x, y| [level(x as u16, y as u16) as u8; 3]);
    sandbox.write("eight/a.png", &grey);
    let deep = tiff(|x, y| (u32::from(level(x, y)) * 4095).div_ceil(255) as u16);
    sandbox.write("deep/a.tif", &deep);
    let score = |arguments: &str| {
        let found = sandbox.run(&format!("detect {arguments} {TINY}"));
        assert_eq!(found.code, Some(0), "{found:?}");
        let record = &found.lines()[0];
        let noted = found.stderr.matches("less than 1/8 of the range").count();
        let warnings = record["warnings"].as_array().map_or(0, Vec::len);
        assert_eq!(noted, warnings, "{found:?}");
        (record["score"].as_f64().unwrap(), warnings)
    };
    let (right, _) = score("eight -o eight.out");
    assert_eq!(score("deep -o depth.out --bit-depth 12"), (right, 0));
    assert_eq!(score("deep -o window.out --window 0..4095"), (right, 0));
    let (dark, noted) = score("deep -o dark.out");
    assert_ne!(dark, right);
    assert_eq!(noted, 1);
    // The notes of images that are scored jointly are kept too.
    sandbox.write("deep/b.tif", &deep);
    let joint = "detect deep --set evidence=batch -o joint.out";
    let joint = sandbox.run(&format!("{joint} {TINY}"));
    assert_eq!(
        joint.stderr.matches("less than 1/8").count(),
        2,
        "{joint:?}"
    );
    // Scores of two depths are not mixed.
    let mixed = sandbox.run(&format!("detect deep -o dark.out --bit-depth 12 {TINY}"));
    assert_eq!(mixed.code, Some(1), "{mixed:?}");
    assert!(mixed.stderr.contains("--fresh"), "{mixed:?}");
}

#[test]
fn a_detector_keeps_the_depth_that_it_was_made_with() {
    let sandbox = Sandbox::new();
    let grey = common::png(64, 48, |x, y| [level(x as u16, y as u16) as u8; 3]);
    sandbox.write("eight/a.png", &grey);
    let deep = tiff(|x, y| (u32::from(level(x, y)) * 4095).div_ceil(255) as u16);
    sandbox.write("deep/a.tif", &deep);
    let weights = "--weights tiny.safetensors --precision f32 --json";
    let mut scores = vec![];
    for (folder, depth) in [("eight", ""), ("deep", "--bit-depth 12")] {
        let method = "--method anomaly-dino";
        let fit = format!("fit {method} --normal {folder} -o {folder}.detector {depth} {weights}");
        let fit = sandbox.run(&fit);
        assert_eq!(fit.code, Some(0), "{fit:?}");
        let weights = "--weights tiny.safetensors --no-pictures --json";
        let detect =
            format!("detect {folder} --detector {folder}.detector -o {folder}.out {weights}");
        let found = sandbox.run(&detect);
        assert_eq!(found.code, Some(0), "{found:?}");
        scores.push(found.lines()[0]["score"].clone());
    }
    assert_eq!(scores[0], scores[1]);
    let detect = "detect deep --detector deep.detector --weights tiny.safetensors --no-pictures";
    sandbox.write("other/b.tif", &deep);
    let same = sandbox.run(&format!("{detect} -o deep.out --bit-depth 12"));
    assert_eq!(same.code, Some(0), "{same:?}");
    for command in [
        detect,
        "calibrate --detector deep.detector --normal other --rule fpr=0.5 --weights tiny.safetensors",
        "fit --detector deep.detector --add deep -o more.detector --weights tiny.safetensors",
    ] {
        let other = sandbox.run(&format!("{command} --window 0..1023"));
        assert_eq!(other.code, Some(1), "{other:?}");
        let told = "made with --bit-depth 12 and scores only such images";
        assert!(other.stderr.contains(told), "{other:?}");
    }
}

#[test]
fn notes_on_normal_images_are_printed_once() {
    let sandbox = Sandbox::new();
    let deep = tiff(|x, y| (u32::from(level(x, y)) * 4095).div_ceil(255) as u16);
    for name in ["a", "b", "c"] {
        sandbox.write(&format!("deep/{name}.tif"), &deep);
    }
    let fit = sandbox.run(
        "fit --method anomaly-dino --normal deep -o deep.detector \
         --weights tiny.safetensors --precision f32",
    );
    assert_eq!(fit.code, Some(0), "{fit:?}");
    assert_eq!(fit.stderr.matches("less than 1/8").count(), 1, "{fit:?}");
    assert!(fit.stderr.contains("(likewise for 2 more)"), "{fit:?}");
}

#[test]
fn an_image_above_the_limit_is_refused_with_the_option_that_raises_it() {
    let sandbox = Sandbox::new();
    sandbox.write("large/a.png", &common::png(1100, 1000, |_, _| [90; 3]));
    let told = "a.png has 1100 x 1000 pixels, more than the limit of 1000000 pixels; shrink it or \
                raise the limit with --max-megapixels";
    let fit = "fit --method anomaly-dino --normal large -o a.detector";
    for command in [format!("detect large -o out {TINY}"), fit.to_owned()] {
        let refused = sandbox.run(&format!("{command} --max-megapixels 1"));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(told), "{refused:?}");
    }
    let read = sandbox.run(&format!("detect large -o out {TINY} --max-megapixels 2"));
    assert_eq!(read.code, Some(0), "{read:?}");
}

#[test]
fn limits_and_windows_are_checked() {
    let sandbox = Sandbox::new();
    sandbox.picture("a/a.png", 0, false);
    for (arguments, part) in [
        ("--bit-depth 7", "7 is not in 8..=32"),
        ("--window 5..5", "the lower first"),
        ("--window 5", "the lower first"),
        ("--window 0..1 --bit-depth 12", "cannot be used with"),
        ("--max-megapixels 0", "0 is not in 1.."),
    ] {
        let found = sandbox.run(&format!("detect a -o out {arguments} {TINY}"));
        assert_eq!(found.code, Some(2), "{arguments}: {found:?}");
        assert!(found.stderr.contains(part), "{arguments}: {}", found.stderr);
    }
}
