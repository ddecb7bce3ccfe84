//! Images read for what they prove, not for their looks: that they decode, how large they are,
//! and whether a mask marks anything.

use std::fs;
use std::path::Path;

use anomalens_vision::{Image, ImageError, Limits, Mask};

use crate::sample::Crop;

/// Decodes an image as it is decoded to be scored; the error is a clause for a finding, as everywhere
/// here.
pub(crate) fn decode(bytes: &[u8]) -> Result<Image, String> {
    Image::decode(bytes).map_err(clause)
}

/// The width and height of an image, from its header.
pub(crate) fn dimensions(path: &Path) -> Result<(u32, u32), String> {
    anomalens_vision::image_size(&bytes_of(path)?).map_err(clause)
}

/// Reads a mask: the pixels above `threshold`.
pub(crate) fn read_mask(path: &Path, threshold: u16) -> Result<Mask, String> {
    Mask::decode(&bytes_of(path)?, threshold, &Limits::default()).map_err(clause)
}

fn clause(error: ImageError) -> String {
    match error {
        ImageError::Empty { .. } => "the file is empty".to_owned(),
        ImageError::NotAnImage { .. } | ImageError::UnsupportedFormat { .. } => {
            "this is not an image (JPEG, PNG, BMP, TIFF or WebP)".to_owned()
        }
        ImageError::Damaged { reason, .. } => format!("this image is damaged: {reason}"),
        error => error.to_string(),
    }
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
