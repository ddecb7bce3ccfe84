//! Anybody's images, named one by one in a table: comma-separated values with a header, or a JSON
//! object a line. Paths start at the table's folder or are absolute.

use std::collections::BTreeSet;

use anomalens_base::nearest;
use anomalens_vision::MaskSource;
use csv::{ReaderBuilder, StringRecord, Trim};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::Layout;
use crate::layouts::folder::{ANOMALOUS, NORMAL, is_anomalous, is_normal, name_of};
use crate::layouts::listed::{Listed, UNNAMED_KIND, tell_missing};
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;
use crate::text::read_text;

/// Names of the table where a folder is given.
const FILES: [&str; 2] = ["manifest.csv", "manifest.jsonl"];

const COLUMNS: [&str; 6] = ["path", "label", "mask", "class", "split", "defect_type"];
/// Columns that every table has.
const REQUIRED: usize = 2;
/// What the last of them was called before.
const KIND: &str = "kind";

/// What may stand between columns.
const SEPARATORS: [char; 3] = [',', ';', '\t'];

pub(super) const LAYOUT: Layout = Layout {
    name: "manifest",
    summary: "your own images, listed in a table",
    expects: "a file of comma-separated values, or of a JSON object a line, with path and label \
        (normal or anomalous) and, if wanted, mask, class, split (train or test) and \
        defect_type; or a folder with such a manifest.csv or manifest.jsonl",
    split: "as the table says; if it does not, 75% of the normal images of each class, in its \
        order, train (scikit-learn's train_test_split, random state 42)",
    about: None,
    missing: |root| {
        let there = root.is_file() || FILES.iter().any(|name| root.join(name).is_file());
        Ok((!there).then(|| format!("{} is missing", FILES.join(" or "))))
    },
    scan,
};

/// A line of the table, from 1, and its columns in the order of [`COLUMNS`], empty if they are not
/// given.
pub(crate) struct Row {
    line: usize,
    columns: Columns,
}

type Columns = [Box<str>; COLUMNS.len()];

/// Takes what is wrong in a line of the table.
type Tell<'a> = dyn FnMut(FindingKind, usize, String) + 'a;

fn scan(scan: &mut Scan) -> Result<(), Error> {
    let [first, second] = FILES.map(|name| scan.path(name));
    let default = if first.is_file() { first } else { second };
    let file = scan.file.clone().unwrap_or(default);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let place = |line| format!("{name}, line {line}");
    let rows = read_table(&read_text(&file)?, &mut |kind, line, message| {
        scan.find(kind, place(line), message);
    });
    let has_splits = rows.iter().any(|row| !row.columns[4].is_empty());
    let whole = name_of(&scan.root);
    let masked = masked_classes(&rows, &whole);

    let mut listed = Listed::default();
    for Row { line, columns } in &rows {
        let at = place(*line);
        let [path, label, mask, class, split, kind] = columns.each_ref().map(|text| &**text);
        let class = if class.is_empty() { &whole } else { class };
        let read = read_label(label).and_then(|normal| match path {
            "" => Err("no path".to_owned()),
            _ => Ok((normal, read_split(split, has_splits)?)),
        });
        let (normal, split) = match read {
            Ok(read) => read,
            Err(message) => {
                scan.find(FindingKind::BadRow, at, message);
                continue;
            }
        };
        let mask_path = scan.path(&scan.as_there(mask));
        if !mask.is_empty() && !mask_path.is_file() {
            tell_missing(scan, mask, &at);
            continue;
        }
        let item = Item {
            image: path.to_owned(),
            crop: None,
            class,
            defect_type: match (normal, kind) {
                (true, _) => GOOD,
                (false, "" | GOOD) => UNNAMED_KIND,
                (false, kind) => kind,
            },
            split,
            mask: match (mask, normal) {
                ("", true) if masked.contains(&class) => MaskSource::Empty,
                ("", _) => MaskSource::Unknown,
                _ => MaskSource::File(mask_path.into()),
            },
        };
        listed.add(scan, &at, item);
    }
    scan.samples.sort_by(|a, b| a.class.cmp(&b.class));
    if !has_splits {
        let classes = scan.samples.chunk_by_mut(|a, b| a.class == b.class);
        classes.for_each(split_normals);
    }
    Ok(())
}

/// The classes of which some image has a mask.
fn masked_classes<'a>(rows: &'a [Row], whole: &'a str) -> BTreeSet<&'a str> {
    let masked = rows.iter().filter(|row| !row.columns[2].is_empty());
    masked
        .map(|row| match &*row.columns[3] {
            "" => whole,
            class => class,
        })
        .collect()
}

/// Whether a label says that the image is normal.
pub(crate) fn read_label(label: &str) -> Result<bool, String> {
    // Tables that passed through others write 0.0 and 1.0.
    match (label.parse(), label.to_lowercase().as_str()) {
        (Ok(0.0), _) | (_, "false") => Ok(true),
        (Ok(1.0), _) | (_, "true") => Ok(false),
        (_, name) if is_normal(name) => Ok(true),
        (_, name) if is_anomalous(name) => Ok(false),
        _ => Err(format!(
            "label normal or anomalous expected (also {} or 0; {} or 1), `{label}` found",
            NORMAL.join(", "),
            ANOMALOUS.join(", ")
        )),
    }
}

fn read_split(split: &str, wanted: bool) -> Result<Split, String> {
    match split.to_lowercase().as_str() {
        "train" => Ok(Split::Train),
        "test" => Ok(Split::Test),
        "" if wanted => {
            Err("no split, which other lines have: give it to all or to none".to_owned())
        }
        "" => Ok(Split::Test),
        _ => Err(format!("split train or test expected, `{split}` found")),
    }
}

/// The column of this name, in any case.
fn column(name: &str) -> Option<usize> {
    let name = name.to_lowercase();
    let name = if name == KIND { COLUMNS[5] } else { &name };
    COLUMNS.iter().position(|column| *column == name)
}

/// What to report of a column that is not known.
fn unused(name: &str) -> String {
    let meant = nearest(name, COLUMNS).map(|meant| format!(" (is {meant} meant?)"));
    format!(
        "the column `{name}` is not used{}",
        meant.unwrap_or_default()
    )
}

/// The rows of a table that can be understood.
pub(crate) fn read_table(text: &str, tell: &mut Tell<'_>) -> Vec<Row> {
    if text.trim_start().starts_with('{') {
        json_rows(text, tell)
    } else {
        csv_rows(text, tell)
    }
}

fn csv_rows(text: &str, tell: &mut Tell<'_>) -> Vec<Row> {
    let header = text.lines().next().unwrap_or_default();
    let separator = SEPARATORS
        .into_iter()
        .max_by_key(|separator| (header.matches(*separator).count(), *separator == ','))
        .unwrap_or(',');
    let mut reader = ReaderBuilder::new()
        .trim(Trim::All)
        .flexible(true)
        .has_headers(false)
        .delimiter(separator as u8)
        .from_reader(text.as_bytes());
    let mut records = reader.records();
    let header = records.next().and_then(Result::ok).unwrap_or_default();
    let Some(places) = read_header(&header, tell) else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    for record in records {
        // Any text can be divided into records.
        let Ok(record) = record else { continue };
        let line = record.position().map_or(0, |at| at.line() as usize);
        let beyond = record.iter().skip(header.len());
        if record.len() < header.len() || beyond.into_iter().any(|value| !value.is_empty()) {
            let message = format!("{} columns, the header has {}", record.len(), header.len());
            tell(FindingKind::BadRow, line, message);
            continue;
        }
        let columns = places.map(|place| {
            let value = place.and_then(|place| record.get(place));
            value.unwrap_or_default().into()
        });
        rows.push(Row { line, columns });
    }
    rows
}

/// Where in a line each of [`COLUMNS`] stands; `None` if that is not known.
fn read_header(
    header: &StringRecord,
    tell: &mut Tell<'_>,
) -> Option<[Option<usize>; COLUMNS.len()]> {
    let mut places = [None; COLUMNS.len()];
    let mut sound = true;
    for (place, name) in header.iter().enumerate() {
        match column(name).map(|column| places[column].replace(place)) {
            Some(None) => {}
            Some(Some(_)) => {
                let message = format!("the column `{name}` is there twice");
                tell(FindingKind::BadRow, 1, message);
                sound = false;
            }
            None if name.is_empty() => {} // A separator at the end.
            None => tell(FindingKind::UnusedColumn, 1, unused(name)),
        }
    }
    for (name, _) in COLUMNS[..REQUIRED]
        .iter()
        .zip(places)
        .filter(|(_, place)| place.is_none())
    {
        let message = format!(
            "the column `{name}` is missing from the header; the first line names the columns: {}",
            COLUMNS.join(", ")
        );
        tell(FindingKind::BadRow, 1, message);
        sound = false;
    }
    sound.then_some(places)
}

fn json_rows(text: &str, tell: &mut Tell<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut told = BTreeSet::new();
    let lines = text.lines().enumerate();
    for (index, text) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let line = index + 1;
        match read_object(text) {
            Ok((columns, others)) => {
                rows.push(Row { line, columns });
                for name in others {
                    if told.insert(name.clone()) {
                        tell(FindingKind::UnusedColumn, line, unused(&name));
                    }
                }
            }
            Err(message) => tell(FindingKind::BadRow, line, message),
        }
    }
    rows
}

/// The columns that an object gives, and the names of its other entries.
fn read_object(line: &str) -> Result<(Columns, Vec<String>), String> {
    let object: Map<String, Value> =
        serde_json::from_str(line).map_err(|error| format!("no JSON object: {error}"))?;
    let mut columns = COLUMNS.map(|_| Box::default());
    let mut others = Vec::new();
    for (name, value) in object {
        let Some(column) = column(&name) else {
            others.push(name);
            continue;
        };
        columns[column] = match value {
            Value::Null => Box::default(),
            Value::String(text) => text.trim().into(),
            Value::Number(number) => number.to_string().into(),
            Value::Bool(value) => value.to_string().into(),
            Value::Array(_) | Value::Object(_) => {
                return Err(format!("`{name}` is neither text nor a number"));
            }
        };
    }
    Ok((columns, others))
}
