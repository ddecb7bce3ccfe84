//! A cell of the tables: the result of one method on one class with one draw of normal images. It is
//! a line of `results.jsonl`, with the score of every image, so that methods can be compared later.

use anomalens_base::ContentHash;
use anomalens_datasets::{DataSet, MaskReading, MaskSource};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use anomalens_evaluation::results::Record;
use anomalens_evaluation::{ClassResult, Metrics};

/// Which cell it is, and everything that its result follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellName {
    /// The data set: its layout, or for anybody's data where it lies.
    pub data: String,
    /// The class.
    pub class: String,
    /// The method.
    pub method: String,
    /// Normal images that it was given; none for methods that need none.
    pub shots: Option<usize>,
    /// The seed of their choice.
    pub seed: u32,
    /// What else the result follows from: settings, weights, version, the data's fingerprint.
    pub settings: Value,
}

impl CellName {
    /// The method, with its shots.
    pub(crate) fn entry(&self) -> String {
        match self.shots {
            Some(1) => format!("{}, 1 shot", self.method),
            Some(shots) => format!("{}, {shots} shots", self.method),
            None => self.method.clone(),
        }
    }

    /// Unique in a folder of results: another setting, another cell.
    pub(crate) fn key(&self) -> String {
        digest(&format!(
            "{} {} {} {:?} {} {}",
            self.data, self.class, self.method, self.shots, self.seed, self.settings
        ))
    }
}

/// A finished cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Which it is.
    #[serde(flatten)]
    pub name: CellName,
    /// The metrics.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// What could not be computed, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undefined: Vec<String>,
    /// Images without a score: unreadable, or their score is not a number.
    pub failed: usize,
    /// Time for fitting and scoring.
    pub seconds: f64,
    /// What each image scored.
    pub images: Vec<ImageScore>,
}

/// The score of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageScore {
    /// The image's id in its data set.
    pub id: String,
    /// Whether it is labelled anomalous.
    pub anomalous: bool,
    /// Its score.
    pub score: f32,
}

impl Record for Cell {
    fn key(&self) -> String {
        self.name.key()
    }

    /// A cell with unreadable images is measured again: they may have been mended.
    fn is_final(&self) -> bool {
        self.failed == 0
    }
}

impl Cell {
    pub(crate) fn new(name: CellName, result: ClassResult, seconds: f64) -> Self {
        let images: Vec<ImageScore> = result
            .images
            .iter()
            .filter_map(|record| {
                Some(ImageScore {
                    id: record.sample.id.clone(),
                    anomalous: record.is_anomalous(),
                    score: record.score().filter(|score| score.is_finite())?,
                })
            })
            .collect();
        Self {
            name,
            metrics: result.metrics,
            undefined: result.undefined,
            failed: result.images.len() - images.len(),
            seconds,
            images,
        }
    }
}

/// What distinguishes the samples of `class` from others: their names, labels and splits, and the
/// sizes of their files. The same data on another machine has the same fingerprint.
pub(crate) fn fingerprint(data: &DataSet, class: &str) -> String {
    let bytes = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let samples = data.samples.iter().filter(|sample| sample.class == class);
    let lines = samples.map(|sample| {
        let mask = match &sample.mask {
            MaskSource::File(file) if file.reading == MaskReading::default() => {
                bytes(&file.path).to_string()
            }
            MaskSource::File(file) => format!("{} {:?}", bytes(&file.path), file.reading),
            MaskSource::Outlines(mask) => format!("{mask:?}"),
            MaskSource::Empty => "empty".to_owned(),
            MaskSource::Unknown => "absent".to_owned(),
        };
        let (id, defect_type, split) = (&sample.id, &sample.defect_type, sample.split);
        format!(
            "{id} {defect_type} {split} {} {mask}\n",
            bytes(&sample.image)
        )
    });
    digest(&lines.collect::<String>())
}

/// The first 16 hexadecimal digits of the SHA-256 of `text`.
pub(crate) fn digest(text: &str) -> String {
    ContentHash::of_bytes(text.as_bytes()).short()
}
