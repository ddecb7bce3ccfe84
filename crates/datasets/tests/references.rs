//! Data references and roots: what parses, and what is said of what does not.

mod common;

use anomalens_datasets::{DataRef, DataSet, Error, check, layouts};
use common::*;
use proptest::prelude::*;

#[test]
fn references_that_do_not_parse() {
    let known = layouts().iter().map(|layout| layout.name);
    let known = known.collect::<Vec<_>>().join(", ");
    let cases = [
        (
            "/data/bottle",
            format!(
                "`/data/bottle` names no layout: write LAYOUT:PATH, for example \
                 folder:/data/bottle (layouts: {known})"
            ),
        ),
        (
            "elpv:",
            "`elpv:` names no folder: write elpv:PATH".to_owned(),
        ),
        (
            "Elvp:/data",
            format!("there is no layout `Elvp` (did you mean `elpv`?); the layouts are {known}"),
        ),
        (
            "qqq:/data",
            format!("there is no layout `qqq`; the layouts are {known}"),
        ),
        (
            ":",
            format!("there is no layout ``; the layouts are {known}"),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(
            text.parse::<DataRef>().unwrap_err().to_string(),
            expected,
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".*") {
        let _ = text.parse::<DataRef>().map_err(|error| error.to_string());
    }

    #[test]
    fn what_is_written_is_read_back(index in 0..layouts().len(), path in ".+") {
        let text = format!("{}:{path}", layouts()[index].name);
        let data: DataRef = text.parse().unwrap();
        prop_assert_eq!(data.layout, &layouts()[index]);
        prop_assert_eq!(data.to_string(), text);
    }
}

#[test]
fn roots_that_do_not_open() {
    let tree = Tree::new();
    headct(&tree);
    elpv(&tree);
    tree.remove("elpv/labels.csv");
    tree.file("file", "");
    tree.folder("empty");
    tree.file("hidden/.DS_Store", "");
    tree.file("documents/notes.txt", "");
    tree.folder("nothing/good");
    tree.folder("nothing/bad");

    // layout, root, message
    let cases = [
        (
            "folder",
            "nowhere",
            "ROOT does not exist: give the folder that holds the data set",
        ),
        (
            "mvtec",
            "nowhere",
            "ROOT does not exist: give the folder that holds the data set (its owners publish it: \
             www.mvtec.com/company/research/datasets/mvtec-ad)",
        ),
        (
            "folder",
            "file",
            "ROOT is a file: give the folder that holds the data set (a file can be given to \
             manifest, coco and meta)",
        ),
        (
            "folder",
            "empty",
            "ROOT is empty: give the folder that holds the data set",
        ),
        (
            "folder",
            "hidden",
            "ROOT is empty: give the folder that holds the data set",
        ),
        (
            "folder",
            "nothing",
            "ROOT is laid out as folder and holds no images",
        ),
        (
            "elpv",
            "headct",
            "this does not look like elpv: images is missing in ROOT (expected: labels.csv (path, \
             probability of a defect, mono or poly), images/*); it looks like headct",
        ),
        (
            "elpv",
            "elpv",
            "this does not look like elpv: labels.csv is missing in ROOT (expected: labels.csv \
             (path, probability of a defect, mono or poly), images/*)",
        ),
        (
            "brainmri",
            "documents",
            "this does not look like brainmri: no, yes are missing in ROOT (expected: no/* \
             (normal), yes/* (anomalous), or these in brain_tumor_dataset/)",
        ),
    ];
    for (layout, root, expected) in cases {
        let data = tree.data(layout, root);
        let name = data.root.display().to_string();
        for error in [DataSet::open(&data).unwrap_err(), check(&data).unwrap_err()] {
            assert_eq!(
                error.to_string().replace(&name, "ROOT"),
                expected,
                "{layout}:{root}"
            );
        }
    }
}

#[test]
fn plain_folders_of_other_names_are_told_what_is_expected() {
    let tree = Tree::new();
    tree.image("cups/fine/1.png");
    tree.image("cups/broken/2.png");
    let error = DataSet::open(&tree.data("folder", "cups")).unwrap_err();
    assert!(matches!(
        error,
        Error::WrongLayout {
            layout: "folder",
            ..
        }
    ));
    assert!(
        error
            .to_string()
            .contains("or good and bad (also ok, normal"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn names_that_cannot_be_listed() {
    for name in ["two\nlines.png", "bell\u{7}.png"] {
        let tree = Tree::new();
        plain(&tree);
        tree.file(&format!("plain/OK/{name}"), "");
        let error = DataSet::open(&tree.data("folder", "plain")).unwrap_err();
        assert!(matches!(error, Error::FileName { .. }), "{error}");
    }
}
