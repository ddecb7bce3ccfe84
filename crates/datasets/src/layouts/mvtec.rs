//! MVTec AD and the data sets that are published in its layout: for each class `train/good`,
//! `test/KIND` and `ground_truth/KIND`, as [`folder`](super::folder) reads it, with the owners'
//! classes and counts. BTAD calls its normal images `ok`.

use std::path::Path;

use crate::error::Error;
use crate::layouts::folder::{is_class, scan_class};
use crate::layouts::{About, Layout, Published};
use crate::scan::Scan;

/// A class and its images: for training, normal and anomalous for the test.
type Class = (&'static str, [usize; 3]);

const SPLIT: &str = "as the folders train and test say";

const MVTEC_CLASSES: [Class; 15] = [
    ("carpet", [280, 28, 89]),
    ("bottle", [209, 20, 63]),
    ("hazelnut", [391, 40, 70]),
    ("leather", [245, 32, 92]),
    ("cable", [224, 58, 92]),
    ("capsule", [219, 23, 109]),
    ("grid", [264, 21, 57]),
    ("pill", [267, 26, 141]),
    ("transistor", [213, 60, 40]),
    ("metal_nut", [220, 22, 93]),
    ("screw", [320, 41, 119]),
    ("toothbrush", [60, 12, 30]),
    ("zipper", [240, 32, 119]),
    ("tile", [230, 33, 84]),
    ("wood", [247, 19, 60]),
];

const MPDD_CLASSES: [Class; 6] = [
    ("bracket_black", [289, 32, 47]),
    ("bracket_brown", [185, 26, 51]),
    ("bracket_white", [110, 30, 30]),
    ("connector", [128, 30, 14]),
    ("metal_plate", [54, 26, 71]),
    ("tubes", [122, 32, 69]),
];

const BTAD_CLASSES: [Class; 3] = [
    ("01", [400, 21, 49]),
    ("02", [399, 30, 200]),
    ("03", [1000, 400, 41]),
];

/// Without counts of their own: those over all classes are published.
const DTD_CLASSES: [&str; 12] = [
    "Woven_001",
    "Woven_127",
    "Woven_104",
    "Stratified_154",
    "Blotchy_099",
    "Woven_068",
    "Woven_125",
    "Marbled_078",
    "Perforated_037",
    "Mesh_114",
    "Fibrous_183",
    "Matted_069",
];

pub(super) const MVTEC: Layout = Layout {
    name: "mvtec",
    summary: "MVTec AD, ten kinds of objects and five of textures",
    expects: "CLASS/train/good, CLASS/test/KIND, CLASS/ground_truth/KIND/NAME_mask.png for each \
        class, bottle to zipper",
    split: SPLIT,
    about: Some(About {
        title: "MVTec AD",
        licence: "CC BY-NC-SA 4.0",
        citation: "P. Bergmann, M. Fauser, D. Sattlegger, C. Steger, MVTec AD - A Comprehensive \
            Real-World Dataset for Unsupervised Anomaly Detection, CVPR 2019",
        obtain: "www.mvtec.com/company/research/datasets/mvtec-ad",
        published: Published::Classes(&MVTEC_CLASSES),
        published_in: "the paper, table 1",
    }),
    missing: |root| Ok(missing(root, &names(MVTEC_CLASSES))),
    scan: |scan| scan_classes(scan, &names(MVTEC_CLASSES)),
};

pub(super) const MPDD: Layout = Layout {
    name: "mpdd",
    summary: "MPDD, six kinds of painted metal parts",
    expects: "CLASS/train/good, CLASS/test/KIND, CLASS/ground_truth/KIND/NAME_mask.png for each \
        class, bracket_black to tubes",
    split: SPLIT,
    about: Some(About {
        title: "MPDD",
        licence: "CC BY-NC-SA 4.0, as its users state; the owners' repository names none",
        citation: "S. Jezek, M. Jonak, R. Burget, P. Dvorak, M. Skotak, Deep Learning-Based \
            Defect Detection of Metal Parts: Evaluating Current Methods in Complex Conditions, \
            ICUMT 2021",
        obtain: "repository stepanje/MPDD on GitHub",
        published: Published::Classes(&MPDD_CLASSES),
        published_in: "the files of the owners' archive",
    }),
    missing: |root| Ok(missing(root, &names(MPDD_CLASSES))),
    scan: |scan| scan_classes(scan, &names(MPDD_CLASSES)),
};

pub(super) const BTAD: Layout = Layout {
    name: "btad",
    summary: "BTAD, three industrial products",
    expects: "CLASS/train/ok, CLASS/test/ok, CLASS/test/ko, CLASS/ground_truth/ko for each class, \
        01 to 03",
    split: SPLIT,
    about: Some(About {
        title: "BTAD",
        licence: "CC BY-SA, as the archive's README says",
        citation: "P. Mishra, R. Verk, D. Fornasier, C. Piciarelli, G. L. Foresti, VT-ADL: A \
            Vision Transformer Network for Image Anomaly Detection and Localization, ISIE 2021",
        obtain: "avires.dimi.uniud.it/papers/btad/btad.zip",
        published: Published::Classes(&BTAD_CLASSES),
        published_in: "the files of the owners' archive; its README swaps 02 and 03",
    }),
    missing: |root| Ok(missing(root, &names(BTAD_CLASSES))),
    scan: |scan| scan_classes(scan, &names(BTAD_CLASSES)),
};

pub(super) const DTD_SYNTHETIC: Layout = Layout {
    name: "dtd-synthetic",
    summary: "DTD-Synthetic, twelve textures with drawn anomalies",
    expects: "CLASS/train/good, CLASS/test/KIND, CLASS/ground_truth/KIND/NAME_mask.png for each \
        class, Blotchy_099 to Woven_127",
    split: SPLIT,
    about: Some(About {
        title: "DTD-Synthetic",
        licence: "stated by the owners; none comes with the files",
        citation: "T. Aota, L. T. T. Tong, T. Okatani, Zero-Shot Versus Many-Shot: Unsupervised \
            Texture Anomaly Detection, WACV 2023",
        obtain: "the drive that the paper's abstract names, also in the README of \
            zqhang/AnomalyCLIP on GitHub",
        published: Published::Test([357, 947]),
        published_in: "AnomalyCLIP's table of data sets",
    }),
    missing: |root| Ok(missing(root, &DTD_CLASSES)),
    scan: |scan| scan_classes(scan, &DTD_CLASSES),
};

fn names<const N: usize>(classes: [Class; N]) -> [&'static str; N] {
    classes.map(|(name, _)| name)
}

fn missing(root: &Path, classes: &[&str]) -> Option<String> {
    let any = classes.iter().any(|class| is_class(&root.join(class)));
    (!any).then(|| format!("{} with train and test are missing", classes.join(", ")))
}

/// Classes that are not here show in the counts; the others can be used.
fn scan_classes(scan: &mut Scan, classes: &[&str]) -> Result<(), Error> {
    scan.tell_strays("", classes)?;
    for class in classes {
        if is_class(&scan.path(class)) {
            scan_class(scan, class, class)?;
        }
    }
    scan.samples.sort_by(|a, b| a.class.cmp(&b.class));
    Ok(())
}
