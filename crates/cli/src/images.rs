//! The image files that paths on the command line name.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anomalens::datasets::{ImageFile, find_images, path_text};
use anomalens::detectors::{ImageSource, ReferenceImage};
use anomalens::evaluation::is_result_folder;
use anomalens::vision::{DecodeOptions, Image, NoteLog};
use anyhow::{Context, Result, bail};

use super::decode::print_notes;

/// The images that `paths` name, of which none may be out of reach.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<ImageFile>> {
    let Listing {
        files, problems, ..
    } = list(paths, None)?;
    if let Some((path, error)) = problems.first() {
        bail!("{}: {error}", path.display());
    }
    Ok(files)
}

/// The images that `paths` name, each once: files as they are, folders with everything below them,
/// sorted, and what patterns match. Folders of results are left out, `output` among them.
pub(super) fn list(paths: &[PathBuf], output: Option<&Path>) -> Result<Listing> {
    let output = output.and_then(|output| output.canonicalize().ok());
    let is_output = |folder: &Path| output.is_some() && folder.canonicalize().ok() == output;
    if let Some(path) = paths.iter().find(|path| is_output(path)) {
        bail!(
            "{} is the folder of the images and of the results: name another with --output",
            path.display()
        );
    }
    let found = find_images(paths, &|folder| {
        is_output(folder) || is_result_folder(folder)
    })?;
    let left_out = found.left_out.iter();
    let left_out = left_out.map(|f| format!("{} holds results and was left out", f.display()));
    Ok(Listing {
        notes: left_out.chain(found.unread_note()).collect(),
        files: found.images,
        problems: found.problems,
    })
}

/// Images, and what is to be said of what is no image.
pub(super) struct Listing {
    /// The images.
    pub(super) files: Vec<ImageFile>,
    /// What cannot be listed, and why.
    pub(super) problems: Vec<(PathBuf, String)>,
    notes: Vec<String>,
}

impl Listing {
    /// What a user must know, a sentence each.
    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// The names of images and folders that `list` has, a line each; `-` is standard input.
pub(super) fn names_in(list: &Path) -> Result<Vec<PathBuf>> {
    let bytes = if list == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(list)
    };
    let bytes = bytes.with_context(|| format!("cannot read the list {}", list.display()))?;
    let lines = bytes.split(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(path_of).collect()
}

#[cfg(unix)]
fn path_of(line: &[u8]) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    Ok(std::ffi::OsStr::from_bytes(line).into())
}

#[cfg(not(unix))]
fn path_of(line: &[u8]) -> Result<PathBuf> {
    let line = std::str::from_utf8(line).context("a line of the list is not UTF-8")?;
    Ok(line.into())
}

/// Reads normal images; none may be unusable.
pub(super) fn shots(files: &[ImageFile], decode: &DecodeOptions) -> Result<Vec<ReferenceImage>> {
    let notes = NoteLog::default();
    let images = files.iter();
    let images = images.map(|file| (path_text(&file.name), file.path.clone().into()));
    let note = |source: &ImageSource, image: &Image| notes.add(source.path(), image);
    let shots = ReferenceImage::read_all(images, decode, note)
        .context("a normal image cannot be used; mend it or take it out");
    print_notes(&notes);
    shots
}
