//! A data set that is open for use: every label is known and every mask found.

use std::path::PathBuf;

use crate::data_ref::DataRef;
use crate::error::Error;
use crate::finding::Severity;
use crate::layouts::Layout;
use crate::sample::{Label, Sample, Split};
use anomalens_base::nearest;

/// The samples of a data set.
#[derive(Debug, Clone)]
pub struct DataSet {
    /// How it is laid out; `layout.about` has its licence, citation and published counts.
    pub layout: &'static Layout,
    /// The folder that it is in, or that its list is in.
    pub root: PathBuf,
    /// Names of the classes, sorted.
    pub classes: Vec<String>,
    /// All samples: by class, and within a class in the layout's order (sorted, or that of the
    /// label file).
    pub samples: Vec<Sample>,
    /// Whether pixel-level metrics are possible for at least one class.
    pub has_masks: bool,
}

impl DataSet {
    /// Opens a data set. Images are not read, but for those that label others.
    ///
    /// # Errors
    /// When the folder is missing, in another layout or without images, or when a label or a mask
    /// is missing or ambiguous; [`check`](crate::check()) reports all that is wrong.
    pub fn open(data: &DataRef) -> Result<Self, Error> {
        let scan = data.scan()?;
        let mut errors = scan
            .findings
            .into_iter()
            .filter(|finding| finding.severity == Severity::Error);
        if let Some(first) = errors.next() {
            return Err(Error::Unsound {
                data: data.to_string(),
                errors: 1 + errors.count(),
                first,
            });
        }
        Ok(Self {
            layout: data.layout,
            root: scan.root,
            classes: classes(&scan.samples),
            has_masks: scan.samples.iter().any(|sample| sample.mask.is_marked()),
            samples: scan.samples,
        })
    }

    /// The class of this name.
    ///
    /// # Errors
    /// When there is none; the error has the nearest name.
    pub fn class(&self, name: &str) -> Result<&str, Error> {
        self.classes
            .iter()
            .find(|class| *class == name)
            .map(String::as_str)
            .ok_or_else(|| Error::UnknownClass {
                name: name.to_owned(),
                nearest: nearest(name, self.classes.iter().map(String::as_str)),
                classes: self.classes.clone(),
            })
    }

    /// The normal training samples of a class; none if there is no such class.
    pub fn train_normals(&self, class: &str) -> impl Iterator<Item = &Sample> {
        self.of(class, Split::Train)
            .filter(|sample| sample.label == Label::Normal)
    }

    /// The test samples of a class; none if there is no such class.
    pub fn test(&self, class: &str) -> impl Iterator<Item = &Sample> {
        self.of(class, Split::Test)
    }

    fn of(&self, class: &str, split: Split) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.class == class && sample.split == split)
    }
}

/// The names of the classes, sorted.
pub(crate) fn classes(samples: &[Sample]) -> Vec<String> {
    let mut classes: Vec<String> = samples.iter().map(|sample| sample.class.clone()).collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}
