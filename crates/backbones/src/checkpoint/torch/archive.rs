//! The zip archive of a PyTorch file: one folder with a pickle and the storages, uncompressed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::BufReader;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::tree::Storages;
use crate::checkpoint::data::Data;

/// More members than any checkpoint has tensors.
const MOST_MEMBERS: usize = 1 << 20;

/// More bytes than any description of tensors has.
const LONGEST_MEMBER: usize = 64 << 20;

/// An archive, its members by name.
pub(super) struct Archive {
    data: Data,
    /// What a member's bytes are; none for members that are compressed or encrypted.
    members: HashMap<String, Option<Range<usize>>>,
    /// The folder of all members.
    root: String,
}

impl Archive {
    pub(super) fn open(data: &Data) -> Result<Self, String> {
        let reader = BufReader::new(data.reader());
        let mut zip = ZipArchive::new(reader).map_err(|e| e.to_string())?;
        if zip.len() > MOST_MEMBERS {
            return Err(format!("the zip archive has {} members", zip.len()));
        }
        let mut members = HashMap::new();
        for index in 0..zip.len() {
            let member = zip.by_index_raw(index).map_err(|e| e.to_string())?;
            let name = member.name().map_err(|e| e.to_string())?.into_owned();
            let range = (|| {
                let start = usize::try_from(member.data_start()?).ok()?;
                let end = start.checked_add(usize::try_from(member.size()).ok()?)?;
                let plain = member.compression() == CompressionMethod::Stored;
                (plain && !member.encrypted() && end <= data.len()).then_some(start..end)
            })();
            members.insert(name, range);
        }
        let root = members
            .keys()
            .filter_map(|name| name.strip_suffix("/data.pkl"))
            .filter(|root| !root.contains('/'))
            .min()
            .ok_or("the zip archive has no data.pkl, so PyTorch did not write it")?
            .to_owned();
        let archive = Self {
            data: data.clone(),
            members,
            root,
        };
        match archive.bytes("byteorder").as_deref() {
            Ok(b"big") => Err("its numbers are big-endian".to_owned()),
            _ => Ok(archive),
        }
    }

    fn range(&self, name: &str) -> Result<Range<usize>, String> {
        match self.members.get(&format!("{}/{name}", self.root)) {
            Some(Some(range)) => Ok(range.clone()),
            Some(None) => Err(format!(
                "{name} is compressed, encrypted or cut off in the archive"
            )),
            None => Err(format!("{name} is not in the archive")),
        }
    }

    pub(super) fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, String> {
        let range = self.range(name)?;
        if range.len() > LONGEST_MEMBER {
            return Err(format!("{name} has {} bytes", range.len()));
        }
        self.data.read(range).map_err(|error| error.to_string())
    }
}

impl Storages for Archive {
    fn data(&self) -> &Data {
        &self.data
    }

    fn storage(&self, key: &str) -> Result<Range<usize>, String> {
        self.range(&format!("data/{key}"))
    }
}
