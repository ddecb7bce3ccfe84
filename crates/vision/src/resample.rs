//! Resizing of 8-bit images exactly as Pillow does it, the resampler behind torchvision's `Resize`.
//!
//! Weights are computed in f64 and quantised to 22 fractional bits; the result of the first pass is
//! rounded to 8 bits before the second, so the order of the passes shows in the pixels. Pillow 13
//! chooses the order by size ([`vertical_first`]); releases up to 12 always start with rows.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::GeometryError;

/// A resampling filter. All of them are widened when the image shrinks (antialiasing).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Keys' cubic with a = -0.5, support 2.
    Bicubic,
    /// Windowed sinc, support 3.
    Lanczos,
}

impl Filter {
    /// Half the filter's width, in input pixels when enlarging.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        if x >= self.support() {
            return 0.0;
        }
        match self {
            Filter::Bilinear => 1.0 - x,
            Filter::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                }
            }
            Filter::Lanczos => sinc(x) * sinc(x / 3.0),
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// Largest image made, in pixels, also between the two passes.
pub(crate) const MAX_PIXELS: u64 = 1 << 28;

/// Longest side before and after; the weights of an axis take memory in proportion to it.
pub(crate) const MAX_SIDE: u64 = 1 << 20;

/// Whether an image of size `from` (width, height) can sensibly be resized to `to`, an image of at
/// most `max_pixels`.
pub(crate) fn check_size(
    from: (u32, u32),
    to: (u64, u64),
    max_pixels: u64,
) -> Result<(), GeometryError> {
    let (width, height) = to;
    if width == 0 || height == 0 {
        return Err(GeometryError::Empty {
            what: "the resized image",
            width,
            height,
        });
    }
    let (from_width, from_height) = (from.0.into(), from.1.into());
    if width.saturating_mul(height) > max_pixels
        || width.saturating_mul(from_height) > MAX_PIXELS
        || height.saturating_mul(from_width) > MAX_PIXELS
        || [width, height, from_width, from_height]
            .into_iter()
            .any(|side| side > MAX_SIDE)
    {
        return Err(GeometryError::TooLarge {
            from_width,
            from_height,
            width,
            height,
        });
    }
    Ok(())
}

/// Resizes `[height, width, CHANNELS]` bytes; sizes are (width, height), checked by [`check_size`].
pub(crate) fn resize<const CHANNELS: usize>(
    pixels: &[u8],
    from: (u32, u32),
    to: (u32, u32),
    filter: Filter,
) -> Vec<u8> {
    let [width, height, to_width, to_height] =
        [from.0, from.1, to.0, to.1].map(|side| side as usize);
    match (width == to_width, height == to_height) {
        (true, true) => pixels.to_vec(),
        (false, true) => resize_rows::<CHANNELS>(pixels, width, to_width, filter),
        (true, false) => resize_columns(pixels, width * CHANNELS, height, to_height, filter),
        (false, false) if vertical_first(from, to) => {
            let shorter = resize_columns(pixels, width * CHANNELS, height, to_height, filter);
            resize_rows::<CHANNELS>(&shorter, width, to_width, filter)
        }
        (false, false) => {
            let narrower = resize_rows::<CHANNELS>(pixels, width, to_width, filter);
            resize_columns(&narrower, to_width * CHANNELS, height, to_height, filter)
        }
    }
}

/// Pillow 13's choice: columns first if that axis shrinks, and by more than twice as many pixels as
/// the other. Inferred from its output, without exception over all sizes tried.
fn vertical_first(from: (u32, u32), to: (u32, u32)) -> bool {
    let shrinks_by = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let (columns, rows) = (shrinks_by(from.0, to.0), shrinks_by(from.1, to.1));
    rows > 0 && rows > 2 * columns
}

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for sums outside 0..=255.
const WEIGHT_BITS: u32 = 22;

/// Half of the last bit kept, for rounding.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

fn to_pixel(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// The inputs that make one output, and their weights.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// The windows of all outputs along one axis.
fn windows(from: usize, to: usize, filter: Filter) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    // Pillow multiplies by the reciprocal; dividing instead can change the last bit.
    let per_pixel = 1.0 / filter_scale;
    (0..to)
        .map(|output| {
            let centre = (output as f64 + 0.5) * scale;
            // The conversions truncate, and turn a negative start into 0.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights: Vec<f64> = (start..end)
                .map(|input| filter.weight((input as f64 - centre + 0.5) * per_pixel))
                .collect();
            let sum: f64 = weights.iter().sum();
            let weights = weights
                .iter()
                .map(|weight| quantise(weight / sum))
                .collect();
            Window { start, weights }
        })
        .collect()
}

/// To fixed point, rounded half away from zero by adding a half and truncating.
fn quantise(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << WEIGHT_BITS);
    (scaled + 0.5_f64.copysign(weight)) as i32
}

/// Changes the width of rows of `from` pixels.
fn resize_rows<const CHANNELS: usize>(
    pixels: &[u8],
    from: usize,
    to: usize,
    filter: Filter,
) -> Vec<u8> {
    let windows = windows(from, to, filter);
    let mut resized = vec![0; pixels.len() / from * to];
    let rows = pixels.par_chunks_exact(from * CHANNELS);
    resized
        .par_chunks_exact_mut(to * CHANNELS)
        .zip(rows)
        .for_each(|(output, input)| {
            let (input, _) = input.as_chunks::<CHANNELS>();
            let (output, _) = output.as_chunks_mut::<CHANNELS>();
            for (output, window) in output.iter_mut().zip(&windows) {
                let mut sums = [HALF; CHANNELS];
                for (weight, pixel) in window.weights.iter().zip(&input[window.start..]) {
                    for (sum, &sample) in sums.iter_mut().zip(pixel) {
                        *sum += weight * i32::from(sample);
                    }
                }
                *output = sums.map(to_pixel);
            }
        });
    resized
}

/// Changes the number of rows, each of `row_length` bytes.
fn resize_columns(
    pixels: &[u8],
    row_length: usize,
    from: usize,
    to: usize,
    filter: Filter,
) -> Vec<u8> {
    let windows = windows(from, to, filter);
    let mut resized = vec![0; row_length * to];
    resized
        .par_chunks_exact_mut(row_length)
        .zip(&windows)
        .for_each_init(
            || vec![HALF; row_length],
            |sums, (output, window)| {
                sums.fill(HALF);
                let rows = pixels[window.start * row_length..].chunks_exact(row_length);
                for (weight, row) in window.weights.iter().zip(rows) {
                    for (sum, &sample) in sums.iter_mut().zip(row) {
                        *sum += weight * i32::from(sample);
                    }
                }
                for (output, &sum) in output.iter_mut().zip(sums.iter()) {
                    *output = to_pixel(sum);
                }
            },
        );
    resized
}
