//! From component planes to interleaved pixels: chroma is enlarged with libjpeg's triangle filter
//! ("fancy upsampling", jdsample.c), colours are converted with its tables (jdcolor.c).

use super::{Component, Frame};

/// What the components are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    /// As they are: grey, RGB or CMYK.
    Plain,
    /// Y, Cb, Cr.
    Ycc,
    /// Inverted Y, Cb, Cr, and K.
    Ycck,
}

/// `[height, width, components]` samples.
pub(super) fn interleave(frame: &Frame, colours: Colours) -> Vec<u8> {
    let channels = frame.components.len();
    let (width, height) = (frame.width, frame.height);
    let mut pixels = vec![0; width * height * channels];
    let mut rows: Vec<Vec<u8>> = frame
        .components
        .iter()
        // Room for the samples that a doubled odd width has too many.
        .map(|component| vec![0; component.stride * frame.expansion(component).0])
        .collect();
    for (y, output) in pixels.chunks_exact_mut(width * channels).enumerate() {
        for (row, component) in rows.iter_mut().zip(&frame.components) {
            enlarge(component, frame.expansion(component), y, row);
        }
        match (colours, &rows[..]) {
            (_, [grey]) => output.copy_from_slice(&grey[..width]),
            (Colours::Ycc, [y, cb, cr]) => {
                let (output, _) = output.as_chunks_mut::<3>();
                let samples = y.iter().zip(cb).zip(cr);
                for (pixel, ((&y, &cb), &cr)) in output.iter_mut().zip(samples) {
                    *pixel = rgb(y, cb, cr);
                }
            }
            (Colours::Ycck, [y, cb, cr, k]) => {
                let (output, _) = output.as_chunks_mut::<4>();
                let samples = y.iter().zip(cb).zip(cr).zip(k);
                for (pixel, (((&y, &cb), &cr), &k)) in output.iter_mut().zip(samples) {
                    let [red, green, blue] = rgb(y, cb, cr);
                    *pixel = [255 - red, 255 - green, 255 - blue, k];
                }
            }
            (_, rows) => {
                for (channel, row) in rows.iter().enumerate() {
                    let output = output[channel..].iter_mut().step_by(channels);
                    for (sample, &value) in output.zip(row) {
                        *sample = value;
                    }
                }
            }
        }
    }
    pixels
}

/// ITU-R BT.601 in 16-bit fixed point.
#[inline]
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91881 * cr + HALF) >> 16);
    let green = y + ((-22554 * cb - 46802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|level| level.clamp(0, 255) as u8)
}

/// Row `y` of the picture from a component of fewer samples.
fn enlarge(component: &Component, (across, down): (usize, usize), y: usize, output: &mut [u8]) {
    let row = |y: usize| &component.samples[y * component.stride..][..component.width];
    let place = y / down;
    let near = row(place);
    // The row beyond the nearer edge of this one; at the border the row itself.
    let far = row(match y % 2 {
        0 => place.saturating_sub(1),
        _ => (place + 1).min(component.height - 1),
    });
    match (across, down) {
        (1, 1) => output[..near.len()].copy_from_slice(near),
        (1, 2) => {
            let bias = 1 + (y % 2) as u16;
            for ((output, &near), &far) in output.iter_mut().zip(near).zip(far) {
                *output = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
            }
        }
        (2, 1) if component.width > 2 => {
            let sum = |i: usize| u16::from(near[i]);
            double(near.len(), sum, [1, 2], 2, output);
        }
        (2, 2) if component.width > 2 => {
            let sum = |i: usize| 3 * u16::from(near[i]) + u16::from(far[i]);
            double(near.len(), sum, [8, 7], 4, output);
        }
        _ => {
            for (output, &value) in output.chunks_mut(across).zip(near) {
                output.fill(value);
            }
        }
    }
}

/// Two samples from each of `length`: three parts of it and one of its neighbour on that side.
#[inline]
fn double(
    length: usize,
    sum: impl Fn(usize) -> u16,
    bias: [u16; 2],
    shift: u32,
    output: &mut [u8],
) {
    let (output, _) = output.as_chunks_mut::<2>();
    for (i, pair) in output.iter_mut().take(length).enumerate() {
        let (left, right) = (i.saturating_sub(1), (i + 1).min(length - 1));
        *pair = [
            ((3 * sum(i) + sum(left) + bias[0]) >> shift) as u8,
            ((3 * sum(i) + sum(right) + bias[1]) >> shift) as u8,
        ];
    }
}
