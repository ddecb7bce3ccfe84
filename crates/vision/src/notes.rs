//! What a user should know about files that were decoded without an error.

use std::fmt;
use std::mem::{Discriminant, discriminant};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::image::Image;

/// What a user should know about a file that was decoded without an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DecodeNote {
    /// The file has more pages or frames than the one that was read.
    OtherPages {
        /// The page that was read, from 0.
        page: u32,
        /// Pages in full resolution, or frames.
        pages: u32,
    },
    /// Samples of more than 8 bits that use less than 1/8 of what they were scaled by: the image is
    /// nearly of one colour, often because 10 or 12 bits were stored in 16.
    NarrowRange {
        /// Smallest and largest sample.
        found: (f64, f64),
        /// The samples that became black and white.
        range: (f64, f64),
    },
    /// Samples outside the range that they were scaled by, which became black or white.
    OutsideRange {
        /// Smallest and largest sample.
        found: (f64, f64),
        /// The samples that became black and white.
        range: (f64, f64),
    },
}

impl fmt::Display for DecodeNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OtherPages { page, pages } => {
                write!(
                    f,
                    "page {} of {pages} was read, the others were not",
                    page + 1
                )
            }
            Self::NarrowRange { found, range } => write!(
                f,
                "its samples lie between {} and {}, less than 1/8 of the range from {} to {}; state \
                 its bit depth or a window",
                found.0, found.1, range.0, range.1
            ),
            Self::OutsideRange { found, range } => write!(
                f,
                "its samples lie between {} and {}, some outside the range from {} to {}; they were \
                 cut off",
                found.0, found.1, range.0, range.1
            ),
        }
    }
}

/// The notes on many files, gathered by any number of threads: of each kind the first, and how many.
/// Clones share what they gather.
#[derive(Clone, Debug, Default)]
pub struct NoteLog(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    kind: Discriminant<DecodeNote>,
    count: usize,
    /// File and note that came first.
    first: String,
}

impl NoteLog {
    /// Adds the notes on `image`, which `path` names.
    pub fn add(&self, path: &Path, image: &Image) {
        for note in image.notes() {
            let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let kind = discriminant(note);
            match entries.iter_mut().find(|entry| entry.kind == kind) {
                Some(entry) => entry.count += 1,
                None => entries.push(Entry {
                    kind,
                    count: 1,
                    first: format!("{}: {note}", path.display()),
                }),
            }
        }
    }

    /// A sentence for each kind of note.
    pub fn lines(&self) -> Vec<String> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |entry: &Entry| match entry.count {
            1 => entry.first.clone(),
            count => format!("{} (likewise for {} more)", entry.first, count - 1),
        };
        entries.iter().map(line).collect()
    }
}
