//! Every kind of finding: a sound tree, one thing done to it, and what is said.

mod common;

use std::fs;

use anomalens_datasets::FindingKind::*;
use anomalens_datasets::{DataSet, Error, FindingKind, Severity, check};
use common::*;

struct Case {
    name: &'static str,
    /// Layout and root.
    data: (&'static str, &'static str),
    make: fn(&Tree),
    harm: fn(&Tree),
    kind: FindingKind,
    at: &'static str,
    message: &'static str,
    /// Whether the data set still opens.
    opens: bool,
}

#[test]
fn every_harm_is_found() {
    let cases = [
        Case {
            name: "csv row without a file",
            data: ("elpv", "elpv"),
            make: elpv,
            harm: |tree| tree.remove("elpv/images/cell0004.png"),
            kind: MissingFile,
            at: "images/cell0004.png",
            message: "named in labels.csv, line 4; no such file",
            opens: false,
        },
        Case {
            name: "csv row without a file, by id",
            data: ("headct", "headct"),
            make: headct,
            harm: |tree| tree.remove("headct/head_ct/003.png"),
            kind: MissingFile,
            at: "head_ct/003.png",
            message: "named in labels.csv, line 5; no such file",
            opens: false,
        },
        Case {
            name: "file not in the csv",
            data: ("elpv", "elpv"),
            make: elpv,
            harm: |tree| tree.image("elpv/images/cell9999.png"),
            kind: UnlabelledFile,
            at: "images/cell9999.png",
            message: "nothing labels this image; it is left out",
            opens: true,
        },
        Case {
            name: "id not in the csv",
            data: ("headct", "headct"),
            make: headct,
            harm: |tree| tree.image("headct/head_ct/077.png"),
            kind: UnlabelledFile,
            at: "head_ct/077.png",
            message: "nothing labels this image; it is left out",
            opens: true,
        },
        Case {
            name: "columns missing",
            data: ("elpv", "elpv"),
            make: elpv,
            harm: |tree| tree.replace("elpv/labels.csv", "cell0001.png  0.0 ", "cell0001.png "),
            kind: BadRow,
            at: "labels.csv, line 1",
            message: "3 columns expected (path, probability, type), 2 found",
            opens: false,
        },
        Case {
            name: "probability out of range",
            data: ("elpv", "elpv"),
            make: elpv,
            harm: |tree| tree.replace("elpv/labels.csv", "cell0001.png  0.0", "cell0001.png  1.5"),
            kind: BadRow,
            at: "labels.csv, line 1",
            message: "probability from 0 to 1 expected, `1.5` found",
            opens: false,
        },
        Case {
            name: "probability not a number",
            data: ("elpv", "elpv"),
            make: elpv,
            harm: |tree| tree.replace("elpv/labels.csv", "cell0001.png  0.0", "cell0001.png  NaN"),
            kind: BadRow,
            at: "labels.csv, line 1",
            message: "probability from 0 to 1 expected, `NaN` found",
            opens: false,
        },
        Case {
            name: "unknown cell type",
            data: ("elpv", "elpv"),
            make: elpv,
            harm: |tree| tree.replace("elpv/labels.csv", "poly", "thin"),
            kind: BadRow,
            at: "labels.csv, line 3",
            message: "type mono or poly expected, `thin` found",
            opens: false,
        },
        Case {
            name: "path out of the root",
            data: ("elpv", "elpv"),
            make: elpv,
            harm: |tree| tree.replace("elpv/labels.csv", "images/cell0001", "../cell0001"),
            kind: BadRow,
            at: "labels.csv, line 1",
            message: "the path ../cell0001.png does not stay below the root",
            opens: false,
        },
        Case {
            name: "row twice",
            data: ("elpv", "elpv"),
            make: elpv,
            harm: |tree| tree.replace("elpv/labels.csv", "cell0002", "cell0001"),
            kind: BadRow,
            at: "labels.csv, line 2",
            message: "images/cell0001.png is listed twice",
            opens: false,
        },
        Case {
            name: "label neither 0 nor 1",
            data: ("headct", "headct"),
            make: headct,
            harm: |tree| tree.replace("headct/labels.csv", "3,0", "3,2"),
            kind: BadRow,
            at: "labels.csv, line 5",
            message: "hemorrhage 0 or 1 expected, 2 found",
            opens: false,
        },
        Case {
            name: "id twice",
            data: ("headct", "headct"),
            make: headct,
            harm: |tree| tree.replace("headct/labels.csv", "3,0", "2,0"),
            kind: BadRow,
            at: "labels.csv, line 5",
            message: "id 2 is listed twice",
            opens: false,
        },
        Case {
            name: "folder of a defect missing",
            data: ("magnetic-tile", "magnetic-tile"),
            make: magnetic_tile,
            harm: |tree| tree.remove("magnetic-tile/MT_Fray"),
            kind: MissingFolder,
            at: "MT_Fray",
            message: "no such folder",
            opens: false,
        },
        Case {
            name: "folder of masks missing",
            data: ("folder", "mvtec"),
            make: mvtec,
            harm: |tree| {
                tree.remove("mvtec/bottle/ground_truth/broken");
            },
            kind: MissingFolder,
            at: "bottle/ground_truth/broken",
            message: "no such folder; it should hold the masks of bottle/test/broken",
            opens: false,
        },
        Case {
            name: "images under an unknown label",
            data: ("brainmri", "brainmri"),
            make: brainmri,
            harm: |tree| tree.image("brainmri/pred/1.png"),
            kind: UnknownKind,
            at: "pred",
            message: "images under a name that is no known label (expected no, yes)",
            opens: false,
        },
        Case {
            name: "defects in train",
            data: ("folder", "mvtec"),
            make: mvtec,
            harm: |tree| tree.image("mvtec/bottle/train/broken/1.png"),
            kind: UnknownKind,
            at: "bottle/train/broken",
            message: "images under a name that is no known label (expected good)",
            opens: false,
        },
        Case {
            name: "class without train and test",
            data: ("folder", "mvtec"),
            make: mvtec,
            harm: |tree| tree.image("mvtec/zipper/Test/good/1.png"),
            kind: UnknownKind,
            at: "zipper",
            message: "images under a name that is no known label (expected a class with train \
                      and test)",
            opens: false,
        },
        Case {
            name: "image of a wrong ending",
            data: ("magnetic-tile", "magnetic-tile"),
            make: magnetic_tile,
            harm: |tree| tree.image("magnetic-tile/MT_Free/Imgs/exp5.bmp"),
            kind: UnlabelledFile,
            at: "MT_Free/Imgs/exp5.bmp",
            message: "nothing labels this image; it is left out",
            opens: true,
        },
        Case {
            name: "image outside the folders",
            data: ("brainmri", "brainmri"),
            make: brainmri,
            harm: |tree| tree.image("brainmri/1.png"),
            kind: UnlabelledFile,
            at: "1.png",
            message: "nothing labels this image; it is left out",
            opens: true,
        },
        Case {
            name: "unknown file",
            data: ("textile", "textile"),
            make: textile,
            harm: |tree| tree.file("textile/nominal/notes.txt", "x"),
            kind: UnexpectedFile,
            at: "nominal/notes.txt",
            message: "no part of this layout; it is left out",
            opens: true,
        },
        Case {
            name: "folder among images",
            data: ("folder", "plain"),
            make: plain,
            harm: |tree| tree.image("plain/OK/more/1.png"),
            kind: UnexpectedFile,
            at: "OK/more",
            message: "a folder among images; it is not looked into",
            opens: true,
        },
        Case {
            name: "folder beside a label file",
            data: ("elpv", "elpv"),
            make: elpv,
            harm: |tree| tree.image("elpv/maps/1.png"),
            kind: UnexpectedFile,
            at: "maps",
            message: "no part of this layout; it is left out",
            opens: true,
        },
        Case {
            name: "empty file",
            data: ("brainmri", "brainmri"),
            make: brainmri,
            harm: |tree| tree.file("brainmri/yes/Y2.png", ""),
            kind: UnreadableImage,
            at: "yes/Y2.png",
            message: "the file is empty",
            opens: true,
        },
        Case {
            name: "text named .png",
            data: ("brainmri", "brainmri"),
            make: brainmri,
            harm: |tree| tree.file("brainmri/yes/Y2.png", "not an image"),
            kind: UnreadableImage,
            at: "yes/Y2.png",
            message: "this is not an image (JPEG, PNG, BMP, TIFF or WebP)",
            opens: true,
        },
        Case {
            name: "truncated image",
            data: ("brainmri", "brainmri"),
            make: brainmri,
            harm: |tree| {
                let bytes = fs::read(tree.path("brainmri/yes/Y2.png")).unwrap();
                tree.file("brainmri/yes/Y2.png", &bytes[..bytes.len() / 2]);
            },
            kind: UnreadableImage,
            at: "yes/Y2.png",
            message: "this image is damaged: ",
            opens: true,
        },
        Case {
            name: "truncated JPEG",
            data: ("brainmri", "brainmri"),
            make: brainmri,
            harm: |tree| {
                let bytes = fs::read(tree.path("brainmri/yes/Y1.jpg")).unwrap();
                tree.file("brainmri/yes/Y1.jpg", &bytes[..bytes.len() - 2]);
            },
            kind: UnreadableImage,
            at: "yes/Y1.jpg",
            message: "this image is damaged: the end of the image is missing",
            opens: true,
        },
        Case {
            name: "mask that is no image",
            data: ("folder", "plain"),
            make: plain,
            harm: |tree| tree.file("plain/ground_truth/defect/x.png", "x"),
            kind: UnreadableImage,
            at: "ground_truth/defect/x.png",
            message: "this is not an image",
            opens: true,
        },
        Case {
            name: "label bitmap that is no image",
            data: ("sdd", "sdd"),
            make: sdd,
            harm: |tree| tree.file("sdd/kos02/Part0_label.bmp", "x"),
            kind: UnreadableImage,
            at: "kos02/Part0_label.bmp",
            message: "this is not an image",
            opens: false,
        },
        Case {
            name: "too low to cut",
            data: ("sdd", "sdd"),
            make: sdd,
            harm: |tree| {
                tree.image_of("sdd/kos02/Part0.jpg", 6, 2);
                tree.mask("sdd/kos02/Part0_label.bmp", (6, 2), &[]);
            },
            kind: UnreadableImage,
            at: "kos02/Part0.jpg",
            message: "2 rows cannot be cut into thirds",
            opens: false,
        },
        Case {
            name: "mask missing",
            data: ("folder", "mvtec"),
            make: mvtec,
            harm: |tree| tree.remove("mvtec/bottle/ground_truth/broken/001_mask.png"),
            kind: MissingMask,
            at: "bottle/test/broken/001.png",
            message: "no mask 001.* or 001_mask.* in bottle/ground_truth/broken",
            opens: false,
        },
        Case {
            name: "mask beside the image missing",
            data: ("magnetic-tile", "magnetic-tile"),
            make: magnetic_tile,
            harm: |tree| tree.remove("magnetic-tile/MT_Crack/Imgs/exp1.png"),
            kind: MissingMask,
            at: "MT_Crack/Imgs/exp1.jpg",
            message: "no mask exp1.* or exp1_mask.* in MT_Crack/Imgs",
            opens: false,
        },
        Case {
            name: "label bitmap missing",
            data: ("sdd", "sdd"),
            make: sdd,
            harm: |tree| tree.remove("sdd/kos01/Part1_label.bmp"),
            kind: MissingMask,
            at: "kos01/Part1.jpg",
            message: "no Part1_label.bmp beside it",
            opens: false,
        },
        Case {
            name: "mask without an image",
            data: ("folder", "plain"),
            make: plain,
            harm: |tree| tree.remove("plain/defect/x.png"),
            kind: MaskWithoutImage,
            at: "ground_truth/defect/x.png",
            message: "this mask belongs to no image in defect",
            opens: false,
        },
        Case {
            name: "masks without a folder of images",
            data: ("folder", "mvtec"),
            make: mvtec,
            harm: |tree| tree.remove("mvtec/bottle/test/broken"),
            kind: MaskWithoutImage,
            at: "bottle/ground_truth/broken",
            message: "masks of images that are missing: no folder bottle/test/broken",
            opens: false,
        },
        Case {
            name: "label bitmap without an image",
            data: ("sdd", "sdd"),
            make: sdd,
            harm: |tree| tree.remove("sdd/kos01/Part1.jpg"),
            kind: MaskWithoutImage,
            at: "kos01/Part1_label.bmp",
            message: "no Part1.jpg beside it",
            opens: false,
        },
        Case {
            name: "two masks fit",
            data: ("folder", "plain"),
            make: plain,
            harm: |tree| tree.mask("plain/ground_truth/defect/x_mask.png", SIZE, &[(0, 0)]),
            kind: AmbiguousMask,
            at: "defect/x.png",
            message: "two masks fit this image, x.png and x_mask.png",
            opens: false,
        },
        Case {
            name: "two images fit",
            data: ("folder", "plain"),
            make: plain,
            harm: |tree| tree.image("plain/defect/x.bmp"),
            kind: AmbiguousMask,
            at: "ground_truth/defect/x.png",
            message: "this mask fits two images, x.bmp and x.png",
            opens: false,
        },
        Case {
            name: "mask of another size",
            data: ("folder", "plain"),
            make: plain,
            harm: |tree| tree.mask("plain/ground_truth/defect/x.png", (4, 6), &[(0, 0)]),
            kind: MaskSize,
            at: "ground_truth/defect/x.png",
            message: "this mask is 4x6, its image 6x4",
            opens: true,
        },
        Case {
            name: "label bitmap of another size",
            data: ("sdd", "sdd"),
            make: sdd,
            harm: |tree| tree.mask("sdd/kos01/Part0_label.bmp", (6, 10), &[]),
            kind: MaskSize,
            at: "kos01/Part0_label.bmp",
            message: "this mask is 6x10, its image 6x11",
            opens: false,
        },
        Case {
            name: "empty mask of an anomalous image",
            data: ("folder", "plain"),
            make: plain,
            harm: |tree| tree.mask("plain/ground_truth/defect/x.png", SIZE, &[]),
            kind: EmptyMask,
            at: "ground_truth/defect/x.png",
            message: "this mask marks no pixel, and defect/x.png is anomalous",
            opens: true,
        },
        Case {
            name: "marks in the mask of a normal image",
            data: ("magnetic-tile", "magnetic-tile"),
            make: magnetic_tile,
            harm: |tree| tree.mask("magnetic-tile/MT_Free/Imgs/exp1.png", SIZE, &[(0, 0)]),
            kind: MaskOfNormal,
            at: "MT_Free/Imgs/exp1.png",
            message: "this mask marks pixels, and MT_Free/Imgs/exp1.jpg is normal",
            opens: true,
        },
        Case {
            name: "the same in training and test",
            data: ("folder", "plain"),
            make: plain,
            harm: |tree| tree.copy("plain/OK/a.png", "plain/OK/b.png"),
            kind: Duplicate,
            at: "OK/a.png",
            message: "the same file as OK/b.png, in training and in test",
            opens: true,
        },
        Case {
            name: "the same under two labels",
            data: ("folder", "plain"),
            make: plain,
            harm: |tree| tree.copy("plain/OK/b.png", "plain/defect/x.png"),
            kind: Duplicate,
            at: "OK/b.png",
            message: "the same file as defect/x.png, under two labels",
            opens: true,
        },
        Case {
            name: "nothing to fit on",
            data: ("folder", "mvtec"),
            make: mvtec,
            harm: |tree| tree.remove("mvtec/bottle/train"),
            kind: NoImages,
            at: "bottle",
            message: "no training images: there is nothing to fit on or draw shots from",
            opens: true,
        },
        Case {
            name: "nothing to evaluate on",
            data: ("folder", "mvtec"),
            make: mvtec,
            harm: |tree| tree.remove("mvtec/cable/test"),
            kind: NoImages,
            at: "cable",
            message: "no test images: there is nothing to evaluate on",
            opens: true,
        },
        Case {
            name: "empty folder",
            data: ("folder", "mvtec"),
            make: mvtec,
            harm: |tree| tree.folder("mvtec/cable/test/cut"),
            kind: NoImages,
            at: "cable/test/cut",
            message: "there are no images in this folder",
            opens: true,
        },
        Case {
            name: "fewer than published",
            data: ("textile", "textile"),
            make: textile,
            harm: |_| {},
            kind: Counts,
            at: "local",
            message: "1 here, 500 published (the package conformal-clip-data 0.1.4)",
            opens: true,
        },
    ];
    for case in cases {
        let name = case.name;
        let tree = Tree::new();
        (case.make)(&tree);
        let data = tree.data(case.data.0, case.data.1);
        let matches = || {
            let findings = check(&data).unwrap().findings;
            findings
                .into_iter()
                .filter(|f| {
                    f.kind == case.kind && f.at == case.at && f.message.starts_with(case.message)
                })
                .collect::<Vec<_>>()
        };
        if case.kind != Counts {
            assert_eq!(matches(), [], "{name}: before the harm");
        }
        (case.harm)(&tree);
        let [finding] = &matches()[..] else {
            unreachable!("{name}: {:#?}", check(&data).unwrap().findings)
        };
        assert_eq!(finding.severity, case.kind.severity(), "{name}");

        match DataSet::open(&data) {
            Ok(_) => assert!(case.opens, "{name}: opened"),
            Err(Error::Unsound { errors, .. }) => {
                assert!(!case.opens, "{name}: did not open");
                assert!(errors >= 1, "{name}");
            }
            Err(error) => unreachable!("{name}: {error}"),
        }
    }
}

#[test]
fn a_csv_that_is_no_csv() {
    let tree = Tree::new();
    headct(&tree);
    tree.file("headct/labels.csv", "name;label\na;1\n");
    let report = check(&tree.data("headct", "headct")).unwrap();
    assert!(!report.is_sound());
    assert!(report.findings.iter().any(|finding| finding.kind == BadRow));
}

#[test]
fn hidden_files_and_documents_are_no_findings() {
    let tree = Tree::new();
    plain(&tree);
    for name in [
        ".DS_Store",
        "Thumbs.db",
        "README.md",
        "LICENSE",
        "license.txt",
    ] {
        tree.file(&format!("plain/OK/{name}"), "x");
        tree.file(&format!("plain/{name}"), "x");
    }
    assert_eq!(check(&tree.data("folder", "plain")).unwrap().findings, []);
}

#[test]
fn a_report_for_people() {
    let tree = Tree::new();
    plain(&tree);
    tree.remove("plain/ground_truth/defect/y.png");
    tree.file("plain/OK/notes.txt", "x");
    let data = tree.data("folder", "plain");
    let report = check(&data).unwrap();
    let (first, rest) = report
        .to_string()
        .split_once("\n\n")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    assert!(first.starts_with(&format!("{data}\nsplit: as the folders train and test say")));
    assert_eq!(
        rest,
        "class  split  defect type  samples\n\
         plain  train  good               3\n\
         plain  test   good               1\n\
         plain  test   defect             2\n\
         \n\
         error: defect/y.png: no mask y.* or y_mask.* in ground_truth/defect\n\
         warning: OK/notes.txt: no part of this layout; it is left out\n\
         errors: 1, warnings: 1"
    );
    assert_eq!(
        DataSet::open(&data).unwrap_err().to_string(),
        format!(
            "{data} has 1 error, the first at defect/y.png: no mask y.* or y_mask.* in \
             ground_truth/defect; `anomalens data check {data}` lists all"
        )
    );
}

#[test]
fn a_long_report_is_cut_and_its_json_is_not() {
    let tree = Tree::new();
    plain(&tree);
    for number in 0..12 {
        tree.file(&format!("plain/OK/{number:02}.txt"), "x");
    }
    let report = check(&tree.data("folder", "plain")).unwrap();
    let text = report.to_string();
    assert!(
        text.contains("OK/09.txt") && !text.contains("OK/10.txt"),
        "{text}"
    );
    assert!(text.contains("... and 2 more like these"), "{text}");

    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["findings"].as_array().unwrap().len(), 12);
    assert_eq!(json["findings"][0]["kind"], "unexpected-file");
    assert_eq!(json["findings"][0]["severity"], "warning");
    assert_eq!(json["counts"][0]["split"], "train");
    assert_eq!(json["layout"]["name"], "folder");
    assert_eq!(report.findings[0].severity, Severity::Warning);
}
