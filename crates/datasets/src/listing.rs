//! What a folder holds, sorted by name (byte by byte, as Python sorts), with the files that
//! systems and archives leave behind set aside.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anomalens_vision::FileKind;

use crate::error::Error;

/// Left behind by file managers, storage devices and archives, in lower case.
const SYSTEM_FILES: [&str; 9] = [
    "thumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "system volume information",
    "lost+found",
];
/// Left behind by AnomalyCLIP's scripts.
const META: &str = "meta.json";
/// Files for people, with any ending: MVTec AD has `readme.txt` and `license.txt` in each class.
const DOCUMENTS: [&str; 4] = ["readme", "license", "licence", "citation"];

/// Names in a folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) folders: Vec<String>,
    pub(crate) images: Vec<String>,
    pub(crate) others: Vec<String>,
}

impl Listing {
    pub(crate) fn is_empty(&self) -> bool {
        self.folders.is_empty() && self.images.is_empty() && self.others.is_empty()
    }
}

/// Lists a folder, not what is below it.
pub(crate) fn list(folder: &Path) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(folder).map_err(|source| Error::reading(folder, source))? {
        let path = entry
            .map_err(|source| Error::reading(folder, source))?
            .path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| !name.contains(char::is_control))
            .ok_or_else(|| Error::FileName { path: path.clone() })?
            .to_owned();
        if is_ignored(&name) {
            continue;
        }
        let names = if path.is_dir() {
            &mut listing.folders
        } else if is_image(&name) {
            &mut listing.images
        } else {
            &mut listing.others
        };
        names.push(name);
    }
    listing.folders.sort_unstable();
    listing.images.sort_unstable();
    listing.others.sort_unstable();
    Ok(listing)
}

/// Whether there is an image in a folder or anywhere below it.
pub(crate) fn holds_images(folder: &Path) -> Result<bool, Error> {
    let listing = list(folder)?;
    if !listing.images.is_empty() {
        return Ok(true);
    }
    for name in &listing.folders {
        if holds_images(&folder.join(name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The paths below `folder` of all images in it and its folders, sorted, with `/` on every system.
///
/// # Errors
/// [`Error::Io`] for a folder that cannot be read, [`Error::FileName`].
pub fn images_below(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(inner) = folders.pop() {
        let listing = list(&folder.join(&inner))?;
        names.extend(listing.images.iter().map(|name| below(&inner, name)));
        folders.extend(listing.folders.iter().map(|name| below(&inner, name)));
    }
    names.sort_unstable();
    Ok(names)
}

/// The name without its ending: "000" of "000.png".
pub(crate) fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// The ending in lower case: "jpg" of "a.JPG".
pub(crate) fn extension(name: &str) -> String {
    name.rsplit_once('.')
        .map_or(String::new(), |(_, extension)| {
            extension.to_ascii_lowercase()
        })
}

/// A path below the root, with `/` on every system; `folder` is "" for the root itself.
pub(crate) fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn is_image(name: &str) -> bool {
    FileKind::of_name(Path::new(name)) == FileKind::Image
}

/// Whether a file or folder of this name is hidden or the system's own.
pub(crate) fn is_system(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    name.starts_with('.') || SYSTEM_FILES.contains(&name.as_str())
}

fn is_ignored(name: &str) -> bool {
    let lower = name.to_lowercase();
    is_system(name.as_ref())
        || lower == META
        || (!is_image(name) && DOCUMENTS.contains(&stem(&lower)))
}
