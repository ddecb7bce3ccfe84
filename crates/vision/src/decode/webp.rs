//! WebP. Of an animation the first frame is taken.

use std::io::Cursor;

use image::metadata::Orientation;
use image_webp::{DecodingError, WebPDecoder};

use super::guard::{Failure, Guard, Header, damaged, unsupported};
use super::raster::{Layout, Raster, Samples};

pub(super) fn decode(bytes: &[u8], guard: &mut Guard<'_>) -> Result<Raster, Failure> {
    check_chunks(bytes)?;
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(failure)?;
    let (width, height) = decoder.dimensions();
    // Pixels of four samples, twice in the decoder, a copy, and their RGB form.
    let memory = u64::from(width) * u64::from(height) * 15 + bytes.len() as u64;
    let exif = decoder.exif_metadata().ok().flatten();
    let orientation = exif
        .as_deref()
        .and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms);
    guard.admit(&Header {
        width,
        height,
        orientation,
        memory,
    })?;
    decoder.set_memory_limit(usize::try_from(memory).unwrap_or(usize::MAX));
    let size = decoder.output_buffer_size().ok_or(Failure::TooMuchMemory)?;
    let mut pixels = vec![0; size];
    decoder.read_image(&mut pixels).map_err(failure)?;
    let layout = match decoder.has_alpha() {
        true => Layout::Rgba,
        false => Layout::Rgb,
    };
    Ok(Raster {
        orientation,
        pages: decoder.num_frames().max(1),
        ..Raster::new(
            width as usize,
            height as usize,
            layout,
            Samples::Bytes(pixels),
        )
    })
}

/// Checks that every chunk ends within the file, as the decoder allocates what their headers claim,
/// and makes up pixels that are missing.
fn check_chunks(bytes: &[u8]) -> Result<(), Failure> {
    const HEADER: usize = 8;
    /// What an animation's frame holds before its chunks.
    const FRAME: usize = 16;
    let early = || damaged("the end of the image is missing");
    // The length of the chunk at `at`, which has to end before `end`.
    let length = |at: usize, end: usize| -> Result<usize, Failure> {
        let length = bytes.get(at + 4..).and_then(<[u8]>::first_chunk);
        let length = u32::from_le_bytes(*length.ok_or_else(early)?) as usize;
        match length <= end.saturating_sub(at + HEADER) {
            true => Ok(length),
            false => Err(early()),
        }
    };
    let end = HEADER + length(0, bytes.len())?;
    let mut at = HEADER + 4;
    while at + HEADER <= end {
        // A frame's chunks are visited like those beside it.
        at += match (bytes.get(at..at + 4), length(at, end)?) {
            (Some(b"ANMF"), FRAME..) => HEADER + FRAME,
            (_, length) => HEADER + length.next_multiple_of(2),
        };
    }
    Ok(())
}

fn failure(error: DecodingError) -> Failure {
    match error {
        DecodingError::MemoryLimitExceeded | DecodingError::ImageTooLarge => Failure::TooMuchMemory,
        DecodingError::UnsupportedFeature(feature) => unsupported(feature),
        error => damaged(super::root_cause(&error)),
    }
}
