//! The search for images: what is found, skipped and reported, below folders and by patterns.

#![allow(clippy::unwrap_used)] // The fixtures are made by helper functions.

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anomalens_datasets::{FoundImages, find_images, path_text};
use common::*;
use proptest::prelude::*;

fn files(tree: &Tree, names: &[&str]) {
    for name in names {
        tree.file(name, "");
    }
}

fn search(tree: &Tree, paths: &[&str]) -> Result<FoundImages, String> {
    let paths: Vec<PathBuf> = paths.iter().map(|path| tree.path(path)).collect();
    find_images(&paths, &|_| false).map_err(|error| error.to_string())
}

fn names(found: &FoundImages) -> Vec<&str> {
    let images = found.images.iter();
    images.map(|image| image.name.to_str().unwrap()).collect()
}

#[test]
fn images_below_folders_in_order() {
    let tree = Tree::new();
    files(
        &tree,
        &[
            "photos/b.JPG",
            "photos/a.tif",
            "photos/c/d.jpe",
            "photos/list.txt",
        ],
    );
    files(&tree, &["alone.data", "photos/c.webp"]);
    let found = search(&tree, &["photos", "alone.data"]).unwrap();
    assert_eq!(
        names(&found),
        ["a.tif", "b.JPG", "c/d.jpe", "c.webp", "alone.data"]
    );
    assert_eq!(found.images[2].path, tree.path("photos/c/d.jpe"));
    assert!(found.unread_note().is_none() && found.problems.is_empty());
}

#[test]
fn what_systems_leave_behind_is_skipped() {
    let tree = Tree::new();
    files(
        &tree,
        &[
            "photos/a.png",
            "photos/._a.png",
            "photos/.thumbnails/a.png",
            "photos/@eaDir/a.png/thumb.jpg",
            "photos/__MACOSX/a.png",
            "photos/$RECYCLE.BIN/a.png",
            "photos/#recycle/a.png",
            "photos/b/.hidden.jpg",
            "photos/Thumbs.db",
        ],
    );
    assert_eq!(names(&search(&tree, &["photos"]).unwrap()), ["a.png"]);
    // What is named outright is meant.
    let named = ["photos/._a.png", "photos/.thumbnails"];
    assert_eq!(names(&search(&tree, &named).unwrap()), ["._a.png", "a.png"]);
}

#[test]
#[cfg(unix)]
fn links_and_folders_that_cannot_be_searched_do_not_end_it() {
    use std::os::unix::fs::symlink;
    let tree = Tree::new();
    files(&tree, &["photos/a.png", "other/b.png", "photos/z.png"]);
    symlink(tree.path("photos"), tree.path("photos/loop")).unwrap();
    symlink("itself.png", tree.path("photos/itself.png")).unwrap();
    symlink("nowhere", tree.path("photos/gone.jpg")).unwrap();
    symlink("nowhere", tree.path("photos/gone.txt")).unwrap();
    symlink("nowhere", tree.path("photos/.#lock")).unwrap();
    symlink(tree.path("other"), tree.path("photos/more")).unwrap();
    let found = search(&tree, &["photos"]).unwrap();
    assert_eq!(names(&found), ["a.png", "more/b.png", "z.png"]);
    let problems: Vec<_> = found.problems.iter().map(|(path, _)| path).collect();
    let lost = [tree.path("photos/gone.jpg"), tree.path("photos/itself.png")];
    assert_eq!(problems, lost.iter().collect::<Vec<_>>());
}

#[test]
fn formats_that_are_not_read_are_counted() {
    let tree = Tree::new();
    files(
        &tree,
        &[
            "photos/a.png",
            "photos/b.gif",
            "photos/c.HEIC",
            "photos/d/e.gif",
        ],
    );
    files(&tree, &["only/a.mp4", "none/readme.txt"]);
    let found = search(&tree, &["photos"]).unwrap();
    assert_eq!(
        found.unread_note().as_deref(),
        Some("3 files are in formats that cannot be read (2 GIF, 1 HEIC): convert them to PNG")
    );
    let message = search(&tree, &["only", "none"]).unwrap_err();
    assert!(message.contains("there are no images in"), "{message}");
    let expected = "1 file is in a format that cannot be read (1 video): convert them to PNG";
    assert!(message.ends_with(expected), "{message}");
    let message = search(&tree, &["none"]).unwrap_err();
    assert!(message.ends_with("jfif, dib)"), "{message}");
}

#[test]
fn patterns_name_files_and_folders() {
    let tree = Tree::new();
    files(
        &tree,
        &[
            "p/x/1.png",
            "p/x/2.jpg",
            "p/y/1.png",
            "p/y/3.gif",
            "p/.z/1.png",
            "p/[1].png",
        ],
    );
    let cases: [(&str, &[&str]); 6] = [
        ("p/*/1.png", &["x/1.png", "y/1.png"]),
        ("p/x/*", &["1.png", "2.jpg"]),
        ("p/**/*.jpg", &["x/2.jpg"]),
        ("p/?", &["x/1.png", "x/2.jpg", "y/1.png"]),
        ("p/[xz]/[0-9].*", &["x/1.png", "x/2.jpg"]),
        ("p/[1].png", &["[1].png"]),
    ];
    for (pattern, expected) in cases {
        assert_eq!(
            names(&search(&tree, &[pattern]).unwrap()),
            expected,
            "{pattern}"
        );
    }
    for (pattern, expected) in [
        ("p/*.bmp", "cannot find "),
        ("q", "cannot find "),
        ("p/[", "cannot find "),
        ("p/y/3.*", "there are no images in "),
    ] {
        let message = search(&tree, &[pattern]).unwrap_err();
        assert!(message.starts_with(expected), "{pattern}: {message}");
    }
}

#[test]
fn folders_can_be_left_out() {
    let tree = Tree::new();
    files(&tree, &["photos/a.png", "photos/results/heat-maps/a.png"]);
    let output = tree.path("photos/results");
    let leave_out = |folder: &Path| folder == output;
    let found = find_images(&[tree.path("photos")], &leave_out).unwrap();
    assert_eq!(names(&found), ["a.png"]);
    assert_eq!(found.left_out, std::slice::from_ref(&output));
    let found = find_images(std::slice::from_ref(&output), &leave_out).unwrap();
    assert_eq!(names(&found), ["heat-maps/a.png"]);
}

#[test]
fn names_are_unique_and_files_are_found_once() {
    let tree = Tree::new();
    files(
        &tree,
        &["A/2/x.png", "A/x.png", "B/x.png", "C/x.png", "C/2-2/x.png"],
    );
    let found = search(&tree, &["A", "B", "C", "A/./x.png", "B"]).unwrap();
    assert_eq!(
        names(&found),
        ["2/x.png", "x.png", "2-2/x.png", "3/2-2/x.png", "3/x.png"]
    );
}

#[test]
#[cfg(target_os = "linux")]
fn hostile_names_are_found_and_told_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let tree = Tree::new();
    tree.folder("photos");
    let long = format!("{}.png", "n".repeat(250));
    let hostile: [&[u8]; 9] = [
        b"teil_\xe4.jpg",
        b"teil_\xf6.jpg",
        b"teil_\\xE4.jpg",
        "teil_\u{fffd}.jpg".as_bytes(),
        b"a\nb.png",
        b"\x1b[31m.png",
        b"=1+1.png",
        b" .png",
        long.as_bytes(),
    ];
    for name in hostile {
        let path = tree.path("photos").join(OsStr::from_bytes(name));
        std::fs::write(path, "").unwrap();
    }
    let found = search(&tree, &["photos"]).unwrap();
    assert_eq!(found.images.len(), hostile.len());
    let names: HashSet<_> = found.images.iter().map(|image| &image.name).collect();
    let texts: HashSet<_> = found.images.iter().map(|i| path_text(&i.name)).collect();
    assert_eq!((names.len(), texts.len()), (hostile.len(), hostile.len()));
}

proptest! {
    #[test]
    #[cfg(unix)]
    fn texts_of_different_paths_differ(
        a in prop::collection::vec(prop::sample::select(b"\\xE4/\xe4\xc3\xa4.".to_vec()), 0..8),
        b in prop::collection::vec(prop::sample::select(b"\\xE4/\xe4\xc3\xa4.".to_vec()), 0..8),
    ) {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let text = |bytes: &[u8]| path_text(Path::new(OsStr::from_bytes(bytes)));
        prop_assert_eq!(a == b, text(&a) == text(&b));
    }
}
