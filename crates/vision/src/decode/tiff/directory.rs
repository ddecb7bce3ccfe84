//! The directories of a TIFF or BigTIFF file: which pages there are, and their fields.

use super::super::guard::{Failure, damaged};

/// More pages than any file has, to end chains that a hostile file makes long.
const MAX_PAGES: usize = 100_000;

/// The bytes of a file and how its numbers are stored.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) big_endian: bool,
    is_big: bool,
}

/// A field of a directory.
struct Field<'a> {
    tag: u16,
    kind: u16,
    count: u64,
    /// The values, or where they are.
    slot: &'a [u8],
}

/// The values of a field.
struct Values<'a> {
    kind: u16,
    /// Bytes of one value.
    size: usize,
    bytes: &'a [u8],
}

/// The fields of one page.
pub(super) struct Directory<'a> {
    file: File<'a>,
    fields: Vec<Field<'a>>,
}

impl<'a> File<'a> {
    /// All directories of the main chain.
    pub(super) fn directories(bytes: &'a [u8]) -> Result<Vec<Directory<'a>>, Failure> {
        let big_endian = bytes.starts_with(b"MM");
        let mut file = File {
            bytes,
            big_endian,
            is_big: false,
        };
        file.is_big = file.number(2, 2)? == 43;
        let mut next = match file.is_big {
            true => file.number(8, 8)?,
            false => file.number(4, 4)?,
        };
        let mut starts = vec![];
        let mut directories = vec![];
        while next != 0 {
            if starts.contains(&next) || starts.len() == MAX_PAGES {
                return Err(damaged("its pages go round in a circle"));
            }
            starts.push(next);
            let directory;
            (directory, next) = file.directory(next)?;
            directories.push(directory);
        }
        Ok(directories)
    }

    fn slice(&self, at: u64, length: u64) -> Result<&'a [u8], Failure> {
        let range = usize::try_from(at)
            .ok()
            .zip(usize::try_from(length).ok())
            .and_then(|(at, length)| self.bytes.get(at..at.checked_add(length)?));
        range.ok_or_else(|| damaged("unexpected end of file"))
    }

    fn number(&self, at: u64, length: u64) -> Result<u64, Failure> {
        Ok(self.value(self.slice(at, length)?))
    }

    fn value(&self, bytes: &[u8]) -> u64 {
        let add = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        match self.big_endian {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        }
    }

    /// The directory at an offset, and the offset of the next one.
    fn directory(&self, at: u64) -> Result<(Directory<'a>, u64), Failure> {
        let (count_size, entry_size, offset_size) = match self.is_big {
            true => (8, 20, 8),
            false => (2, 12, 4),
        };
        let count = self.number(at, count_size)?;
        let length = count.saturating_mul(entry_size);
        let start = at.saturating_add(count_size);
        let entries = self.slice(start, length)?;
        let fields = entries
            .chunks_exact(entry_size as usize)
            .map(|entry| Field {
                tag: self.value(&entry[..2]) as u16,
                kind: self.value(&entry[2..4]) as u16,
                count: self.value(&entry[4..4 + offset_size]),
                slot: &entry[4 + offset_size..],
            });
        let directory = Directory {
            file: *self,
            fields: fields.collect(),
        };
        // Some writers end a file right behind its last directory.
        let next = self.number(start.saturating_add(length), offset_size as u64);
        Ok((directory, next.unwrap_or(0)))
    }
}

impl<'a> Directory<'a> {
    pub(super) fn file(&self) -> File<'a> {
        self.file
    }

    fn find(&self, tag: u16) -> Result<Option<Values<'a>>, Failure> {
        let Some(field) = self.fields.iter().find(|field| field.tag == tag) else {
            return Ok(None);
        };
        let size = match field.kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 | 17 | 18 => 8,
            _ => return Err(damaged(format!("its field {tag} is of an unknown type"))),
        };
        let length = field.count.saturating_mul(size as u64);
        let bytes = match field
            .slot
            .get(..usize::try_from(length).unwrap_or(usize::MAX))
        {
            Some(bytes) => bytes,
            None => self.file.slice(self.file.value(field.slot), length)?,
        };
        Ok(Some(Values {
            kind: field.kind,
            size,
            bytes,
        }))
    }

    /// The bytes of a field.
    pub(super) fn bytes(&self, tag: u16) -> Result<Option<&'a [u8]>, Failure> {
        Ok(self.find(tag)?.map(|values| values.bytes))
    }

    /// At most `most` values of a field of unsigned numbers; none if there is no such field.
    pub(super) fn numbers(&self, tag: u16, most: usize) -> Result<Vec<u64>, Failure> {
        let Some(Values { kind, size, bytes }) = self.find(tag)? else {
            return Ok(vec![]);
        };
        if !matches!(kind, 1 | 3 | 4 | 7 | 13 | 16 | 18) {
            return Err(damaged(format!("its field {tag} is not of whole numbers")));
        }
        let values = bytes.chunks_exact(size);
        Ok(values.take(most).map(|v| self.file.value(v)).collect())
    }

    /// The first value of a field of unsigned numbers.
    pub(super) fn number(&self, tag: u16) -> Result<Option<u64>, Failure> {
        Ok(self.numbers(tag, 1)?.first().copied())
    }
}
