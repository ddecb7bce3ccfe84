//! DAGM 2007: ten drawn textures. An image is anomalous if the folder `Label` within has a file for
//! it, an ellipse around the defect called after the part of its name before the first `_`.
//! Anomalies lie among the training images too; only the normal ones serve as references.

use std::collections::BTreeSet;

use anomalens_vision::MaskSource;

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::{About, Layout, Published, missing_entries};
use crate::listing::{below, stem};
use crate::pairing::{Files, pair_masks};
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};

const CLASSES: usize = 10;
const SPLITS: [(&str, Split); 2] = [("Train", Split::Train), ("Test", Split::Test)];
const LABELS: &str = "Label";
const KIND: &str = "defect";

pub(super) const LAYOUT: Layout = Layout {
    name: "dagm",
    summary: "DAGM 2007, ten drawn textures",
    expects: "Class1/Train/*.PNG, Class1/Train/Label/*_label.PNG, Class1/Test likewise, to Class10",
    split: "as the folders Train and Test say",
    about: Some(About {
        title: "DAGM 2007",
        licence: "CC BY 4.0",
        citation: "M. Wieler, T. Hahn, F. A. Hamprecht, Weakly Supervised Learning for Industrial \
            Optical Inspection, DAGM 2007",
        obtain: "zenodo.org/records/8086136; also www.kaggle.com/datasets/mhskjelvareid/\
            dagm-2007-competition-dataset-optical-inspection",
        published: Published::Kinds(&[(GOOD, 14000), (KIND, 2100)]),
        published_in: "the competition's description",
    }),
    missing: |root| Ok(missing_entries(root, &["Class1/Train", "Class1/Test"])),
    scan,
};

fn scan(scan: &mut Scan) -> Result<(), Error> {
    let classes: Vec<String> = (1..=CLASSES).map(|i| format!("Class{i}")).collect();
    let names: Vec<&str> = classes.iter().map(String::as_str).collect();
    scan.tell_strays("", &names)?;
    for class in names {
        let splits = SPLITS.map(|(folder, _)| folder);
        if !scan.path(class).is_dir() {
            continue;
        }
        scan.tell_strays(class, &splits)?;
        for (folder, split) in SPLITS {
            scan_split(scan, class, &below(class, folder), split)?;
        }
    }
    scan.samples.sort_by(|a, b| a.class.cmp(&b.class));
    Ok(())
}

fn scan_split(scan: &mut Scan, class: &str, folder: &str, split: Split) -> Result<(), Error> {
    let label_folder = below(folder, LABELS);
    if !scan.path(&label_folder).is_dir() {
        let message = "no such folder; without it no image is known to be normal";
        scan.find(FindingKind::MissingFolder, label_folder, message);
        return Ok(());
    }
    let labels = scan.list(&label_folder)?.images;
    let mut listing = scan.list(folder)?;
    listing.folders.retain(|name| name != LABELS);
    scan.tell_unexpected(folder, &listing.folders);
    scan.tell_unexpected(folder, &listing.others);

    let stems = labels.iter().filter_map(|label| label.split('_').next());
    let stems: BTreeSet<&str> = stems.collect();
    let labelled = |image: &String| stems.contains(stem(image));
    let (anomalous, normal): (Vec<String>, Vec<String>) =
        listing.images.into_iter().partition(labelled);
    let images = Files {
        folder,
        names: &anomalous,
    };
    let masks = Files {
        folder: &label_folder,
        names: &labels,
    };
    let masks = pair_masks(scan, &images, &masks, &["_label"], false);
    let normal = normal.iter().map(|image| (image, GOOD, MaskSource::Empty));
    let anomalous = anomalous.iter().zip(masks);
    let anomalous = anomalous.map(|(image, mask)| (image, KIND, mask));
    for (image, kind, mask) in normal.chain(anomalous) {
        scan.add(Item {
            image: below(folder, image),
            crop: None,
            class,
            defect_type: kind,
            split,
            mask,
        });
    }
    Ok(())
}
