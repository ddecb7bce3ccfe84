//! The image files that paths name: files as they are, folders with everything below them, patterns
//! with `*`, `?` and `[]`. What cannot be searched is reported and does not end the search; what
//! systems leave behind (hidden files, thumbnails, recycle bins) is skipped.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use anomalens_vision::FileKind;
use glob::MatchOptions;
use walkdir::WalkDir;

use crate::error::Error;
use crate::listing::is_system;

/// An image file and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path below the folder that was given, unique among all that were found.
    pub name: PathBuf,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct FoundImages {
    /// The images, sorted below each path.
    pub images: Vec<ImageFile>,
    /// Files and folders that could not be searched, and why.
    pub problems: Vec<(PathBuf, String)>,
    /// Folders that were left out as the caller wished.
    pub left_out: Vec<PathBuf>,
    /// Files in formats that are not read, by the name of the format.
    pub unread: BTreeMap<&'static str, usize>,
}

impl FoundImages {
    /// How many files cannot be read, as a sentence.
    pub fn unread_note(&self) -> Option<String> {
        let count: usize = self.unread.values().sum();
        let each: Vec<String> = self
            .unread
            .iter()
            .map(|(format, count)| format!("{count} {format}"))
            .collect();
        let files = if count == 1 {
            "file is in a format"
        } else {
            "files are in formats"
        };
        (count > 0).then(|| {
            format!(
                "{count} {files} that cannot be read ({}): convert them to PNG",
                each.join(", ")
            )
        })
    }
}

/// Finds the images that `paths` name. A folder for which `leave_out` holds is not searched, except
/// one that is named outright. A file that is named twice is found once.
///
/// # Errors
/// [`Error::PathMissing`] if there is nothing at a path and no file matches it as a pattern,
/// [`Error::NoImagesBelow`] if no image is found and nothing stood in the way.
pub fn find_images(
    paths: &[PathBuf],
    leave_out: &dyn Fn(&Path) -> bool,
) -> Result<FoundImages, Error> {
    let mut search = Search {
        found: FoundImages::default(),
        leave_out,
    };
    let (mut seen, mut names) = (HashSet::new(), HashSet::new());
    for (index, path) in paths.iter().enumerate() {
        let mut new = search.path(path)?;
        new.retain(|image| seen.insert(canonical(&image.path)));
        let clash = |prefix: &Path| new.iter().any(|i| names.contains(&prefix.join(&i.name)));
        // Images of the same name from several paths differ by the number of their path.
        let number = index + 1;
        let prefixes = (1..).map(|n| match n {
            1 => PathBuf::new(),
            2 => number.to_string().into(),
            _ => format!("{number}-{}", n - 1).into(),
        });
        if let Some(prefix) = prefixes.into_iter().find(|prefix| !clash(prefix)) {
            for image in &mut new {
                image.name = prefix.join(&image.name);
            }
        }
        names.extend(new.iter().map(|image| image.name.clone()));
        search.found.images.extend(new);
    }
    let found = search.found;
    if found.images.is_empty() && found.problems.is_empty() {
        return Err(Error::NoImagesBelow {
            paths: paths.to_vec(),
            note: found.unread_note(),
        });
    }
    Ok(found)
}

/// A path as a text that no other path has: bytes that are not UTF-8 as `\xE4`, a backslash twice.
/// Where backslashes separate names they become `/`.
pub fn path_text(path: &Path) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let mut text = String::new();
        for chunk in path.as_os_str().as_bytes().utf8_chunks() {
            text += &chunk.valid().replace('\\', "\\\\");
            for byte in chunk.invalid() {
                text += &format!("\\x{byte:02X}");
            }
        }
        text
    }
    #[cfg(not(unix))]
    path.to_string_lossy().replace('\\', "/")
}

/// The same for all spellings of a path; links to files are files of their own.
fn canonical(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    match (
        folder.unwrap_or(Path::new(".")).canonicalize(),
        path.file_name(),
    ) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// Whether a path, or a part of one, is a pattern.
pub(crate) fn is_pattern(path: &OsStr) -> bool {
    path.to_str()
        .is_some_and(|text| text.contains(['*', '?', '[']))
}

/// A path without the parts that change nothing: `./a//b/./c` is `a/b/c`.
fn tidy(path: &Path) -> PathBuf {
    let parts = path.components();
    parts
        .filter(|part| !matches!(part, Component::CurDir))
        .collect()
}

struct Search<'a> {
    found: FoundImages,
    leave_out: &'a dyn Fn(&Path) -> bool,
}

impl Search<'_> {
    fn path(&mut self, path: &Path) -> Result<Vec<ImageFile>, Error> {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(self.below(path, path)),
            Ok(_) => {
                let name = path.file_name().map_or_else(|| path.into(), PathBuf::from);
                let path = tidy(path);
                Ok(vec![ImageFile { path, name }])
            }
            Err(_) => self.matching(path),
        }
    }

    /// The images that a pattern matches, and those below folders that it matches.
    fn matching(&mut self, path: &Path) -> Result<Vec<ImageFile>, Error> {
        let missing = || Error::PathMissing {
            path: path.to_owned(),
        };
        let pattern = path
            .to_str()
            .filter(|_| is_pattern(path.as_os_str()))
            .ok_or_else(missing)?;
        let base: PathBuf = path
            .components()
            .take_while(|part| !is_pattern(part.as_os_str()))
            .collect();
        let options = MatchOptions {
            require_literal_leading_dot: true,
            ..MatchOptions::default()
        };
        let mut any = false;
        let mut images = Vec::new();
        for entry in glob::glob_with(pattern, options).map_err(|_| missing())? {
            any = true;
            match entry {
                Ok(path) if path.is_dir() => images.extend(self.below(&path, &base)),
                Ok(path) => images.extend(self.file(path, &base)),
                Err(error) => self.problem(error.path(), error.error()),
            }
        }
        if any { Ok(images) } else { Err(missing()) }
    }

    /// The images below a folder, with names that start at `base`.
    fn below(&mut self, folder: &Path, base: &Path) -> Vec<ImageFile> {
        let mut images = Vec::new();
        let mut entries = WalkDir::new(folder)
            .sort_by_file_name()
            .follow_links(true)
            .into_iter();
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if entry.depth() == 0 => {}
                Ok(entry) if entry.file_type().is_dir() => {
                    if is_system(entry.file_name()) {
                        entries.skip_current_dir();
                    } else if (self.leave_out)(entry.path()) {
                        self.found.left_out.push(entry.into_path());
                        entries.skip_current_dir();
                    }
                }
                Ok(entry) => images.extend(self.file(entry.into_path(), base)),
                Err(error) => {
                    let path = error.path().unwrap_or(folder).to_owned();
                    if path.file_name().is_some_and(is_system) {
                        continue;
                    }
                    // A link to a folder above it leads to nothing new; one that leads nowhere
                    // matters if an image is expected there.
                    let is_lost = error.loop_ancestor().is_none()
                        && (!path.is_symlink() || FileKind::of_name(&path) == FileKind::Image);
                    if is_lost {
                        self.problem(&path, &error.into());
                    }
                }
            }
        }
        images
    }

    /// A file in a folder, if it is an image.
    fn file(&mut self, path: PathBuf, base: &Path) -> Option<ImageFile> {
        let file_name = path.file_name()?;
        if is_system(file_name) {
            return None;
        }
        match FileKind::of_name(&path) {
            FileKind::Image => {}
            FileKind::UnreadImage(format) => {
                *self.found.unread.entry(format).or_default() += 1;
                return None;
            }
            FileKind::Other => return None,
        }
        let name = path.strip_prefix(base).unwrap_or(&path).to_owned();
        let path = tidy(&path);
        Some(ImageFile { path, name })
    }

    fn problem(&mut self, path: &Path, reason: &io::Error) {
        self.found.problems.push((tidy(path), reason.to_string()));
    }
}
