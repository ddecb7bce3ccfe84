//! From bytes to pixels, defensively: the format comes from the bytes, never from the extension; sizes
//! are checked against the limits before pixels are allocated; a file whose pixels end early is an
//! error, as a detector would report made-up pixels as a defect.
//!
//! ```text
//! bytes ── formats ──> png, jpeg, tiff, bmp, webp ──> Raster (the file's samples) ──> 8 bits, RGB
//!             guard: limits, memory shared by all threads        options: bits, mode, page
//! ```

mod bmp;
mod formats;
mod guard;
mod jpeg;
mod options;
mod png;
mod raster;
mod tiff;
mod webp;

use std::cell::Cell;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::iter;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

pub use self::formats::{FileKind, IMAGE_ENDINGS};
pub(crate) use self::guard::{Failure, damaged};
pub use self::options::{DecodeOptions, Levels, Limits};
pub(crate) use self::raster::{Layout, Raster, Samples, Used, divided_by_255, to_rgb};

use self::formats::{Content, Format, recognise};
use self::guard::Guard;
use crate::error::{ImageError, Origin};

/// Reads a file of at most `limits.max_bytes`.
pub(crate) fn read_file(path: &Path, limits: &Limits) -> Result<Vec<u8>, ImageError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ImageError::Missing { path: path.into() },
        _ => ImageError::Unreadable {
            path: path.into(),
            source,
        },
    };
    let too_large = || ImageError::TooManyBytes {
        origin: Origin::File(path.into()),
        limit: limits.max_bytes,
    };
    let metadata = path.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(ImageError::Directory { path: path.into() });
    }
    if metadata.len() > limits.max_bytes {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // The size of a pipe or device is not known beforehand, so reading is bounded as well.
    File::open(path)
        .and_then(|file| {
            file.take(limits.max_bytes.saturating_add(1))
                .read_to_end(&mut bytes)
        })
        .map_err(unreadable)?;
    if bytes.len() as u64 > limits.max_bytes {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Decodes a picture: the file's samples, not yet turned upright. `finish` makes of them what is
/// wanted, while the image still counts towards the shared memory.
pub(crate) fn decode<T>(
    bytes: &[u8],
    options: &DecodeOptions,
    origin: &Origin,
    finish: impl FnOnce(Raster) -> Result<T, Failure>,
) -> Result<T, ImageError> {
    let format = format_of(bytes, &options.limits, origin)?;
    let mut guard = Guard::new(&options.limits);
    without_panic(|| finish(read(bytes, format, options, &mut guard)?))
        .map_err(|failure| error(failure, format, options, origin))
}

/// Width and height of an image in memory as [`Image`](crate::Image) would have them, from its header
/// alone.
///
/// # Errors
/// An [`ImageError`] whose origin is [`Origin::Memory`], also if the image exceeds the default limits.
pub fn image_size(bytes: &[u8]) -> Result<(u32, u32), ImageError> {
    let (options, origin) = (DecodeOptions::default(), Origin::Memory);
    let format = format_of(bytes, &options.limits, &origin)?;
    let mut guard = Guard::size_only(&options.limits);
    match without_panic(|| read(bytes, format, &options, &mut guard)) {
        Ok(raster) => Ok((raster.width as u32, raster.height as u32)),
        Err(Failure::Size(width, height)) => Ok((width, height)),
        Err(failure) => Err(error(failure, format, &options, &origin)),
    }
}

fn format_of(bytes: &[u8], limits: &Limits, origin: &Origin) -> Result<Format, ImageError> {
    let origin = origin.clone();
    if bytes.is_empty() {
        return Err(ImageError::Empty { origin });
    }
    if bytes.len() as u64 > limits.max_bytes {
        let limit = limits.max_bytes;
        return Err(ImageError::TooManyBytes { origin, limit });
    }
    match recognise(bytes) {
        Content::Readable(format) => Ok(format),
        Content::OtherImage(format) => Err(ImageError::UnsupportedFormat { origin, format }),
        Content::NoImage(looks_like) => Err(ImageError::NotAnImage { origin, looks_like }),
    }
}

fn read(
    bytes: &[u8],
    format: Format,
    options: &DecodeOptions,
    guard: &mut Guard<'_>,
) -> Result<Raster, Failure> {
    if options.page > 0 && format != Format::Tiff {
        return Err(Failure::NoSuchPage(1));
    }
    match format {
        Format::Bmp => bmp::decode(bytes, guard),
        Format::Jpeg => jpeg::decode(bytes, None, jpeg::Components::AsMarked, guard),
        Format::Png => png::decode(bytes, guard),
        Format::Tiff => tiff::decode(bytes, options.page, guard),
        Format::WebP => webp::decode(bytes, guard),
    }
}

fn error(failure: Failure, format: Format, options: &DecodeOptions, origin: &Origin) -> ImageError {
    let (origin, format) = (origin.clone(), format.name());
    match failure {
        Failure::Damaged(reason) => ImageError::Damaged {
            origin,
            format,
            reason,
        },
        Failure::Unsupported(feature) => ImageError::UnsupportedFeature {
            origin,
            format,
            feature,
        },
        Failure::TooManyPixels(width, height) | Failure::Size(width, height) => {
            ImageError::TooManyPixels {
                origin,
                width,
                height,
                limit: options.limits.max_pixels,
            }
        }
        Failure::TooMuchMemory => ImageError::TooMuchMemory {
            origin,
            limit: options.limits.max_memory,
        },
        Failure::NoSuchPage(pages) => ImageError::NoSuchPage {
            origin,
            page: options.page,
            pages,
        },
    }
}

thread_local! {
    /// Whether this thread is in a decoder, whose panics are reported as errors of the file.
    static IS_DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder; a panic in it, from its own code or that of a library, is an error of the file.
fn without_panic<T>(decoder: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    static QUIET: Once = Once::new();
    // The message on the terminal would have no file name; everything else is passed on.
    QUIET.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_DECODING.get() {
                others(panic);
            }
        }));
    });
    IS_DECODING.set(true);
    // Nothing of a failed decoding is used afterwards but the guard, which only counts.
    let result = panic::catch_unwind(AssertUnwindSafe(decoder));
    IS_DECODING.set(false);
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no reason given");
        Err(damaged(format!("its decoder failed: {text}")))
    })
}

/// The innermost reason on one line, without the layers that repeat the format.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let root = iter::successors(Some(error), |&error| error.source())
        .last()
        .unwrap_or(error);
    root.to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "what is tested")]

    use super::*;

    #[test]
    fn a_panic_is_an_error_of_the_file_and_gives_its_memory_back() {
        let limits = Limits {
            max_memory: 1000,
            ..Limits::default()
        };
        let header = guard::Header {
            width: 1,
            height: 1,
            orientation: image::metadata::Orientation::NoTransforms,
            memory: 1000,
        };
        for reason in ["index 3", "index 4"] {
            let failure = without_panic(|| -> Result<(), Failure> {
                // The second time this would wait for ever.
                Guard::new(&limits).admit(&header)?;
                panic!("out of bounds: {reason}")
            });
            let failure = failure.unwrap_err();
            let expected = format!("its decoder failed: out of bounds: {reason}");
            assert!(matches!(failure, Failure::Damaged(reason) if reason == expected));
        }
    }
}
