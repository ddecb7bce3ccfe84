//! Files whose names are made to be taken for something else: each image gets exactly one record and
//! a picture of its own, and nothing that a terminal or a spreadsheet would act on is written.
#![cfg(target_os = "linux")] // Other systems do not allow such names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use assert_cmd::Command;
use common::{Run, Sandbox, png};
use serde_json::json;

const TINY: &str = "--weights tiny.safetensors";

const NAMES: [&[u8]; 32] = [
    b"plain.png",
    b"teil_\xe4.png",
    b"teil_\xf6.png",
    b"teil_\xef\xbf\xbd.png",
    b"new\nline.png",
    b"carriage\rreturn.png",
    b"tab\tstop.png",
    b"quote'.png",
    b"double\"quote.png",
    b"comma,semicolon;.png",
    b"back\\slash.png",
    b"-dash.png",
    b"--json.png",
    b"=cmd|' -C calc'!A0.png",
    b"+1.png",
    b"@sum.png",
    b"\x1b[31mred\x1b[2J.png",
    b"\x1b]0;title\x07.png",
    b"bell\x07.png",
    "\u{9b}31m.png".as_bytes(),
    "\u{1f41e}.png".as_bytes(),
    "\u{202e}gnp.exe.png".as_bytes(),
    "e\u{301}.png".as_bytes(),
    "\u{e9}.png".as_bytes(),
    b"CON.png",
    b"dots...png",
    b" spaces  .png",
    b"100%20.png",
    b"#fragment?query=1.png",
    b"same.png",
    b"same.jpg",
    b"SAME.PNG",
];

/// Names in folders.
const BELOW: [&[u8]; 5] = [
    b"a/same.png",
    b"b/same.png",
    b"a_same.png",
    b"dot./same.png",
    b"2/same.png",
];

/// All names; the last one has 254 bytes.
fn names() -> Vec<OsString> {
    let long = [&[b'x'; 250][..], b".png"].concat();
    let names = NAMES.iter().chain(&BELOW).map(|name| name.to_vec());
    names.chain([long]).map(OsString::from_vec).collect()
}

/// The width of picture number `i`, by which it is known again.
fn width(i: usize) -> u32 {
    40 + i as u32
}

/// A sandbox with one picture of each name in `photos`, each of another width.
fn photos() -> Sandbox {
    photos_in(Sandbox::new())
}

fn photos_in(sandbox: Sandbox) -> Sandbox {
    for (i, name) in names().iter().enumerate() {
        let path = sandbox.path("photos").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let picture = png(width(i), 48, |x, y| {
            match (20..34).contains(&x) && (12..26).contains(&y) {
                true => [250, 240, 5 * i as u8],
                false => [90 + (x / 8 % 2) as u8 * 40, 90, 120],
            }
        });
        std::fs::write(path, picture).unwrap();
    }
    sandbox
}

fn widths() -> BTreeSet<u32> {
    (0..names().len()).map(width).collect()
}

fn output(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
    }
}

/// Nothing that a terminal acts on.
fn assert_escaped(text: &str) {
    let acts = |c: char| {
        let moves = c.is_control() && !"\n\t".contains(c);
        moves || ('\u{202a}'..='\u{202e}').contains(&c)
    };
    let found = text.chars().find(|&c| acts(c));
    assert_eq!(found, None, "{text:?}");
}

/// Every image has one record, whose pictures have its size and are nobody else's.
fn assert_one_record_each(lines: &[serde_json::Value], folder: &std::path::Path) {
    let mut images = BTreeSet::new();
    for kind in ["heat_map", "overlay"] {
        let pictures: Vec<PathBuf> = lines
            .iter()
            .map(|line| folder.join(line[kind].as_str().expect("a picture")))
            .collect();
        let different: BTreeSet<_> = pictures.iter().collect();
        assert_eq!(different.len(), lines.len(), "{kind}");
        let found: BTreeSet<u32> = pictures
            .iter()
            .map(|path| {
                let bytes = std::fs::read(path).unwrap();
                u32::from_be_bytes(bytes[16..20].try_into().unwrap())
            })
            .collect();
        assert_eq!(found, widths(), "{kind}");
    }
    for line in lines {
        assert!(line["score"].is_number(), "{line}");
        // The second tells names apart that are no Unicode text.
        let name = ["image", "image_bytes"].map(|key| line[key].as_str());
        assert!(images.insert(name), "{line} again");
    }
    assert_eq!(images.len(), names().len());
}

#[test]
fn each_image_gets_one_record_and_its_own_pictures() {
    let sandbox = photos();
    let detect = format!("detect photos -o out {TINY}");
    let found = output(&mut sandbox.command(&format!("{detect} --json")));
    assert_eq!(found.code, Some(0), "{found:?}");
    assert_one_record_each(&found.lines(), &sandbox.path("out"));
    let stored = sandbox.read("out/results.jsonl");
    assert_eq!(stored.lines().count(), names().len());

    // They are known again.
    let again = output(&mut sandbox.command(&detect));
    assert_eq!(again.code, Some(0), "{again:?}");
    let count = names().len();
    let told = format!("{count} of {count} ");
    assert!(again.stderr.contains(&told), "{}", again.stderr);
    assert_eq!(sandbox.read("out/results.jsonl"), stored);
    assert_escaped(&again.stdout);
    assert_escaped(&again.stderr);
}

#[test]
fn names_are_given_one_by_one() {
    let sandbox = photos();
    let mut command = sandbox.command("detect -o ../out --json --weights ../tiny.safetensors --");
    command.current_dir(sandbox.path("photos")).args(names());
    let found = output(&mut command);
    assert_eq!(found.code, Some(0), "{found:?}");
    assert_one_record_each(&found.lines(), &sandbox.path("out"));
    // A spreadsheet takes a cell that begins so for a formula.
    let table = sandbox.read("out/results.csv");
    for formula in ["=cmd", "+1", "@sum", "-dash", "--json"] {
        for start in ["\n", "\n\"", ",", ",\""] {
            let cell = format!("{start}{formula}");
            assert!(!table.contains(&cell), "{cell:?} in {table}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_file_is_told_without_its_escape_sequences() {
    let sandbox = Sandbox::new();
    sandbox.pictures(0, 1, 0);
    for name in NAMES {
        let path = sandbox.path("test").join(OsStr::from_bytes(name));
        std::fs::write(path, b"no picture").unwrap();
    }
    for arguments in [
        "detect test",
        "detect test --json",
        "fit --normal test -o x.detector",
    ] {
        let run = output(&mut sandbox.command(&format!("{arguments} {TINY}")));
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_escaped(&run.stdout);
        assert_escaped(&run.stderr);
    }
    let missing = output(
        sandbox
            .command(&format!("detect {TINY}"))
            .arg("\x1b[31m\n.png"),
    );
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert_escaped(&missing.stderr);
}

#[test]
fn detectors_are_fitted_and_calibrated_on_them() {
    let sandbox = photos();
    std::fs::rename(sandbox.path("photos"), sandbox.path("others")).unwrap();
    let sandbox = photos_in(sandbox);
    for command in [
        "fit --normal photos -o nut.detector",
        "calibrate --detector nut.detector --normal others",
    ] {
        let run = output(&mut sandbox.command(&format!("{command} --json {TINY}")));
        assert_eq!(run.code, Some(0), "{run:?}");
        if command.starts_with("fit") {
            assert_eq!(run.lines()[0]["images"], names().len(), "{run:?}");
        }
        assert_escaped(&run.stdout);
        assert_escaped(&run.stderr);
    }
}

#[test]
fn a_manifest_names_them() {
    let sandbox = photos();
    let lines: Vec<String> = names()
        .iter()
        .filter_map(|name| name.to_str())
        // It separates folders in manifests; names that are no text on one line are refused.
        .filter(|name| !name.contains('\\') && !name.contains(char::is_control))
        // Lists are trimmed.
        .filter(|name| name.trim() == *name)
        .enumerate()
        .map(|(i, name)| json!({ "path": name, "label": i % 2, "split": "test" }).to_string())
        .collect();
    sandbox.write("photos/manifest.jsonl", lines.join("\n").as_bytes());
    let run = output(&mut sandbox.command(&format!(
        "eval --shots 0 --data manifest:photos/manifest.jsonl --json {TINY}"
    )));
    assert_eq!(run.code, Some(0), "{run:?}");
    let images = &run.lines()[0];
    let told = images.to_string();
    assert!(told.contains(&format!("{}", lines.len() / 2)), "{told}");
}
