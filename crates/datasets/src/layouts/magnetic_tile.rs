//! Magnetic tiles, one folder for each kind of defect and one for tiles without; beside each
//! image `NAME.jpg` lies its mask `NAME.png`, all black for a tile without defect. No split is
//! published; the one of InCTRL's conversions is used.

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::{About, Layout, Published, SPLIT_SORTED, missing_entries};
use crate::listing::{below, extension};
use crate::pairing::{Files, MASK, pair_masks};
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;

/// Folder and the kind of what is in it.
const KINDS: [(&str, &str); 6] = [
    ("MT_Free", GOOD),
    ("MT_Blowhole", "blowhole"),
    ("MT_Break", "break"),
    ("MT_Crack", "crack"),
    ("MT_Fray", "fray"),
    ("MT_Uneven", "uneven"),
];
const IMAGES: &str = "Imgs";

pub(super) const LAYOUT: Layout = Layout {
    name: "magnetic-tile",
    summary: "magnetic tiles with five kinds of defects",
    expects: "MT_Free/Imgs (normal), MT_Blowhole, MT_Break, MT_Crack, MT_Fray, MT_Uneven/Imgs \
        (anomalous), each with NAME.jpg and its mask NAME.png",
    split: SPLIT_SORTED,
    about: Some(About {
        title: "Magnetic tile defects",
        licence: "none stated; the owners welcome use and ask to be cited",
        citation: "Y. Huang, C. Qiu, Y. Guo, X. Wang, K. Yuan, Surface Defect Saliency of \
            Magnetic Tile, IEEE CASE, 2018",
        obtain: "repository abin24/Magnetic-tile-defect-datasets. on GitHub",
        published: Published::Kinds(&[
            (GOOD, 952),
            ("blowhole", 115),
            ("break", 85),
            ("crack", 57),
            ("fray", 32),
            ("uneven", 103),
        ]),
        published_in: "the owners' repository",
    }),
    missing: |root| Ok(missing_entries(root, &["MT_Free/Imgs"])),
    scan,
};

fn scan(scan: &mut Scan) -> Result<(), Error> {
    let folders = KINDS.map(|(folder, _)| folder);
    scan.tell_strays("", &folders)?;
    for (folder, kind) in KINDS {
        if !scan.path(folder).is_dir() {
            scan.find(FindingKind::MissingFolder, folder, "no such folder");
            continue;
        }
        let mut others = scan.folders_in(folder)?;
        others.retain(|name| name != IMAGES);
        scan.tell_unexpected(folder, &others);
        scan_kind(scan, &below(folder, IMAGES), kind)?;
    }
    split_normals(&mut scan.samples);
    Ok(())
}

fn scan_kind(scan: &mut Scan, folder: &str, kind: &str) -> Result<(), Error> {
    if !scan.path(folder).is_dir() {
        scan.find(FindingKind::MissingFolder, folder, "no such folder");
        return Ok(());
    }
    let (mut images, mut masks, mut neither) = (Vec::new(), Vec::new(), Vec::new());
    for name in scan.images_in(folder)? {
        match extension(&name).as_str() {
            "jpg" => images.push(name),
            "png" => masks.push(name),
            _ => neither.push(name),
        }
    }
    scan.tell_unlabelled(folder, &neither);

    let masks = pair_masks(
        scan,
        &Files {
            folder,
            names: &images,
        },
        &Files {
            folder,
            names: &masks,
        },
        &MASK,
        kind == GOOD,
    );
    for (image, mask) in images.iter().zip(masks) {
        scan.add(Item {
            image: below(folder, image),
            crop: None,
            class: "magnetic tile",
            defect_type: kind,
            split: Split::Test,
            mask,
        });
    }
    Ok(())
}
