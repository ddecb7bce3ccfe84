//! A file mapped into memory, read only: pages are read when they are looked at, and go back to the
//! operating system when it needs the room.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// The bytes of a file, without a copy.
///
/// The file must not be written or cut while it is mapped: the bytes would change under their
/// reader, and looking behind the new end ends the process. Weight files fulfil this: the cache
/// replaces them by renaming, which leaves a mapped file as it was.
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// What the operating system reports: no such file, no right to read it, not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: we never write through the map. That nobody else changes or cuts the file
        // meanwhile cannot be enforced by any means; the type's documentation asks for it.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// Gives back the pages that were looked at; they come from the file again where they are
    /// looked at again. Without effect on systems that have no such advice.
    pub fn release(&self) {
        #[cfg(unix)]
        {
            // SAFETY: the map is of a file and nothing is ever written to it, so that dropping
            // its pages loses nothing. That the advice may be refused does no harm.
            let _ = unsafe {
                self.map
                    .unchecked_advise(memmap2::UncheckedAdvice::DontNeed)
            };
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile")
            .field("bytes", &self.map.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"a", &[7; 10_000]] {
            let path = folder.path().join("file");
            std::fs::write(&path, content).unwrap();
            let mapped = MappedFile::open(&path).unwrap();
            assert_eq!(&*mapped, content);
            mapped.release();
            assert_eq!(&*mapped, content);
        }
    }

    #[test]
    fn a_replaced_file_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        std::fs::write(&old, "before").unwrap();
        std::fs::write(&new, "after").unwrap();
        let mapped = MappedFile::open(&old).unwrap();
        if std::fs::rename(&new, &old).is_ok() {
            assert_eq!(&*mapped, b"before");
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(MappedFile::open(&folder.path().join("none")).is_err());
        assert!(MappedFile::open(folder.path()).is_err());
    }
}
