//! Pictures of results: heat maps, overlays, contours and sheets for reports.

use rayon::prelude::*;

use crate::colour::ColourMap;
use crate::error::GeometryError;
use crate::image::Image;
use crate::interpolate::Alignment;
use crate::map::Map;
use crate::mask::Mask;
use crate::resample::{self, Filter};

/// Colours a map; `range` gives the scores with the colours of the two ends (see [`Map::range`], or
/// a range shared by several images so that they can be compared).
///
/// # Errors
/// [`GeometryError::TooLarge`] if a side does not fit into 32 bits.
pub fn heat_map(map: &Map, range: (f32, f32), colours: ColourMap) -> Result<Image, GeometryError> {
    let (width, height) = map.size()?;
    let pixels = map.values().par_iter();
    let pixels = pixels.flat_map_iter(|&score| colours.colour(within(score, range)));
    Image::new(width, height, pixels.collect())
}

/// Where a score lies between the ends of a range, at 0 and 1.
fn within(score: f32, (low, high): (f32, f32)) -> f32 {
    match score {
        score if score.is_nan() => score,
        // A range without extent says only which side a score is on.
        score if high <= low => f32::from(score > high),
        score => (score - low) / (high - low),
    }
}

/// Lays the heat map over the image it belongs to; the map may have any resolution. The image stays
/// as it is up to the lower of the scores `shown`; from there on the share of the heat map grows until
/// it is `alpha` at the upper one, from 0 (image only) to 1.
///
/// # Errors
/// [`GeometryError::TooLarge`] if the image is too large for a map of its size.
pub fn overlay(
    image: &Image,
    map: &Map,
    range: (f32, f32),
    shown: (f32, f32),
    colours: ColourMap,
    alpha: f32,
) -> Result<Image, GeometryError> {
    let (rows, columns) = (image.height() as usize, image.width() as usize);
    let map = map.resize(rows, columns, Alignment::Edges)?;
    let blend = |(pixel, &score): (&[u8], &f32)| {
        // No score, no colour.
        let share = match within(score, shown) {
            share if share.is_nan() => 0.0,
            share => alpha.clamp(0.0, 1.0) * share.clamp(0.0, 1.0),
        };
        let colour = colours.colour(within(score, range));
        let both = pixel.iter().zip(colour);
        let both = both.map(|(&below, above)| {
            (f32::from(below) * (1.0 - share) + f32::from(above) * share).round() as u8
        });
        both.collect::<Vec<u8>>()
    };
    let pixels = image.as_bytes().par_chunks_exact(3);
    let pixels = pixels.zip(map.values()).flat_map_iter(blend).collect();
    Image::new(image.width(), image.height(), pixels)
}

/// Draws the outline of a mask, along its inner edge, with lines of `thickness` pixels.
///
/// # Errors
/// [`GeometryError::SizeMismatch`] if mask and image differ in size.
pub fn draw_contours(
    image: &mut Image,
    mask: &Mask,
    colour: [u8; 3],
    thickness: u32,
) -> Result<(), GeometryError> {
    let (width, height) = (image.width(), image.height());
    if (mask.width(), mask.height()) != (width, height) {
        return Err(GeometryError::SizeMismatch {
            what: "the mask",
            width,
            height,
            found_width: mask.width(),
            found_height: mask.height(),
        });
    }
    // Wrapping below zero is outside, like everything beyond the last row and column.
    let on_edge = |x: u32, y: u32| {
        mask.get(x, y)
            && !(mask.get(x.wrapping_sub(1), y)
                && mask.get(x + 1, y)
                && mask.get(x, y.wrapping_sub(1))
                && mask.get(x, y + 1))
    };
    let before = thickness.saturating_sub(1) / 2;
    let stroke = |at: u32, size: u32| {
        at.saturating_sub(before)..at.saturating_add(thickness - before).min(size)
    };
    for y in 0..height {
        for x in (0..width).filter(|&x| on_edge(x, y)) {
            for y in stroke(y, height) {
                stroke(x, width).for_each(|x| image.set_pixel(x, y, colour));
            }
        }
    }
    Ok(())
}

/// Width of the line between the images of a sheet, in pixels.
const SEPARATOR: u32 = 4;

const SEPARATOR_COLOUR: [u8; 3] = [255, 255, 255];

/// Places images side by side, all brought to the height of the first, with thin white lines between.
///
/// # Errors
/// [`GeometryError::Empty`] without images, [`GeometryError::TooLarge`] if the sheet gets absurdly
/// large.
pub fn sheet(images: &[&Image]) -> Result<Image, GeometryError> {
    let Some(first) = images.first() else {
        return Err(GeometryError::empty("a sheet of no images", 0, 0));
    };
    let height = first.height();
    let scaled = images
        .iter()
        .map(|image| {
            let width = u64::from(image.width()) * u64::from(height);
            let width = width.div_ceil(image.height().into());
            image.resize(
                u32::try_from(width).unwrap_or(u32::MAX),
                height,
                Filter::Bilinear,
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    let separators = u64::from(SEPARATOR) * (images.len() as u64 - 1);
    let width = scaled
        .iter()
        .map(|image| u64::from(image.width()))
        .sum::<u64>()
        + separators;
    let from = (first.width(), height);
    resample::check_size(from, (width, height.into()), resample::MAX_PIXELS)?;
    let mut sheet = Image::filled(width as u32, height, SEPARATOR_COLOUR)?;
    let mut x = 0;
    for image in &scaled {
        sheet.paste(image, x, 0);
        x += image.width() + SEPARATOR;
    }
    Ok(sheet)
}
