//! Images read for what they prove, not for their looks: that they decode, how large they are,
//! and whether a mask marks anything.

use std::fmt::Display;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use anomalens_vision::Mask;
use image::{DynamicImage, ImageFormat, ImageReader};

use crate::sample::Crop;

/// Decodes an image by its content, whatever its name ends in; the error is a clause for a
/// finding, as everywhere here.
pub(crate) fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    let reader = open(bytes)?;
    if reader.format() == Some(ImageFormat::Jpeg) && is_cut_off(bytes) {
        return Err(damaged("the file ends before the image does"));
    }
    reader.decode().map_err(damaged)
}

/// Whether a JPEG lacks its end marker; decoders fill what is missing with grey and say nothing.
fn is_cut_off(jpeg: &[u8]) -> bool {
    const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    // Neither marker can occur within a scan, and the last scan of the file is no thumbnail's.
    jpeg.windows(2)
        .rev()
        .find(|pair| *pair == START_OF_SCAN || *pair == END_OF_IMAGE)
        .is_none_or(|pair| pair == START_OF_SCAN)
}

/// The width and height that an image's header states.
pub(crate) fn dimensions(path: &Path) -> Result<(u32, u32), String> {
    open(&bytes_of(path)?)?.into_dimensions().map_err(damaged)
}

/// Reads a mask: the pixels above `threshold`.
pub(crate) fn read_mask(path: &Path, threshold: u16) -> Result<Mask, String> {
    Ok(Mask::from_picture(decode(&bytes_of(path)?)?, threshold))
}

/// Whether a mask marks a pixel, within `crop` if there is one.
pub(crate) fn marks_any(mask: &Mask, crop: Option<Crop>) -> bool {
    crop.map_or_else(
        || mask.any(),
        |Crop {
             x,
             y,
             width,
             height,
         }| {
            let part = mask.crop(x, y, width, height);
            part.is_ok_and(|part| part.any())
        },
    )
}

/// The content of a file.
pub(crate) fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot be read: {error}"))
}

fn open(bytes: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>, String> {
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(damaged)?;
    if reader.format().is_none() {
        return Err("this is not an image (JPEG, PNG, BMP, TIFF or WebP)".to_owned());
    }
    Ok(reader)
}

fn damaged(error: impl Display) -> String {
    format!("this image is damaged: {error}")
}
