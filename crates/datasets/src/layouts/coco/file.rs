//! What stands in a COCO file, as far as it is of use here.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::Error;

#[derive(Debug, Deserialize)]
pub(super) struct File {
    pub(super) images: Vec<Image>,
    #[serde(default)]
    pub(super) annotations: Vec<Annotation>,
    #[serde(default)]
    pub(super) categories: Vec<Category>,
}

/// A number in COCO's own files, a text in some others.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged)]
pub(super) enum Id {
    Number(i64),
    Text(String),
}

#[derive(Debug, Deserialize)]
pub(super) struct Image {
    pub(super) id: Id,
    pub(super) file_name: String,
    pub(super) width: Option<u32>,
    pub(super) height: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Annotation {
    pub(super) id: Option<Id>,
    pub(super) image_id: Id,
    pub(super) category_id: Option<Id>,
    pub(super) segmentation: Option<Segmentation>,
    /// Left, top, width, height.
    #[serde(default)]
    pub(super) bbox: Vec<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Segmentation {
    /// Polygons, each as x, y, x, y, ...
    Polygons(Vec<Vec<f64>>),
    Runs {
        /// Height and width.
        size: [u32; 2],
        counts: Counts,
    },
}

/// Lengths of runs down the columns, beginning with pixels that are not marked.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Counts {
    Plain(Vec<u32>),
    /// As COCO's tools compress them.
    Packed(String),
}

#[derive(Debug, Deserialize)]
pub(super) struct Category {
    pub(super) id: Id,
    pub(super) name: String,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::reading(path, source))?;
        serde_json::from_str(&text).map_err(|error| Error::NoJson {
            path: path.to_owned(),
            error,
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}
