//! Few-shot sampling: k normal images of a class, the same for the same seed on every machine,
//! and the list of them in a text file, one id a line.

use std::fs;
use std::path::Path;

use anomalens_base::nearest;

use crate::data_set::DataSet;
use crate::error::Error;
use crate::sample::{Label, Sample, Split};
use crate::split::permutation;
use crate::text::read_text;

/// Draws `k` different items: the first `k` of [`permutation`]`(normals.len(), seed)`.
///
/// # Errors
/// When there are fewer than `k`.
pub fn few_shot<T: Copy>(normals: &[T], k: usize, seed: u32) -> Result<Vec<T>, Error> {
    if k > normals.len() {
        return Err(Error::TooManyShots {
            asked: k,
            available: normals.len(),
        });
    }
    Ok(permutation(normals.len(), seed)
        .into_iter()
        .take(k)
        .map(|index| normals[index])
        .collect())
}

/// Writes the ids of the shots to a text file, one a line.
///
/// # Errors
/// When the file cannot be written.
pub fn write_shots(path: &Path, shots: &[&Sample]) -> Result<(), Error> {
    let lines: String = shots.iter().map(|shot| format!("{}\n", shot.id)).collect();
    fs::write(path, lines).map_err(|source| Error::writing(path, source))
}

/// Reads a list of shots and finds them among the normal training images of `data`. Blank lines
/// are skipped.
///
/// # Errors
/// When the file cannot be read, or a line names no normal training image or one named before.
pub fn read_shots<'a>(path: &Path, data: &'a DataSet) -> Result<Vec<&'a Sample>, Error> {
    shots_of(&read_text(path)?, path, data)
}

/// The shots that a list names; `path` is where it is from.
pub(crate) fn shots_of<'a>(
    text: &str,
    path: &Path,
    data: &'a DataSet,
) -> Result<Vec<&'a Sample>, Error> {
    let normals = || {
        data.samples
            .iter()
            .filter(|sample| sample.split == Split::Train && sample.label == Label::Normal)
    };
    let mut shots: Vec<&Sample> = Vec::new();
    for (index, id) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        let line = index + 1;
        let shot = normals()
            .find(|sample| sample.id == id)
            .ok_or_else(|| Error::UnknownShot {
                path: path.to_owned(),
                line,
                id: id.to_owned(),
                nearest: nearest(id, normals().map(|sample| sample.id.as_str())),
            })?;
        if shots.contains(&shot) {
            return Err(Error::RepeatedShot {
                path: path.to_owned(),
                line,
                id: id.to_owned(),
            });
        }
        shots.push(shot);
    }
    Ok(shots)
}
