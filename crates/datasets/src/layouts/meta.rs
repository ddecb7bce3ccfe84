//! `meta.json` of AnomalyCLIP and its relatives, read as they read it: an absolute path wins over
//! the root, a mask is looked at for anomalous images alone, and an anomalous image without one,
//! or with a folder in its place, shows no anomalous pixel if others of its class have masks.
//! DAGM's script writes `Train` and `Test` with capitals.

use std::collections::BTreeSet;
use std::fs;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::listed::{Listed, UNNAMED_KIND, tell_missing};
use crate::layouts::{Layout, missing_entries};
use crate::meta::{Entry, FILE};
use crate::sample::{GOOD, MaskSource, Split};
use crate::scan::{Item, Scan};

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

/// An entry and where it stands.
struct Place<'a> {
    split: Split,
    class: &'a str,
    at: String,
    entry: Entry,
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    let file = scan.file.clone().unwrap_or_else(|| scan.path(FILE));
    let text = fs::read_to_string(&file).map_err(|source| Error::reading(&file, source))?;
    let parts: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| Error::NoJson { path: file, error })?;
    let places = places(scan, &parts);

    let names_mask = |entry: &Entry| entry.anomaly == 1 && !entry.mask_path.is_empty();
    let masked: BTreeSet<&str> = places
        .iter()
        .filter(|place| names_mask(&place.entry))
        .map(|place| place.class)
        .collect();
    let mut listed = Listed::default();
    for place in &places {
        let Some(mask) = mask(scan, place, masked.contains(place.class)) else {
            continue;
        };
        let item = Item {
            image: place.entry.img_path.clone(),
            crop: None,
            class: place.class,
            kind: kind(&place.entry),
            split: place.split,
            mask,
        };
        listed.add(scan, &place.at, item);
    }
    scan.samples.sort_by(|a, b| a.class.cmp(&b.class));
    Ok(())
}

/// All entries that can be understood; the others are told.
fn places<'a>(scan: &mut Scan, parts: &'a Map<String, Value>) -> Vec<Place<'a>> {
    let mut places = Vec::new();
    for (part, classes) in parts {
        let split = match part.to_lowercase().as_str() {
            "train" => Split::Train,
            "test" => Split::Test,
            _ => {
                let message = "neither train nor test";
                scan.find(FindingKind::BadRow, part, message);
                continue;
            }
        };
        let Some(classes) = classes.as_object() else {
            let message = "classes with lists of images expected";
            scan.find(FindingKind::BadRow, part, message);
            continue;
        };
        for (class, entries) in classes {
            let Some(entries) = entries.as_array() else {
                let message = "a list of images expected";
                scan.find(FindingKind::BadRow, format!("{part}, {class}"), message);
                continue;
            };
            for (index, entry) in entries.iter().enumerate() {
                let at = format!("{part}, {class}, entry {}", index + 1);
                match read(class, entry) {
                    Ok(entry) => places.push(Place {
                        split,
                        class,
                        at,
                        entry,
                    }),
                    Err(message) => scan.find(FindingKind::BadRow, at, message),
                }
            }
        }
    }
    places
}

fn read(class: &str, entry: &Value) -> Result<Entry, String> {
    let entry = Entry::deserialize(entry).map_err(|error| error.to_string())?;
    if entry.anomaly > 1 {
        return Err(format!("anomaly 0 or 1 expected, {} found", entry.anomaly));
    }
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

/// The mask of an entry; `None` if it is missing, which is told.
fn mask(scan: &mut Scan, Place { at, entry, .. }: &Place<'_>, masked: bool) -> Option<MaskSource> {
    let path = scan.path(&entry.mask_path);
    match (masked, entry.anomaly) {
        (false, _) => Some(MaskSource::Absent),
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
