//! The seventeen data sets of AnomalyCLIP on small trees, as their owners publish them and as its
//! scripts expect them.

#![allow(clippy::unwrap_used)] // The fixtures are made by helper functions.

mod common;

use anomalens_datasets::{
    DataSet, Finding, FindingKind, GOOD, Label, MaskSource, Published, Sample, Severity, Split,
    check, layout,
};
use common::*;

struct Case {
    layout: &'static str,
    root: &'static str,
    make: fn(&Tree),
    /// How many, and the first by name.
    classes: (usize, &'static str),
    /// Training images, normal and anomalous test images.
    counts: [usize; 3],
    /// An anomalous sample, its kind and its mask.
    example: (&'static str, &'static str, Option<&'static str>),
}

const CASES: [Case; 24] = [
    Case {
        layout: "mvtec",
        root: "mvtec-ad",
        make: mvtec_ad,
        classes: (15, "bottle"),
        counts: [30, 15, 15],
        example: (
            "bottle/test/broken/000.png",
            "broken",
            Some("bottle/ground_truth/broken/000_mask.png"),
        ),
    },
    Case {
        layout: "visa",
        root: "visa",
        make: visa,
        classes: (2, "candle"),
        counts: [4, 2, 2],
        example: (
            "pcb1/Data/Images/Anomaly/000.JPG",
            "anomaly",
            Some("pcb1/Data/Masks/Anomaly/000.png"),
        ),
    },
    Case {
        layout: "mpdd",
        root: "mpdd",
        make: mpdd,
        classes: (6, "bracket_black"),
        counts: [12, 6, 6],
        example: (
            "tubes/test/scratches/000.png",
            "scratches",
            Some("tubes/ground_truth/scratches/000_mask.png"),
        ),
    },
    Case {
        layout: "btad",
        root: "btad",
        make: btad,
        classes: (3, "01"),
        counts: [6, 3, 3],
        example: (
            "03/test/ko/0000.bmp",
            "ko",
            Some("03/ground_truth/ko/0000.bmp"),
        ),
    },
    Case {
        layout: "sdd",
        root: "sdd",
        make: sdd,
        classes: (1, "electrical commutators"),
        counts: [7, 3, 2],
        example: (
            "kos01/Part0.jpg#0,3,6,4",
            "defect",
            Some("kos01/Part0_label.bmp"),
        ),
    },
    Case {
        layout: "sdd",
        root: "sdd-thirds",
        make: sdd_thirds,
        classes: (1, "electrical commutators"),
        counts: [2, 1, 1],
        example: (
            "electrical commutators/test/defect/kos01_Part5_1.png",
            "defect",
            Some("electrical commutators/ground_truth/defect/kos01_Part5_1_mask.png"),
        ),
    },
    Case {
        layout: "dagm",
        root: "dagm",
        make: dagm,
        classes: (10, "Class1"),
        counts: [20, 20, 10],
        example: (
            "Class10/Test/0002.PNG",
            "defect",
            Some("Class10/Test/Label/0002_label.PNG"),
        ),
    },
    Case {
        layout: "dtd-synthetic",
        root: "dtd-synthetic",
        make: dtd_synthetic,
        classes: (12, "Blotchy_099"),
        counts: [24, 12, 12],
        example: (
            "Woven_001/test/bad/000.png",
            "bad",
            Some("Woven_001/ground_truth/bad/000_mask.png"),
        ),
    },
    Case {
        layout: "headct",
        root: "headct",
        make: headct,
        classes: (1, "brain"),
        counts: [3, 1, 2],
        example: ("head_ct/000.png", "hemorrhage", None),
    },
    Case {
        layout: "headct",
        root: "headct-folders",
        make: headct_folders,
        classes: (1, "brain"),
        counts: [0, 1, 1],
        example: ("brain/test/bleeding/000.png", "hemorrhage", None),
    },
    Case {
        layout: "brainmri",
        root: "brainmri",
        make: brainmri,
        classes: (1, "brain"),
        counts: [3, 1, 2],
        example: ("yes/Y1.jpg", "tumour", None),
    },
    Case {
        layout: "brainmri",
        root: "brainmri-archive",
        make: brainmri_archive,
        classes: (1, "brain"),
        counts: [0, 1, 1],
        example: ("brain_tumor_dataset/yes/Y1.jpg", "tumour", None),
    },
    Case {
        layout: "br35h",
        root: "br35h",
        make: br35h,
        classes: (1, "brain"),
        counts: [0, 2, 1],
        example: ("yes/y0.jpg", "tumour", None),
    },
    Case {
        layout: "covid-19",
        root: "covid-19",
        make: covid_19,
        classes: (1, "chest"),
        counts: [0, 2, 1],
        example: ("COVID-19/COVID-19 (1).png", "COVID-19", None),
    },
    Case {
        layout: "covid-19",
        root: "covid-19-new",
        make: covid_19_new,
        classes: (1, "chest"),
        counts: [0, 1, 1],
        example: ("COVID/images/COVID-1.png", "COVID", None),
    },
    Case {
        layout: "isic",
        root: "isic",
        make: isic,
        classes: (1, "skin"),
        counts: [0, 0, 2],
        example: (
            "skin/test/bad/ISIC_0000012.jpg",
            "lesion",
            Some("skin/ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000012_Segmentation.png"),
        ),
    },
    Case {
        layout: "isic",
        root: "isic-archive",
        make: isic_archive,
        classes: (1, "skin"),
        counts: [0, 0, 2],
        example: (
            "ISBI2016_ISIC_Part1_Test_Data/ISIC_0000003.jpg",
            "lesion",
            Some("ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png"),
        ),
    },
    Case {
        layout: "cvc-clinicdb",
        root: "cvc-clinicdb",
        make: cvc_clinicdb,
        classes: (1, "colon"),
        counts: [0, 0, 2],
        example: ("images/10.png", "polyp", Some("masks/10.png")),
    },
    Case {
        layout: "cvc-clinicdb",
        root: "cvc-clinicdb-archive",
        make: cvc_clinicdb_archive,
        classes: (1, "colon"),
        counts: [0, 0, 2],
        example: ("Original/2.tif", "polyp", Some("Ground Truth/2.tif")),
    },
    Case {
        layout: "cvc-colondb",
        root: "cvc-colondb",
        make: cvc_colondb,
        classes: (1, "colon"),
        counts: [0, 0, 2],
        example: ("images/2.png", "polyp", Some("masks/2.png")),
    },
    Case {
        layout: "kvasir",
        root: "kvasir",
        make: kvasir,
        classes: (1, "colon"),
        counts: [0, 0, 2],
        example: (
            "images/cju0qkwl35piu0993l0dewei2.jpg",
            "polyp",
            Some("masks/cju0qkwl35piu0993l0dewei2.jpg"),
        ),
    },
    Case {
        layout: "endo",
        root: "endo",
        make: endo,
        classes: (1, "colon"),
        counts: [0, 0, 2],
        example: ("images/b.jpg", "polyp", Some("masks/b.png")),
    },
    Case {
        layout: "tn3k",
        root: "tn3k",
        make: tn3k,
        classes: (1, "thyroid"),
        counts: [0, 0, 2],
        example: ("test-image/0001.jpg", "nodule", Some("test-mask/0001.jpg")),
    },
    Case {
        layout: "tn3k-training",
        root: "tn3k-training",
        make: tn3k_training,
        classes: (1, "thyroid"),
        counts: [0, 0, 2],
        example: (
            "trainval-image/0001.jpg",
            "nodule",
            Some("trainval-mask/0001.jpg"),
        ),
    },
];

fn count(samples: &[Sample], split: Split, label: Label) -> usize {
    let counted = |sample: &&Sample| sample.split == split && sample.label == label;
    samples.iter().filter(counted).count()
}

#[test]
fn classes_splits_labels_and_masks() {
    for case in CASES {
        let root = case.root;
        let tree = Tree::new();
        (case.make)(&tree);
        let data = DataSet::open(&tree.data(case.layout, root)).unwrap();
        let (classes, first) = case.classes;
        assert_eq!(
            (data.classes.len(), data.classes[0].as_str()),
            (classes, first),
            "{root}"
        );
        let counts = [
            count(&data.samples, Split::Train, Label::Normal),
            count(&data.samples, Split::Test, Label::Normal),
            count(&data.samples, Split::Test, Label::Anomalous),
        ];
        assert_eq!(counts, case.counts, "{root}");

        let (id, kind, mask) = case.example;
        let sample = data.samples.iter().find(|sample| sample.id == id).unwrap();
        let mask = mask.map(|mask| MaskSource::File(tree.path(root).join(mask).into()));
        assert_eq!(sample.defect_type, kind, "{root}");
        assert_eq!(
            sample.mask,
            mask.clone().unwrap_or(MaskSource::Unknown),
            "{root}"
        );
        assert_eq!(data.has_masks, mask.is_some(), "{root}");
        for normal in data
            .samples
            .iter()
            .filter(|sample| sample.defect_type == GOOD)
        {
            let expected = if mask.is_some() {
                MaskSource::Empty
            } else {
                MaskSource::Unknown
            };
            assert_eq!(normal.mask, expected, "{}", normal.id);
        }
    }
}

#[test]
fn trees_are_sound_and_smaller_than_published() {
    let mut published = 0;
    for case in CASES {
        let tree = Tree::new();
        (case.make)(&tree);
        let report = check(&tree.data(case.layout, case.root)).unwrap();
        assert!(report.is_sound(), "{report}");
        let counts = report
            .findings
            .iter()
            .filter(|f| f.kind == FindingKind::Counts);
        assert!(counts.count() > 0, "{report}");
        published += usize::from(case.layout == case.root || case.root == "mvtec-ad");
    }
    // All data sets of the paper, and the training part of one.
    assert_eq!(published, 17 + 1);
}

#[test]
fn published_counts_add_up() {
    // As the papers give them over all classes: for training, normal and anomalous for the test.
    let cases = [
        ("mvtec", 15, [3629, 467, 1258]),
        ("visa", 12, [8659, 962, 1200]),
        ("mpdd", 6, [888, 176, 282]),
        ("btad", 3, [1799, 451, 290]),
    ];
    for (name, count, expected) in cases {
        let about = layout(name).unwrap().about.as_ref().unwrap();
        let Published::Classes(classes) = about.published else {
            unreachable!("{name}: {:?}", about.published)
        };
        let sum = |i: usize| classes.iter().map(|(_, counts)| counts[i]).sum::<usize>();
        assert_eq!([sum(0), sum(1), sum(2)], expected, "{name}");
        assert_eq!(classes.len(), count, "{name}");
    }
}

/// What is found in a tree after something was done to it.
fn findings(layout: &str, root: &str, make: fn(&Tree), harm: fn(&Tree)) -> Vec<Finding> {
    let tree = Tree::new();
    make(&tree);
    harm(&tree);
    check(&tree.data(layout, root)).unwrap().findings
}

#[test]
fn what_is_told() {
    use FindingKind::*;
    // layout, root, tree, harm, kind of finding, where, start of the message
    type Told = (
        &'static str,
        &'static str,
        fn(&Tree),
        fn(&Tree),
        FindingKind,
        &'static str,
        &'static str,
    );
    let cases: [Told; 13] = [
        (
            "mvtec",
            "mvtec-ad",
            mvtec_ad,
            |tree| tree.remove("mvtec-ad/wood"),
            Counts,
            "wood, training images",
            "0 here, 247 published (the paper, table 1)",
        ),
        (
            "mvtec",
            "mvtec-ad",
            mvtec_ad,
            |tree| tree.image("mvtec-ad/spoon/test/good/1.png"),
            UnknownKind,
            "spoon",
            "images under a name that is no known label (expected carpet, bottle",
        ),
        (
            "mpdd",
            "mpdd",
            mpdd,
            |tree| tree.remove("mpdd/tubes/ground_truth/scratches/000_mask.png"),
            MissingMask,
            "tubes/test/scratches/000.png",
            "no mask 000.* or 000_mask.*",
        ),
        (
            "btad",
            "btad",
            btad,
            |_| {},
            Counts,
            "03, normal test images",
            "1 here, 400 published",
        ),
        (
            "dagm",
            "dagm",
            dagm,
            |tree| tree.mask("dagm/Class3/Train/Label/0099_label.PNG", SIZE, &[(1, 1)]),
            MaskWithoutImage,
            "Class3/Train/Label/0099_label.PNG",
            "this mask belongs to no image",
        ),
        (
            "dagm",
            "dagm",
            dagm,
            |tree| tree.remove("dagm/Class3/Test/Label"),
            MissingFolder,
            "Class3/Test/Label",
            "no such folder; without it no image is known to be normal",
        ),
        (
            "dtd-synthetic",
            "dtd-synthetic",
            dtd_synthetic,
            |_| {},
            Counts,
            "anomalous test images",
            "12 here, 947 published",
        ),
        (
            "isic",
            "isic-archive",
            isic_archive,
            |tree| {
                tree.remove("isic-archive/ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png")
            },
            MissingMask,
            "ISBI2016_ISIC_Part1_Test_Data/ISIC_0000003.jpg",
            "no mask ISIC_0000003_Segmentation.* in",
        ),
        (
            "kvasir",
            "kvasir",
            kvasir,
            |tree| tree.file("kvasir/kvasir_bboxes.json", "{}"),
            UnexpectedFile,
            "kvasir_bboxes.json",
            "no part of this layout; it is left out",
        ),
        (
            "tn3k",
            "tn3k",
            tn3k,
            |_| {},
            UnexpectedFile,
            "trainval-image",
            "no part of this layout; it is left out",
        ),
        (
            "br35h",
            "br35h",
            br35h,
            |_| {},
            UnexpectedFile,
            "pred",
            "no part of this layout; it is left out",
        ),
        (
            "covid-19",
            "covid-19-new",
            covid_19_new,
            |_| {},
            Counts,
            "normal test images",
            "1 here, 1341 published (the owners' first release",
        ),
        (
            // Numbers without leading zeros sort otherwise with an ending than without.
            "cvc-clinicdb",
            "cvc-clinicdb",
            |tree| {
                for name in ["1", "10"] {
                    tree.image(&format!("cvc-clinicdb/images/{name}.png"));
                    tree.mask(
                        &format!("cvc-clinicdb/masks/{name}_mask.png"),
                        SIZE,
                        &[(1, 1)],
                    );
                }
            },
            |_| {},
            MaskOrder,
            "images/1.png",
            "in sorted order masks/10_mask.png stands at the place of its mask",
        ),
    ];
    for (layout, root, make, harm, kind, at, message) in cases {
        let found = findings(layout, root, make, harm);
        let told = |f: &&Finding| f.kind == kind && f.at == at && f.message.starts_with(message);
        assert_eq!(
            found.iter().filter(told).count(),
            1,
            "{layout}, {at}: {found:#?}"
        );
    }
}

#[test]
fn positions_do_not_matter_in_ones_own_folders() {
    let tree = Tree::new();
    tree.image("own/good/1.png");
    for name in ["1", "10"] {
        tree.image(&format!("own/bad/{name}.bmp"));
        tree.mask(
            &format!("own/ground_truth/bad/{name}_mask.png"),
            SIZE,
            &[(1, 1)],
        );
    }
    let report = check(&tree.data("folder", "own")).unwrap();
    assert!(
        report
            .findings
            .iter()
            .all(|f| f.severity != Severity::Error),
        "{report}"
    );
}

#[test]
fn anomalies_of_dagm_for_training_are_no_references() {
    let tree = Tree::new();
    dagm(&tree);
    let data = DataSet::open(&tree.data("dagm", "dagm")).unwrap();
    let references: Vec<_> = data
        .train_normals("Class2")
        .map(|s| s.id.as_str())
        .collect();
    assert_eq!(
        references,
        ["Class2/Train/0001.PNG", "Class2/Train/0010.PNG"]
    );
    assert_eq!(count(&data.samples, Split::Train, Label::Anomalous), 10);
}
