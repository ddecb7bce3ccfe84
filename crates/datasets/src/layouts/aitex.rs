//! AITEX: woven fabrics, long strips that InCTRL's conversion cuts into squares. A square of a
//! strip with a defect is kept only where its mask marks something; what kind the defect is says
//! the second part of the strip's name.

use anomalens_vision::MaskSource;
use rayon::prelude::*;

use crate::decode::{dimensions, marks_any, read_mask, wrong_size};
use crate::error::Error;
use crate::finding::{Finding, FindingKind};
use crate::layouts::{About, Layout, Published, SPLIT_SORTED, missing_entries};
use crate::listing::{below, stem};
use crate::sample::{Crop, GOOD, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;

const NORMAL: &str = "NODefect_images";
const ANOMALOUS: &str = "Defect_images";
const ANOMALOUS_IN_ARCHIVE: &str = "Defect_images/Defect_images";
const MASKS: &str = "Mask_images";
const MASKS_IN_ARCHIVE: &str = "Mask_images/Mask_images";

const CLASS: &str = "fabric";

/// Codes in the names of strips, and the defects that they stand for.
const KINDS: [(&str, &str); 12] = [
    ("002", "broken end"),
    ("006", "broken yarn"),
    ("010", "broken pick"),
    ("016", "weft curling"),
    ("019", "fuzzyball"),
    ("022", "cut selvage"),
    ("023", "crease"),
    ("025", "warp ball"),
    ("027", "knots"),
    ("029", "contamination"),
    ("030", "nep"),
    ("036", "weft crack"),
];

pub(super) const LAYOUT: Layout = Layout {
    name: "aitex",
    summary: "AITEX, woven fabrics, each strip cut into squares",
    expects: "NODefect_images/DIR/*.png, Defect_images/NNNN_CODE_NN.png, \
        Mask_images/NNNN_CODE_NN_mask.png; the last two also in a folder of the same name within",
    split: SPLIT_SORTED,
    about: Some(About {
        title: "AITEX",
        licence: "stated on the owners' page; none comes with the files",
        citation: "J. Silvestre-Blanes, T. Albero-Albero, I. Miralles, R. Pérez-Llorens, \
            J. Moreno, A Public Fabric Database for Defect Detection Methods and Results, AUTEX \
            Research Journal, 2019",
        obtain: "www.aitex.es/afid",
        published: Published::Kinds(&[(GOOD, 2256)]),
        published_in: "squares of the 141 strips without defect",
    }),
    missing: |root| Ok(missing_entries(root, &[NORMAL, ANOMALOUS, MASKS])),
    scan,
};

/// A strip and, where it has a defect, its kind and masks; paths below the root.
struct Strip {
    image: String,
    defect: Option<(&'static str, Vec<String>)>,
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    scan.tell_all_but(&[NORMAL, ANOMALOUS, MASKS])?;
    let mut strips = vec![];
    for folder in scan.folders_in(NORMAL)? {
        let folder = below(NORMAL, &folder);
        let images = scan.images_in(&folder)?;
        strips.extend(images.iter().map(|name| Strip {
            image: below(&folder, name),
            defect: None,
        }));
    }
    scan_defects(scan, &mut strips)?;

    let squares: Vec<Result<Vec<Square>, Finding>> = strips
        .par_iter()
        .map(|strip| read_squares(scan, strip))
        .collect();
    for (strip, squares) in strips.into_iter().zip(squares) {
        match squares {
            Ok(squares) => {
                for Square { crop, mask } in squares {
                    scan.add(Item {
                        image: strip.image.clone(),
                        crop: Some(crop),
                        class: CLASS,
                        defect_type: strip.defect.as_ref().map_or(GOOD, |(kind, _)| kind),
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

fn scan_defects(scan: &mut Scan, strips: &mut Vec<Strip>) -> Result<(), Error> {
    // As the owners' archives have it, or without the folder of the same name within.
    let folder = scan.first_there(&[ANOMALOUS_IN_ARCHIVE, ANOMALOUS]);
    let mask_folder = scan.first_there(&[MASKS_IN_ARCHIVE, MASKS]);
    let images = scan.images_in(folder)?;
    let mut masks = scan.images_in(mask_folder)?;
    for name in images {
        let image = below(folder, &name);
        let code = name.split('_').nth(1).unwrap_or_default();
        let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == code) else {
            let message = format!("`{code}` in its name is no known code of a defect");
            scan.find(FindingKind::UnknownKind, image, message);
            continue;
        };
        // Some strips have several, `_mask1` and `_mask2`.
        let start = format!("{}_mask", stem(&name));
        let (own, others) = masks
            .into_iter()
            .partition::<Vec<_>, _>(|mask| mask.starts_with(&start));
        masks = others;
        if own.is_empty() {
            // Without it no square is known to show the defect.
            scan.tell_unlabelled(folder, &[name]);
            continue;
        }
        let own = own.iter().map(|mask| below(mask_folder, mask)).collect();
        strips.push(Strip {
            image,
            defect: Some((kind, own)),
        });
    }
    for mask in masks {
        let message = format!("this mask belongs to no image in {folder}");
        scan.find(
            FindingKind::MaskWithoutImage,
            below(mask_folder, &mask),
            message,
        );
    }
    Ok(())
}

/// A square of a strip.
struct Square {
    crop: Crop,
    mask: MaskSource,
}

fn read_squares(scan: &Scan, strip: &Strip) -> Result<Vec<Square>, Finding> {
    let unreadable =
        |at: &str, message: String| Finding::new(FindingKind::UnreadableImage, at, message);
    let (width, height) = dimensions(&scan.path(&strip.image))
        .map_err(|message| unreadable(&strip.image, message))?;
    let crops = (0..width.div_ceil(height)).map(|i| Crop {
        x: i * height,
        y: 0,
        width: height.min(width - i * height),
        height,
    });
    let Some((_, masks)) = &strip.defect else {
        let normal = crops.map(|crop| Square {
            crop,
            mask: MaskSource::Empty,
        });
        return Ok(normal.collect());
    };
    let masks = masks
        .iter()
        .map(|path| {
            let mask = read_mask(&scan.path(path), scan.masks)
                .map_err(|message| unreadable(path, message))?;
            let size = (mask.width(), mask.height());
            if size != (width, height) {
                let message = wrong_size("this mask", size, (width, height));
                return Err(Finding::new(FindingKind::MaskSize, path, message));
            }
            Ok((path, mask))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let squares = crops.filter_map(|crop| {
        let mut marking = masks
            .iter()
            .filter(|(_, mask)| marks_any(mask, Some(crop)))
            .map(|(path, _)| path);
        let mask = match (marking.next()?, marking.next()) {
            (mask, None) => MaskSource::File(scan.path(mask).into()),
            // Neither marks all of it.
            (_, Some(_)) => MaskSource::Unknown,
        };
        Some(Square { crop, mask })
    });
    Ok(squares.collect())
}
