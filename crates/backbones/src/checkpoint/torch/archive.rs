//! The zip archive of a PyTorch file: one folder with a pickle and the storages, uncompressed.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use anomalens_kernels::MappedFile;
use zip::{CompressionMethod, ZipArchive};

/// An archive, its members by name.
pub(super) struct Archive {
    pub(super) file: Arc<MappedFile>,
    /// What a member's bytes are; none for members that are compressed or encrypted.
    members: HashMap<String, Option<Range<usize>>>,
    /// The folder of all members.
    root: String,
}

impl Archive {
    pub(super) fn open(file: &Arc<MappedFile>) -> Result<Self, String> {
        let mut zip = ZipArchive::new(Cursor::new(&file[..])).map_err(|e| e.to_string())?;
        let mut members = HashMap::new();
        for index in 0..zip.len() {
            let member = zip.by_index_raw(index).map_err(|e| e.to_string())?;
            let name = member.name().map_err(|e| e.to_string())?.into_owned();
            let range = (|| {
                let start = usize::try_from(member.data_start()?).ok()?;
                let end = start.checked_add(usize::try_from(member.size()).ok()?)?;
                let plain = member.compression() == CompressionMethod::Stored;
                (plain && !member.encrypted() && end <= file.len()).then_some(start..end)
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
            file: file.clone(),
            members,
            root,
        };
        match archive.bytes("byteorder") {
            Ok(b"big") => Err("its numbers are big-endian".to_owned()),
            _ => Ok(archive),
        }
    }

    pub(super) fn range(&self, name: &str) -> Result<Range<usize>, String> {
        match self.members.get(&format!("{}/{name}", self.root)) {
            Some(Some(range)) => Ok(range.clone()),
            Some(None) => Err(format!(
                "{name} is compressed, encrypted or cut off in the archive"
            )),
            None => Err(format!("{name} is not in the archive")),
        }
    }

    pub(super) fn bytes(&self, name: &str) -> Result<&[u8], String> {
        Ok(&self.file[self.range(name)?])
    }
}
