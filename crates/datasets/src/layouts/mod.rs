//! The registry of layouts: how published data sets lie on disk. A layout is one file here and
//! one line in [`LAYOUTS`]; it says what it expects, whether a folder looks like it, and walks
//! the folder. Sorted order is used wherever the authors' order depends on their file system.

mod aitex;
mod br35h;
mod brainmri;
pub(crate) mod coco;
mod covid_19;
mod dagm;
pub(crate) mod elpv;
mod folder;
pub(crate) mod headct;
mod labelled;
mod lesions;
mod listed;
mod magnetic_tile;
pub(crate) mod manifest;
pub(crate) mod meta;
mod mvtec;
mod sdd;
mod textile;
pub(crate) mod visa;

use std::path::Path;

use anomalens_vision::MaskSource;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::listing::below;
use crate::sample::Split;
use crate::scan::{Item, Scan};
use anomalens_base::nearest;

static LAYOUTS: &[Layout] = &[
    folder::LAYOUT,
    manifest::LAYOUT,
    coco::LAYOUT,
    meta::LAYOUT,
    aitex::LAYOUT,
    br35h::LAYOUT,
    brainmri::LAYOUT,
    mvtec::BTAD,
    labelled::CIFAR,
    labelled::CIFAR_MULTI,
    covid_19::LAYOUT,
    lesions::CVC_CLINICDB,
    lesions::CVC_COLONDB,
    dagm::LAYOUT,
    mvtec::DTD_SYNTHETIC,
    elpv::LAYOUT,
    lesions::ENDO,
    headct::LAYOUT,
    lesions::ISIC,
    lesions::KVASIR,
    magnetic_tile::LAYOUT,
    labelled::MNIST,
    mvtec::MPDD,
    mvtec::MVTEC,
    sdd::LAYOUT,
    textile::LAYOUT,
    lesions::TN3K,
    lesions::TN3K_TRAINING,
    visa::LAYOUT,
];

/// The split of InCTRL's data conversions, over sorted names.
const SPLIT_SORTED: &str = "75% of the normal images, in sorted order, train (scikit-learn's \
    train_test_split, random state 42); the authors' own order depends on their file system";
/// The split of InCTRL's data conversions, over the rows of a label file.
const SPLIT_IN_FILE_ORDER: &str = "75% of the normal images, in the order of labels.csv, train \
    (scikit-learn's train_test_split, random state 42), as in InCTRL";

/// The split of sets that AnomalyCLIP's scripts do not split.
const ALL_TEST: &str = "all images are for the test, as AnomalyCLIP's scripts have it";

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
    /// What the folder (or file) lacks to be in this layout, as a clause; `None` if it is in it.
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
    /// Where its owners publish it.
    pub obtain: &'static str,
    /// Published numbers of samples.
    pub published: Published,
    /// Where these numbers are from.
    pub published_in: &'static str,
}

/// Published numbers of samples.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Published {
    /// Of each kind, over all classes and splits.
    Kinds(&'static [(&'static str, usize)]),
    /// Of each class: for training, normal and anomalous for the test.
    Classes(&'static [(&'static str, [usize; 3])]),
    /// For the test over all classes: normal and anomalous.
    Test([usize; 2]),
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
                .filter(|other| other.fits(root))
                .map(|other| other.name)
                .collect(),
        })
    }

    pub(crate) fn fits(&self, root: &Path) -> bool {
        matches!((self.missing)(root), Ok(None))
    }

    pub(crate) fn scan(&self, scan: &mut Scan) -> Result<(), Error> {
        (self.scan)(scan)
    }
}

/// All layouts.
pub fn layouts() -> &'static [Layout] {
    LAYOUTS
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

/// The rows below the header of comma-separated values, each with its line.
pub(crate) fn read_rows<Row: DeserializeOwned>(text: &str) -> Vec<(usize, Result<Row, String>)> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let rows = reader.deserialize().enumerate();
    // The first line is the header.
    rows.map(|(index, row)| (index + 2, row.map_err(|error| error.to_string())))
        .collect()
}

/// Scans folders below `base` that are labels, without masks, all for the test; "" is the root.
/// `kinds` are the folders and the kinds of what is in them.
fn scan_kinds(
    scan: &mut Scan,
    base: &str,
    class: &str,
    kinds: &[(&str, &str)],
) -> Result<(), Error> {
    for (folder, kind) in kinds {
        scan_images(scan, &below(base, folder), class, kind)?;
    }
    Ok(())
}

/// Takes all images of a folder for the test, without masks.
fn scan_images(scan: &mut Scan, folder: &str, class: &str, kind: &str) -> Result<(), Error> {
    for image in scan.images_in(folder)? {
        scan.add(Item {
            image: below(folder, &image),
            crop: None,
            class,
            defect_type: kind,
            split: Split::Test,
            mask: MaskSource::Unknown,
        });
    }
    Ok(())
}
