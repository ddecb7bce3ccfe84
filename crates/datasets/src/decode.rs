//! Images and masks decoded as evaluation decodes them; errors are clauses for findings.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anomalens_vision::{Image, ImageError, Limits, Mask, MaskReading, image_size};

use crate::sample::Crop;

/// Width and height of an image, upright, from its header.
pub(crate) fn dimensions(path: &Path) -> Result<(u32, u32), String> {
    image_size(&bytes_of(path)?).map_err(clause)
}

/// Decodes an image for its size: a header survives where the rest of a file is cut off.
pub(crate) fn decoded_size(bytes: &[u8]) -> Result<(u32, u32), String> {
    let image = Image::decode(bytes).map_err(clause)?;
    Ok((image.width(), image.height()))
}

pub(crate) fn read_mask(path: &Path, reading: MaskReading) -> Result<Mask, String> {
    Mask::decode(&bytes_of(path)?, reading, &Limits::default()).map_err(clause)
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

/// The part of a mask that belongs to `crop`, or all of it; `None` if it does not reach that far.
pub(crate) fn part(mask: &Mask, crop: Option<Crop>) -> Option<Mask> {
    match crop {
        None => Some(mask.clone()),
        Some(crop) => mask.crop(crop.x, crop.y, crop.width, crop.height).ok(),
    }
}

/// Whether a mask marks a pixel, within `crop` if there is one.
pub(crate) fn marks_any(mask: &Mask, crop: Option<Crop>) -> bool {
    part(mask, crop).is_some_and(|part| part.any())
}

/// Says that something of an image has another size than it.
pub(crate) fn wrong_size(what: &str, size: (u32, u32), image: (u32, u32)) -> String {
    let turned = if (size.1, size.0) == image {
        "; is it drawn on the image before it was turned upright, as its EXIF orientation says?"
    } else {
        ""
    };
    format!(
        "{what} is {}x{}, its image {}x{}{turned}",
        size.0, size.1, image.0, image.1
    )
}

/// The content of a file; of one that is too large, as much as shows that.
pub(crate) fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    let most = Limits::default().max_bytes + 1;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    Ok(bytes)
}
