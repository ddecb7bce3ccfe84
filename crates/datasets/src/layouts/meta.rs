//! `meta.json` of AnomalyCLIP and its relatives, read as they read it: an absolute path wins over
//! the root, a mask is looked at for anomalous images alone, and an anomalous image without one,
//! or with a folder in its place, shows no anomalous pixel if others of its class have masks.
//! DAGM's script writes `Train` and `Test` with capitals.

use std::collections::BTreeSet;

use anomalens_vision::MaskSource;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::listed::{Listed, UNNAMED_KIND, tell_missing};
use crate::layouts::{Layout, missing_entries};
use crate::meta::{Entry, FILE};
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};
use crate::text::read_json;

pub(super) const LAYOUT: Layout = Layout {
    name: "meta",
    summary: "a meta.json, as AnomalyCLIP's scripts and `anomalens data meta` write it",
    expects: "meta.json, or the path of such a file; paths in it are absolute, or start at its \
        folder",
    split: "as the file says",
    about: None,
    missing: |root| {
        let is_file = root.is_file();
        Ok(missing_entries(root, &[FILE]).filter(|_| !is_file))
    },
    scan,
};

/// An entry and where it is in the file.
pub(crate) struct Located<'a> {
    split: Split,
    class: &'a str,
    at: String,
    entry: Entry,
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    let file = scan.file.clone().unwrap_or_else(|| scan.path(FILE));
    let parts: Parts = read_json(&file)?;
    let located = locate(&parts, &mut |at, message| {
        scan.find(FindingKind::BadRow, at, message);
    });

    let names_mask = |entry: &Entry| entry.anomaly == 1 && !entry.mask_path.is_empty();
    let masked: BTreeSet<&str> = located
        .iter()
        .filter(|one| names_mask(&one.entry))
        .map(|one| one.class)
        .collect();
    let mut listed = Listed::default();
    for one in &located {
        let Some(mask) = mask(scan, one, masked.contains(one.class)) else {
            continue;
        };
        let item = Item {
            image: one.entry.img_path.clone(),
            crop: None,
            class: one.class,
            defect_type: kind(&one.entry),
            split: one.split,
            mask,
        };
        listed.add(scan, &one.at, item);
    }
    scan.samples.sort_by(|a, b| a.class.cmp(&b.class));
    Ok(())
}

/// What is in a `meta.json`: its two parts, if it is one.
pub(crate) type Parts = Map<String, Value>;

/// All entries that can be understood; what is wrong with the others is reported with where it is.
pub(crate) fn locate<'a>(
    parts: &'a Parts,
    tell: &mut dyn FnMut(String, String),
) -> Vec<Located<'a>> {
    let mut located = Vec::new();
    for (part, classes) in parts {
        let split = match part.to_lowercase().as_str() {
            "train" => Split::Train,
            "test" => Split::Test,
            _ => {
                tell(part.clone(), "neither train nor test".to_owned());
                continue;
            }
        };
        let Some(classes) = classes.as_object() else {
            tell(
                part.clone(),
                "classes with lists of images expected".to_owned(),
            );
            continue;
        };
        for (class, entries) in classes {
            let Some(entries) = entries.as_array() else {
                tell(
                    format!("{part}, {class}"),
                    "a list of images expected".to_owned(),
                );
                continue;
            };
            for (index, entry) in entries.iter().enumerate() {
                let at = format!("{part}, {class}, entry {}", index + 1);
                match read(class, entry) {
                    Ok(entry) => located.push(Located {
                        split,
                        class,
                        at,
                        entry,
                    }),
                    Err(message) => tell(at, message),
                }
            }
        }
    }
    located
}

fn read(class: &str, entry: &Value) -> Result<Entry, String> {
    let entry = Entry::deserialize(entry).map_err(|error| error.to_string())?;
    if !entry.cls_name.is_empty() && entry.cls_name != class {
        return Err(format!(
            "its class is `{}`, listed under `{class}`",
            entry.cls_name
        ));
    }
    Ok(entry)
}

fn kind(entry: &Entry) -> &str {
    match (entry.anomaly, entry.specie_name.as_str()) {
        (0, _) => GOOD,
        (_, "" | GOOD) => UNNAMED_KIND,
        (_, kind) => kind,
    }
}

/// The mask of an entry; `None` if it is missing, which is reported.
fn mask(
    scan: &mut Scan,
    Located { at, entry, .. }: &Located<'_>,
    masked: bool,
) -> Option<MaskSource> {
    let path = scan.path(&scan.as_there(&entry.mask_path));
    match (masked, entry.anomaly) {
        (false, _) => Some(MaskSource::Unknown),
        (true, 0) => Some(MaskSource::Empty),
        (true, _) if path.is_dir() => {
            let message = "no mask: as the reference reads it, none of its pixels is anomalous";
            scan.find(FindingKind::EmptyMask, at, message);
            Some(MaskSource::Empty)
        }
        (true, _) if path.is_file() => Some(MaskSource::File(path.into())),
        (true, _) => {
            tell_missing(scan, &entry.mask_path, at);
            None
        }
    }
}
