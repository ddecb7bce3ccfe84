//! The bytes of a weight file, read piece by piece when they are asked for.
//!
//! A file is read rather than mapped: one that is cut or written to meanwhile gives an error or
//! other numbers, but cannot take the bytes away under their reader.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anomalens_base::open_regular;

use crate::BackboneError;

/// A weight file, or bytes in memory.
#[derive(Debug, Clone)]
pub(super) struct Data {
    path: PathBuf,
    length: usize,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    File(Arc<Mutex<File>>),
    Memory(Arc<[u8]>),
}

impl Data {
    pub(super) fn open(path: &Path) -> Result<Self, BackboneError> {
        let opened = open_regular(path).and_then(|(file, length)| {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            Ok((file, length))
        });
        let (file, length) = opened.map_err(reading(path))?;
        Ok(Self {
            path: path.to_owned(),
            length,
            place: Place::File(Arc::new(Mutex::new(file))),
        })
    }

    /// `bytes` in memory; `path` names them in messages.
    pub(super) fn of_bytes(path: &Path, bytes: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            length: bytes.len(),
            place: Place::Memory(bytes.into()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The bytes of `range`, which must lie within.
    pub(super) fn read(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>, BackboneError> {
        self.bytes(range).map_err(reading(&self.path))
    }

    fn bytes(&self, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        if range.start > range.end || range.end > self.length {
            return Err(beyond());
        }
        match &self.place {
            Place::Memory(bytes) => bytes.get(range).map(Cow::Borrowed).ok_or_else(beyond),
            Place::File(file) => {
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(range.len())?;
                bytes.resize(range.len(), 0);
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(range.start as u64))?;
                file.read_exact(&mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// The first bytes, at most `count`.
    pub(super) fn start(&self, count: usize) -> Result<Cow<'_, [u8]>, BackboneError> {
        self.read(0..count.min(self.length))
    }

    /// All bytes in turn.
    pub(super) fn reader(&self) -> DataReader<'_> {
        DataReader { data: self, at: 0 }
    }
}

/// Reads [`Data`] from any place on.
pub(super) struct DataReader<'a> {
    data: &'a Data,
    at: usize,
}

impl Read for DataReader<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = to.len().min(self.data.length.saturating_sub(self.at));
        let bytes = self.data.bytes(self.at..self.at + count)?;
        to[..count].copy_from_slice(&bytes);
        self.at += count;
        Ok(count)
    }
}

impl Seek for DataReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => usize::try_from(at).ok(),
            SeekFrom::End(by) => self.data.length.checked_add_signed(by as isize),
            SeekFrom::Current(by) => self.at.checked_add_signed(by as isize),
        };
        self.at = at
            .filter(|&at| at <= self.data.length)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at as u64)
    }
}

fn reading(path: &Path) -> impl FnOnce(io::Error) -> BackboneError {
    |source| BackboneError::Read {
        path: path.to_owned(),
        source,
    }
}
