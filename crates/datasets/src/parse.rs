//! The parsers of lists from outside, on bytes and without any image: for fuzzing. Each returns the
//! number of entries that can be understood, of COCO annotations that can be drawn.

use std::path::Path;

use crate::data_set::DataSet;
use crate::error::Error;
use crate::layouts::{coco, elpv, headct, manifest, meta as meta_layout, read_rows, visa};
use crate::shots::shots_of;
use crate::text::text_of;

/// The layout `manifest`: CSV, or a JSON object a line.
///
/// # Errors
/// [`Error::NotText`].
pub fn manifest_table(bytes: &[u8]) -> Result<usize, Error> {
    Ok(manifest::read_table(&text("manifest", bytes)?, &mut |_, _, _| {}).len())
}

/// The layout `coco`.
///
/// # Errors
/// [`Error::NotText`] or [`Error::NoJson`].
pub fn coco_file(bytes: &[u8]) -> Result<usize, Error> {
    coco::draw_each(&text("COCO file", bytes)?).map_err(|error| no_json("COCO file", error))
}

/// The layout `meta`.
///
/// # Errors
/// [`Error::NotText`] or [`Error::NoJson`].
pub fn meta_json(bytes: &[u8]) -> Result<usize, Error> {
    const NAME: &str = "meta.json";
    let parts = serde_json::from_str(&text(NAME, bytes)?).map_err(|error| no_json(NAME, error))?;
    Ok(meta_layout::locate(&parts, &mut |_, _| {}).len())
}

/// The tables of the layouts `elpv`, `headct` and `visa`, whichever it is.
///
/// # Errors
/// [`Error::NotText`].
pub fn label_table(bytes: &[u8]) -> Result<usize, Error> {
    let text = text("labels.csv", bytes)?;
    let elpv = text.lines().filter_map(|line| elpv::Row::parse(line).ok());
    let headct = read_rows::<headct::Row>(&text).into_iter();
    let visa = read_rows::<visa::Row>(&text).into_iter();
    Ok(elpv.count()
        + headct
            .filter_map(|(_, row)| row.and_then(headct::Row::read).ok())
            .count()
        + visa.filter(|(_, row)| row.is_ok()).count())
}

/// A list of shots of `data`.
///
/// # Errors
/// As [`read_shots`](crate::read_shots).
pub fn shots(bytes: &[u8], data: &DataSet) -> Result<usize, Error> {
    const NAME: &str = "list of shots";
    Ok(shots_of(&text(NAME, bytes)?, Path::new(NAME), data)?.len())
}

fn text(name: &str, bytes: &[u8]) -> Result<String, Error> {
    text_of(bytes.to_vec()).map_err(|line| Error::NotText {
        path: name.into(),
        line,
    })
}

fn no_json(name: &str, error: serde_json::Error) -> Error {
    Error::NoJson {
        path: name.into(),
        error,
    }
}
