//! Opens what is a file with an end: no device, pipe or folder, which could be read for ever.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Opens the regular file at `path`, and gives its length in bytes.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for anything else than a file, and what the system reports.
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    // Looked at before it is opened, too: to open a pipe waits for its writer.
    check(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    check(&metadata)?;
    Ok((file, metadata.len()))
}

fn check(metadata: &fs::Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_opened_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "abc").unwrap();
        assert_eq!(open_regular(&path).unwrap().1, 3);
        assert!(open_regular(folder.path()).is_err());
        assert!(open_regular(&folder.path().join("none")).is_err());
        #[cfg(unix)]
        assert!(open_regular(Path::new("/dev/zero")).is_err());
    }
}
