//! What can go wrong, each with the facts a user needs to act.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Where image bytes came from, as it is named in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Bytes in memory, for example an upload.
    Memory,
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Memory => f.write_str("the image data"),
            Origin::File(path) => path.display().fmt(f),
        }
    }
}

/// An image or mask could not be read or written.
#[derive(Debug, Error)]
pub enum ImageError {
    /// There is nothing at this path.
    #[error("{path} does not exist; check the path")]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The path is a directory.
    #[error("{path} is a folder, not an image file; name a file in it")]
    Directory {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system refused to read the file.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// The reason given by the operating system.
        source: io::Error,
    },
    /// There are no bytes at all.
    #[error("{origin} is empty (0 bytes); copy or export the image again")]
    Empty {
        /// Where the bytes came from.
        origin: Origin,
    },
    /// The bytes are not those of an image.
    #[error(
        "{origin} is not an image, it looks like {looks_like}; \
         give a PNG, JPEG, BMP, TIFF or WebP file"
    )]
    NotAnImage {
        /// Where the bytes came from.
        origin: Origin,
        /// What the first bytes look like.
        looks_like: String,
    },
    /// An image in a format that is not read here.
    #[error(
        "{origin} is in {format} format, which is not supported; \
         convert it to PNG, JPEG, BMP, TIFF or WebP"
    )]
    UnsupportedFormat {
        /// Where the bytes came from.
        origin: Origin,
        /// The format found.
        format: &'static str,
    },
    /// A supported format, used in a way that is not supported.
    #[error(
        "{origin} is a {format} image of a kind that is not supported ({feature}); \
         save it as an 8-bit or 16-bit PNG"
    )]
    UnsupportedFeature {
        /// Where the bytes came from.
        origin: Origin,
        /// The format found.
        format: &'static str,
        /// What is not supported.
        feature: String,
    },
    /// A mask is to be read from an alpha channel that is not there.
    #[error("{origin} has no alpha channel to read a mask from")]
    NoAlpha {
        /// Where the bytes came from.
        origin: Origin,
    },
    /// Truncated or damaged image data.
    #[error(
        "{origin} is a truncated or damaged {format} image ({reason}); \
         copy or export the image again"
    )]
    Damaged {
        /// Where the bytes came from.
        origin: Origin,
        /// The format found.
        format: &'static str,
        /// The decoder's reason.
        reason: String,
    },
    /// More bytes than [`Limits::max_bytes`](crate::Limits::max_bytes).
    #[error("{origin} is larger than the limit of {limit} bytes; shrink it or raise the limit")]
    TooManyBytes {
        /// Where the bytes came from.
        origin: Origin,
        /// The limit.
        limit: u64,
    },
    /// More pixels than [`Limits::max_pixels`](crate::Limits::max_pixels).
    #[error(
        "{origin} has {width} x {height} pixels, more than the limit of {limit} pixels; \
         shrink it or raise the limit"
    )]
    TooManyPixels {
        /// Where the bytes came from.
        origin: Origin,
        /// Width in its header.
        width: u32,
        /// Height in its header.
        height: u32,
        /// The limit.
        limit: u64,
    },
    /// More memory than [`Limits::max_memory`](crate::Limits::max_memory).
    #[error(
        "{origin} needs more than {limit} bytes of memory to decode; save it again as PNG or raise \
         the limit"
    )]
    TooMuchMemory {
        /// Where the bytes came from.
        origin: Origin,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A file has fewer pages than the one asked for.
    #[error("{origin} has no page {page}, counted from 0; it has {pages}")]
    NoSuchPage {
        /// Where the bytes came from.
        origin: Origin,
        /// The page asked for, from 0.
        page: u32,
        /// Pages in full resolution.
        pages: u32,
    },
    /// An image could not be encoded as PNG.
    #[error("the image cannot be encoded as PNG: {reason}")]
    Unencodable {
        /// The encoder's reason.
        reason: String,
    },
    /// A file could not be written.
    #[error("{path} cannot be written: {source}")]
    Unwritable {
        /// The path as given.
        path: PathBuf,
        /// The reason given by the operating system.
        source: io::Error,
    },
}

/// Sizes, areas or parameters that do not fit together.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum GeometryError {
    /// A width, height or count of images is zero.
    #[error("{what} would be empty; its size comes out as {width} x {height}")]
    Empty {
        /// The thing that would be empty.
        what: &'static str,
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
    },
    /// The number of values does not match the size.
    #[error("{what} of {width} x {height} needs {expected} values but was given {found}")]
    WrongLength {
        /// The thing to be made.
        what: &'static str,
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Values needed.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// Two things that must have the same size have not.
    #[error(
        "{what} is {found_width} x {found_height} but must be {width} x {height}; \
         resize it first"
    )]
    SizeMismatch {
        /// The thing of the wrong size.
        what: &'static str,
        /// Width needed.
        width: u32,
        /// Height needed.
        height: u32,
        /// Width found.
        found_width: u32,
        /// Height found.
        found_height: u32,
    },
    /// An area to cut out reaches outside.
    #[error(
        "the area of {width} x {height} at ({x}, {y}) reaches outside \
         the {image_width} x {image_height} image"
    )]
    CropOutside {
        /// Left edge.
        x: u32,
        /// Top edge.
        y: u32,
        /// Width of the area.
        width: u32,
        /// Height of the area.
        height: u32,
        /// Width of the image.
        image_width: u32,
        /// Height of the image.
        image_height: u32,
    },
    /// A result too large to be meant.
    #[error(
        "resizing {from_width} x {from_height} to {width} x {height} is too large; \
         crop the image to a less extreme shape or choose a smaller size"
    )]
    TooLarge {
        /// Width before.
        from_width: u64,
        /// Height before.
        from_height: u64,
        /// Width asked for.
        width: u64,
        /// Height asked for.
        height: u64,
    },
    /// A mask too finely divided to be kept as runs.
    #[error("a mask is divided into more than {limit} runs of pixels")]
    TooManyRuns {
        /// Most runs.
        limit: usize,
    },
    /// A smoothing width outside the usable range.
    #[error("the smoothing width sigma is {sigma} but must be between 0 and {max}")]
    Sigma {
        /// The value given.
        sigma: f64,
        /// The largest usable value.
        max: f64,
    },
}

impl GeometryError {
    /// Checks that a thing of `width` x `height` has both sides, and `each` values for every pixel.
    pub(crate) fn check(
        what: &'static str,
        (width, height): (usize, usize),
        each: usize,
        found: usize,
    ) -> Result<(), Self> {
        if width == 0 || height == 0 {
            let (width, height) = (width as u64, height as u64);
            return Err(Self::Empty {
                what,
                width,
                height,
            });
        }
        let expected = width.saturating_mul(height).saturating_mul(each);
        if found != expected {
            return Err(Self::WrongLength {
                what,
                width,
                height,
                expected,
                found,
            });
        }
        Ok(())
    }

    pub(crate) fn empty(what: &'static str, width: u32, height: u32) -> Self {
        Self::Empty {
            what,
            width: width.into(),
            height: height.into(),
        }
    }
}
