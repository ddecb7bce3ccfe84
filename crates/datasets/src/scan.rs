//! What a layout fills in as it walks a folder: samples, and findings on the way. Paths are
//! given below the root with `/` between names; "" is the root.

use std::path::{Path, PathBuf};

use anomalens_vision::{MaskReading, MaskSource};

use crate::error::Error;
use crate::finding::{Finding, FindingKind};
use crate::listing::{Listing, below, holds_images, list};
use crate::sample::{Crop, GOOD, Label, Sample, Split};

/// Most findings of a list: enough to see what is wrong with it.
const MAX_FINDINGS: usize = 100_000;

/// The state of a walk.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) root: PathBuf,
    /// The file that lists the samples, where one was given in place of the root.
    pub(crate) file: Option<PathBuf>,
    /// Whether this is a published data set, whose files have the names that its owners gave.
    pub(crate) published: bool,
    /// How mask files are read.
    pub(crate) masks: MaskReading,
    pub(crate) samples: Vec<Sample>,
    pub(crate) findings: Vec<Finding>,
}

/// A sample to be: its label follows from its defect type, [`GOOD`] being normal.
pub(crate) struct Item<'a> {
    pub(crate) image: String,
    pub(crate) crop: Option<Crop>,
    pub(crate) class: &'a str,
    pub(crate) defect_type: &'a str,
    pub(crate) split: Split,
    pub(crate) mask: MaskSource,
}

impl Scan {
    /// Of a folder, or of a file that lists the samples in its folder.
    pub(crate) fn new(given: &Path, published: bool, masks: MaskReading) -> Self {
        let (root, file) = match given.parent() {
            Some(folder) if given.is_file() => (folder, Some(given.to_owned())),
            _ => (given, None),
        };
        Self {
            // The folder of a bare file name is "", which cannot be read.
            root: if root == Path::new("") {
                PathBuf::from(".")
            } else {
                root.to_owned()
            },
            file,
            published,
            masks,
            samples: Vec::new(),
            findings: Vec::new(),
        }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    pub(crate) fn add(&mut self, mut item: Item<'_>) {
        if let MaskSource::File(file) = &mut item.mask {
            file.reading = self.masks;
        }
        let image = self.path(&item.image);
        self.samples.push(Sample {
            id: match item.crop {
                Some(crop) => format!("{}#{crop}", item.image),
                None => item.image,
            },
            image,
            crop: item.crop,
            label: if item.defect_type == GOOD {
                Label::Normal
            } else {
                Label::Anomalous
            },
            defect_type: item.defect_type.to_owned(),
            class: item.class.to_owned(),
            split: item.split,
            mask: item.mask,
        });
    }

    pub(crate) fn find(
        &mut self,
        kind: FindingKind,
        at: impl Into<String>,
        message: impl Into<String>,
    ) {
        match self.findings.len() {
            ..MAX_FINDINGS => self.findings.push(Finding::new(kind, at, message)),
            // An error, for there may be some among the others.
            MAX_FINDINGS => self.findings.push(Finding::new(
                FindingKind::BadRow,
                "data set",
                format!("more than {MAX_FINDINGS} findings; the others are left out"),
            )),
            _ => {}
        }
    }

    /// A path of a list as it is there: lists made on Windows have `\` between names.
    pub(crate) fn as_there(&self, path: &str) -> String {
        let slashes = path.replace('\\', "/");
        if slashes != path && !self.path(path).exists() && self.path(&slashes).exists() {
            slashes
        } else {
            path.to_owned()
        }
    }

    /// The first of these folders that is there, or else the last of them.
    pub(crate) fn first_there<'a>(&self, folders: &[&'a str]) -> &'a str {
        let there = |folder: &&&str| self.path(folder).is_dir();
        folders
            .iter()
            .find(there)
            .or(folders.last())
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn list(&self, folder: &str) -> Result<Listing, Error> {
        list(&self.path(folder))
    }

    /// The images of a folder that holds nothing else; what else there is, is reported.
    pub(crate) fn images_in(&mut self, folder: &str) -> Result<Vec<String>, Error> {
        let listing = self.list(folder)?;
        for name in &listing.folders {
            self.find(
                FindingKind::UnexpectedFile,
                below(folder, name),
                "a folder among images; it is not looked into",
            );
        }
        self.tell_unexpected(folder, &listing.others);
        if listing.images.is_empty() {
            self.find(
                FindingKind::NoImages,
                folder,
                "there are no images in this folder",
            );
        }
        Ok(listing.images)
    }

    /// The folders of a folder that holds nothing else; what else there is, is reported.
    pub(crate) fn folders_in(&mut self, folder: &str) -> Result<Vec<String>, Error> {
        let listing = self.list(folder)?;
        self.tell_unlabelled(folder, &listing.images);
        self.tell_unexpected(folder, &listing.others);
        Ok(listing.folders)
    }

    /// Reports images that nothing labels.
    pub(crate) fn tell_unlabelled(&mut self, folder: &str, images: &[String]) {
        for name in images {
            self.find(
                FindingKind::UnlabelledFile,
                below(folder, name),
                "nothing labels this image; it is left out",
            );
        }
    }

    /// Reports files and folders that the layout does not know.
    pub(crate) fn tell_unexpected(&mut self, folder: &str, names: &[String]) {
        for name in names {
            self.find(
                FindingKind::UnexpectedFile,
                below(folder, name),
                "no part of this layout; it is left out",
            );
        }
    }

    /// Reports whatever lies in the root besides the label file and the folder of images.
    pub(crate) fn tell_all_but(&mut self, known: &[&str]) -> Result<(), Error> {
        let Listing {
            mut folders,
            images,
            mut others,
        } = self.list("")?;
        folders.retain(|name| !known.contains(&name.as_str()));
        others.retain(|name| !known.contains(&name.as_str()));
        self.tell_unlabelled("", &images);
        self.tell_unexpected("", &folders);
        self.tell_unexpected("", &others);
        Ok(())
    }

    /// Reports whatever lies in a folder besides folders of these names.
    pub(crate) fn tell_strays(&mut self, folder: &str, known: &[&str]) -> Result<(), Error> {
        for name in self.folders_in(folder)? {
            if !known.contains(&name.as_str()) {
                self.tell_stray(below(folder, &name), &known.join(", "))?;
            }
        }
        Ok(())
    }

    /// Reports a folder which, where folders are labels, has no known label: an error if it
    /// holds images.
    pub(crate) fn tell_stray(&mut self, folder: String, expected: &str) -> Result<(), Error> {
        if holds_images(&self.path(&folder))? {
            self.find(
                FindingKind::UnknownKind,
                folder,
                format!("images under a name that is no known label (expected {expected})"),
            );
        } else {
            self.tell_unexpected("", &[folder]);
        }
        Ok(())
    }
}
