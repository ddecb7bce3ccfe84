//! The registry of layouts: how published data sets lie on disk. A layout is one file here and
//! one line in [`LAYOUTS`]; it says what it expects, whether a folder looks like it, and walks
//! the folder. Sorted order is used wherever the authors' order depends on their file system.

mod aitex;
mod brainmri;
mod elpv;
mod folder;
mod headct;
mod labelled;
mod magnetic_tile;
mod sdd;
mod textile;
mod visa;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, nearest};
use crate::listing::below;
use crate::sample::{MaskSource, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;

static LAYOUTS: [Layout; 12] = [
    folder::LAYOUT,
    aitex::LAYOUT,
    brainmri::LAYOUT,
    labelled::CIFAR,
    labelled::CIFAR_MULTI,
    elpv::LAYOUT,
    headct::LAYOUT,
    magnetic_tile::LAYOUT,
    labelled::MNIST,
    sdd::LAYOUT,
    textile::LAYOUT,
    visa::LAYOUT,
];

/// The split of InCTRL's data conversions, over sorted names.
const SPLIT_SORTED: &str = "75% of the normal images, in sorted order, train (scikit-learn's \
    train_test_split, random state 42); the authors' own order depends on their file system";
/// The split of InCTRL's data conversions, over the rows of a label file.
const SPLIT_IN_FILE_ORDER: &str = "75% of the normal images, in the order of labels.csv, train \
    (scikit-learn's train_test_split, random state 42), as in InCTRL";

pub(crate) use labelled::CIFAR_10;

/// How a data set lies on disk.
#[derive(Debug, Serialize)]
pub struct Layout {
    /// Name in a data reference.
    pub name: &'static str,
    /// What it is, in one clause.
    pub summary: &'static str,
    /// The files and folders it consists of.
    pub expects: &'static str,
    /// Which samples are for training.
    pub split: &'static str,
    /// The data set published in this layout; `None` if it is for anybody's data.
    pub about: Option<About>,
    /// What the folder lacks to be in this layout, as a clause; `None` if it is in it.
    #[serde(skip)]
    missing: fn(&Path) -> Result<Option<String>, Error>,
    #[serde(skip)]
    scan: fn(&mut Scan) -> Result<(), Error>,
}

/// A published data set.
#[derive(Debug, Serialize)]
pub struct About {
    /// Its name.
    pub title: &'static str,
    /// Terms of use, as its owners state them.
    pub licence: &'static str,
    /// Whom to cite.
    pub citation: &'static str,
    /// Published numbers of samples by kind, over all splits.
    pub published: &'static [(&'static str, usize)],
    /// Where these numbers are from.
    pub published_in: &'static str,
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Layout {}

impl Layout {
    /// Whether the folder looks like this layout.
    ///
    /// # Errors
    /// When it does not: the error says what is missing, and which layouts it looks like.
    pub fn recognise(&self, root: &Path) -> Result<(), Error> {
        let Some(missing) = (self.missing)(root)? else {
            return Ok(());
        };
        Err(Error::WrongLayout {
            layout: self.name,
            root: root.to_owned(),
            missing,
            expects: self.expects,
            fits: layouts()
                .iter()
                .filter(|other| matches!((other.missing)(root), Ok(None)))
                .map(|other| other.name)
                .collect(),
        })
    }

    pub(crate) fn scan(&self, scan: &mut Scan) -> Result<(), Error> {
        (self.scan)(scan)
    }
}

/// All layouts.
pub fn layouts() -> &'static [Layout] {
    &LAYOUTS
}

/// The layout of this name.
///
/// # Errors
/// When there is none; the error has the nearest name.
pub fn layout(name: &str) -> Result<&'static Layout, Error> {
    layouts()
        .iter()
        .find(|layout| layout.name == name)
        .ok_or_else(|| Error::UnknownLayout {
            name: name.to_owned(),
            nearest: nearest(name, layouts().iter().map(|layout| layout.name)),
        })
}

/// The clause that says which of the entries the folder lacks.
fn missing_entries(root: &Path, entries: &[&str]) -> Option<String> {
    let missing: Vec<&str> = entries
        .iter()
        .copied()
        .filter(|entry| !root.join(entry).exists())
        .collect();
    match missing.as_slice() {
        [] => None,
        [one] => Some(format!("{one} is missing")),
        several => Some(format!("{} are missing", several.join(", "))),
    }
}

/// The rows below the header of a table of comma-separated values.
fn read_rows<Row: DeserializeOwned>(path: &Path) -> Result<Vec<Result<Row, csv::Error>>, Error> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(|error| Error::reading(path, error.into()))?;
    Ok(reader.deserialize().collect())
}

/// Scans a root whose folders are the labels, without masks, and splits the normal images.
/// `kinds` are the folders and the kinds of what is in them.
fn scan_kinds(scan: &mut Scan, class: &str, kinds: &[(&str, &str)]) -> Result<(), Error> {
    let folders: Vec<&str> = kinds.iter().map(|(folder, _)| *folder).collect();
    scan.tell_strays("", &folders)?;
    for (folder, kind) in kinds {
        for image in scan.images_in(folder)? {
            scan.add(Item {
                image: below(folder, &image),
                crop: None,
                class,
                kind,
                split: Split::Test,
                mask: MaskSource::Absent,
            });
        }
    }
    split_normals(&mut scan.samples);
    Ok(())
}
