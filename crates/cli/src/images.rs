//! The image files that paths on the command line name.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use anomalens::detectors::ReferenceImage;
use anomalens::evaluation::is_result_folder;
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

/// The images that `paths` name, of which none may be out of reach. Where two have the same name,
/// their paths take its place.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<ImageFile>> {
    let Listing {
        files, problems, ..
    } = list(paths, None)?;
    if let Some((path, error)) = problems.first() {
        bail!("{}: {error}", path.display());
    }
    let mut uses: HashMap<PathBuf, usize> = HashMap::new();
    for file in &files {
        *uses.entry(file.name.clone()).or_default() += 1;
    }
    let unique = |file: ImageFile| match uses.get(&file.name) {
        Some(1) => file,
        _ => ImageFile {
            name: file.path.clone(),
            ..file
        },
    };
    Ok(files.into_iter().map(unique).collect())
}

/// Files that cameras, cards and systems leave among photos.
const SYSTEM: [&str; 5] = [
    "@eadir",
    "__macosx",
    "thumbs.db",
    "$recycle.bin",
    "lost+found",
];

/// The images that `paths` name, each once: files as they are, folders with everything below them,
/// sorted. Folders of results are left out, `output` among them.
pub(super) fn list(paths: &[PathBuf], output: Option<&Path>) -> Result<Listing> {
    let output = output.and_then(|output| output.canonicalize().ok());
    let is_output = |folder: &Path| {
        let here = folder.canonicalize().ok();
        output.is_some() && here == output || is_result_folder(folder)
    };
    let mut listing = Listing {
        files: vec![],
        problems: vec![],
        left_out: vec![],
    };
    let mut seen: HashSet<PathBuf> = HashSet::new();
    for path in paths {
        let metadata = std::fs::metadata(path)
            .with_context(|| format!("cannot find {}; check the path", path.display()))?;
        if !metadata.is_dir() {
            let name = path.file_name().map_or_else(|| path.clone(), PathBuf::from);
            listing.add(
                ImageFile {
                    path: tidy(path),
                    name,
                },
                &mut seen,
            );
            continue;
        }
        if output.is_some() && path.canonicalize().ok() == output {
            bail!(
                "{} is the folder of the images and of the results: name another with --output",
                path.display()
            );
        }
        listing.below(path, &is_output, &mut seen);
    }
    if listing.files.is_empty() && listing.problems.is_empty() {
        let paths: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "there are no images in {} (files ending in {})",
            paths.join(", "),
            ENDINGS.join(", ")
        );
    }
    Ok(listing)
}

/// A path without the parts that change nothing: `./a//b/./c` is `a/b/c`.
fn tidy(path: &Path) -> PathBuf {
    let parts = path.components();
    parts.filter(|part| *part != Component::CurDir).collect()
}

/// Images, and what is to be said of what is no image.
pub(super) struct Listing {
    /// The images.
    pub(super) files: Vec<ImageFile>,
    /// What cannot be listed, and why.
    pub(super) problems: Vec<(PathBuf, String)>,
    /// Folders of results that were left out.
    left_out: Vec<PathBuf>,
}

impl Listing {
    /// Adds an image unless it is there under another spelling of its path.
    fn add(&mut self, file: ImageFile, seen: &mut HashSet<PathBuf>) {
        let folder = file.path.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new(".")).canonicalize();
        let place = match (folder, file.path.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => file.path.clone(),
        };
        if seen.insert(place) {
            self.files.push(file);
        }
    }

    /// Adds the images below `folder`.
    fn below(
        &mut self,
        folder: &Path,
        is_output: &dyn Fn(&Path) -> bool,
        seen: &mut HashSet<PathBuf>,
    ) {
        let mut walk = WalkDir::new(folder)
            .sort_by_file_name()
            .follow_links(true)
            .into_iter();
        while let Some(entry) = walk.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let path = error.path().unwrap_or(folder);
                    let is_image = error.loop_ancestor().is_none() && has_ending(path);
                    if is_image || error.loop_ancestor().is_none() && path == folder {
                        self.problems.push((tidy(path), error.to_string()));
                    }
                    continue;
                }
            };
            let is_dir = entry.file_type().is_dir();
            if entry.depth() > 0 && is_hidden(entry.file_name()) {
                if is_dir {
                    walk.skip_current_dir();
                }
                continue;
            }
            if is_dir && entry.depth() > 0 && is_output(entry.path()) {
                self.left_out.push(entry.path().to_owned());
                walk.skip_current_dir();
                continue;
            }
            if entry.file_type().is_file() && has_ending(entry.path()) {
                let name = entry.path().strip_prefix(folder).unwrap_or(entry.path());
                let file = ImageFile {
                    path: tidy(entry.path()),
                    name: name.to_owned(),
                };
                self.add(file, seen);
            }
        }
    }

    /// What a user must know, a sentence each.
    pub(super) fn notes(&self) -> Vec<String> {
        let left_out = self.left_out.iter();
        left_out
            .map(|folder| format!("{} holds results and was left out", folder.display()))
            .collect()
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
pub(super) fn shots(files: &[ImageFile]) -> Result<Vec<ReferenceImage>> {
    let shot = |file: &ImageFile| {
        let image = Image::open(&file.path)
            .context("a normal image cannot be used; mend it or take it out")?;
        let name = file.name.to_string_lossy().replace('\\', "/");
        Ok(ReferenceImage { name, image })
    };
    files.iter().map(shot).collect()
}

fn is_hidden(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    name.starts_with('.') || SYSTEM.contains(&name.as_str())
}

fn has_ending(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}
