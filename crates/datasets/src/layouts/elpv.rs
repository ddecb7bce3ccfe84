//! ELPV: solar cells in electroluminescence images, each with the probability that it is
//! defective and its type. As in InCTRL's conversion, probability 0 is normal, 1 is anomalous (of
//! the kind `mono` or `poly`), and what experts doubted (1/3 and 2/3) is left out.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use anomalens_vision::MaskSource;

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::listed::tell_missing;
use crate::layouts::{About, Layout, Published, SPLIT_IN_FILE_ORDER, missing_entries};
use crate::listing::below;
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;
use crate::text::read_text;

const LABELS: &str = "labels.csv";
const IMAGES: &str = "images";

pub(super) const LAYOUT: Layout = Layout {
    name: "elpv",
    summary: "ELPV, solar cells in electroluminescence images",
    expects: "labels.csv (path, probability of a defect, mono or poly), images/*",
    split: SPLIT_IN_FILE_ORDER,
    about: Some(About {
        title: "ELPV",
        licence: "CC BY-NC-SA 4.0",
        citation: "C. Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective \
            Solar Cells in Electroluminescence Imagery, EU PVSEC, 2018",
        obtain: "repository zae-bayern/elpv-dataset on GitHub; here by `anomalens models path elpv`",
        published: Published::Kinds(&[(GOOD, 1508), ("mono", 313), ("poly", 402)]),
        published_in: "labels.csv of the data set, probabilities 0 and 1",
    }),
    missing: |root| Ok(missing_entries(root, &[LABELS, IMAGES])),
    scan,
};

fn scan(scan: &mut Scan) -> Result<(), Error> {
    scan.tell_all_but(&[LABELS, IMAGES])?;

    let text = read_text(&scan.path(LABELS))?;
    let mut listed = BTreeSet::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let at = format!("{LABELS}, line {}", index + 1);
        let row = match Row::parse(line) {
            Ok(row) => row,
            Err(message) => {
                scan.find(FindingKind::BadRow, at, message);
                continue;
            }
        };
        if !listed.insert(row.image) {
            scan.find(
                FindingKind::BadRow,
                at,
                format!("{} is listed twice", row.image),
            );
        } else if !scan.path(row.image).is_file() {
            tell_missing(scan, row.image, &at);
        } else if let Some(kind) = row.kind {
            scan.add(Item {
                image: row.image.to_owned(),
                crop: None,
                class: "solar cell",
                defect_type: kind,
                split: Split::Test,
                mask: MaskSource::Unknown,
            });
        }
    }

    let mut unlabelled = scan.images_in(IMAGES)?;
    unlabelled.retain(|name| !listed.contains(below(IMAGES, name).as_str()));
    scan.tell_unlabelled(IMAGES, &unlabelled);
    split_normals(&mut scan.samples);
    Ok(())
}

/// One line of `labels.csv`; `kind` is `None` where the experts were in doubt.
pub(crate) struct Row<'a> {
    image: &'a str,
    kind: Option<&'a str>,
}

impl<'a> Row<'a> {
    /// Columns are separated by any number of blanks.
    pub(crate) fn parse(line: &'a str) -> Result<Self, String> {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [image, probability, kind] = columns[..] else {
            return Err(format!(
                "3 columns expected (path, probability, type), {} found",
                columns.len()
            ));
        };
        if !Path::new(image)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(format!("the path {image} does not stay below the root"));
        }
        if kind != "mono" && kind != "poly" {
            return Err(format!("type mono or poly expected, `{kind}` found"));
        }
        let kind = match probability.parse() {
            Ok(0.0) => Some(GOOD),
            Ok(1.0) => Some(kind),
            Ok(doubtful) if (0.0..1.0).contains(&doubtful) => None,
            _ => {
                return Err(format!(
                    "probability from 0 to 1 expected, `{probability}` found"
                ));
            }
        };
        Ok(Self { image, kind })
    }
}
