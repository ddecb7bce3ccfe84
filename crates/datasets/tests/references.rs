//! Data references and roots: what parses, and what is said of what does not.

mod common;

use anomalens_datasets::{DataRef, DataSet, Error, FindingKind, MaskChannel, check, layouts};
use anomalens_vision::Limits;
use common::*;
use image::{GrayImage, Luma};
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
        (
            "kvasir:,mask-threshold=9",
            "`kvasir:` names no folder: write kvasir:PATH".to_owned(),
        ),
        (
            "kvasir:/data,mask=9",
            "`kvasir:/data,mask=9`: there is no setting mask (did you mean `mask-from`?); the \
             settings are mask-threshold, mask-invert, mask-from (end a folder of this name with /)"
                .to_owned(),
        ),
        (
            "kvasir:/data,mask-threshold=65535",
            "`kvasir:/data,mask-threshold=65535`: mask-threshold is a number from 0 to 65534"
                .to_owned(),
        ),
        (
            "kvasir:/data,mask-threshold=-1",
            "`kvasir:/data,mask-threshold=-1`: mask-threshold is a number from 0 to 65534"
                .to_owned(),
        ),
        (
            "kvasir:/data,mask-invert=yes",
            "`kvasir:/data,mask-invert=yes`: mask-invert is true or false".to_owned(),
        ),
        (
            "kvasir:/data,mask-from=red",
            "`kvasir:/data,mask-from=red`: mask-from is brightness or alpha".to_owned(),
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

#[test]
fn a_folder_that_is_named_like_settings_is_read_back() {
    for path in [",a=", "x,b=1", "x,b=1,c=2", "x,y", "x/,a=1"] {
        let data = DataRef::new(&layouts()[0], path);
        assert_eq!(data.to_string().parse::<DataRef>().unwrap(), data, "{path}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".*") {
        let _ = text.parse::<DataRef>().map_err(|error| error.to_string());
    }

    #[test]
    fn what_is_written_is_read_back(
        index in 0..layouts().len(),
        path in ".+",
        threshold in 0..u16::MAX,
        invert: bool,
        alpha: bool,
    ) {
        let mut data = DataRef::new(&layouts()[index], path);
        data.masks.threshold = threshold;
        data.masks.invert = invert;
        if alpha {
            data.masks.channel = MaskChannel::Alpha;
        }
        prop_assert_eq!(data.to_string().parse::<DataRef>().unwrap(), data);
    }
}

#[test]
fn the_threshold_decides_what_a_mask_marks() {
    let tree = Tree::new();
    // As a JPEG file has it: noise around black and white.
    let noisy = |x, _| Luma([[0, 7, 130, 248, 255, 255][x as usize]]);
    plain(&tree);
    for name in ["x", "y"] {
        let mask = GrayImage::from_fn(SIZE.0, SIZE.1, noisy);
        tree.save(&format!("plain/ground_truth/defect/{name}.png"), &mask);
    }
    // The mask of the second third is all noise.
    sdd(&tree);
    let thirds = |_, y| Luma([[0, 7, 255][(y > 2) as usize + (y > 6) as usize]]);
    tree.save(
        "sdd/kos01/Part0_label.bmp",
        &GrayImage::from_fn(6, 11, thirds),
    );

    // The threshold, the pixels marked in a row of the plain masks, the kinds of the thirds.
    for (threshold, marked, kinds) in [
        (0, 5, ["good", "defect", "defect"]),
        (6, 5, ["good", "defect", "defect"]),
        (7, 4, ["good", "good", "defect"]),
        (127, 4, ["good", "good", "defect"]),
        (254, 2, ["good", "good", "defect"]),
    ] {
        let open = |layout| {
            let mut data = tree.data(layout, if layout == "folder" { "plain" } else { layout });
            data.masks.threshold = threshold;
            DataSet::open(&data).unwrap()
        };
        let data = open("folder");
        let masks = data.samples.iter().filter_map(|sample| {
            let mask = sample.mask.open(&Limits::default()).unwrap()?;
            Some(mask.count())
        });
        assert_eq!(masks.collect::<Vec<_>>(), [4 * marked; 2], "{threshold}");
        let data = open("sdd");
        let found = data
            .samples
            .iter()
            .filter(|sample| sample.id.starts_with("kos01/Part0"));
        assert_eq!(
            found.map(|sample| &*sample.defect_type).collect::<Vec<_>>(),
            kinds,
            "{threshold}"
        );
    }
    let mut data = tree.data("folder", "plain");
    data.masks.threshold = 255;
    let report = check(&data).unwrap();
    let empty = report
        .findings
        .iter()
        .filter(|finding| finding.kind == FindingKind::EmptyMask);
    assert_eq!(empty.count(), 2);
}

#[test]
fn a_threshold_without_masks_is_refused() {
    let tree = Tree::new();
    elpv(&tree);
    let mut data = tree.data("elpv", "elpv");
    data.masks.threshold = 127;
    let message = DataSet::open(&data).unwrap_err().to_string();
    assert!(
        message.ends_with("these settings are for masks in image files, and there are none"),
        "{message}"
    );
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
            "no*here/[a-z].png",
            "ROOT is a pattern, and a data set is one folder or file: give the folder that holds \
             it, or list the images in a table for the layout manifest",
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
