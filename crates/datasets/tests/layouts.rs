//! Every layout on a small tree of exactly its published shape. The expected splits are
//! scikit-learn's: of 4 normals the one at index 1 is for the test, of 8 those at 1 and 5.

#![allow(clippy::unwrap_used)] // The fixtures are made by helper functions.

mod common;

use anomalens_datasets::{
    Crop, DataSet, GOOD, Label, MaskSource, Sample, Split, check, layouts, train_test_split,
};
use common::*;

#[test]
fn splits_and_labels() {
    struct Case {
        layout: &'static str,
        make: fn(&Tree),
        class: &'static str,
        train: &'static [&'static str],
        /// id and kind
        test: &'static [(&'static str, &'static str)],
        has_masks: bool,
    }
    let cases = [
        Case {
            layout: "elpv",
            make: elpv,
            class: "solar cell",
            train: &[
                "images/cell0001.png",
                "images/cell0004.png",
                "images/cell0006.png",
                "images/cell0007.png",
                "images/cell0011.png",
                "images/cell0012.png",
            ],
            test: &[
                ("images/cell0002.png", "mono"),
                ("images/cell0003.png", GOOD),
                ("images/cell0008.png", "poly"),
                ("images/cell0009.png", GOOD),
            ],
            has_masks: false,
        },
        Case {
            layout: "brainmri",
            make: brainmri,
            class: "brain",
            train: &["no/1 no.jpeg", "no/No11.jpg", "no/no 2.JPG"],
            test: &[
                ("no/10 no.jpg", GOOD),
                ("yes/Y1.jpg", "tumour"),
                ("yes/Y2.png", "tumour"),
            ],
            has_masks: false,
        },
        Case {
            layout: "headct",
            make: headct,
            class: "brain",
            train: &["head_ct/002.png", "head_ct/004.png", "head_ct/005.png"],
            test: &[
                ("head_ct/000.png", "hemorrhage"),
                ("head_ct/001.png", "hemorrhage"),
                ("head_ct/003.png", GOOD),
            ],
            has_masks: false,
        },
        Case {
            layout: "magnetic-tile",
            make: magnetic_tile,
            class: "magnetic tile",
            train: &[
                "MT_Free/Imgs/exp1.jpg",
                "MT_Free/Imgs/exp3.jpg",
                "MT_Free/Imgs/exp4.jpg",
            ],
            test: &[
                ("MT_Free/Imgs/exp2.jpg", GOOD),
                ("MT_Blowhole/Imgs/exp1.jpg", "blowhole"),
                ("MT_Break/Imgs/exp1.jpg", "break"),
                ("MT_Crack/Imgs/exp1.jpg", "crack"),
                ("MT_Fray/Imgs/exp1.jpg", "fray"),
                ("MT_Uneven/Imgs/exp1.jpg", "uneven"),
            ],
            has_masks: true,
        },
        Case {
            layout: "textile",
            make: textile,
            class: "textile",
            train: &["nominal/1.jpg", "nominal/3.jpg", "nominal/4.jpg"],
            test: &[
                ("nominal/2.jpg", GOOD),
                ("global/1.jpg", "global"),
                ("local/1.jpg", "local"),
            ],
            has_masks: false,
        },
    ];
    for Case {
        layout,
        make,
        class,
        train,
        test,
        has_masks,
    } in cases
    {
        let tree = Tree::new();
        make(&tree);
        let data = DataSet::open(&tree.data(layout, layout)).unwrap();
        assert_eq!(data.classes, [class], "{layout}");
        assert_eq!(data.has_masks, has_masks, "{layout}");
        let found: Vec<_> = data.train_normals(class).map(|s| s.id.as_str()).collect();
        assert_eq!(found, train, "{layout}");
        let found: Vec<_> = data
            .test(class)
            .map(|s| (s.id.as_str(), s.defect_type.as_str()))
            .collect();
        assert_eq!(found, test, "{layout}");
        for sample in &data.samples {
            assert_eq!(
                sample.label == Label::Normal,
                sample.defect_type == GOOD,
                "{}",
                sample.id
            );
            assert!(sample.image.is_file(), "{}", sample.id);
        }
    }
}

#[test]
fn every_layout_recognises_its_own_tree_and_no_other() {
    let make_all: [fn(&Tree); 28] = [
        aitex,
        cifar10,
        mnist,
        visa,
        mvtec,
        plain,
        brainmri,
        elpv,
        headct,
        magnetic_tile,
        sdd,
        textile,
        mvtec_ad,
        mpdd,
        btad,
        dtd_synthetic,
        dagm,
        br35h,
        covid_19,
        isic,
        cvc_clinicdb,
        cvc_colondb,
        kvasir,
        endo,
        tn3k,
        tn3k_training,
        sdd_thirds,
        own,
    ];
    let tree = Tree::new();
    make_all.into_iter().for_each(|make| make(&tree));
    // A root and the layouts that it is in: some sets lie alike, and `train` and `test` are
    // folders of anybody's too.
    let pairs: &[&str] = &["cvc-clinicdb", "cvc-colondb", "endo", "kvasir"];
    let cases: [(&str, &[&str]); 28] = [
        ("aitex", &["aitex"]),
        ("br35h", &["br35h", "brainmri"]),
        ("brainmri", &["br35h", "brainmri"]),
        ("btad", &["folder", "btad"]),
        ("cifar10", &["folder", "cifar10", "cifar10-multi"]),
        ("covid-19", &["covid-19"]),
        ("cvc-clinicdb", pairs),
        ("cvc-colondb", pairs),
        ("dagm", &["dagm"]),
        ("dtd-synthetic", &["folder", "dtd-synthetic"]),
        ("elpv", &["elpv"]),
        ("endo", pairs),
        ("headct", &["headct"]),
        ("isic", &["folder", "isic"]),
        ("kvasir", pairs),
        ("magnetic-tile", &["magnetic-tile"]),
        ("mnist", &["mnist"]),
        ("mpdd", &["folder", "mpdd"]),
        ("mvtec", &["folder", "mvtec"]),
        ("mvtec-ad", &["folder", "mvtec"]),
        ("own", &["folder"]),
        ("plain", &["folder"]),
        ("sdd", &["sdd"]),
        ("sdd-thirds", &["folder", "sdd"]),
        ("textile", &["textile"]),
        ("tn3k", &["tn3k"]),
        ("tn3k-training", &["tn3k-training"]),
        ("visa", &["visa"]),
    ];
    for (root, fits) in cases {
        for layout in layouts() {
            let recognised = layout.recognise(&tree.path(root));
            let expected = fits.contains(&layout.name);
            assert_eq!(recognised.is_ok(), expected, "{} on {root}", layout.name);
            if let Err(error) = recognised {
                let message = error.to_string();
                let told = message
                    .rsplit_once("; it looks like ")
                    .map(|(_, told)| told);
                assert_eq!(told, Some(fits.join(" or ").as_str()), "{message}");
            }
        }
        // The layout that the root is named after, or all.
        let own = fits.contains(&root);
        for layout in fits.iter().filter(|layout| !own || **layout == root) {
            let data = tree.data(layout, root);
            DataSet::open(&data).unwrap();
            assert!(check(&data).unwrap().is_sound(), "{layout}:{root}");
        }
    }
}

#[test]
fn sdd_is_cut_into_thirds() {
    let tree = Tree::new();
    sdd(&tree);
    let data = DataSet::open(&tree.data("sdd", "sdd")).unwrap();
    assert_eq!(data.classes, ["electrical commutators"]);
    assert!(data.has_masks);
    assert_eq!(data.samples.len(), 12);

    // 11 rows: the cuts are at rows 3 and 7.
    let first: Vec<_> = data.samples[..3]
        .iter()
        .map(|s| (s.crop, s.defect_type.as_str()))
        .collect();
    let crop = |y, height| {
        Some(Crop {
            x: 0,
            y,
            width: 6,
            height,
        })
    };
    assert_eq!(
        first,
        [
            (crop(0, 3), GOOD),
            (crop(3, 4), "defect"),
            (crop(7, 4), "defect")
        ]
    );
    assert_eq!(data.samples[1].id, "kos01/Part0.jpg#0,3,6,4");
    assert_eq!(data.samples[0].mask, MaskSource::Empty);
    let label = tree.path("sdd/kos01/Part0_label.bmp");
    assert_eq!(data.samples[1].mask, MaskSource::File(label.clone().into()));
    assert_eq!(data.samples[2].mask, MaskSource::File(label.into()));

    // The ten normal thirds are split in their order.
    let normals: Vec<&Sample> = data
        .samples
        .iter()
        .filter(|sample| sample.label == Label::Normal)
        .collect();
    for index in train_test_split(10).test {
        assert_eq!(normals[index].split, Split::Test);
    }
    assert_eq!(data.train_normals("electrical commutators").count(), 7);
}

#[test]
fn mvtec_layout() {
    let tree = Tree::new();
    mvtec(&tree);
    let data = DataSet::open(&tree.data("folder", "mvtec")).unwrap();
    assert_eq!(data.classes, ["bottle", "cable"]);
    assert!(data.has_masks);

    let masks: Vec<_> = data
        .test("bottle")
        .map(|s| (s.id.as_str(), s.mask.clone()))
        .collect();
    let mask = |name| {
        MaskSource::File(
            tree.path("mvtec/bottle/ground_truth/broken")
                .join(name)
                .into(),
        )
    };
    assert_eq!(
        masks,
        [
            ("bottle/test/broken/000.png", mask("000_mask.png")),
            ("bottle/test/broken/001.png", mask("001_mask.png")),
            ("bottle/test/good/000.png", MaskSource::Empty),
            ("bottle/test/good/001.png", MaskSource::Empty),
        ]
    );
    assert!(
        data.train_normals("bottle")
            .all(|sample| sample.mask == MaskSource::Empty)
    );
    assert!(
        data.test("cable")
            .all(|sample| sample.mask == MaskSource::Unknown)
    );
    assert_eq!(data.train_normals("cable").count(), 2);
    assert_eq!(data.class("cable").unwrap(), "cable");
    assert_eq!(
        data.class("botle").unwrap_err().to_string(),
        "there is no class `botle` (did you mean `bottle`?); the classes are bottle, cable"
    );
}

#[test]
fn one_class_of_the_mvtec_layout() {
    let tree = Tree::new();
    mvtec(&tree);
    let data = DataSet::open(&tree.data("folder", "mvtec/bottle")).unwrap();
    assert_eq!(data.classes, ["bottle"]);
    let (train, test) = ids(&data);
    assert_eq!(train, ["train/good/000.png", "train/good/001.png"]);
    assert_eq!(test[0], "test/broken/000.png");
}

#[test]
fn test_images_alone_are_enough() {
    let tree = Tree::new();
    tree.image("brain/test/good/0.png");
    tree.image("brain/test/tumour/1.png");
    let (train, test) = {
        let data = DataSet::open(&tree.data("folder", "brain")).unwrap();
        let (train, test) = ids(&data);
        (train.len(), test.len())
    };
    assert_eq!((train, test), (0, 2));
}

#[test]
fn plain_folders_go_by_many_names() {
    let normal = [
        "good",
        "ok",
        "normal",
        "nominal",
        "no_defect",
        "pass",
        "Good",
        "NORMAL",
    ];
    let anomalous = [
        "bad",
        "ko",
        "ng",
        "nok",
        "fail",
        "defect",
        "defective",
        "anomaly",
        "anomalous",
        "abnormal",
        "KO",
        "Defective",
    ];
    for (index, bad) in anomalous.into_iter().enumerate() {
        let good = normal[index % normal.len()];
        let tree = Tree::new();
        for name in ["1", "2", "3", "4"] {
            tree.image(&format!("cup/{good}/{name}.png"));
        }
        tree.image(&format!("cup/{bad}/5.png"));
        let data = DataSet::open(&tree.data("folder", "cup")).unwrap();
        assert_eq!(data.classes, ["cup"]);
        assert_eq!(data.train_normals("cup").count(), 3, "{good}");
        let anomalous: Vec<_> = data
            .test("cup")
            .filter(|sample| sample.label == Label::Anomalous)
            .map(|sample| sample.defect_type.as_str())
            .collect();
        assert_eq!(anomalous, [bad]);
    }
}

#[test]
fn plain_folders_with_masks() {
    let tree = Tree::new();
    plain(&tree);
    let data = DataSet::open(&tree.data("folder", "plain")).unwrap();
    let (train, test) = ids(&data);
    assert_eq!(train, ["OK/a.png", "OK/c.png", "OK/d.png"]);
    assert_eq!(test, ["OK/b.png", "defect/x.png", "defect/y.png"]);
    let masks: Vec<_> = data
        .test("plain")
        .map(|sample| sample.mask.clone())
        .collect();
    let mask = |name| MaskSource::File(tree.path("plain/ground_truth/defect").join(name).into());
    assert_eq!(masks, [MaskSource::Empty, mask("x.png"), mask("y.png")]);
}

#[test]
fn headct_as_its_owner_packs_it() {
    let tree = Tree::new();
    headct(&tree);
    for id in 0..6 {
        let (from, to) = (
            format!("headct/head_ct/{id:03}.png"),
            format!("headct/moved{id}.png"),
        );
        tree.copy(&from, &to);
        tree.remove(&from);
        tree.folder("headct/head_ct/head_ct");
        tree.copy(&to, &format!("headct/head_ct/head_ct/{id:03}.png"));
        tree.remove(&to);
    }
    let data = DataSet::open(&tree.data("headct", "headct")).unwrap();
    assert_eq!(data.samples[2].id, "head_ct/head_ct/002.png");
}

#[test]
fn visa_follows_its_table() {
    let tree = Tree::new();
    visa(&tree);
    let data = DataSet::open(&tree.data("visa", "visa")).unwrap();
    assert_eq!(data.classes, ["candle", "pcb1"]);
    assert!(data.has_masks);
    let train: Vec<_> = data.train_normals("pcb1").map(|s| s.id.as_str()).collect();
    assert_eq!(
        train,
        [
            "pcb1/Data/Images/Normal/0000.JPG",
            "pcb1/Data/Images/Normal/0001.JPG"
        ]
    );
    let test: Vec<_> = data
        .test("candle")
        .map(|s| (s.defect_type.as_str(), s.mask.clone()))
        .collect();
    let mask = tree.path("visa/candle/Data/Masks/Anomaly/000.png");
    assert_eq!(
        test,
        [
            (GOOD, MaskSource::Empty),
            ("anomaly", MaskSource::File(mask.into()))
        ]
    );

    let header = "object,split,label,image,mask\n";
    let image = "candle/Data/Images/Anomaly/000.JPG";
    for (name, row, expected) in [
        (
            "split",
            format!("candle,valid,normal,{image},"),
            "`valid` found",
        ),
        ("label", format!("candle,test,odd,{image},"), "`odd` found"),
        (
            "no mask",
            format!("candle,test,anomaly,{image},"),
            "has none",
        ),
        (
            "no file",
            "candle,test,normal,candle/1.JPG,".to_owned(),
            "no such file",
        ),
        (
            "outside",
            "candle,test,normal,../1.JPG,".to_owned(),
            "does not stay below",
        ),
        ("columns", "candle,test".to_owned(), "line 2"),
    ] {
        tree.file("visa/split_csv/1cls.csv", format!("{header}{row}\n"));
        let message = DataSet::open(&tree.data("visa", "visa"))
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn aitex_is_cut_into_squares() {
    let tree = Tree::new();
    aitex(&tree);
    let data = DataSet::open(&tree.data("aitex", "aitex")).unwrap();
    let squares: Vec<_> = data
        .samples
        .iter()
        .map(|s| {
            (
                s.crop.map(|crop| crop.x),
                s.defect_type.as_str(),
                s.mask.clone(),
            )
        })
        .collect();
    let mask =
        |name: &str| MaskSource::File(tree.path("aitex/Mask_images/Mask_images").join(name).into());
    assert_eq!(
        squares,
        [
            (Some(0), GOOD, MaskSource::Empty),
            (Some(8), GOOD, MaskSource::Empty),
            (Some(16), GOOD, MaskSource::Empty),
            (Some(8), "broken end", mask("0001_002_00_mask.png")),
            (Some(0), "nep", mask("0044_030_04_mask1.png")),
            // Marked in both files, of which neither is the whole truth.
            (Some(16), "nep", MaskSource::Unknown),
        ]
    );
    let report = check(&tree.data("aitex", "aitex")).unwrap();
    let left_out: Vec<_> = report.findings.iter().map(|f| f.at.as_str()).collect();
    assert!(
        left_out.contains(&"Defect_images/Defect_images/0100_025_08.png"),
        "{left_out:?}"
    );
    tree.image_of("aitex/Defect_images/Defect_images/0001_001_00.png", 24, 8);
    let message = DataSet::open(&tree.data("aitex", "aitex"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("`001`"), "{message}");
}

#[test]
fn each_digit_in_turn_is_normal() {
    let tree = Tree::new();
    mnist(&tree);
    let data = DataSet::open(&tree.data("mnist", "mnist")).unwrap();
    assert_eq!(data.classes.len(), 10);
    let train: Vec<_> = data.train_normals("3").map(|s| s.id.as_str()).collect();
    assert_eq!(train, ["training/3/1.png@3", "training/3/2.png@3"]);
    let kinds: Vec<_> = data.test("3").map(|s| s.defect_type.as_str()).collect();
    assert_eq!(kinds, ["0", "1", "2", GOOD, "4", "5", "6", "7", "8", "9"]);
    // The pictures of the fixture are different, so that no one is found twice.
    assert_eq!(check(&tree.data("mnist", "mnist")).unwrap().findings, []);
}

#[test]
fn animals_are_normal_together() {
    let tree = Tree::new();
    cifar10(&tree);
    let data = DataSet::open(&tree.data("cifar10-multi", "cifar10")).unwrap();
    assert_eq!(data.classes, ["animal"]);
    assert_eq!(data.train_normals("animal").count(), 6);
    let kinds: Vec<_> = data
        .test("animal")
        .map(|s| s.defect_type.as_str())
        .collect();
    assert_eq!(
        kinds,
        [
            "airplane",
            "automobile",
            GOOD,
            GOOD,
            GOOD,
            GOOD,
            GOOD,
            GOOD,
            "ship",
            "truck"
        ]
    );
    let all = DataSet::open(&tree.data("cifar10", "cifar10")).unwrap();
    assert_eq!(all.classes.len(), 10);
}
