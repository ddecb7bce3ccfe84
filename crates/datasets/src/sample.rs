//! One labelled image, or one labelled part of an image, of a data set.

use std::fmt;
use std::path::PathBuf;

use anomalens_vision::MaskSource;
use serde::Serialize;

/// The defect type of every normal sample, whatever its folder is called.
pub const GOOD: &str = "good";

/// What a sample is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Normal images to fit on, from which shots are drawn.
    Train,
    /// Images to score.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// What a sample is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// Nothing is wrong with it.
    Normal,
    /// It shows an anomaly.
    Anomalous,
}

/// A rectangle of an image, in pixels from its top left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Crop {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl fmt::Display for Crop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.x, self.y, self.width, self.height)
    }
}

/// One image (or part of one) with its label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sample {
    /// Path of the image below the root with `/` between names, followed by `#x,y,width,height`
    /// where the sample is a crop. Unique in its data set and the same on every machine.
    pub id: String,
    /// The image file.
    pub image: PathBuf,
    /// The part of the image that is the sample; `None` for all of it.
    pub crop: Option<Crop>,
    /// Normal or anomalous.
    pub label: Label,
    /// [`GOOD`], or what the anomaly is called: "scratch", "crack".
    pub defect_type: String,
    /// What the image shows, in words fit for a prompt: "bottle", "solar cell".
    pub class: String,
    /// Training or test.
    pub split: Split,
    /// Where the true anomalous pixels are.
    pub mask: MaskSource,
}
