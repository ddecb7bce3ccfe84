//! Anybody's data. Either the layout of MVTec AD (and of all published sets in `mvtec.rs`): for each class
//! `train/good`, `test/KIND` and, if there are masks, `ground_truth/KIND`; the root has one folder
//! a class, or is a class itself. Or plain folders, one of normal and one of anomalous images,
//! which are split as InCTRL's conversions do. Masks are paired by name, not by position.

use std::path::Path;

use anomalens_vision::MaskSource;

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::Layout;
use crate::listing::{below, list};
use crate::pairing::{Files, MASK, pair_masks};
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;

const TRAIN: &str = "train";
const TEST: &str = "test";
const TRUTH: &str = "ground_truth";
/// Names, in any case, of folders of normal images.
pub(super) const NORMAL: [&str; 6] = [GOOD, "ok", "normal", "nominal", "no_defect", "pass"];
/// Names, in any case, of plain folders of anomalous images.
pub(super) const ANOMALOUS: [&str; 10] = [
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
];
/// The class of a root that has no name of its own; it reads well in a prompt.
const UNNAMED_CLASS: &str = "object";

pub(super) const LAYOUT: Layout = Layout {
    name: "folder",
    summary: "your own images: as MVTec AD, or a folder of good and a folder of bad ones",
    expects: "CLASS/train/good, CLASS/test/KIND and, for masks, \
        CLASS/ground_truth/KIND/NAME_mask.png or NAME.png; or these for one class without CLASS; \
        or good and bad (also ok, normal, nominal, no_defect, pass; ko, ng, nok, fail, defect, \
        defective, anomaly, anomalous, abnormal) and, for masks, ground_truth/bad",
    split: "as the folders train and test say; of plain folders, 75% of the normal images, in \
        sorted order, train (scikit-learn's train_test_split, random state 42)",
    about: None,
    missing: |root| {
        Ok(match Shape::of(root)? {
            Some(_) => None,
            None => Some(
                "folders train and test (of one class, or in CLASS/), or good and bad, are missing"
                    .to_owned(),
            ),
        })
    },
    scan,
};

/// The ways in which a root can be laid out.
enum Shape {
    OneClass,
    Classes,
    Plain,
}

impl Shape {
    fn of(root: &Path) -> Result<Option<Self>, Error> {
        let folders = list(root)?.folders;
        Ok(if is_class(root) {
            Some(Self::OneClass)
        } else if folders.iter().any(|name| is_normal(name))
            && folders.iter().any(|name| is_anomalous(name))
        {
            Some(Self::Plain)
        } else if folders.iter().any(|name| is_class(&root.join(name))) {
            Some(Self::Classes)
        } else {
            None
        })
    }
}

/// Whether a folder is a class in the layout of MVTec AD.
pub(super) fn is_class(folder: &Path) -> bool {
    folder.join(TRAIN).is_dir() || folder.join(TEST).is_dir()
}

/// Whether a folder of this name holds normal images.
pub(super) fn is_normal(folder: &str) -> bool {
    NORMAL.contains(&folder.to_lowercase().as_str())
}

/// Whether a folder of this name holds anomalous images.
pub(super) fn is_anomalous(folder: &str) -> bool {
    ANOMALOUS.contains(&folder.to_lowercase().as_str())
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    match Shape::of(&scan.root)? {
        Some(Shape::OneClass) => scan_class(scan, "", &name_of(&scan.root)),
        Some(Shape::Plain) => scan_plain(scan, &name_of(&scan.root)),
        Some(Shape::Classes) | None => {
            for folder in scan.folders_in("")? {
                if is_class(&scan.path(&folder)) {
                    scan_class(scan, &folder, &folder)?;
                } else {
                    scan.tell_stray(folder, "a class with train and test")?;
                }
            }
            Ok(())
        }
    }
}

/// The last name of the path, also where it is written as `.`.
pub(super) fn name_of(root: &Path) -> String {
    root.canonicalize()
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .unwrap_or_else(|| UNNAMED_CLASS.to_owned())
}

/// A class in the layout of MVTec AD; `base` is its folder, "" if it is the root.
pub(super) fn scan_class(scan: &mut Scan, base: &str, class: &str) -> Result<(), Error> {
    let folders = scan.folders_in(base)?;
    for name in &folders {
        if ![TRAIN, TEST, TRUTH].contains(&name.as_str()) {
            scan.tell_stray(below(base, name), "train, test or ground_truth")?;
        }
    }
    let has = |name: &str| folders.iter().any(|folder| folder == name);
    let truth = has(TRUTH).then(|| below(base, TRUTH));

    if has(TRAIN) {
        let train = below(base, TRAIN);
        for kind in scan.folders_in(&train)? {
            if !is_normal(&kind) {
                scan.tell_stray(below(&train, &kind), GOOD)?;
                continue;
            }
            let folder = below(&train, &kind);
            for image in scan.images_in(&folder)? {
                scan.add(Item {
                    image: below(&folder, &image),
                    crop: None,
                    class,
                    defect_type: GOOD,
                    split: Split::Train,
                    mask: if truth.is_some() {
                        MaskSource::Empty
                    } else {
                        MaskSource::Unknown
                    },
                });
            }
        }
    }
    if has(TEST) {
        let test = below(base, TEST);
        let kinds = scan.folders_in(&test)?;
        scan_kinds(scan, &test, &kinds, truth.as_deref(), class)?;
    }
    Ok(())
}

/// Plain folders of normal and of anomalous images.
fn scan_plain(scan: &mut Scan, class: &str) -> Result<(), Error> {
    let (kinds, others): (Vec<String>, Vec<String>) = scan
        .folders_in("")?
        .into_iter()
        .partition(|name| is_normal(name) || is_anomalous(name));
    for name in others.iter().filter(|name| *name != TRUTH) {
        let expected = [&NORMAL[..], &ANOMALOUS[..], &[TRUTH]].concat().join(", ");
        scan.tell_stray(name.clone(), &expected)?;
    }
    let truth = others.iter().find(|name| *name == TRUTH);
    scan_kinds(scan, "", &kinds, truth.map(String::as_str), class)?;
    split_normals(&mut scan.samples);
    Ok(())
}

/// Test images, a folder for each kind below `base`, and their masks, if there are any, in
/// folders of the same names below `truth`.
fn scan_kinds(
    scan: &mut Scan,
    base: &str,
    kinds: &[String],
    truth: Option<&str>,
    class: &str,
) -> Result<(), Error> {
    let mask_folders = match truth {
        Some(truth) => scan.folders_in(truth)?,
        None => Vec::new(),
    };
    for name in kinds {
        let folder = below(base, name);
        let images = scan.images_in(&folder)?;
        let normal = is_normal(name);
        let masks = match truth {
            None => vec![MaskSource::Unknown; images.len()],
            Some(truth) if mask_folders.contains(name) => {
                let mask_folder = below(truth, name);
                let masks = scan.images_in(&mask_folder)?;
                pair_masks(
                    scan,
                    &Files {
                        folder: &folder,
                        names: &images,
                    },
                    &Files {
                        folder: &mask_folder,
                        names: &masks,
                    },
                    &MASK,
                    normal,
                )
            }
            Some(_) if normal => vec![MaskSource::Empty; images.len()],
            Some(truth) => {
                scan.find(
                    FindingKind::MissingFolder,
                    below(truth, name),
                    format!("no such folder; it should hold the masks of {folder}"),
                );
                vec![MaskSource::Unknown; images.len()]
            }
        };
        for (image, mask) in images.iter().zip(masks) {
            scan.add(Item {
                image: below(&folder, image),
                crop: None,
                class,
                defect_type: if normal { GOOD } else { name },
                split: Split::Test,
                mask,
            });
        }
    }
    for name in mask_folders.iter().filter(|name| !kinds.contains(name)) {
        scan.find(
            FindingKind::MaskWithoutImage,
            below(truth.unwrap_or_default(), name),
            format!(
                "masks of images that are missing: no folder {}",
                below(base, name)
            ),
        );
    }
    Ok(())
}
