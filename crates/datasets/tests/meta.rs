//! meta.json, written as the reference's scripts do and read as its loader does.

#![allow(clippy::unwrap_used)] // The fixtures are made by helper functions.

mod common;

use anomalens_datasets::{
    DataRef, DataSet, FindingKind, MaskSource, Sample, check, layout, meta_json,
};
use common::*;

/// The data set that the file lists.
fn listed(tree: &Tree, file: &str) -> DataSet {
    DataSet::open(&tree.data("meta", file)).unwrap()
}

#[test]
fn written_as_python_writes_it() {
    let tree = Tree::new();
    for image in ["train/good/0", "test/good/0", "test/dent/1"] {
        tree.image(&format!("set/spöön/{image}.png"));
    }
    tree.mask("set/spöön/ground_truth/dent/1_mask.png", SIZE, &[(0, 0)]);
    let data = DataSet::open(&tree.data("folder", "set")).unwrap();
    // Of json.dumps(meta, indent=4) + "\n".
    let expected = r#"{
    "train": {
        "sp\u00f6\u00f6n": [
            {
                "img_path": "sp\u00f6\u00f6n/train/good/0.png",
                "mask_path": "",
                "cls_name": "sp\u00f6\u00f6n",
                "specie_name": "good",
                "anomaly": 0
            }
        ]
    },
    "test": {
        "sp\u00f6\u00f6n": [
            {
                "img_path": "sp\u00f6\u00f6n/test/dent/1.png",
                "mask_path": "sp\u00f6\u00f6n/ground_truth/dent/1_mask.png",
                "cls_name": "sp\u00f6\u00f6n",
                "specie_name": "dent",
                "anomaly": 1
            },
            {
                "img_path": "sp\u00f6\u00f6n/test/good/0.png",
                "mask_path": "",
                "cls_name": "sp\u00f6\u00f6n",
                "specie_name": "good",
                "anomaly": 0
            }
        ]
    }
}
"#;
    assert_eq!(meta_json(&data).unwrap(), expected);
}

#[test]
fn what_is_written_is_read_back() {
    type Case = (&'static str, &'static str, fn(&Tree));
    let cases: [Case; 9] = [
        ("mvtec", "mvtec-ad", mvtec_ad),
        ("folder", "mvtec", mvtec),
        ("btad", "btad", btad),
        ("dagm", "dagm", dagm),
        ("visa", "visa", visa),
        ("headct", "headct", headct),
        ("isic", "isic", isic),
        ("tn3k", "tn3k", tn3k),
        ("mnist", "mnist", mnist),
    ];
    for (name, root, make) in cases {
        let tree = Tree::new();
        make(&tree);
        let data = DataSet::open(&tree.data(name, root)).unwrap();
        let text = meta_json(&data).unwrap();
        tree.file(&format!("{root}/meta.json"), &text);
        for given in [root.to_owned(), format!("{root}/meta.json")] {
            let read = listed(&tree, &given);
            assert_eq!(read.classes, data.classes, "{given}");
            if name != "mnist" {
                let by_id = |data: &DataSet| {
                    let mut samples: Vec<Sample> = data.samples.clone();
                    samples.sort_by(|a, b| a.id.cmp(&b.id));
                    samples
                };
                assert_eq!(by_id(&read), by_id(&data), "{given}");
            }
            assert_eq!(meta_json(&read).unwrap(), text, "{given}");
            let ids: std::collections::BTreeSet<_> = read.samples.iter().map(|s| &s.id).collect();
            assert_eq!(ids.len(), data.samples.len(), "{given}");
        }
        // The set itself is as before, and the list in it is no stray file.
        let report = check(&tree.data(name, root)).unwrap();
        assert!(
            report.findings.iter().all(|f| f.at != "meta.json"),
            "{report}"
        );
    }
}

/// As pandas and Windows write it.
#[test]
fn marks_floats_and_backslashes_are_read() {
    let tree = Tree::new();
    tree.image("set/photos/a.png");
    tree.image("set/photos/b.png");
    tree.mask("set/masks/b.png", SIZE, &[(1, 1)]);
    let text = r#"{"test": {"nut": [
        {"img_path": "photos\\a.png", "anomaly": 0.0},
        {"img_path": "photos\\b.png", "mask_path": "masks\\b.png", "anomaly": 1.0}]}}"#;
    tree.file("set/meta.json", format!("\u{feff}{text}"));
    let data = DataSet::open(&tree.data("meta", "set")).unwrap();
    let found: Vec<_> = data
        .samples
        .iter()
        .map(|s| (s.id.as_str(), s.mask.is_marked()))
        .collect();
    assert_eq!(found, [("photos/a.png", false), ("photos/b.png", true)]);
}

#[test]
fn what_it_cannot_say_is_refused() {
    let tree = Tree::new();
    sdd(&tree);
    mvtec(&tree);
    let mut above = tree.data("mvtec", "mvtec");
    above.masks.threshold = 0;
    assert!(meta_json(&DataSet::open(&above).unwrap()).is_ok());
    above.masks.threshold = 127;
    for (data, message) in [
        (
            tree.data("sdd", "sdd"),
            "kos01/Part0.jpg#0,0,6,3 is a part of an image, which a meta.json cannot say",
        ),
        (
            above,
            "bottle/test/broken/000.png has a mask that is not read by default, which a meta.json cannot say",
        ),
    ] {
        let data = DataSet::open(&data).unwrap();
        assert_eq!(meta_json(&data).unwrap_err().to_string(), message);
    }
}

const GOOD: &str = r#"{"img_path": "a.png", "mask_path": "", "cls_name": "nut", "specie_name": "good", "anomaly": 0}"#;

fn with(tree: &Tree, text: &str) -> DataRef {
    for image in ["set/a.png", "set/b.png", "set/c.png"] {
        tree.image(image);
    }
    tree.mask("set/m.png", SIZE, &[(0, 0)]);
    tree.file("set/meta.json", text);
    tree.data("meta", "set")
}

#[test]
fn read_as_the_reference_reads() {
    let tree = Tree::new();
    let absolute = tree.path("set").join("b.png");
    let elsewhere = tree.path("elsewhere.png");
    tree.image("elsewhere.png");
    let text = format!(
        r#"{{"Train": {{}}, "Test": {{"nut": [{GOOD},
            {{"img_path": {absolute:?}, "cls_name": "nut", "mask_path": "m.png", "specie_name": "", "anomaly": 1}},
            {{"img_path": "c.png", "anomaly": 1, "mask_path": "", "specie_name": "good"}}],
          "bolt": [{{"img_path": {elsewhere:?}, "anomaly": 1, "specie_name": "bent"}}]}}}}"#
    );
    let data = with(&tree, &text);
    let read = DataSet::open(&data).unwrap();
    let found: Vec<_> = read
        .samples
        .iter()
        .map(|s| {
            (
                s.id.as_str(),
                s.class.as_str(),
                s.defect_type.as_str(),
                s.mask.clone(),
            )
        })
        .collect();
    let elsewhere = elsewhere.to_str().unwrap();
    assert_eq!(
        found,
        [
            (elsewhere, "bolt", "bent", MaskSource::Unknown),
            ("a.png", "nut", "good", MaskSource::Empty),
            (
                "b.png",
                "nut",
                "anomaly",
                MaskSource::File(tree.path("set/m.png").into())
            ),
            ("c.png", "nut", "anomaly", MaskSource::Empty),
        ]
    );
    let told = check(&data).unwrap().findings;
    let empty: Vec<_> = told
        .iter()
        .filter(|f| f.kind == FindingKind::EmptyMask)
        .collect();
    assert_eq!(empty.len(), 1, "{told:?}");
    assert_eq!(empty[0].at, "Test, nut, entry 3");
    let message = meta_json(&read).unwrap_err().to_string();
    assert!(message.ends_with("elsewhere.png is not below the root, which a meta.json cannot say"));
}

#[test]
fn a_bare_file_name_is_in_the_working_folder() {
    let data = DataRef::new(layout("meta").unwrap(), "Cargo.toml");
    let message = DataSet::open(&data).unwrap_err().to_string();
    assert!(
        message.starts_with("Cargo.toml cannot be understood: "),
        "{message}"
    );
}

#[test]
fn mistakes_are_told_with_their_place() {
    let entry = |change: (&str, &str)| {
        format!(
            r#"{{"test": {{"nut": [{GOOD}, {}]}}}}"#,
            GOOD.replace("a.png", "b.png").replace(change.0, change.1)
        )
    };
    let cases = [
        ("{\"train\": [", "set/meta.json cannot be understood: EOF while parsing".to_owned()),
        ("[]", "set/meta.json cannot be understood: invalid type: sequence, expected a map".to_owned()),
        (&entry(("\"anomaly\": 0", "\"anomaly\": 2")), "test, nut, entry 2: anomaly 0 or 1 expected, 2 found".to_owned()),
        (&entry(("\"anomaly\": 0", "\"anomaly\": \"no\"")), "test, nut, entry 2: invalid type: string".to_owned()),
        (&entry(("\"img_path\"", "\"path\"")), "test, nut, entry 2: missing field `img_path`".to_owned()),
        (&entry(("\"nut\"", "\"bolt\"")), "test, nut, entry 2: its class is `bolt`, listed under `nut`".to_owned()),
        (&entry(("b.png", "a.png")), "test, nut, entry 2: a.png is listed already in test, nut, entry 1".to_owned()),
        (&entry(("b.png", "d.png")), "d.png: named in test, nut, entry 2; no such file".to_owned()),
        (&entry(("b.png", "/gone/b.png")), "/gone/b.png: named in test, nut, entry 2; no such file; a list with absolute paths must be made anew".to_owned()),
        (
            r#"{"test": {"nut": [{"img_path": "a.png", "mask_path": "n.png", "anomaly": 1}]}}"#,
            "n.png: named in test, nut, entry 1; no such file".to_owned(),
        ),
        (r#"{"valid": {}}"#, "valid: neither train nor test".to_owned()),
        (r#"{"test": []}"#, "test: classes with lists of images expected".to_owned()),
        (r#"{"test": {"nut": {}}}"#, "test, nut: a list of images expected".to_owned()),
        (r#"{"test": {}}"#, "set is laid out as meta and holds no images".to_owned()),
    ];
    for (text, expected) in cases {
        let tree = Tree::new();
        let data = with(&tree, text);
        let message = DataSet::open(&data).unwrap_err().to_string();
        assert!(message.contains(&expected), "{text}: {message}");
    }
}
