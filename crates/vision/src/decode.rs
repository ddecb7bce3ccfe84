//! From bytes to pixels, defensively: the format comes from the bytes, never from the extension;
//! size limits are checked against the header before pixels are allocated.
//!
//! Surprising: JPEG and WebP decoders make up the missing part of a truncated file, which a detector
//! would report as a defect. [`jpeg_is_complete`] and [`webp_is_complete`] make truncation an error.

use std::error::Error;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::iter;
use std::path::Path;

use image::error::UnsupportedErrorKind;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use crate::error::{ImageError, Origin};

/// What decoding may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// Most pixels, width times height.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 256 MiB and 100 megapixels: above any area camera, below what fills a small machine.
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            max_pixels: 100_000_000,
        }
    }
}

/// The widest pixel that is decoded: four channels of 16 bits.
const MAX_BYTES_PER_PIXEL: u64 = 8;

/// Room for tables, metadata and other things that do not grow with the image.
const FIXED_DECODER_MEMORY: u64 = 64 << 20;

impl Limits {
    /// Memory a decoder may take, in bytes: pixels, a working copy of them, and the fixed part.
    fn decoder_memory(&self) -> u64 {
        self.max_pixels
            .saturating_mul(2 * MAX_BYTES_PER_PIXEL)
            .saturating_add(FIXED_DECODER_MEMORY)
    }
}

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

/// Decodes the first (or only) picture in `bytes`, upright as its EXIF or TIFF orientation says.
pub(crate) fn decode(
    bytes: &[u8],
    limits: &Limits,
    origin: &Origin,
) -> Result<DynamicImage, ImageError> {
    let origin = || origin.clone();
    if bytes.is_empty() {
        return Err(ImageError::Empty { origin: origin() });
    }
    if bytes.len() as u64 > limits.max_bytes {
        return Err(ImageError::TooManyBytes {
            origin: origin(),
            limit: limits.max_bytes,
        });
    }
    let (format, name) = match recognise(bytes) {
        Content::Readable(format, name) => (format, name),
        Content::OtherImage(format) => {
            return Err(ImageError::UnsupportedFormat {
                origin: origin(),
                format,
            });
        }
        Content::NoImage(looks_like) => {
            return Err(ImageError::NotAnImage {
                origin: origin(),
                looks_like,
            });
        }
    };
    let damaged = |reason: String| ImageError::Damaged {
        origin: origin(),
        format: name,
        reason,
    };
    let failed = |error: image::ImageError| match error {
        image::ImageError::Limits(_) => ImageError::TooMuchMemory {
            origin: origin(),
            limit: limits.decoder_memory(),
        },
        image::ImageError::Unsupported(error) => ImageError::UnsupportedFeature {
            origin: origin(),
            format: name,
            feature: match error.kind() {
                UnsupportedErrorKind::Color(colour) => format!("colour type {colour:?}"),
                _ => error.to_string(),
            },
        },
        error => damaged(root_cause(&error)),
    };

    let complete = match format {
        ImageFormat::Jpeg => jpeg_is_complete(bytes),
        ImageFormat::WebP => webp_is_complete(bytes),
        // The other decoders report what is missing.
        _ => true,
    };
    if !complete {
        return Err(damaged("the end of the image is missing".into()));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut decoder_limits = image::Limits::no_limits();
    decoder_limits.max_alloc = Some(limits.decoder_memory());
    reader.limits(decoder_limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;

    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        let limit = limits.max_pixels;
        return Err(ImageError::TooManyPixels {
            origin: origin(),
            width,
            height,
            limit,
        });
    }
    if width == 0 || height == 0 {
        return Err(damaged(format!(
            "its header says {width} x {height} pixels"
        )));
    }
    // Unreadable metadata does not make the picture unusable.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    if matches!(
        picture,
        DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_)
    ) {
        // Their range is not known, and clipping them to 0..1 would silently blind a detector.
        let feature = "floating-point samples".into();
        return Err(ImageError::UnsupportedFeature {
            origin: origin(),
            format: name,
            feature,
        });
    }
    picture.apply_orientation(orientation);
    Ok(picture)
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

/// Whether the marker segments of a JPEG lead to its end-of-image marker (ITU T.81, annex B).
///
/// The walk skips segments by their length, so that the end of an embedded thumbnail is not taken
/// for the end of the picture. Bytes after the end are allowed, as cameras append data there.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const STUFFED_ZERO: u8 = 0x00;
    const TEMPORARY: u8 = 0x01;
    const FIRST_RESTART: u8 = 0xD0;
    const START_OF_IMAGE: u8 = 0xD8;
    const END_OF_IMAGE: u8 = 0xD9;

    let mut rest = bytes;
    // Entropy-coded data needs no case of its own: in it, 0xFF is followed by a stuffed zero or a
    // restart marker.
    while let Some(at) = rest.iter().position(|&byte| byte == 0xFF) {
        rest = &rest[at..];
        let Some(marker_at) = rest.iter().position(|&byte| byte != 0xFF) else {
            break;
        };
        let marker = rest[marker_at];
        rest = &rest[marker_at + 1..];
        match marker {
            END_OF_IMAGE => return true,
            STUFFED_ZERO | TEMPORARY | FIRST_RESTART..=START_OF_IMAGE => {}
            _ => {
                let Some(&[high, low]) = rest.first_chunk() else {
                    break;
                };
                let length = usize::from(u16::from_be_bytes([high, low]));
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
    false
}

/// Whether a WebP file is as long as its RIFF header says.
fn webp_is_complete(bytes: &[u8]) -> bool {
    const HEADER: u64 = 8;
    bytes
        .get(4..)
        .and_then(<[u8]>::first_chunk)
        .is_some_and(|&size| u64::from(u32::from_le_bytes(size)) + HEADER <= bytes.len() as u64)
}

/// What the first bytes say.
enum Content {
    Readable(ImageFormat, &'static str),
    OtherImage(&'static str),
    NoImage(String),
}

/// Image formats that users have, and that are not decoded here: offset, signature, name.
const OTHER_IMAGES: &[(usize, &[u8], &str)] = &[
    (0, b"GIF8", "GIF"),
    (128, b"DICM", "DICOM"),
    (344, b"n+1\0", "NIfTI"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"P4\n", "PBM"),
    (0, b"P5\n", "PGM"),
    (0, b"P6\n", "PPM"),
];

/// Files that are given by mistake: offset, signature, what to call it.
const NO_IMAGES: &[(usize, &[u8], &str)] = &[
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (4, b"ftyp", "a video"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
];

fn recognise(bytes: &[u8]) -> Content {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => return Content::Readable(ImageFormat::Png, "PNG"),
        Ok(ImageFormat::Jpeg) => return Content::Readable(ImageFormat::Jpeg, "JPEG"),
        Ok(ImageFormat::Bmp) => return Content::Readable(ImageFormat::Bmp, "BMP"),
        Ok(ImageFormat::Tiff) => return Content::Readable(ImageFormat::Tiff, "TIFF"),
        Ok(ImageFormat::WebP) => return Content::Readable(ImageFormat::WebP, "WebP"),
        _ => {}
    }
    let known = |table: &[(usize, &[u8], &'static str)]| {
        table
            .iter()
            .find(|(at, signature, _)| bytes.get(*at..).is_some_and(|b| b.starts_with(signature)))
            .map(|(_, _, name)| *name)
    };
    if let Some(name) = known(OTHER_IMAGES) {
        return Content::OtherImage(name);
    }
    if let Some(name) = known(NO_IMAGES) {
        return Content::NoImage(name.into());
    }
    Content::NoImage(describe_start(bytes))
}

/// Describes bytes of no known kind by how they start.
fn describe_start(bytes: &[u8]) -> String {
    const TEXT_SAMPLE: usize = 256;
    const SHOWN_CHARS: usize = 24;
    const SHOWN_BYTES: usize = 8;

    let sample = &bytes[..bytes.len().min(TEXT_SAMPLE)];
    let text = match std::str::from_utf8(sample) {
        Ok(text) => Some(text),
        // The sample may end inside a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&sample[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    if let Some(text) =
        text.filter(|text| text.chars().all(|c| !c.is_control() || c.is_whitespace()))
    {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let start: String = words.chars().take(SHOWN_CHARS).collect();
        return format!("text (\"{start}\")");
    }
    if sample.iter().all(|&byte| byte == 0) {
        return "zeros only, as an interrupted copy leaves them".into();
    }
    let start: Vec<_> = sample
        .iter()
        .take(SHOWN_BYTES)
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("unknown binary data (first bytes {})", start.join(" "))
}
