//! SHA-256 of bytes, of a file, or of a folder of files.
//!
//! A folder's hash is that of its listing as `sha256sum` prints it: one line `HASH  PATH` per file,
//! paths relative with `/`, in byte order. Hidden files (`.DS_Store`) do not count.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const READ_BUFFER_BYTES: usize = 1 << 16;

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hash of the file or folder at `path`.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub fn of_path(path: &Path) -> io::Result<Self> {
        if path.is_dir() {
            Self::of_folder(path)
        } else {
            Self::of_file(path)
        }
    }

    /// The first 16 hexadecimal digits: enough to tell things apart in names of files.
    pub fn short(&self) -> String {
        self.0[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self(hasher.finalize().into())),
                read => hasher.update(&buffer[..read]),
            }
        }
    }

    fn of_folder(path: &Path) -> io::Result<Self> {
        let mut listing = String::new();
        for file in files_in(path)? {
            listing.push_str(&format!("{}  {}\n", Self::of_file(&file.path)?, file.name));
        }
        Ok(Self::of_bytes(listing.as_bytes()))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a SHA-256: 64 hexadecimal digits are expected")]
pub struct InvalidHash(String);

impl FromStr for ContentHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let invalid = || InvalidHash(text.to_owned());
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let mut hash = [0; 32];
        for (index, byte) in hash.iter_mut().enumerate() {
            let digits = &text[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        Ok(Self(hash))
    }
}

impl TryFrom<String> for ContentHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        text.parse()
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> Self {
        hash.to_string()
    }
}

/// One file of a folder.
#[derive(Debug)]
pub struct ListedFile {
    /// Relative to the folder, with `/`; empty for a file that was listed by itself.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its size and times.
    pub metadata: Metadata,
}

/// All files of a folder in byte order of their names, hidden ones left out; a file lists itself.
///
/// # Errors
/// When something in it cannot be read.
pub fn files_in(path: &Path) -> io::Result<Vec<ListedFile>> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        return Ok(vec![ListedFile {
            name: String::new(),
            path: path.to_owned(),
            metadata,
        }]);
    }
    let mut files = Vec::new();
    list(path, "", &mut files)?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn list(folder: &Path, prefix: &str, files: &mut Vec<ListedFile>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        let metadata = fs::metadata(&path)?;
        if metadata.is_dir() {
            list(&path, &format!("{name}/"), files)?;
        } else {
            files.push(ListedFile {
                name,
                path,
                metadata,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn hash_of_a_file_is_its_sha256() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(ContentHash::of_path(&path).unwrap().to_string(), ABC);
    }

    #[test]
    fn hash_of_a_folder_is_that_of_its_sorted_listing() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        for name in ["a/z", "a.txt", ".DS_Store"] {
            fs::write(folder.path().join(name), "abc").unwrap();
        }
        let listing = format!("{ABC}  a.txt\n{ABC}  a/z\n");
        assert_eq!(
            ContentHash::of_path(folder.path()).unwrap(),
            ContentHash::of_bytes(listing.as_bytes())
        );
    }

    #[test]
    fn only_64_hexadecimal_digits_are_a_hash() {
        assert_eq!(ABC.parse::<ContentHash>().unwrap().to_string(), ABC);
        assert_eq!(
            ABC.to_uppercase()
                .parse::<ContentHash>()
                .unwrap()
                .to_string(),
            ABC
        );
        for text in [
            "",
            "ba78",
            &ABC[..63],
            &format!("{ABC}00"),
            &ABC.replace('b', "g"),
        ] {
            assert_eq!(
                text.parse::<ContentHash>(),
                Err(InvalidHash(text.to_owned())),
                "{text}"
            );
        }
    }
}
