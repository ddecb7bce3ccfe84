//! COCO files: what their annotations mark, and what is said of mistakes.

#![allow(clippy::unwrap_used)] // The fixtures are made by helper functions.

mod common;

use anomalens_datasets::{DataSet, FindingKind, MaskSource, Sample, Severity, check};
use common::*;
use serde_json::{Value, json};

/// Images 1 to 4 of 6x4 pixels, of which three have annotations.
fn file() -> Value {
    json!({
        "info": {"year": 2026},
        "images": [
            {"id": 1, "file_name": "a.png", "width": 6, "height": 4},
            {"id": 2, "file_name": "b.png", "width": 6, "height": 4},
            {"id": 3, "file_name": "c.png", "width": 6, "height": 4},
            {"id": 4, "file_name": "d.png"},
        ],
        "categories": [{"id": 1, "name": "crack"}, {"id": 2, "name": "stain"}, {"id": 3, "name": "good"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 4,
             "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "bbox": [0, 0, 2, 2]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [4, 2, 2, 2]},
            {"id": 3, "image_id": 2, "category_id": 2,
             "segmentation": {"size": [4, 6], "counts": [5, 2, 17]}},
            {"id": 4, "image_id": 4, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 3]]},
            {"id": 5, "image_id": 3, "category_id": 3, "bbox": [0, 0, 6, 4]},
        ],
    })
}

fn images(tree: &Tree, folder: &str) {
    for name in ["a", "b", "c", "d"] {
        tree.image(&format!("{folder}/{name}.png"));
    }
}

/// The mask as rows of text.
fn rows(sample: &Sample) -> Vec<String> {
    let mask = sample.mask.open(&Default::default()).unwrap().unwrap();
    let (width, height) = (mask.width(), mask.height());
    let pixel = |x, y| if mask.get(x, y) { '#' } else { '.' };
    (0..height)
        .map(|y| (0..width).map(|x| pixel(x, y)).collect())
        .collect()
}

#[test]
fn annotations_become_kinds_and_masks() {
    let tree = Tree::new();
    images(&tree, "parts");
    tree.file("parts/annotations.json", file().to_string());
    for given in ["parts", "parts/annotations.json"] {
        let data = DataSet::open(&tree.data("coco", given)).unwrap();
        assert_eq!(data.classes, ["parts"], "{given}");
        assert!(data.has_masks);
        let found: Vec<_> = data
            .samples
            .iter()
            .map(|s| (s.id.as_str(), s.defect_type.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("a.png", "crack + stain"),
                ("b.png", "stain"),
                ("c.png", "good"),
                ("d.png", "crack")
            ]
        );
        assert_eq!(
            rows(&data.samples[0]),
            ["##....", "##....", "....##", "....##"]
        );
        assert_eq!(
            rows(&data.samples[1]),
            ["......", ".#....", ".#....", "......"]
        );
        assert_eq!(data.samples[2].mask, MaskSource::Empty);
        assert_eq!(
            rows(&data.samples[3]),
            ["......", "..###.", "....#.", "......"]
        );
        let report = check(&tree.data("coco", given)).unwrap();
        assert!(report.is_sound(), "{report}");
    }
}

#[test]
fn images_are_found_where_tools_put_them() {
    // The file, and the folder of the images.
    let cases = [
        (
            "set/instances_train2017.json",
            "set/train2017",
            "train2017/a.png",
        ),
        (
            "set/annotations/instances_default.json",
            "set/images",
            "images/a.png",
        ),
        (
            "set/annotations/instances_default.json",
            "set/default",
            "default/a.png",
        ),
        ("set/_annotations.coco.json", "set", "a.png"),
    ];
    for (path, folder, id) in cases {
        let tree = Tree::new();
        images(&tree, folder);
        tree.image(&format!("{folder}/unlisted.png"));
        tree.file(path, file().to_string());
        for given in ["set", path] {
            let data = DataSet::open(&tree.data("coco", given)).unwrap();
            assert_eq!(data.samples[0].id, id, "{given}");
            assert_eq!(data.classes, ["set"]);
            let report = check(&tree.data("coco", given)).unwrap();
            let told = report
                .findings
                .iter()
                .find(|f| f.kind == FindingKind::UnlabelledFile);
            assert_eq!(told.unwrap().at, id.replace("a.png", "unlisted.png"));
        }
    }
}

#[test]
fn ids_may_be_text_and_runs_may_be_packed() {
    let tree = Tree::new();
    tree.image_of("set/a.png", 5, 4);
    let text = json!({
        "images": [{"id": "x", "file_name": "a.png"}],
        // Of pycocotools 2.0: runs 0, 3, 1, 2, 1, 1, 1, 2, 5, 2, 1, 1 down the columns.
        "annotations": [{"image_id": "x", "segmentation": {"size": [4, 5], "counts": "031O0O0140LO"}}],
    });
    tree.file("set/coco.json", text.to_string());
    let data = DataSet::open(&tree.data("coco", "set")).unwrap();
    assert_eq!(data.samples[0].defect_type, "anomaly");
    assert_eq!(rows(&data.samples[0]), ["##..#", "###.#", "#.#..", ".#..#"]);
}

#[test]
fn mistakes_are_told_in_sentences() {
    use FindingKind::*;
    type Case = (
        &'static str,
        fn(&mut Value),
        FindingKind,
        &'static str,
        &'static str,
    );
    let cases: [Case; 20] = [
        (
            "no such image",
            |f| f["annotations"][1]["image_id"] = json!(9),
            BadRow,
            "annotation 2",
            "there is no image 9",
        ),
        (
            "no such category",
            |f| f["annotations"][1]["category_id"] = json!(9),
            BadRow,
            "annotation 2",
            "there is no category 9",
        ),
        (
            "the same image id",
            |f| f["images"][1]["id"] = json!(1),
            BadRow,
            "images",
            "the id 1 is there twice",
        ),
        (
            "the same annotation id",
            |f| f["annotations"][1]["id"] = json!(1),
            BadRow,
            "annotations",
            "the id 1 is there twice",
        ),
        (
            "the same category id",
            |f| f["categories"][1]["id"] = json!(1),
            BadRow,
            "categories",
            "the id 1 is there twice",
        ),
        (
            "the same file",
            |f| f["images"][1]["file_name"] = json!("a.png"),
            BadRow,
            "image 2",
            "a.png is listed already in image 1",
        ),
        (
            "a missing file",
            |f| f["images"][2]["file_name"] = json!("z.png"),
            MissingFile,
            "z.png",
            "named in image 3; no such file",
        ),
        (
            "beyond the image",
            |f| f["annotations"][0]["segmentation"] = json!([[4, 1, 9, 1, 9, 3, 4, 3]]),
            Outside,
            "annotation 1",
            "it reaches to (9, 1), beyond its image of 6x4, and is cut off there",
        ),
        (
            "outside the image",
            |f| f["annotations"][0]["segmentation"] = json!([[8, 1, 9, 1, 9, 3]]),
            BadRow,
            "annotation 1",
            "it reaches to (8, 1), beyond its image of 6x4, and marks no pixel within",
        ),
        (
            "too thin",
            |f| f["annotations"][0]["segmentation"] = json!([[1, 1, 4, 1, 4, 1.2]]),
            EmptyMask,
            "annotation 1",
            "it is too thin to hold the centre of a pixel and marks none",
        ),
        (
            "two corners",
            |f| f["annotations"][0]["segmentation"] = json!([[1, 1, 4, 1]]),
            BadRow,
            "annotation 1",
            "a polygon has 4 numbers; x and y of three or more corners expected",
        ),
        (
            "half a corner",
            |f| f["annotations"][0]["segmentation"] = json!([[1, 1, 4, 1, 4, 2, 1]]),
            BadRow,
            "annotation 1",
            "a polygon has 7 numbers",
        ),
        (
            "neither outline nor box",
            |f| {
                f["annotations"][0]["segmentation"] = json!([]);
                f["annotations"][0]["bbox"] = json!([]);
            },
            BadRow,
            "annotation 1",
            "it has neither a segmentation nor a box",
        ),
        (
            "an empty box",
            |f| f["annotations"][1]["bbox"] = json!([1, 1, 0, 2]),
            BadRow,
            "annotation 2",
            "its box is 0 wide and 2 high",
        ),
        (
            "half a box",
            |f| f["annotations"][1]["bbox"] = json!([1, 1]),
            BadRow,
            "annotation 2",
            "its box has 2 numbers; left, top, width and height expected",
        ),
        (
            "runs of another size",
            |f| f["annotations"][2]["segmentation"]["size"] = json!([6, 4]),
            BadRow,
            "annotation 3",
            "its runs are for an image of 4x6, its image has 6x4",
        ),
        (
            "runs that end early",
            |f| f["annotations"][2]["segmentation"]["counts"] = json!([5, 2]),
            BadRow,
            "annotation 3",
            "its runs have 7 pixels, its image 24",
        ),
        (
            "runs that are damaged",
            |f| f["annotations"][2]["segmentation"]["counts"] = json!("o"),
            BadRow,
            "annotation 3",
            "its runs are damaged",
        ),
        (
            "another size than the image",
            |f| f["images"][0]["width"] = json!(7),
            MaskSize,
            "a.png",
            "the size in the file is 7x4, its image 6x4",
        ),
        (
            "an absurd size",
            |f| f["images"][0]["width"] = json!(4_000_000_000_u32),
            MaskSize,
            "a.png",
            "the size in the file is 4000000000x4, its image 6x4",
        ),
    ];
    for (name, harm, kind, at, message) in cases {
        let tree = Tree::new();
        images(&tree, "parts");
        let mut file = file();
        harm(&mut file);
        tree.file("parts/annotations.json", file.to_string());
        let data = tree.data("coco", "parts");
        let report = check(&data).unwrap();
        let told = report
            .findings
            .iter()
            .filter(|f| f.kind == kind && f.at == at && f.message.starts_with(message));
        assert_eq!(told.count(), 1, "{name}: {report}");
        let opens = kind.severity() == Severity::Warning;
        assert_eq!(DataSet::open(&data).is_ok(), opens, "{name}");
    }
}

/// As a hostile file has it: a size of 10,000 x 10,000 that one run fills, for a small image.
#[test]
fn claimed_sizes_are_checked_before_anything_is_drawn() {
    let claim = |size: Value, counts: Value| {
        json!({
            "images": [size, {"id": 2, "file_name": "b.png"}],
            "annotations": [{"id": 1, "image_id": 1, "segmentation":
                {"size": [10_000, 10_000], "counts": counts}}],
        })
    };
    let sized = json!({"id": 1, "file_name": "a.png", "width": 10_000, "height": 10_000});
    let unsized_ = json!({"id": 1, "file_name": "a.png"});
    let runs = json!([0, 100_000_000]);
    let cases = [
        (
            "in the list of images",
            claim(sized, runs.clone()),
            "a.png: the size in the file is 10000x10000, its image 6x4",
        ),
        (
            "in the runs",
            claim(unsized_, runs),
            "annotation 1: its runs are for an image of 10000x10000, its image has 6x4",
        ),
    ];
    for (name, file, expected) in cases {
        let tree = Tree::new();
        images(&tree, "set");
        tree.file("set/coco.json", file.to_string());
        let message = DataSet::open(&tree.data("coco", "set")).unwrap_err();
        assert!(message.to_string().contains(expected), "{name}: {message}");
    }
}

#[test]
fn absurd_outlines_are_cut_off() {
    let far = 1e300;
    let cases = [
        ("a box", json!({"bbox": [-far, -far, 1e301, 1e301]}), 24),
        (
            "a polygon",
            json!({"segmentation": [[-far, -far, far, -far, far, far, -far, far]]}),
            24,
        ),
        (
            "half of it within",
            json!({"segmentation": [[3, -1e9, 4e9, -1e9, 4e9, 4e9, 3, 4e9]]}),
            12,
        ),
    ];
    for (name, outline, marked) in cases {
        let tree = Tree::new();
        images(&tree, "set");
        let mut annotation = json!({"id": 1, "image_id": 1});
        let entries = annotation.as_object_mut().unwrap();
        entries.extend(outline.as_object().unwrap().clone());
        let file = json!({
            "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
            "annotations": [annotation],
        });
        tree.file("set/coco.json", file.to_string());
        let data = DataSet::open(&tree.data("coco", "set")).unwrap();
        let mask = data.samples[0].mask.open(&Default::default()).unwrap();
        assert_eq!(mask.unwrap().count(), marked, "{name}");
    }
}

/// Label Studio gives the size of the image as it is shown.
#[test]
fn sizes_are_those_of_upright_images() {
    let file = |width: u32, height: u32| {
        json!({
            "images": [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}],
            "annotations": [{"image_id": 1, "bbox": [0, 0, 4, 1]}],
        })
    };
    let tree = Tree::new();
    tree.turned("set/a.jpg", 6, 4);
    tree.file("set/coco.json", file(4, 6).to_string());
    let data = DataSet::open(&tree.data("coco", "set")).unwrap();
    let top = ["####", "....", "....", "....", "....", "...."];
    assert_eq!(rows(&data.samples[0]), top);
    tree.file("set/coco.json", file(6, 4).to_string());
    let message = DataSet::open(&tree.data("coco", "set")).unwrap_err();
    let expected = "a.jpg: the size in the file is 6x4, its image 4x6; is it drawn on the image \
        before it was turned upright, as its EXIF orientation says?";
    assert!(message.to_string().contains(expected), "{message}");
}

#[test]
fn paths_with_backslashes_are_found() {
    let tree = Tree::new();
    images(&tree, "set/photos");
    let mut file = file();
    for image in file["images"].as_array_mut().unwrap() {
        let name = image["file_name"].as_str().unwrap();
        image["file_name"] = json!(format!("photos\\{name}"));
    }
    tree.file("set/coco.json", format!("\u{feff}{file}"));
    let data = DataSet::open(&tree.data("coco", "set")).unwrap();
    assert_eq!(data.samples[0].id, "photos/a.png");
    assert!(data.samples[0].mask.is_marked());
}

#[test]
fn files_that_are_none() {
    let cases = [
        (
            "{\"images\": [",
            "parts/coco.json cannot be understood: EOF while parsing",
        ),
        (
            "{\"images\": [{\"id\": 1}]}",
            "cannot be understood: missing field `file_name` at line 1 column 21",
        ),
        (
            "{\"annotations\": []}",
            "cannot be understood: missing field `images`",
        ),
        (
            "{\"images\": []}",
            "is laid out as coco and holds no images",
        ),
    ];
    for (text, expected) in cases {
        let tree = Tree::new();
        images(&tree, "parts");
        tree.file("parts/coco.json", text);
        let message = DataSet::open(&tree.data("coco", "parts"))
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
    let tree = Tree::new();
    images(&tree, "parts");
    let message = || {
        DataSet::open(&tree.data("coco", "parts"))
            .unwrap_err()
            .to_string()
    };
    assert!(
        message().contains("a JSON file of annotations is missing"),
        "{}",
        message()
    );
    tree.file("parts/coco.json", "");
    tree.file("parts/annotations/instances.json", "");
    assert!(
        message().contains("there are several JSON files (name the one that is meant)"),
        "{}",
        message()
    );
}
