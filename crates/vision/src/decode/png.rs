//! PNG. Colour profiles and texts are passed over: they are not used, and can be bombs.

use std::io::Cursor;

use image::metadata::Orientation;
use png::{BitDepth, ColorType, DecodeOptions, Decoder, DecodingError};

use super::guard::{Failure, Guard, Header, damaged};
use super::raster::{Layout, Raster, Samples, is_low, stretched, unpack};

/// Memory for metadata and for one row, which the decoder counts itself.
const MAX_METADATA: usize = 16 << 20;

pub(super) fn decode(bytes: &[u8], guard: &mut Guard<'_>) -> Result<Raster, Failure> {
    let mut options = DecodeOptions::default();
    options.set_ignore_iccp_chunk(true);
    options.set_ignore_text_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    let header = decoder.read_header_info().map_err(failure)?;
    let (width, height) = (header.width, header.height);
    let (colours, depth) = (header.color_type, header.bit_depth as u32);
    let channels = colours.samples();
    let row_bytes = (u64::from(width) * channels as u64 * u64::from(depth)).div_ceil(8);
    // Packed rows, samples, a copy in the mode of the file, and their RGB form.
    let sample_bytes = if depth == 16 { 2 } else { 1 };
    let per_pixel = channels as u64 * (sample_bytes + 1) + 3;
    let memory = row_bytes * u64::from(height) + u64::from(width) * u64::from(height) * per_pixel;
    // A row, filtered and not, and metadata are all that the decoder allocates.
    decoder.set_limits(png::Limits {
        bytes: MAX_METADATA.saturating_add(2 * row_bytes as usize),
    });
    let mut reader = decoder.read_info().map_err(failure)?;
    let exif = reader.info().exif_metadata.as_deref();
    let orientation = exif
        .and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms);
    guard.admit(&Header {
        width,
        height,
        orientation,
        memory: memory + MAX_METADATA as u64,
    })?;
    let size = reader.output_buffer_size().ok_or(Failure::TooMuchMemory)?;
    let mut packed = vec![0; size];
    reader.next_frame(&mut packed).map_err(failure)?;

    let info = reader.info();
    let layout = match colours {
        ColorType::Grayscale => Layout::Grey,
        ColorType::GrayscaleAlpha => Layout::GreyAlpha,
        ColorType::Rgb => Layout::Rgb,
        ColorType::Rgba => Layout::Rgba,
        ColorType::Indexed => {
            let colours = info.palette.as_deref().unwrap_or_default();
            Layout::Palette(colours.as_chunks().0.to_vec())
        }
    };
    let mut bits = None;
    let samples = match info.bit_depth {
        BitDepth::Eight => Samples::Bytes(packed),
        BitDepth::Sixteen => {
            let words = packed
                .as_chunks()
                .0
                .iter()
                .map(|&word| u16::from_be_bytes(word));
            let words = words.collect::<Vec<_>>();
            let colours = info.sbit.as_deref().unwrap_or_default();
            let told = colours.iter().copied().max().map(u32::from);
            bits = told.filter(|&told| (8..16).contains(&told) && is_low(&words, told));
            Samples::Words(words)
        }
        depth => {
            let depth = depth as u32;
            let is_palette = matches!(layout, Layout::Palette(_));
            let mut row_values = vec![0; width as usize];
            let rows = packed.chunks_exact(row_bytes as usize);
            let samples = rows.flat_map(|row| {
                unpack(row, depth, &mut row_values);
                let to_byte = |&value: &u16| match is_palette {
                    true => value as u8,
                    false => stretched(value, depth),
                };
                row_values.iter().map(to_byte).collect::<Vec<u8>>()
            });
            Samples::Bytes(samples.collect())
        }
    };
    Ok(Raster {
        bits,
        bilevel: info.bit_depth == BitDepth::One && layout == Layout::Grey,
        orientation,
        pages: info
            .animation_control
            .map_or(1, |control| control.num_frames),
        ..Raster::new(width as usize, height as usize, layout, samples)
    })
}

fn failure(error: DecodingError) -> Failure {
    match error {
        DecodingError::LimitsExceeded => Failure::TooMuchMemory,
        error => damaged(super::root_cause(&error)),
    }
}
