//! Small trees in the layouts of AnomalyCLIP's data sets that `mod.rs` does not have.

use super::{SIZE, Tree};

/// MVTec AD's layout: in each class two training images, one normal and one anomalous test image.
/// `normal` is the folder of normal images, `kind` that of anomalous ones.
fn classes(tree: &Tree, root: &str, classes: &[&str], normal: &str, kind: &str, mask: &str) {
    for class in classes {
        let folder = format!("{root}/{class}");
        for name in ["000", "001"] {
            tree.image(&format!("{folder}/train/{normal}/{name}.png"));
        }
        tree.image(&format!("{folder}/test/{normal}/000.png"));
        tree.image(&format!("{folder}/test/{kind}/000.png"));
        tree.mask(
            &format!("{folder}/ground_truth/{kind}/000{mask}.png"),
            SIZE,
            &[(1, 1)],
        );
    }
}

pub(crate) fn mvtec_ad(tree: &Tree) {
    let all = [
        "bottle",
        "cable",
        "capsule",
        "carpet",
        "grid",
        "hazelnut",
        "leather",
        "metal_nut",
        "pill",
        "screw",
        "tile",
        "toothbrush",
        "transistor",
        "wood",
        "zipper",
    ];
    classes(tree, "mvtec-ad", &all, "good", "broken", "_mask");
    tree.file("mvtec-ad/readme.txt", "for people");
    tree.file("mvtec-ad/bottle/license.txt", "for people");
}

pub(crate) fn mpdd(tree: &Tree) {
    let all = [
        "bracket_black",
        "bracket_brown",
        "bracket_white",
        "connector",
        "metal_plate",
        "tubes",
    ];
    classes(tree, "mpdd", &all, "good", "scratches", "_mask");
}

pub(crate) fn btad(tree: &Tree) {
    classes(tree, "btad", &["01", "02"], "ok", "ko", "");
    for image in [
        "train/ok/0000",
        "train/ok/0001",
        "test/ok/0000",
        "test/ko/0000",
    ] {
        tree.image(&format!("btad/03/{image}.bmp"));
    }
    tree.mask("btad/03/ground_truth/ko/0000.bmp", SIZE, &[(1, 1)]);
}

pub(crate) fn dtd_synthetic(tree: &Tree) {
    let all = [
        "Blotchy_099",
        "Fibrous_183",
        "Marbled_078",
        "Matted_069",
        "Mesh_114",
        "Perforated_037",
        "Stratified_154",
        "Woven_001",
        "Woven_068",
        "Woven_104",
        "Woven_125",
        "Woven_127",
    ];
    classes(tree, "dtd-synthetic", &all, "good", "bad", "_mask");
}

/// DAGM: in each class and split two normal images and an anomalous one.
pub(crate) fn dagm(tree: &Tree) {
    for class in 1..=10 {
        for split in ["Train", "Test"] {
            let folder = format!("dagm/Class{class}/{split}");
            for name in ["0001", "0002", "0010"] {
                tree.image(&format!("{folder}/{name}.PNG"));
            }
            tree.mask(&format!("{folder}/Label/0002_label.PNG"), SIZE, &[(2, 2)]);
            tree.file(&format!("{folder}/Label/Labels.txt"), "1\n");
        }
    }
}

/// KolektorSDD cut into thirds, as InCTRL's conversion writes it.
pub(crate) fn sdd_thirds(tree: &Tree) {
    let folder = "sdd-thirds/electrical commutators";
    for image in [
        "train/good/kos01_Part0_0",
        "train/good/kos01_Part0_1",
        "test/good/kos01_Part1_0",
        "test/defect/kos01_Part5_1",
    ] {
        tree.image(&format!("{folder}/{image}.png"));
    }
    tree.mask(
        &format!("{folder}/ground_truth/defect/kos01_Part5_1_mask.png"),
        SIZE,
        &[(1, 1)],
    );
}

/// HeadCT with folders as labels.
pub(crate) fn headct_folders(tree: &Tree) {
    tree.image("headct-folders/brain/test/good/002.png");
    tree.image("headct-folders/brain/test/bleeding/000.png");
}

/// BrainMRI as the owner's archive holds it, twice.
pub(crate) fn brainmri_archive(tree: &Tree) {
    for base in ["", "brain_tumor_dataset/"] {
        tree.image(&format!("brainmri-archive/{base}no/1 no.jpeg"));
        tree.image(&format!("brainmri-archive/{base}yes/Y1.jpg"));
    }
}

/// Br35H with the folders that its owner adds.
pub(crate) fn br35h(tree: &Tree) {
    for image in ["no/no0", "no/no1", "yes/y0", "pred/pred0"] {
        tree.image(&format!("br35h/{image}.jpg"));
    }
    tree.image("br35h/Br35H-Mask-RCNN/TRAIN/y0.jpg");
}

pub(crate) fn covid_19(tree: &Tree) {
    for image in [
        "NORMAL/NORMAL (1)",
        "NORMAL/NORMAL (2)",
        "COVID-19/COVID-19 (1)",
    ] {
        tree.image(&format!("covid-19/{image}.png"));
    }
}

/// COVID-19 as newer releases have it.
pub(crate) fn covid_19_new(tree: &Tree) {
    for image in ["Normal/images/Normal-1", "COVID/images/COVID-1"] {
        tree.image(&format!("covid-19-new/{image}.png"));
    }
    tree.mask("covid-19-new/COVID/masks/COVID-1.png", SIZE, &[(1, 1)]);
}

/// A data set of pairs; `ending` is what the masks' names end in.
fn pairs(tree: &Tree, [images, masks]: [&str; 2], names: [&str; 2], image: &str, ending: &str) {
    for name in names {
        tree.image(&format!("{images}/{name}.{image}"));
        tree.mask(&format!("{masks}/{name}{ending}"), SIZE, &[(3, 1)]);
    }
}

pub(crate) fn isic(tree: &Tree) {
    let folders = [
        "isic/skin/test/bad",
        "isic/skin/ISBI2016_ISIC_Part1_Test_GroundTruth",
    ];
    let names = ["ISIC_0000003", "ISIC_0000012"];
    pairs(tree, folders, names, "jpg", "_Segmentation.png");
}

/// ISIC as its owners publish it.
pub(crate) fn isic_archive(tree: &Tree) {
    let folders = [
        "isic-archive/ISBI2016_ISIC_Part1_Test_Data",
        "isic-archive/ISBI2016_ISIC_Part1_Test_GroundTruth",
    ];
    let names = ["ISIC_0000003", "ISIC_0000012"];
    pairs(tree, folders, names, "jpg", "_Segmentation.png");
}

pub(crate) fn cvc_clinicdb(tree: &Tree) {
    let folders = ["cvc-clinicdb/images", "cvc-clinicdb/masks"];
    pairs(tree, folders, ["1", "10"], "png", ".png");
}

/// CVC-ClinicDB as its owners publish it.
pub(crate) fn cvc_clinicdb_archive(tree: &Tree) {
    let folders = [
        "cvc-clinicdb-archive/Original",
        "cvc-clinicdb-archive/Ground Truth",
    ];
    pairs(tree, folders, ["1", "2"], "tif", ".tif");
}

pub(crate) fn cvc_colondb(tree: &Tree) {
    let folders = ["cvc-colondb/images", "cvc-colondb/masks"];
    pairs(tree, folders, ["1", "2"], "png", ".png");
}

pub(crate) fn kvasir(tree: &Tree) {
    let folders = ["kvasir/images", "kvasir/masks"];
    let names = ["cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4"];
    pairs(tree, folders, names, "jpg", ".jpg");
}

pub(crate) fn endo(tree: &Tree) {
    let folders = ["endo/images", "endo/masks"];
    pairs(tree, folders, ["a", "b"], "jpg", ".png");
}

pub(crate) fn tn3k(tree: &Tree) {
    let folders = ["tn3k/test-image", "tn3k/test-mask"];
    pairs(tree, folders, ["0000", "0001"], "jpg", ".jpg");
    tree.image("tn3k/trainval-image/0000.jpg");
}

pub(crate) fn tn3k_training(tree: &Tree) {
    let folders = [
        "tn3k-training/trainval-image",
        "tn3k-training/trainval-mask",
    ];
    pairs(tree, folders, ["0000", "0001"], "jpg", ".jpg");
}
