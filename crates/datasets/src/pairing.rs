//! Masks paired with images by name: `NAME.png` or `NAME_mask.png` belongs to the image `NAME`.
//! The reference implementations pair sorted lists by position, which goes wrong in silence when
//! a mask is missing; here every image and every mask must find exactly one partner, and in a
//! published data set it must be the one at the same position too.

use std::collections::BTreeMap;

use anomalens_vision::MaskSource;

use crate::finding::FindingKind;
use crate::listing::{below, stem};
use crate::scan::Scan;

/// What masks are called after their images, where the layout does not say otherwise.
pub(crate) const MASK: [&str; 2] = ["", "_mask"];

/// A folder and the names in it.
pub(crate) struct Files<'a> {
    pub(crate) folder: &'a str,
    pub(crate) names: &'a [String],
}

/// For each image its mask, if exactly one fits; whatever does not pair is reported. The mask of
/// `NAME` is called `NAME` and one of `endings`. An anomalous image must have a mask; a normal one
/// may, and is taken to have an empty one otherwise.
pub(crate) fn pair_masks(
    scan: &mut Scan,
    images: &Files<'_>,
    masks: &Files<'_>,
    endings: &[&str],
    normal: bool,
) -> Vec<MaskSource> {
    let mut by_image_stem: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for mask in masks.names {
        for ending in endings {
            if let Some(stem) = stem(mask).strip_suffix(ending) {
                by_image_stem.entry(stem).or_default().push(mask);
            }
        }
    }

    let mut owners: BTreeMap<&String, &String> = BTreeMap::new();
    let mut sources = Vec::with_capacity(images.names.len());
    for image in images.names {
        let fitting = by_image_stem
            .get(stem(image))
            .map_or(&[][..], Vec::as_slice);
        for mask in fitting {
            if let Some(other) = owners.insert(mask, image) {
                scan.find(
                    FindingKind::AmbiguousMask,
                    below(masks.folder, mask),
                    format!("this mask fits two images, {other} and {image}"),
                );
            }
        }
        let at = below(images.folder, image);
        sources.push(match fitting {
            [mask] => MaskSource::File(scan.path(&below(masks.folder, mask)).into()),
            [] if normal => MaskSource::Empty,
            [] => {
                let expected: Vec<String> = endings
                    .iter()
                    .map(|ending| format!("{}{ending}.*", stem(image)))
                    .collect();
                let expected = expected.join(" or ");
                scan.find(
                    FindingKind::MissingMask,
                    at,
                    format!("no mask {expected} in {}", masks.folder),
                );
                MaskSource::Unknown
            }
            [first, second, ..] => {
                scan.find(
                    FindingKind::AmbiguousMask,
                    at,
                    format!("two masks fit this image, {first} and {second}"),
                );
                MaskSource::Unknown
            }
        });
    }
    for mask in masks.names.iter().filter(|mask| !owners.contains_key(mask)) {
        scan.find(
            FindingKind::MaskWithoutImage,
            below(masks.folder, mask),
            format!("this mask belongs to no image in {}", images.folder),
        );
    }
    // Where every image has its own, and no mask is left.
    if scan.published && [images.names.len(), masks.names.len()] == [owners.len(); 2] {
        let mut by_position = images.names.iter().zip(masks.names);
        if let Some((image, mask)) = by_position.find(|(image, mask)| owners[mask] != *image) {
            let message = format!(
                "in sorted order {} stands at the place of its mask: programs that pair by \
                 position, as the data set's users do, take the wrong one",
                below(masks.folder, mask)
            );
            scan.find(FindingKind::MaskOrder, below(images.folder, image), message);
        }
    }
    sources
}
