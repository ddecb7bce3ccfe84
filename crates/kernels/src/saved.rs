//! Packed weights as bytes: how they are written, and how they are read without a copy.
//!
//! Arrays follow one another, each from a multiple of 64 bytes on, numbers little-endian. Panels
//! depend on the format of their numbers alone, not on the instruction set: where a kernel takes
//! another format, they are converted.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::buffer::Buffer;

/// Where every array starts: at a multiple of the cache line.
const ALIGNMENT: usize = Buffer::LINE * size_of::<u32>();

/// Bytes that stay where and as they are as long as anyone has them: a part of the program, or a
/// copy that starts on a cache line. A file is not mapped instead: whoever cuts or writes it would
/// change the bytes under their reader.
#[derive(Clone)]
pub struct SharedBytes(Bytes);

#[derive(Clone)]
enum Bytes {
    Static(&'static [u8]),
    Copied(Arc<Buffer>, usize),
}

impl SharedBytes {
    /// A part of the program; weights in it are used where they are if it starts on a cache line.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self(Bytes::Static(bytes))
    }

    /// The next `length` bytes of `from`.
    ///
    /// # Errors
    /// Those of `from`, and [`io::ErrorKind::OutOfMemory`] if there is no room for so many.
    pub fn read(mut from: impl Read, length: usize) -> io::Result<Self> {
        let mut buffer = Buffer::default();
        buffer.try_reserve(length.div_ceil(size_of::<u32>()))?;
        from.read_exact(&mut buffer.bytes_mut()[..length])?;
        Ok(Self(Bytes::Copied(Arc::new(buffer), length)))
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Static(bytes) => bytes,
            Bytes::Copied(buffer, length) => &buffer.bytes()[..*length],
        }
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// Why saved weights cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the packed weights are damaged or of another network: {0}")]
pub struct SavedError(pub(crate) String);

/// Writes arrays at their places.
pub(crate) struct Writer<'a> {
    to: &'a mut dyn Write,
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(to: &'a mut dyn Write) -> Self {
        Self { to, at: 0 }
    }

    pub(crate) fn words(&mut self, words: &[u32]) -> io::Result<()> {
        for words in words.chunks(16 * 1024) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.to.write_all(&bytes)?;
            self.at += bytes.len();
        }
        let padding = self.at.next_multiple_of(ALIGNMENT) - self.at;
        self.to.write_all(&[0; ALIGNMENT][..padding])?;
        self.at += padding;
        Ok(())
    }

    pub(crate) fn floats(&mut self, floats: &[f32]) -> io::Result<()> {
        let words: Vec<u32> = floats.iter().map(|x| x.to_bits()).collect();
        self.words(&words)
    }
}

/// Reads arrays from their places.
pub(crate) struct Reader<'a> {
    bytes: &'a SharedBytes,
    /// Where the first array starts.
    start: usize,
    /// How far the next one lies behind that.
    at: usize,
}

impl<'a> Reader<'a> {
    /// From the byte `start` on.
    pub(crate) fn new(bytes: &'a SharedBytes, start: usize) -> Self {
        Self {
            bytes,
            start,
            at: 0,
        }
    }

    fn take(&mut self, words: usize) -> Result<Range<usize>, SavedError> {
        let all = self.bytes.get(self.start..).unwrap_or_default().len();
        let end = words
            .checked_mul(size_of::<u32>())
            .and_then(|bytes| self.at.checked_add(bytes))
            .filter(|&end| end <= all);
        let Some(end) = end else {
            return Err(SavedError(format!(
                "{words} numbers from byte {} on do not fit into {all} bytes",
                self.at
            )));
        };
        let range = self.start + self.at..self.start + end;
        self.at = end.next_multiple_of(ALIGNMENT);
        Ok(range)
    }

    pub(crate) fn words(&mut self, count: usize) -> Result<Vec<u32>, SavedError> {
        let (words, _) = self.bytes[self.take(count)?].as_chunks();
        Ok(words.iter().map(|&word| u32::from_le_bytes(word)).collect())
    }

    pub(crate) fn floats(&mut self, count: usize) -> Result<Vec<f32>, SavedError> {
        let words = self.words(count)?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }

    /// Words that stay where they are, if they can be read there.
    pub(crate) fn shared(&mut self, count: usize) -> Result<Words, SavedError> {
        let range = self.take(count)?;
        let start = self.bytes[range.clone()].as_ptr();
        if cfg!(target_endian = "little") && start.addr().is_multiple_of(ALIGNMENT) {
            return Ok(Words::Shared(self.bytes.clone(), range));
        }
        let mut buffer = Buffer::zeros(count);
        let (words, _) = self.bytes[range].as_chunks();
        for (to, &word) in buffer.words_mut().iter_mut().zip(words) {
            *to = u32::from_le_bytes(word);
        }
        Ok(Words::Own(buffer))
    }
}

/// Words on cache lines.
pub(crate) enum Words {
    Own(Buffer),
    /// A part of shared bytes, aligned and in the machine's order.
    Shared(SharedBytes, Range<usize>),
}

impl Default for Words {
    fn default() -> Self {
        Self::Own(Buffer::default())
    }
}

impl Words {
    pub(crate) fn get(&self) -> &[u32] {
        match self {
            Self::Own(buffer) => buffer.words(),
            Self::Shared(bytes, range) => {
                let bytes = &bytes[range.clone()];
                // SAFETY: the reader has checked the alignment, any bits are a valid u32, and
                // shared bytes neither move nor change as long as `bytes` lives.
                unsafe {
                    std::slice::from_raw_parts(
                        bytes.as_ptr().cast(),
                        bytes.len() / size_of::<u32>(),
                    )
                }
            }
        }
    }
}
