//! VisA: twelve kinds of products, labelled and split by the owners' table for one-class training.

use std::path::{Component, Path};

use anomalens_vision::MaskSource;
use serde::Deserialize;

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::listed::tell_missing;
use crate::layouts::{About, Layout, Published, missing_entries, read_rows};
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};
use crate::text::read_text;

const TABLE: &str = "split_csv/1cls.csv";

pub(super) const LAYOUT: Layout = Layout {
    name: "visa",
    summary: "VisA, twelve kinds of products",
    expects: "split_csv/1cls.csv (object, split, label, image, mask), CLASS/Data/Images/Normal, \
        CLASS/Data/Images/Anomaly, CLASS/Data/Masks/Anomaly",
    split: "as split_csv/1cls.csv says",
    about: Some(About {
        title: "VisA",
        licence: "CC BY 4.0",
        citation: "Y. Zou, J. Jeong, L. Pemula, D. Zhang, O. Dabeer, SPot-the-Difference \
            Self-Supervised Pre-training for Anomaly Detection and Segmentation, ECCV 2022",
        obtain: "repository amazon-science/spot-diff on GitHub",
        published: Published::Classes(&[
            ("candle", [900, 100, 100]),
            ("capsules", [542, 60, 100]),
            ("cashew", [450, 50, 100]),
            ("chewinggum", [453, 50, 100]),
            ("fryum", [450, 50, 100]),
            ("macaroni1", [900, 100, 100]),
            ("macaroni2", [900, 100, 100]),
            ("pcb1", [904, 100, 100]),
            ("pcb2", [901, 100, 100]),
            ("pcb3", [905, 101, 100]),
            ("pcb4", [904, 101, 100]),
            ("pipe_fryum", [450, 50, 100]),
        ]),
        published_in: "split_csv/1cls.csv of the data set",
    }),
    missing: |root| Ok(missing_entries(root, &[TABLE])),
    scan,
};

/// A line of the table.
#[derive(Deserialize)]
pub(crate) struct Row {
    object: String,
    split: String,
    label: String,
    image: String,
    mask: String,
}

impl Row {
    fn split(&self) -> Result<Split, String> {
        match self.split.as_str() {
            "train" => Ok(Split::Train),
            "test" => Ok(Split::Test),
            other => Err(format!("split train or test expected, `{other}` found")),
        }
    }

    fn kind(&self) -> Result<&'static str, String> {
        match self.label.as_str() {
            "normal" => Ok(GOOD),
            "anomaly" => Ok("anomaly"),
            other => Err(format!("label normal or anomaly expected, `{other}` found")),
        }
    }
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    for (line, row) in read_rows::<Row>(&read_text(&scan.path(TABLE))?) {
        let at = format!("{TABLE}, line {line}");
        let read = row.and_then(|row| Ok((row.split()?, row.kind()?, row)));
        let (split, kind, row) = match read {
            Ok(read) => read,
            Err(message) => {
                scan.find(FindingKind::BadRow, at, message);
                continue;
            }
        };
        let mut files = vec![row.image.as_str()];
        if !row.mask.is_empty() {
            files.push(&row.mask);
        }
        let mut all_there = true;
        for file in files {
            if !stays_below(file) {
                let message = format!("the path {file} does not stay below the root");
                scan.find(FindingKind::BadRow, &at, message);
            } else if !scan.path(file).is_file() {
                tell_missing(scan, file, &at);
            } else {
                continue;
            }
            all_there = false;
        }
        if !all_there {
            continue;
        }
        let mask = match (kind, row.mask.as_str()) {
            (GOOD, _) => MaskSource::Empty,
            (_, "") => {
                scan.find(
                    FindingKind::MissingMask,
                    &row.image,
                    format!("{at} has none"),
                );
                continue;
            }
            (_, mask) => MaskSource::File(scan.path(mask).into()),
        };
        scan.add(Item {
            image: row.image,
            crop: None,
            class: &row.object,
            defect_type: kind,
            split,
            mask,
        });
    }
    scan.samples.sort_by(|a, b| a.class.cmp(&b.class));
    Ok(())
}

fn stays_below(path: &str) -> bool {
    Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
}
