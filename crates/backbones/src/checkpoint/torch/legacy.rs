//! Files as PyTorch wrote them before version 1.6: a magic number, the version of the format, sizes
//! of types, the description of the tensors and the list of storages, each a pickle of its own; then
//! the storages, each after its number of elements.

use std::collections::HashMap;
use std::ops::Range;

use super::expected;
use super::pickle::{Pickle, Value};
use super::tree::{self, Storages};
use crate::checkpoint::data::Data;

/// The pickle of the number that such files start with, and that of the one version there is.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const VERSION: &[u8] = b"\x80\x02M\xe9\x03.";

/// More bytes than all descriptions together have.
const LONGEST_START: usize = 64 << 20;

/// The descriptions in a file, and where its storages are.
pub(super) struct Legacy {
    data: Data,
    /// The pickle that describes the tensors.
    pub(super) description: Vec<u8>,
    storages: HashMap<String, Range<usize>>,
}

impl Legacy {
    pub(super) fn open(data: &Data) -> Result<Self, String> {
        let start = data.start(LONGEST_START).map_err(|e| e.to_string())?;
        let rest = start
            .strip_prefix(MAGIC)
            .ok_or("it is a plain pickle, which torch.save did not write")?;
        let rest = rest
            .strip_prefix(VERSION)
            .ok_or("it has an unknown version of PyTorch's old format")?;
        let (_, length) = Pickle::read_first(rest, expected)?;
        let rest = &rest[length..];
        let (pickle, length) = Pickle::read_first(rest, expected)?;
        let (description, rest) = rest.split_at(length);
        let (keys, length) = Pickle::read_first(rest, expected)?;
        let mut at = start.len() - rest.len() + length;
        let Value::List(keys_in_order) = keys.root() else {
            return Err("it has no list of storages".to_owned());
        };
        let mut sizes = HashMap::new();
        for value in pickle.values() {
            if let Some(reference) = tree::reference(&pickle, value) {
                sizes.insert(reference.key, reference.element?.size());
            }
        }
        let mut storages = HashMap::new();
        for &key in keys_in_order {
            let &Value::Text(key) = keys.get(key) else {
                return Err("a storage's name is no text".to_owned());
            };
            let cut = || format!("the storage {key} does not fit into the file");
            let size = sizes.get(key).ok_or("no tensor lies in a storage")?;
            let first = at.checked_add(size_of::<u64>()).ok_or_else(cut)?;
            let count = data.read(at..first).map_err(|_| cut())?;
            let count: [u8; 8] = count.as_ref().try_into().map_err(|_| cut())?;
            let end = usize::try_from(u64::from_le_bytes(count))
                .ok()
                .and_then(|count| count.checked_mul(*size)?.checked_add(first))
                .filter(|&end| end <= data.len())
                .ok_or_else(cut)?;
            storages.insert(key.to_owned(), first..end);
            at = end;
        }
        Ok(Self {
            data: data.clone(),
            description: description.to_vec(),
            storages,
        })
    }
}

impl Storages for Legacy {
    fn data(&self) -> &Data {
        &self.data
    }

    fn storage(&self, key: &str) -> Result<Range<usize>, String> {
        let range = self.storages.get(key).cloned();
        range.ok_or_else(|| format!("the storage {key} is not in the file"))
    }
}
