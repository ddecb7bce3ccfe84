//! Anybody's images with outlines of what is wrong with them, in one JSON file as COCO has it:
//! `images`, `annotations` (polygons, boxes or runs) and `categories`. An image without annotations
//! is normal; the category is the kind of an anomaly, and one that is called good, ok or normal
//! marks nothing. Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.

mod file;
mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anomalens_vision::{Mask, MaskSource, SparseMask};

use crate::decode::{dimensions, wrong_size};
use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::Layout;
use crate::layouts::folder::{is_normal, name_of};
use crate::layouts::listed::{Listed, UNNAMED_KIND};
use crate::listing::{below, list};
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;
use crate::text::read_json;

use file::{Annotation, File, Id, Image};
use shape::Drawn;

/// A folder that may hold the file, apart from those of the images.
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
    let file: File = read_json(&path)?;
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
            let place = |folder| scan.as_there(&below(folder, &image.file_name));
            let places = folders.iter().map(|folder| place(folder));
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
            // Its size makes no sense, which is reported.
            Some(None) => continue,
            Some(Some(Marks { kinds, mask })) => {
                let kinds: Vec<&str> = kinds.iter().copied().collect();
                (kinds.join(" + "), MaskSource::Outlines(mask.clone()))
            }
        };
        let item = Item {
            image: place.clone(),
            crop: None,
            class: &class,
            defect_type: &kind,
            split: Split::Test,
            mask,
        };
        listed.add(scan, &format!("image {}", image.id), item);
    }
    split_normals(&mut scan.samples);
    tell_others(scan, &places)
}

/// Where each id stands; those that are there twice are reported.
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

/// An annotation that marks an anomaly, and where it stands.
struct Mark<'a> {
    at: String,
    kind: &'a str,
    annotation: &'a Annotation,
}

/// The marks of each image that has some, none if they cannot be drawn, which is reported.
fn marks<'a>(
    scan: &mut Scan,
    file: &'a File,
    images: &BTreeMap<&Id, usize>,
    places: &[String],
) -> BTreeMap<usize, Option<Marks<'a>>> {
    let mut all = BTreeMap::new();
    for (image, marks) in by_image(scan, file, images) {
        let place = &places[image];
        if !scan.path(place).is_file() {
            continue; // Which is reported where the images are listed.
        }
        let drawn = blank(scan, &file.images[image], place).and_then(|mut mask| {
            for Mark { at, annotation, .. } in &marks {
                draw(scan, annotation, at, &mut mask);
            }
            SparseMask::of(&mask).map_err(|error| (FindingKind::BadRow, error.to_string()))
        });
        let drawn = drawn.map_err(|(kind, message)| scan.find(kind, place, message));
        let kinds = marks.iter().map(|mark| mark.kind).collect();
        all.insert(image, drawn.ok().map(|mask| Marks { kinds, mask }));
    }
    all
}

/// The annotations of each image; those that cannot be understood are reported.
fn by_image<'a>(
    scan: &mut Scan,
    file: &'a File,
    images: &BTreeMap<&Id, usize>,
) -> BTreeMap<usize, Vec<Mark<'a>>> {
    let ids = file.annotations.iter().filter_map(|a| a.id.as_ref());
    index(scan, "annotations", ids);
    let ids = file.categories.iter().map(|category| &category.id);
    let categories = index(scan, "categories", ids);

    let mut marks: BTreeMap<usize, Vec<Mark<'_>>> = BTreeMap::new();
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
        let mark = Mark {
            at,
            kind,
            annotation,
        };
        marks.entry(image).or_default().push(mark);
    }
    marks
}

/// A mask of the image's size, which must be the one that the file gives, if it gives one: nothing
/// is allocated on the file's word.
fn blank(scan: &Scan, image: &Image, place: &str) -> Result<Mask, (FindingKind, String)> {
    let unreadable = |message| (FindingKind::UnreadableImage, message);
    let size = dimensions(&scan.path(place)).map_err(unreadable)?;
    if let (Some(width @ 1..), Some(height @ 1..)) = (image.width, image.height)
        && (width, height) != size
    {
        let message = wrong_size("the size in the file", (width, height), size);
        return Err((FindingKind::MaskSize, message));
    }
    Mask::empty(size.0, size.1).map_err(|error| unreadable(error.to_string()))
}

/// Draws what an annotation marks, and reports what is odd about it.
fn draw(scan: &mut Scan, annotation: &Annotation, at: &str, mask: &mut Mask) {
    let (width, height) = (mask.width(), mask.height());
    let drawn = match annotation.draw(mask) {
        Ok(drawn) => drawn,
        Err(message) => return scan.find(FindingKind::BadRow, at, message),
    };
    match drawn {
        Drawn {
            outside: Some([x, y]),
            any,
        } => {
            let message = format!("it reaches to ({x}, {y}), beyond its image of {width}x{height}");
            let (kind, end) = if any {
                (FindingKind::Outside, ", and is cut off there")
            } else {
                (FindingKind::BadRow, ", and marks no pixel within")
            };
            scan.find(kind, at, message + end);
        }
        Drawn { any: false, .. } => {
            let message = "it is too thin to hold the centre of a pixel and marks none";
            scan.find(FindingKind::EmptyMask, at, message);
        }
        Drawn { any: true, .. } => {}
    }
}

/// Draws the annotations that can be drawn, each on a mask of its own, and counts them.
pub(crate) fn draw_each(text: &str) -> Result<usize, serde_json::Error> {
    /// Where the file does not say it, or claims much.
    const SIDE: u32 = 64;
    let file: File = serde_json::from_str(text)?;
    let drawn = file.annotations.iter().filter(|annotation| {
        let mut images = file.images.iter();
        let image = images.find(|image| image.id == annotation.image_id);
        let side = |side: Option<u32>| side.filter(|side| *side < 1024).unwrap_or(SIDE);
        let size = image.map_or((SIDE, SIDE), |image| {
            (side(image.width), side(image.height))
        });
        let mask = Mask::empty(size.0, size.1);
        mask.is_ok_and(|mut mask| annotation.draw(&mut mask).is_ok())
    });
    Ok(drawn.count())
}

/// Reports images that lie beside those of the file.
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
