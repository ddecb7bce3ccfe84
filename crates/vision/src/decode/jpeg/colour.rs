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
    let mut sums = vec![];
    for (y, output) in pixels.chunks_exact_mut(width * channels).enumerate() {
        for (row, component) in rows.iter_mut().zip(&frame.components) {
            enlarge(component, frame.expansion(component), y, &mut sums, row);
        }
        if let (Colours::Ycc | Colours::Ycck, [y, cb, cr, ..]) = (colours, &mut rows[..]) {
            to_rgb(y, cb, cr);
        }
        match &rows[..] {
            [grey] => output.copy_from_slice(&grey[..width]),
            [red, green, blue] => {
                let (output, _) = output.as_chunks_mut::<3>();
                let samples = red.iter().zip(green).zip(blue);
                for (pixel, ((&red, &green), &blue)) in output.iter_mut().zip(samples) {
                    *pixel = [red, green, blue];
                }
            }
            [first, second, third, k] => {
                // YCCK holds inverted ink.
                let invert = if colours == Colours::Ycck { 255 } else { 0 };
                let (output, _) = output.as_chunks_mut::<4>();
                let samples = first.iter().zip(second).zip(third).zip(k);
                for (pixel, (((&c, &m), &y), &k)) in output.iter_mut().zip(samples) {
                    *pixel = [c ^ invert, m ^ invert, y ^ invert, k];
                }
            }
            _ => {}
        }
    }
    pixels
}

/// A row of Y, Cb and Cr to R, G and B in place: ITU-R BT.601 in 16-bit fixed point.
///
/// The whole parts of the factors (1.402, 0.344, 0.714, 1.772) are taken out, so that the rest fits into
/// 16 bits and the loop into vector instructions.
fn to_rgb(y: &mut [u8], cb: &mut [u8], cr: &mut [u8]) {
    const HALF: i32 = 1 << 15;
    for ((y, cb), cr) in y.iter_mut().zip(cb).zip(cr) {
        let (luma, blue, red) = (i16::from(*y), i16::from(*cb) - 128, i16::from(*cr) - 128);
        let part = |chroma: i16, factor: i16| i32::from(chroma) * i32::from(factor);
        let rounded = |sum: i32| ((sum + HALF) >> 16) as i16;
        let level = |value: i16| value.clamp(0, 255) as u8;
        *y = level(luma + red + rounded(part(red, 26345)));
        *cb = level(luma - red + rounded(part(blue, -22554) + part(red, 18734)));
        *cr = level(luma + 2 * blue + rounded(part(blue, -14942)));
    }
}

/// Row `y` of the picture from a component of fewer samples; `sums` is used in between.
fn enlarge(
    component: &Component,
    (across, down): (usize, usize),
    y: usize,
    sums: &mut Vec<u16>,
    output: &mut [u8],
) {
    let row = |y: usize| &component.samples[y * component.stride..][..component.width];
    let place = y / down;
    let near = row(place);
    // The row beyond the nearer edge of this one; at the border the row itself.
    let far = row(match y % 2 {
        0 => place.saturating_sub(1),
        _ => (place + 1).min(component.height - 1),
    });
    let three_to_one = |(&near, &far): (&u8, &u8)| 3 * u16::from(near) + u16::from(far);
    match (across, down) {
        (1, 1) => output[..near.len()].copy_from_slice(near),
        (1, 2) => {
            let bias = 1 + (y % 2) as u16;
            for (output, pair) in output.iter_mut().zip(near.iter().zip(far)) {
                *output = ((three_to_one(pair) + bias) >> 2) as u8;
            }
        }
        (2, 1) if component.width > 2 => {
            sums.clear();
            sums.extend(near.iter().map(|&near| u16::from(near)));
            double::<2>(sums, [1, 2], output);
        }
        (2, 2) if component.width > 2 => {
            sums.clear();
            sums.extend(near.iter().zip(far).map(three_to_one));
            double::<4>(sums, [8, 7], output);
        }
        _ => {
            for (output, &value) in output.chunks_mut(across).zip(near) {
                output.fill(value);
            }
        }
    }
}

/// Two samples from each of at least two sums: three parts of it and one of its neighbour on that side.
fn double<const SHIFT: u32>(sums: &[u16], bias: [u16; 2], output: &mut [u8]) {
    let pair = |left: u16, sum: u16, right: u16| {
        [
            ((3 * sum + left + bias[0]) >> SHIFT) as u8,
            ((3 * sum + right + bias[1]) >> SHIFT) as u8,
        ]
    };
    let (output, _) = output.as_chunks_mut::<2>();
    let last = sums.len() - 1;
    output[0] = pair(sums[0], sums[0], sums[1]);
    output[last] = pair(sums[last - 1], sums[last], sums[last]);
    let neighbours = sums.iter().zip(&sums[1..]).zip(&sums[2..]);
    for (output, ((&left, &sum), &right)) in output[1..].iter_mut().zip(neighbours) {
        *output = pair(left, sum, right);
    }
}
