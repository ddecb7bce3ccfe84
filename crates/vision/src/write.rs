//! PNG files.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::error::ImageError;

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
