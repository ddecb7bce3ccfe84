//! HeadCT: slices of head scans with and without a haemorrhage, labelled in a table. Split as in
//! InCTRL's conversion, in the order of the table. As AnomalyCLIP expects it, labelled by folders,
//! all of it is for the test.

use std::collections::BTreeSet;

use anomalens_vision::MaskSource;
use serde::Deserialize;

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::folder::{is_class, scan_class};
use crate::layouts::listed::tell_missing;
use crate::layouts::{About, Layout, Published, SPLIT_IN_FILE_ORDER, missing_entries, read_rows};
use crate::listing::below;
use crate::sample::{GOOD, Label, Sample, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;
use crate::text::read_text;

const LABELS: &str = "labels.csv";
const IMAGES: &str = "head_ct";
/// Where the owner's archive, unpacked as it is, has the images.
const IMAGES_IN_ARCHIVE: &str = "head_ct/head_ct";
/// The class, and its folder where folders are labels.
const CLASS: &str = "brain";
const KIND: &str = "hemorrhage";

pub(super) const LAYOUT: Layout = Layout {
    name: "headct",
    summary: "HeadCT, head scans with and without a haemorrhage",
    expects: "labels.csv (id, hemorrhage), head_ct/NNN.png or head_ct/head_ct/NNN.png; or \
        brain/test/good and brain/test/KIND",
    split: SPLIT_IN_FILE_ORDER,
    about: Some(About {
        title: "Head CT - hemorrhage",
        licence: "stated on the owner's page; none comes with the files",
        citation: "F. C. Kitamura, Head CT - hemorrhage, Kaggle, 2018",
        obtain: "www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage",
        published: Published::Kinds(&[(GOOD, 100), (KIND, 100)]),
        published_in: "the data set's page",
    }),
    missing: |root| {
        let in_folders = is_class(&root.join(CLASS));
        Ok(missing_entries(root, &[LABELS, IMAGES]).filter(|_| !in_folders))
    },
    scan,
};

/// A line of `labels.csv`.
#[derive(Deserialize)]
pub(crate) struct Row {
    id: u32,
    hemorrhage: u8,
}

impl Row {
    /// The id and the kind.
    pub(crate) fn read(self) -> Result<(u32, &'static str), String> {
        match self.hemorrhage {
            0 => Ok((self.id, GOOD)),
            1 => Ok((self.id, KIND)),
            other => Err(format!("hemorrhage 0 or 1 expected, {other} found")),
        }
    }
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    if is_class(&scan.path(CLASS)) {
        return scan_folders(scan);
    }
    scan.tell_all_but(&[LABELS, IMAGES])?;
    let images = scan.first_there(&[IMAGES_IN_ARCHIVE, IMAGES]);

    let mut listed = BTreeSet::new();
    for (line, row) in read_rows::<Row>(&read_text(&scan.path(LABELS))?) {
        let at = format!("{LABELS}, line {line}");
        let (id, kind) = match row.and_then(Row::read) {
            Ok(read) => read,
            Err(message) => {
                scan.find(FindingKind::BadRow, at, message);
                continue;
            }
        };
        let name = format!("{id:03}.png");
        let image = below(images, &name);
        if !listed.insert(name) {
            scan.find(FindingKind::BadRow, at, format!("id {id} is listed twice"));
        } else if !scan.path(&image).is_file() {
            tell_missing(scan, &image, &at);
        } else {
            scan.add(Item {
                image,
                crop: None,
                class: CLASS,
                defect_type: kind,
                split: Split::Test,
                mask: MaskSource::Unknown,
            });
        }
    }

    let mut unlabelled = scan.images_in(images)?;
    unlabelled.retain(|name| !listed.contains(name));
    scan.tell_unlabelled(images, &unlabelled);
    split_normals(&mut scan.samples);
    Ok(())
}

/// Folders as labels: the anomalous ones by any name.
fn scan_folders(scan: &mut Scan) -> Result<(), Error> {
    scan.tell_strays("", &[CLASS])?;
    scan_class(scan, CLASS, CLASS)?;
    let anomalous = |sample: &&mut Sample| sample.label == Label::Anomalous;
    for sample in scan.samples.iter_mut().filter(anomalous) {
        KIND.clone_into(&mut sample.defect_type);
    }
    Ok(())
}
