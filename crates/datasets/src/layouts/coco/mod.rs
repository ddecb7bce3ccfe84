//! Anybody's images with outlines of what is wrong with them, in one JSON file as COCO has it:
//! `images`, `annotations` (polygons, boxes or runs) and `categories`. An image without annotations
//! is normal; the category is the kind of an anomaly, and one that is called good, ok or normal
//! marks nothing. Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.

mod file;
mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anomalens_vision::SparseMask;

use crate::decode::dimensions;
use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::Layout;
use crate::layouts::folder::{is_normal, name_of};
use crate::layouts::listed::{Listed, UNNAMED_KIND};
use crate::listing::{below, list};
use crate::sample::{GOOD, MaskSource, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;

use file::{Annotation, File, Id, Image};

/// A folder that may hold the file, beside those of the images.
const ANNOTATIONS: &str = "annotations";
/// A folder that may hold the images.
const IMAGES: &str = "images";
/// How COCO's own files are called before the name of the folder of their images.
const INSTANCES: &str = "instances_";

pub(super) const LAYOUT: Layout = Layout {
    name: "coco",
    summary: "your own images with polygons, boxes or runs around defects, in a COCO file",
    expects: "the JSON file, or a folder that holds one (called annotations, instances or coco) or \
        has it in annotations/; the images beside it or in images/",
    split: "75% of the images without annotations, in the order of the file, train \
        (scikit-learn's train_test_split, random state 42)",
    about: None,
    missing: |root| {
        if root.is_file() {
            return Ok(None);
        }
        Ok(match candidates(root)?.as_slice() {
            [_] => None,
            [] => Some("a JSON file of annotations is missing".to_owned()),
            _ => Some("there are several JSON files (name the one that is meant)".to_owned()),
        })
    },
    scan,
};

/// The files in a folder that may be meant.
fn candidates(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let named = |name: &String| {
        let name = name.to_lowercase();
        let known = ["coco", "instances", "annotations"];
        name.ends_with(".json") && known.iter().any(|part| name.contains(part))
    };
    let within = root.join(ANNOTATIONS);
    let mut files = Vec::new();
    for folder in [root, &within] {
        if folder.is_dir() {
            let names = list(folder)?.others.into_iter().filter(named);
            files.extend(names.map(|name| folder.join(name)));
        }
    }
    Ok(files)
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    let path = match &scan.file {
        Some(file) => Some(file.clone()),
        None => candidates(&scan.root)?.pop(),
    };
    let path = path.unwrap_or_else(|| scan.path("annotations.json"));
    let file = File::read(&path)?;
    // The images of annotations/FILE are beside that folder.
    if scan.root.file_name() == Some(OsStr::new(ANNOTATIONS))
        && let Some(above) = scan.root.parent()
    {
        scan.root = above.to_owned();
    }
    let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    let folders = ["", IMAGES, stem.strip_prefix(INSTANCES).unwrap_or_default()];
    let class = name_of(&scan.root);

    let images = index(scan, "images", file.images.iter().map(|image| &image.id));
    let places: Vec<String> = file
        .images
        .iter()
        .map(|image| {
            let places = folders.iter().map(|folder| below(folder, &image.file_name));
            let there = |place: &String| scan.path(place).is_file();
            places
                .clone()
                .find(there)
                .unwrap_or(image.file_name.clone())
        })
        .collect();
    let marks = marks(scan, &file, &images, &places);

    let mut listed = Listed::default();
    for (index, (image, place)) in file.images.iter().zip(&places).enumerate() {
        let (kind, mask) = match marks.get(&index) {
            None => (GOOD.to_owned(), MaskSource::Empty),
            // Its size makes no sense, which is told.
            Some(None) => continue,
            Some(Some(Marks { kinds, mask })) => {
                let kinds: Vec<&str> = kinds.iter().copied().collect();
                (kinds.join(" + "), MaskSource::Listed(mask.clone()))
            }
        };
        let item = Item {
            image: place.clone(),
            crop: None,
            class: &class,
            kind: &kind,
            split: Split::Test,
            mask,
        };
        listed.add(scan, &format!("image {}", image.id), item);
    }
    split_normals(&mut scan.samples);
    tell_others(scan, &places)
}

/// Where each id stands; those that are there twice are told.
fn index<'a>(
    scan: &mut Scan,
    what: &str,
    ids: impl Iterator<Item = &'a Id>,
) -> BTreeMap<&'a Id, usize> {
    let mut places = BTreeMap::new();
    for (place, id) in ids.enumerate() {
        if places.insert(id, place).is_some() {
            let message = format!("the id {id} is there twice");
            scan.find(FindingKind::BadRow, what, message);
        }
    }
    places
}

/// What the annotations of an image mark.
struct Marks<'a> {
    kinds: BTreeSet<&'a str>,
    mask: SparseMask,
}

/// The marks of each image that has some, none if they cannot be drawn; annotations that cannot be understood are told.
fn marks<'a>(
    scan: &mut Scan,
    file: &'a File,
    images: &BTreeMap<&Id, usize>,
    places: &[String],
) -> BTreeMap<usize, Option<Marks<'a>>> {
    let ids = file.annotations.iter().filter_map(|a| a.id.as_ref());
    index(scan, "annotations", ids);
    let ids = file.categories.iter().map(|category| &category.id);
    let categories = index(scan, "categories", ids);

    let mut marks: BTreeMap<usize, Option<Marks<'_>>> = BTreeMap::new();
    for (number, annotation) in file.annotations.iter().enumerate() {
        let at = match &annotation.id {
            Some(id) => format!("annotation {id}"),
            None => format!("annotation number {}", number + 1),
        };
        let kind = match &annotation.category_id {
            None => UNNAMED_KIND,
            Some(id) => match categories.get(id) {
                Some(&category) => file.categories[category].name.as_str(),
                None => {
                    let message = format!("there is no category {id}");
                    scan.find(FindingKind::BadRow, at, message);
                    continue;
                }
            },
        };
        if is_normal(kind) {
            continue;
        }
        let Some(&image) = images.get(&annotation.image_id) else {
            let message = format!("there is no image {}", annotation.image_id);
            scan.find(FindingKind::BadRow, at, message);
            continue;
        };
        let of_image = marks.entry(image);
        let of_image = of_image.or_insert_with(|| {
            Some(Marks {
                kinds: BTreeSet::new(),
                mask: blank(scan, &file.images[image], &places[image])?,
            })
        });
        let Some(of_image) = of_image else {
            continue;
        };
        of_image.kinds.insert(kind);
        draw(scan, annotation, &at, &mut of_image.mask);
    }
    marks
}

/// A mask of the size that the file gives or, where it does not, the image has.
fn blank(scan: &mut Scan, image: &Image, place: &str) -> Option<SparseMask> {
    let size = match (image.width, image.height) {
        (Some(width @ 1..), Some(height @ 1..)) => Ok((width, height)),
        _ => dimensions(&scan.path(place)),
    };
    let mask = size.and_then(|(width, height)| {
        SparseMask::new(width, height)
            .map_err(|_| format!("{width}x{height} is no size that an image can have"))
    });
    mask.map_err(|message| scan.find(FindingKind::UnreadableImage, place, message))
        .ok()
}

/// Adds what an annotation marks, and tells what is odd about it.
fn draw(scan: &mut Scan, annotation: &Annotation, at: &str, mask: &mut SparseMask) {
    let (width, height) = (mask.width(), mask.height());
    let shape = match annotation.shape(width, height) {
        Ok(shape) => shape,
        Err(message) => return scan.find(FindingKind::BadRow, at, message),
    };
    if let Some([x, y]) = shape.outside {
        let message = format!("it reaches to ({x}, {y}), beyond its image of {width}x{height}");
        if shape.mask.any() {
            scan.find(FindingKind::Outside, at, message + ", and is cut off there");
        } else {
            return scan.find(
                FindingKind::BadRow,
                at,
                message + ", and marks no pixel within",
            );
        }
    } else if !shape.mask.any() {
        let message = "it is too thin to hold the centre of a pixel and marks none";
        scan.find(FindingKind::EmptyMask, at, message);
    }
    mask.unite(&shape.mask);
}

/// Tells of images that lie beside those of the file.
fn tell_others(scan: &mut Scan, places: &[String]) -> Result<(), Error> {
    let known: BTreeSet<&str> = places.iter().map(String::as_str).collect();
    let folders: BTreeSet<&str> = places
        .iter()
        .filter(|place| Path::new(place).is_relative())
        .map(|place| place.rsplit_once('/').map_or("", |(folder, _)| folder))
        .filter(|folder| scan.path(folder).is_dir())
        .collect();
    for folder in folders {
        let mut others = scan.list(folder)?.images;
        others.retain(|name| !known.contains(below(folder, name).as_str()));
        scan.tell_unlabelled(folder, &others);
    }
    Ok(())
}
