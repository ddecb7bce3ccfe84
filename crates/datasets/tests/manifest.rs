//! Tables of one's own images: what is read, and what is said of mistakes.

#![allow(clippy::unwrap_used)] // The fixtures are made by helper functions.

mod common;

use anomalens_datasets::{DataSet, Label, MaskSource, Split, check};
use common::*;
use proptest::prelude::*;

/// Images a to f of nuts, and a mask.
fn nuts(tree: &Tree) {
    for name in ["a", "b", "c", "d", "e", "f"] {
        tree.image(&format!("nuts/{name}.png"));
    }
    tree.mask("nuts/masks/e.png", SIZE, &[(1, 1)]);
}

fn open(tree: &Tree, file: &str, text: &str) -> Result<DataSet, String> {
    tree.file(file, text);
    DataSet::open(&tree.data("manifest", file)).map_err(|error| error.to_string())
}

#[test]
fn the_same_table_in_every_form() {
    let tree = Tree::new();
    nuts(&tree);
    let csv = "path,label,mask,class,split,kind\n\
        a.png,good,,nut,train,\n\
        b.png,0,,nut,test,\n\
        e.png,bad,masks/e.png,nut,test,dent\n\
        f.png,1,,nut,test,\n\
        c.png,normal,,bolt,train,\n\
        d.png,anomalous,,bolt,test,\n";
    let semicolons = format!("\u{feff}{}", csv.replace(',', " ; "));
    let json = r#"
{"path": "a.png", "label": "OK", "class": "nut", "split": "train"}
{"path": "b.png", "label": 0, "class": "nut", "split": "test"}

{"path": "e.png", "label": true, "class": "nut", "split": "TEST", "kind": "dent", "mask": "masks/e.png"}
{"path": "f.png", "label": 1, "class": "nut", "split": "test", "mask": null}
{"path": "c.png", "label": false, "class": "bolt", "split": "train"}
{"path": "d.png", "label": "abnormal", "class": "bolt", "split": "test"}
"#;
    for (file, text) in [
        ("nuts/manifest.csv", csv),
        ("nuts/list.txt", &semicolons),
        ("nuts/list.tsv", &csv.replace(',', "\t")),
        ("nuts/list.jsonl", json),
    ] {
        let data = open(&tree, file, text).unwrap();
        let mask = MaskSource::File(tree.path("nuts/masks/e.png").into());
        let found: Vec<_> = data
            .samples
            .iter()
            .map(|s| {
                (
                    s.id.as_str(),
                    s.class.as_str(),
                    s.split,
                    s.defect_type.as_str(),
                    &s.mask,
                )
            })
            .collect();
        let expected = [
            ("c.png", "bolt", Split::Train, "good", &MaskSource::Unknown),
            (
                "d.png",
                "bolt",
                Split::Test,
                "anomaly",
                &MaskSource::Unknown,
            ),
            ("a.png", "nut", Split::Train, "good", &MaskSource::Empty),
            ("b.png", "nut", Split::Test, "good", &MaskSource::Empty),
            ("e.png", "nut", Split::Test, "dent", &mask),
            ("f.png", "nut", Split::Test, "anomaly", &MaskSource::Unknown),
        ];
        assert_eq!(found, expected, "{file}");
    }
    let by_folder = DataSet::open(&tree.data("manifest", "nuts")).unwrap();
    assert_eq!(by_folder.samples.len(), 6);
    assert!(check(&tree.data("manifest", "nuts")).unwrap().is_sound());
}

#[test]
fn path_and_label_are_enough() {
    let tree = Tree::new();
    nuts(&tree);
    let absolute = tree.path("nuts/f.png");
    let text = format!(
        "label,path\ngood,a.png\ngood,b.png\ngood,c.png\ngood,d.png\nbad,e.png\nbad,{}\n",
        absolute.display()
    );
    let data = open(&tree, "nuts/list.csv", &text).unwrap();
    let (train, test) = ids(&data);
    // scikit-learn's split of four.
    assert_eq!(train, ["a.png", "c.png", "d.png"]);
    assert_eq!(test, ["b.png", "e.png", "f.png"]);
    assert_eq!(data.classes, ["nuts"]);
    assert!(!data.has_masks);
}

#[test]
fn each_class_is_split_by_itself() {
    let tree = Tree::new();
    let mut text = "path,label,class\n".to_owned();
    for class in ["x", "y"] {
        for name in ["1", "2", "3", "4"] {
            tree.image(&format!("set/{class}{name}.png"));
            text += &format!("{class}{name}.png,normal,{class}\n");
        }
    }
    let data = open(&tree, "set/list.csv", &text).unwrap();
    for class in ["x", "y"] {
        assert_eq!(data.train_normals(class).count(), 3, "{class}");
        let test: Vec<_> = data.test(class).map(|s| s.id.clone()).collect();
        assert_eq!(test, [format!("{class}2.png")]);
    }
}

#[test]
fn an_image_may_be_of_two_classes() {
    let tree = Tree::new();
    nuts(&tree);
    let text = "path,label,class\na.png,good,nut\na.png,bad,bolt\n";
    let data = open(&tree, "nuts/list.csv", text).unwrap();
    let found: Vec<_> = data
        .samples
        .iter()
        .map(|s| (s.id.as_str(), s.label))
        .collect();
    assert_eq!(
        found,
        [("a.png@bolt", Label::Anomalous), ("a.png", Label::Normal)]
    );
}

#[test]
fn mistakes_are_told_with_their_line() {
    let labels = "label normal or anomalous expected (also good, ok, normal, nominal, no_defect, \
        pass or 0; bad, ko, ng, nok, fail, defect, defective, anomaly, anomalous, abnormal or 1)";
    let cases = [
        (
            "path,lable\na.png,good\n",
            "list, line 1: the column `label` is missing from the header; the first line names the \
             columns: path, label, mask, class, split, defect_type".to_owned(),
        ),
        ("path,lable\n", "list, line 1: the column `lable` is not used (is label meant?)".to_owned()),
        ("a.png,good\n", "list, line 1: the column `path` is missing from the header".to_owned()),
        ("path,label,path\n", "list, line 1: the column `path` is there twice".to_owned()),
        ("path,mask\na.png,\n", "list, line 1: the column `label` is missing from the header".to_owned()),
        ("", "list, line 1: the column `path` is missing from the header".to_owned()),
        ("path,label\na.png,good\nb.png\n", "list, line 3: 1 columns, the header has 2".to_owned()),
        ("path,label\n\n\"a\n.png\",good\nb.png,gud\n", "list, line 5: ".to_owned() + labels + ", `gud` found"),
        ("path,label\na.png,\n", "list, line 2: ".to_owned() + labels + ", `` found"),
        ("path,label\n,good\n", "list, line 2: no path".to_owned()),
        ("path,label\nz.png,good\n", "z.png: named in list, line 2; no such file".to_owned()),
        ("path,label,mask\na.png,bad,m.png\n", "m.png: named in list, line 2; no such file".to_owned()),
        ("path,label\na.png,good\na.png,bad\n", "list, line 3: a.png is listed already in list, line 2".to_owned()),
        ("path,label,split\na.png,good,valid\n", "list, line 2: split train or test expected, `valid` found".to_owned()),
        (
            "path,label,split\na.png,good,train\nb.png,good,\n",
            "list, line 3: no split, which other lines have: give it to all or to none".to_owned(),
        ),
        ("{\"path\": \"a.png\"", "list, line 1: no JSON object: EOF while parsing".to_owned()),
        ("{\"path\": \"a.png\", \"lable\": 1}", "list, line 1: ".to_owned() + labels + ", `` found"),
        ("{\"path\": \"a.png\", \"label\": 1}\n[]\n", "list, line 2: no JSON object: invalid type".to_owned()),
        ("{\"path\": [\"a.png\"], \"label\": 1}", "list, line 1: `path` is neither text nor a number".to_owned()),
        ("{\"path\": \"a.png\"}", "list, line 1: ".to_owned() + labels + ", `` found"),
        ("path,label\n", "is laid out as manifest and holds no images".to_owned()),
    ];
    for (text, expected) in cases {
        let tree = Tree::new();
        nuts(&tree);
        let message = match open(&tree, "nuts/list", text) {
            Ok(_) => unreachable!("{text} opened"),
            Err(message) => message,
        };
        if !message.contains(&expected) {
            // Not the first of several.
            let report = check(&tree.data("manifest", "nuts/list"))
                .unwrap()
                .to_string();
            assert!(report.contains(&expected), "{text}: {report}");
        }
    }
    let tree = Tree::new();
    nuts(&tree);
    let message = DataSet::open(&tree.data("manifest", "nuts"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("manifest.csv or manifest.jsonl is missing"),
        "{message}"
    );
}

/// What spreadsheets, other systems and other programs make of a table; copies of files that were
/// refused before.
#[test]
fn tables_of_other_tools() {
    let plain = "path,label,mask\na.png,normal,\nb.png,normal,\nsub/f.png,anomalous,masks/e.png\n";
    let utf16 = |mark: u16, word: fn(u16) -> [u8; 2]| -> Vec<u8> {
        let tabs = plain.replace(',', "\t");
        let units = std::iter::once(mark).chain(tabs.encode_utf16());
        units.flat_map(word).collect()
    };
    let table = |from: &str, to: &str| plain.replace(from, to).into_bytes();
    let cases: [(&str, Vec<u8>); 11] = [
        ("plain", plain.into()),
        ("backslashes", table("/", "\\")),
        ("UTF-16, low byte first", utf16(0xfeff, u16::to_le_bytes)),
        ("UTF-16, high byte first", utf16(0xfeff, u16::to_be_bytes)),
        ("a byte order mark", format!("\u{feff}{plain}").into()),
        (
            "OK and NG",
            plain
                .replace("anomalous", "NG")
                .replace("normal", "OK")
                .into(),
        ),
        (
            "floats",
            plain
                .replace("anomalous", "1.0")
                .replace("normal", "0.0")
                .into(),
        ),
        (
            "further columns",
            b"date,path,label,mask,\n1,a.png,normal,,\n1,b.png,normal,,,\n\
              1,sub/f.png,anomalous,masks/e.png,\n"
                .into(),
        ),
        ("capitals", table("path,label,mask", "Path,LABEL,Mask")),
        ("Windows line ends", table("\n", "\r\n")),
        (
            "JSON",
            br#"{"path": "a.png", "label": 0.0, "id": 1}
                {"path": "b.png", "label": "pass", "id": 2}
                {"path": "sub\\f.png", "label": "nok", "mask": "masks\\e.png"}"#
                .into(),
        ),
    ];
    let tree = Tree::new();
    nuts(&tree);
    tree.image("nuts/sub/f.png");
    for (name, bytes) in cases {
        tree.file("nuts/list", bytes);
        let data = tree.data("manifest", "nuts/list");
        let found = DataSet::open(&data).map(|data| {
            let samples = data.samples.into_iter();
            samples
                .map(|s| (s.id, s.label, s.mask.is_marked()))
                .collect::<Vec<_>>()
        });
        let expected = [
            ("a.png".to_owned(), Label::Normal, false),
            ("b.png".to_owned(), Label::Normal, false),
            ("sub/f.png".to_owned(), Label::Anomalous, true),
        ];
        assert_eq!(found.unwrap(), expected, "{name}");
        let report = check(&data).unwrap().to_string();
        let unused = match name {
            "further columns" => "list, line 1: the column `date` is not used",
            "JSON" => "list, line 1: the column `id` is not used",
            _ => "errors: 0, warnings: 0",
        };
        assert!(report.contains(unused), "{name}: {report}");
    }
}

#[test]
fn what_cannot_be_read_comes_with_advice() {
    let tree = Tree::new();
    nuts(&tree);
    tree.file(
        "nuts/list",
        b"path,label\na.png,normal\nM\xe4dchen.png,normal\n",
    );
    let latin = DataSet::open(&tree.data("manifest", "nuts/list")).unwrap_err();
    let expected = "nuts/list is no text in UTF-8 or UTF-16 (line 3): save it as UTF-8 (in a \
        spreadsheet: CSV UTF-8)";
    assert!(latin.to_string().ends_with(expected), "{latin}");
    let moved = open(&tree, "nuts/list", "path,label\nC:\\data\\a.png,normal\n").unwrap_err();
    let expected = "C:\\data\\a.png: named in list, line 2; no such file; a list with absolute paths \
        must be made anew where the data were moved";
    assert!(moved.contains(expected), "{moved}");
}

/// A line of a byte or two must not cost a sentence each.
#[test]
fn mistakes_without_end_are_told_up_to_a_number() {
    let tree = Tree::new();
    nuts(&tree);
    tree.file(
        "nuts/list",
        format!("path,label\na.png,good\n{}", "x\n".repeat(100_500)),
    );
    let report = check(&tree.data("manifest", "nuts/list")).unwrap();
    assert_eq!(
        report.findings.len(),
        100_002,
        "the rest and that there is more; no test images"
    );
    let more = "more than 100000 findings; the others are left out";
    let mut messages = report.findings.iter().map(|finding| &finding.message);
    assert!(messages.any(|message| message == more));
}

proptest! {
    #[test]
    fn no_text_panics(text in "(path|label|mask|[,;\t\"{}:\n]|[a-z0-9]){0,40}") {
        let tree = Tree::new();
        nuts(&tree);
        let _ = open(&tree, "nuts/list", &text);
    }
}
