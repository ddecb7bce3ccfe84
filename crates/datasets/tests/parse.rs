//! The parsers on bytes: what they understand, and that nothing makes them panic.

#![allow(clippy::unwrap_used)] // The fixtures are made by helper functions.

mod common;

use anomalens_datasets::{DataSet, Error, parse};
use common::*;
use proptest::prelude::*;

type Parser = fn(&[u8]) -> Result<usize, Error>;

const PARSERS: [(&str, Parser); 4] = [
    ("manifest", parse::manifest_table),
    ("coco", parse::coco_file),
    ("meta", parse::meta_json),
    ("labels", parse::label_table),
];

#[test]
fn entries_are_counted() {
    let cases: [(&str, Parser, &str, usize); 6] = [
        (
            "a table",
            parse::manifest_table,
            "path,label\na,0\nb\nc,1\n",
            2,
        ),
        (
            "a COCO file",
            parse::coco_file,
            r#"{"images": [{"id": 1, "file_name": "a", "width": 9, "height": 9}], "annotations": [
                {"image_id": 1, "bbox": [1, 1, 2, 2]}, {"image_id": 1, "bbox": [1, 1]},
                {"image_id": 1, "segmentation": {"size": [9, 9], "counts": [3, 78]}}]}"#,
            2,
        ),
        (
            "a meta.json",
            parse::meta_json,
            r#"{"test": {"a": [{"img_path": "x", "anomaly": 1}, {"img_path": "x"}]}}"#,
            1,
        ),
        (
            "ELPV",
            parse::label_table,
            "a.png 0.0 mono\nb.png 2 mono\n",
            1,
        ),
        ("HeadCT", parse::label_table, "id,hemorrhage\n0,1\n1,2\n", 1),
        (
            "VisA",
            parse::label_table,
            "object,split,label,image,mask\na,train,normal,b,\n",
            1,
        ),
    ];
    for (name, parser, text, count) in cases {
        assert_eq!(parser(text.as_bytes()).unwrap(), count, "{name}");
    }
    let tree = Tree::new();
    plain(&tree);
    let data = DataSet::open(&tree.data("folder", "plain")).unwrap();
    assert_eq!(parse::shots(b"OK/a.png\n\nOK/c.png\n", &data).unwrap(), 2);
    assert!(parse::shots(b"OK/b.png\n", &data).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (_, parser) in PARSERS {
            let _ = parser(&bytes);
        }
    }

    /// Pieces of what such files hold, in any order.
    #[test]
    fn no_text_panics(text in "([\\[\\]{},:\"\n \\\\]|images|annotations|segmentation|counts|size|id|\
        train|path|label|-?[0-9]{1,12}|1e300|null){0,60}") {
        for (_, parser) in PARSERS {
            let _ = parser(text.as_bytes());
        }
    }
}
