//! The image files that paths on the command line name.

use std::path::{Path, PathBuf};

use anomalens::detectors::Shot;
use anomalens::vision::Image;
use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

/// Endings of files that are taken for images when a folder is searched; files named outright may
/// have any.
const ENDINGS: [&str; 9] = [
    "png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "jpe", "jfif",
];

/// An image file and its name among the results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageFile {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its path below the folder that was given, unique among all.
    pub(super) name: PathBuf,
}

/// The images that `paths` name: files as they are, folders with everything below them, sorted.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<ImageFile>> {
    let mut images: Vec<ImageFile> = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        let found = below(path)?;
        let clash = found
            .iter()
            .any(|new| images.iter().any(|old| old.name == new.name));
        images.extend(found.into_iter().map(|image| match clash {
            // Two folders with files of the same name: told apart by their place.
            true => ImageFile {
                name: Path::new(&(i + 1).to_string()).join(&image.name),
                ..image
            },
            false => image,
        }));
    }
    Ok(images)
}

/// Reads normal images; none may be unusable.
pub(super) fn shots(files: &[ImageFile]) -> Result<Vec<Shot>> {
    let shot = |file: &ImageFile| {
        let image = Image::open(&file.path)
            .context("a normal image cannot be used; mend it or take it out")?;
        let name = file.name.to_string_lossy().replace('\\', "/");
        Ok(Shot { name, image })
    };
    files.iter().map(shot).collect()
}

fn below(path: &Path) -> Result<Vec<ImageFile>> {
    let metadata = std::fs::metadata(path)
        .with_context(|| format!("cannot find {}; check the path", path.display()))?;
    if !metadata.is_dir() {
        let name = path
            .file_name()
            .map_or_else(|| path.to_owned(), PathBuf::from);
        return Ok(vec![ImageFile {
            path: path.to_owned(),
            name,
        }]);
    }
    let mut images = Vec::new();
    for entry in WalkDir::new(path).sort_by_file_name().follow_links(true) {
        let entry = entry.with_context(|| format!("cannot search {}", path.display()))?;
        let ending = entry
            .path()
            .extension()
            .map(|e| e.to_string_lossy().to_lowercase());
        if entry.file_type().is_file() && ending.is_some_and(|e| ENDINGS.contains(&e.as_str())) {
            let name = entry
                .path()
                .strip_prefix(path)
                .unwrap_or(entry.path())
                .to_owned();
            images.push(ImageFile {
                path: entry.into_path(),
                name,
            });
        }
    }
    if images.is_empty() {
        bail!(
            "there are no images in {} (files ending in {})",
            path.display(),
            ENDINGS.join(", ")
        );
    }
    Ok(images)
}
