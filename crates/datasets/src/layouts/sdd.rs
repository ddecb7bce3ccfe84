//! KolektorSDD: electrical commutators, tall images with a bitmap each that marks the defect.
//! InCTRL's conversion, whose figures everybody quotes, cuts each image by rows into thirds; a
//! third is anomalous if its part of the bitmap marks anything. The bitmaps must be read for the
//! labels. The thirds as files, as that conversion writes them and AnomalyCLIP expects them, are
//! read too.

use std::path::Path;

use anomalens_vision::MaskSource;
use rayon::prelude::*;

use crate::decode::{dimensions, marks_any, read_mask, wrong_size};
use crate::error::Error;
use crate::finding::{Finding, FindingKind};
use crate::layouts::folder::{is_class, scan_class};
use crate::layouts::{About, Layout, Published, SPLIT_SORTED};
use crate::listing::{below, extension, list, stem};
use crate::sample::{Crop, GOOD, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;

const THIRDS: u32 = 3;
const CLASS: &str = "electrical commutators";
/// Folders of the thirds as files; the second is how AnomalyCLIP's README spells it.
const CONVERTED: [&str; 2] = [CLASS, "electrical_commutators"];

pub(super) const LAYOUT: Layout = Layout {
    name: "sdd",
    summary: "KolektorSDD, electrical commutators, each image cut into thirds",
    expects: "kosNN/PartM.jpg, kosNN/PartM_label.bmp; or the thirds as files: electrical \
        commutators/train/good, test/good, test/defect, ground_truth/defect",
    split: SPLIT_SORTED,
    about: Some(About {
        title: "KolektorSDD",
        licence: "CC BY-NC-SA 4.0",
        citation: "D. Tabernik, S. Šela, J. Skvarč, D. Skočaj, Segmentation-Based Deep-Learning \
            Approach for Surface-Defect Detection, Journal of Intelligent Manufacturing, 2019",
        obtain: "www.vicos.si/resources/kolektorsdd",
        published: Published::Kinds(&[(GOOD, 1143), ("defect", 54)]),
        published_in: "thirds of the 399 original images, as in InCTRL; copies with 400 exist",
    }),
    missing: |root| {
        let part = |name: &String| is_item(name) || converted(root) == Some(name);
        let any_part = list(root)?.folders.iter().any(part);
        Ok((!any_part).then(|| "kos01, kos02, ... are missing".to_owned()))
    },
    scan,
};

/// An image and its bitmap, as paths below the root.
struct Pair {
    image: String,
    label: String,
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    if let Some(folder) = converted(&scan.root) {
        scan.tell_strays("", &[folder])?;
        return scan_class(scan, folder, CLASS);
    }
    let mut pairs = Vec::new();
    for folder in scan.folders_in("")? {
        if is_item(&folder) {
            scan_item(scan, &folder, &mut pairs)?;
        } else {
            scan.tell_stray(folder, "kos01, kos02, ...")?;
        }
    }

    let thirds: Vec<Result<Vec<Third>, Finding>> = pairs
        .par_iter()
        .map(|pair| read_thirds(scan, pair))
        .collect();
    for (pair, thirds) in pairs.iter().zip(thirds) {
        match thirds {
            Ok(thirds) => {
                for third in thirds {
                    let (kind, mask) = if third.anomalous {
                        ("defect", MaskSource::File(scan.path(&pair.label).into()))
                    } else {
                        (GOOD, MaskSource::Empty)
                    };
                    scan.add(Item {
                        image: pair.image.clone(),
                        crop: Some(third.crop),
                        class: CLASS,
                        defect_type: kind,
                        split: Split::Test,
                        mask,
                    });
                }
            }
            Err(finding) => scan.findings.push(finding),
        }
    }
    split_normals(&mut scan.samples);
    Ok(())
}

/// The folder of the thirds as files, if there is one.
fn converted(root: &Path) -> Option<&'static str> {
    let there = |folder: &&str| is_class(&root.join(folder));
    CONVERTED.into_iter().find(there)
}

/// Whether a folder is one commutator: `kos` and a number.
fn is_item(name: &str) -> bool {
    name.strip_prefix("kos")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn scan_item(scan: &mut Scan, folder: &str, pairs: &mut Vec<Pair>) -> Result<(), Error> {
    let (mut images, mut labels, mut neither) = (Vec::new(), Vec::new(), Vec::new());
    for name in scan.images_in(folder)? {
        match extension(&name).as_str() {
            "jpg" => images.push(name),
            "bmp" if stem(&name).ends_with("_label") => labels.push(name),
            _ => neither.push(name),
        }
    }
    scan.tell_unlabelled(folder, &neither);

    for image in images {
        let label = format!("{}_label.bmp", stem(&image));
        let image = below(folder, &image);
        match labels.iter().position(|name| *name == label) {
            Some(found) => {
                let label = below(folder, &labels.remove(found));
                pairs.push(Pair { image, label });
            }
            None => scan.find(
                FindingKind::MissingMask,
                image,
                format!("no {label} beside it"),
            ),
        }
    }
    for label in labels {
        let image = label.replace("_label.bmp", ".jpg");
        scan.find(
            FindingKind::MaskWithoutImage,
            below(folder, &label),
            format!("no {image} beside it"),
        );
    }
    Ok(())
}

/// A third of an image.
struct Third {
    crop: Crop,
    anomalous: bool,
}

fn read_thirds(scan: &Scan, pair: &Pair) -> Result<Vec<Third>, Finding> {
    let unreadable =
        |at: &str, message: String| Finding::new(FindingKind::UnreadableImage, at, message);
    let (width, height) =
        dimensions(&scan.path(&pair.image)).map_err(|message| unreadable(&pair.image, message))?;
    let label = read_mask(&scan.path(&pair.label), scan.masks)
        .map_err(|message| unreadable(&pair.label, message))?;
    let size = (label.width(), label.height());
    if size != (width, height) {
        let message = wrong_size("this mask", size, (width, height));
        return Err(Finding::new(FindingKind::MaskSize, &pair.label, message));
    }
    if height < THIRDS {
        return Err(unreadable(
            &pair.image,
            format!("{height} rows cannot be cut into thirds"),
        ));
    }

    let row = |third: u32| third * height / THIRDS;
    Ok((0..THIRDS)
        .map(|third| {
            let y = row(third);
            let crop = Crop {
                x: 0,
                y,
                width,
                height: row(third + 1) - y,
            };
            Third {
                crop,
                anomalous: marks_any(&label, Some(crop)),
            }
        })
        .collect())
}
