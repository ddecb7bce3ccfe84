//! Few-shot sampling and lists of shots.

mod common;

use std::fs;

use anomalens_datasets::{DataSet, Sample, few_shot, read_shots, write_shots};
use common::*;

#[test]
fn shots_are_the_same_on_every_machine() {
    let tree = Tree::new();
    for number in 0..10 {
        tree.image(&format!("cup/train/good/{number}.png"));
    }
    tree.image("cup/test/bad/0.png");
    let data = DataSet::open(&tree.data("folder", "cup")).unwrap();
    let normals: Vec<&Sample> = data.train_normals("cup").collect();

    // NumPy: RandomState(seed).permutation(10)[:k]
    let cases: [(u32, usize, &[usize]); 5] = [
        (0, 4, &[2, 8, 4, 9]),
        (1, 4, &[2, 9, 6, 4]),
        (42, 2, &[8, 1]),
        (42, 10, &[8, 1, 5, 0, 7, 2, 9, 4, 3, 6]),
        (42, 0, &[]),
    ];
    for (seed, k, expected) in cases {
        let shots: Vec<&str> = few_shot(&normals, k, seed)
            .unwrap()
            .into_iter()
            .map(|s| s.id.as_str())
            .collect();
        let expected: Vec<String> = expected
            .iter()
            .map(|index| format!("train/good/{index}.png"))
            .collect();
        assert_eq!(shots, expected, "seed {seed}, k {k}");
    }
}

#[test]
fn more_shots_than_images() {
    let error = few_shot(&["one"], 2, 0).unwrap_err().to_string();
    assert_eq!(error, "2 shots asked of 1 normal image: ask for at most 1");
}

#[test]
fn a_list_is_written_and_read_back() {
    let tree = Tree::new();
    sdd(&tree);
    let data = DataSet::open(&tree.data("sdd", "sdd")).unwrap();
    let normals: Vec<&Sample> = data.train_normals("electrical commutators").collect();
    let shots = few_shot(&normals, 3, 7).unwrap();
    let list = tree.path("shots.txt");
    write_shots(&list, &shots).unwrap();
    assert_eq!(read_shots(&list, &data).unwrap(), shots);
}

#[test]
fn lists_that_do_not_fit() {
    let tree = Tree::new();
    headct(&tree);
    let data = DataSet::open(&tree.data("headct", "headct")).unwrap();
    let list = tree.path("shots.txt");
    // name, list, the end of the message
    let cases = [
        (
            "mistyped",
            "head_ct/002.png\nhead_ct/0O4.png\n",
            "line 2 of LIST: `head_ct/0O4.png` is no normal training image of this data set \
             (did you mean `head_ct/004.png`?)",
        ),
        (
            "nothing like it",
            "x\n",
            "line 1 of LIST: `x` is no normal training image of this data set",
        ),
        (
            "repeated",
            "head_ct/002.png\n\nhead_ct/002.png\n",
            "line 3 of LIST: `head_ct/002.png` is listed twice",
        ),
    ];
    for (name, text, expected) in cases {
        fs::write(&list, text).unwrap();
        let error = read_shots(&list, &data).unwrap_err().to_string();
        assert_eq!(
            error.replace(&list.display().to_string(), "LIST"),
            expected,
            "{name}"
        );
    }

    for (name, id) in [
        ("anomalous", "head_ct/000.png"),
        ("for the test", "head_ct/003.png"),
    ] {
        fs::write(&list, id).unwrap();
        assert!(read_shots(&list, &data).is_err(), "{name}");
    }
    fs::remove_file(&list).unwrap();
    let error = read_shots(&list, &data).unwrap_err().to_string();
    assert!(error.starts_with("cannot read"), "{error}");
}
