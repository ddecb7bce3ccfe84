//! What can be wrong with a data set, kind by kind.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The labels, images or masks cannot be trusted. Those that show without reading the images
    /// keep the data set from being opened.
    Error,
    /// Worth knowing; the data set can be used.
    Warning,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A file that a label names does not exist.
    MissingFile,
    /// A folder that the layout requires does not exist.
    MissingFolder,
    /// A row of a label file cannot be understood, or contradicts another.
    BadRow,
    /// A column of a table that is not known; it is not used.
    UnusedColumn,
    /// A folder of images where folders are labels, whose name is no known label.
    UnknownKind,
    /// An image cannot be decoded, or not be cut as the layout asks.
    UnreadableImage,
    /// An anomalous image of a class with masks has none.
    MissingMask,
    /// A mask belongs to no image.
    MaskWithoutImage,
    /// Two masks fit one image, or one mask fits two images.
    AmbiguousMask,
    /// Pairing masks by position, as published figures rest on, would pair others than pairing by
    /// name.
    MaskOrder,
    /// A mask and its image differ in size.
    MaskSize,
    /// The mask of an anomalous image marks no pixel.
    EmptyMask,
    /// A mask marks nearly all of its image.
    FullMask,
    /// An outline reaches beyond its image.
    Outside,
    /// The mask of a normal image marks pixels.
    MaskOfNormal,
    /// An image that nothing labels; it is left out.
    UnlabelledFile,
    /// A file or folder that is no part of the layout; it is left out.
    UnexpectedFile,
    /// The same bytes in training and test, or under two labels.
    Duplicate,
    /// A folder is empty, or a class has no training or no test images.
    NoImages,
    /// The number of samples differs from the published one.
    Counts,
}

impl FindingKind {
    /// How bad findings of this kind are.
    pub fn severity(self) -> Severity {
        match self {
            Self::MissingFile
            | Self::MissingFolder
            | Self::BadRow
            | Self::UnknownKind
            | Self::UnreadableImage
            | Self::MissingMask
            | Self::MaskWithoutImage
            | Self::AmbiguousMask
            | Self::MaskOrder
            | Self::MaskSize => Severity::Error,
            Self::UnusedColumn
            | Self::EmptyMask
            | Self::FullMask
            | Self::Outside
            | Self::MaskOfNormal
            | Self::UnlabelledFile
            | Self::UnexpectedFile
            | Self::Duplicate
            | Self::NoImages
            | Self::Counts => Severity::Warning,
        }
    }
}

/// One thing found wrong, or worth knowing, in a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub kind: FindingKind,
    /// The file, folder, sample or class it is about, as a path below the root or a name.
    pub at: String,
    /// What was found, in one clause.
    pub message: String,
}

impl Finding {
    pub(crate) fn new(
        kind: FindingKind,
        at: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity: kind.severity(),
            kind,
            at: at.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}
