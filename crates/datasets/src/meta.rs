//! `meta.json`, the list of images by which AnomalyCLIP, VAND and WinCLIP's reproduction know a
//! data set: `{"train": {CLASS: [ENTRY, ...]}, "test": {...}}`. The layout `meta` reads it.

use std::collections::BTreeMap;
use std::path::Path;

use anomalens_vision::{MaskFile, MaskReading, MaskSource};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::data_set::DataSet;
use crate::error::Error;
use crate::sample::{Label, Sample, Split};

/// Its usual name, at the root of the data set.
pub(crate) const FILE: &str = "meta.json";

/// An image; keys in the order of the reference's scripts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Below the root, or absolute.
    pub(crate) img_path: String,
    /// Likewise; empty if there is none.
    #[serde(default)]
    pub(crate) mask_path: String,
    #[serde(default)]
    pub(crate) cls_name: String,
    /// The defect type.
    #[serde(default)]
    pub(crate) specie_name: String,
    /// 0 or 1; also 0.0 and 1.0, as they come out of tables.
    #[serde(deserialize_with = "zero_or_one")]
    pub(crate) anomaly: u8,
}

fn zero_or_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match f64::deserialize(deserializer)? {
        0.0 => Ok(0),
        1.0 => Ok(1),
        other => Err(D::Error::custom(format!(
            "anomaly 0 or 1 expected, {other} found"
        ))),
    }
}

#[derive(Serialize)]
struct Meta<'a> {
    train: BTreeMap<&'a str, Vec<Entry>>,
    test: BTreeMap<&'a str, Vec<Entry>>,
}

/// The `meta.json` of a data set, byte for byte as Python's `json.dumps(meta, indent=4) + "\n"`
/// writes it, with paths below the root.
///
/// # Errors
/// [`Error::NotInMeta`] if a sample is a part of an image, its mask is no file, or an image or mask
/// is not below the root.
pub fn meta_json(data: &DataSet) -> Result<String, Error> {
    let of = |split| {
        let mut classes: BTreeMap<&str, Vec<Entry>> = BTreeMap::new();
        for sample in data.samples.iter().filter(|sample| sample.split == split) {
            let entry = entry(&data.root, sample)?;
            classes.entry(&sample.class).or_default().push(entry);
        }
        Ok::<_, Error>(classes)
    };
    let meta = Meta {
        train: of(Split::Train)?,
        test: of(Split::Test)?,
    };
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let written = meta.serialize(&mut Serializer::with_formatter(&mut bytes, formatter));
    let text = written.ok().and_then(|()| String::from_utf8(bytes).ok());
    // Strings and numbers in maps with strings for keys: JSON can hold them.
    Ok(ascii(&text.unwrap_or_default()) + "\n")
}

fn entry(root: &Path, sample: &Sample) -> Result<Entry, Error> {
    let refuse = |reason| Error::NotInMeta {
        id: sample.id.clone(),
        reason,
    };
    if sample.crop.is_some() {
        return Err(refuse("is a part of an image"));
    }
    let below_root = |path: &Path, reason| {
        let path = path.strip_prefix(root).ok().and_then(Path::to_str);
        path.map(|path| path.replace('\\', "/"))
            .ok_or_else(|| refuse(reason))
    };
    Ok(Entry {
        img_path: below_root(&sample.image, "is not below the root")?,
        mask_path: match &sample.mask {
            MaskSource::File(MaskFile { path, reading }) if *reading == MaskReading::default() => {
                below_root(path, "has a mask that is not below the root")?
            }
            MaskSource::File(_) => return Err(refuse("has a mask that is not read by default")),
            MaskSource::Outlines(_) => return Err(refuse("has a mask that is no file")),
            MaskSource::Empty | MaskSource::Unknown => String::new(),
        },
        cls_name: sample.class.clone(),
        specie_name: sample.defect_type.clone(),
        anomaly: u8::from(sample.label == Label::Anomalous),
    })
}

/// Escapes what is not printable ASCII, as Python does; in JSON it stands in strings alone.
fn ascii(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if character == '\n' || (' '..='~').contains(&character) {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                escaped += &format!("\\u{unit:04x}");
            }
        }
    }
    escaped
}
