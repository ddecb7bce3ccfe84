//! BMP, as Windows and Pillow read it.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::error::UnsupportedErrorKind;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder};

use super::guard::{Failure, Guard, Header, damaged, unsupported};
use super::raster::{Layout, Raster, Samples};

pub(super) fn decode(bytes: &[u8], guard: &mut Guard<'_>) -> Result<Raster, Failure> {
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(failure)?;
    let (width, height) = decoder.dimensions();
    let layout = match decoder.color_type() {
        ColorType::L8 => Layout::Grey,
        ColorType::Rgba8 => Layout::Rgba,
        _ => Layout::Rgb,
    };
    let channels = layout.channels() as u64;
    guard.admit(&Header {
        width,
        height,
        orientation: Orientation::NoTransforms,
        memory: u64::from(width) * u64::from(height) * (2 * channels + 3),
    })?;
    let mut pixels = vec![0; width as usize * height as usize * layout.channels()];
    decoder.read_image(&mut pixels).map_err(failure)?;
    Ok(Raster::new(
        width as usize,
        height as usize,
        layout,
        Samples::Bytes(pixels),
    ))
}

fn failure(error: image::ImageError) -> Failure {
    match error {
        image::ImageError::Limits(_) => Failure::TooMuchMemory,
        image::ImageError::Unsupported(error) => unsupported(match error.kind() {
            UnsupportedErrorKind::Color(colour) => format!("colour type {colour:?}"),
            _ => error.to_string(),
        }),
        error => damaged(super::root_cause(&error)),
    }
}
