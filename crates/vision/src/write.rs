//! PNG files, and files that are never half written: a temporary file beside the target, then a
//! rename.

use std::io::{self, Write};
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::error::ImageError;

/// Writes `bytes` to `path`, replacing an existing file in one step.
///
/// # Errors
/// Whatever the operating system reports; the target is then as it was before.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A bare file name has the parent "", which stands for the current folder.
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private by default; results follow the user's umask instead.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// A PNG file of 8-bit samples, `[height, width, channels]`.
pub(crate) fn png(
    samples: &[u8],
    (width, height): (u32, u32),
    colours: ExtendedColorType,
) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(samples, width, height, colours)
        .map_err(|error| ImageError::Unencodable {
            reason: error.to_string(),
        })?;
    Ok(bytes)
}
