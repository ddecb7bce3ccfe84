//! Anybody's images, named one by one in a table: comma-separated values with a header, or a JSON
//! object a line. Paths start at the table's folder or are absolute.

use std::collections::BTreeSet;
use std::fs;

use csv::{ReaderBuilder, StringRecord, Trim};
use serde_json::{Map, Value};

use anomalens_base::{did_you_mean, nearest};

use crate::error::Error;
use crate::finding::FindingKind;
use crate::layouts::Layout;
use crate::layouts::folder::{ANOMALOUS, NORMAL, is_anomalous, is_normal, name_of};
use crate::layouts::listed::{Listed, UNNAMED_KIND, tell_missing};
use crate::sample::{GOOD, MaskSource, Split};
use crate::scan::{Item, Scan};
use crate::split::split_normals;

/// Names of the table where a folder is given.
const FILES: [&str; 2] = ["manifest.csv", "manifest.jsonl"];

const COLUMNS: [&str; 6] = ["path", "label", "mask", "class", "split", "kind"];

/// What may stand between columns.
const SEPARATORS: [char; 3] = [',', ';', '\t'];

pub(super) const LAYOUT: Layout = Layout {
    name: "manifest",
    summary: "your own images, listed in a table",
    expects: "a file of comma-separated values, or of a JSON object a line, with path and label \
        (normal or anomalous) and, if wanted, mask, class, split (train or test) and kind; or a \
        folder with such a manifest.csv or manifest.jsonl",
    split: "as the table says; if it does not, 75% of the normal images of each class, in its \
        order, train (scikit-learn's train_test_split, random state 42)",
    about: None,
    missing: |root| {
        let there = root.is_file() || FILES.iter().any(|name| root.join(name).is_file());
        Ok((!there).then(|| format!("{} is missing", FILES.join(" or "))))
    },
    scan,
};

/// A line of the table: where it is, and its columns in the order of [`COLUMNS`], empty if they are
/// not given.
struct Row {
    at: String,
    columns: [String; COLUMNS.len()],
}

fn scan(scan: &mut Scan) -> Result<(), Error> {
    let [first, second] = FILES.map(|name| scan.path(name));
    let default = if first.is_file() { first } else { second };
    let file = scan.file.clone().unwrap_or(default);
    let text = fs::read_to_string(&file).map_err(|source| Error::reading(&file, source))?;
    let text = text.trim_start_matches('\u{feff}');
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let rows = if text.trim_start().starts_with('{') {
        json_rows(scan, &name, text)
    } else {
        csv_rows(scan, &name, text)
    };
    let has_splits = rows.iter().any(|row| !row.columns[4].is_empty());
    let whole = name_of(&scan.root);
    let masked = masked_classes(&rows, &whole);

    let mut listed = Listed::default();
    for Row { at, columns } in &rows {
        let [path, label, mask, class, split, kind] = columns.each_ref().map(String::as_str);
        let class = if class.is_empty() { &whole } else { class };
        let read = || {
            if path.is_empty() {
                return Err("no path".to_owned());
            }
            Ok((read_label(label)?, read_split(split, has_splits)?))
        };
        let (normal, split) = match read() {
            Ok(read) => read,
            Err(message) => {
                scan.find(FindingKind::BadRow, at, message);
                continue;
            }
        };
        let mask_path = scan.path(mask);
        if !mask.is_empty() && !mask_path.is_file() {
            tell_missing(scan, mask, at);
            continue;
        }
        let item = Item {
            image: path.to_owned(),
            crop: None,
            class,
            kind: match (normal, kind) {
                (true, _) => GOOD,
                (false, "" | GOOD) => UNNAMED_KIND,
                (false, kind) => kind,
            },
            split,
            mask: match (mask, normal) {
                ("", true) if masked.contains(&class) => MaskSource::Empty,
                ("", _) => MaskSource::Absent,
                _ => MaskSource::File(mask_path.into()),
            },
        };
        listed.add(scan, at, item);
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
        .map(|row| match row.columns[3].as_str() {
            "" => whole,
            class => class,
        })
        .collect()
}

/// Whether a label says that the image is normal.
fn read_label(label: &str) -> Result<bool, String> {
    match label.to_lowercase().as_str() {
        "0" | "false" => Ok(true),
        "1" | "true" => Ok(false),
        name if is_normal(name) => Ok(true),
        name if is_anomalous(name) => Ok(false),
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

/// The column of this name, or what to tell of it.
fn column(name: &str) -> Result<usize, String> {
    let known = COLUMNS.iter().position(|column| *column == name);
    known.ok_or_else(|| {
        let nearest = nearest(name, COLUMNS);
        format!(
            "there is no column `{name}`{}; the columns are {}",
            did_you_mean(nearest.as_deref()),
            COLUMNS.join(", ")
        )
    })
}

fn csv_rows(scan: &mut Scan, name: &str, text: &str) -> Vec<Row> {
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
    let places = match read_header(&header) {
        Ok(places) => places,
        Err(message) => {
            scan.find(FindingKind::BadRow, format!("{name}, line 1"), message);
            return Vec::new();
        }
    };
    let mut rows = Vec::new();
    for record in records {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                scan.find(FindingKind::BadRow, name, error.to_string());
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let at = format!("{name}, line {line}");
        if record.len() != header.len() {
            let message = format!("{} columns, the header has {}", record.len(), header.len());
            scan.find(FindingKind::BadRow, at, message);
            continue;
        }
        let columns = places.map(|place| {
            let value = place.and_then(|place| record.get(place));
            value.unwrap_or_default().to_owned()
        });
        rows.push(Row { at, columns });
    }
    rows
}

/// Where in a line each of [`COLUMNS`] stands.
fn read_header(header: &StringRecord) -> Result<[Option<usize>; COLUMNS.len()], String> {
    let mut places = [None; COLUMNS.len()];
    for (place, name) in header.iter().enumerate() {
        let column = &mut places[column(name)?];
        if column.is_some() {
            return Err(format!("the column `{name}` is there twice"));
        }
        *column = Some(place);
    }
    let missing = COLUMNS[..2]
        .iter()
        .zip(places)
        .find(|(_, place)| place.is_none());
    match missing {
        Some((name, _)) => Err(format!("the column `{name}` is missing from the header")),
        None => Ok(places),
    }
}

fn json_rows(scan: &mut Scan, name: &str, text: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let lines = text.lines().enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let at = format!("{name}, line {}", index + 1);
        match read_object(line) {
            Ok(columns) => rows.push(Row { at, columns }),
            Err(message) => scan.find(FindingKind::BadRow, at, message),
        }
    }
    rows
}

fn read_object(line: &str) -> Result<[String; COLUMNS.len()], String> {
    let object: Map<String, Value> =
        serde_json::from_str(line).map_err(|error| format!("no JSON object: {error}"))?;
    let mut columns = COLUMNS.map(|_| String::new());
    for (name, value) in object {
        columns[column(&name)?] = match value {
            Value::Null => String::new(),
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Array(_) | Value::Object(_) => {
                return Err(format!("`{name}` is neither text nor a number"));
            }
        };
    }
    Ok(columns)
}
