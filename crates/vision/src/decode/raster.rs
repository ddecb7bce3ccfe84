//! What decoders return: samples as the file has them, and how they become RGB of 8 bits.

use image::metadata::Orientation;

use super::guard::{Failure, damaged, unsupported};
use super::options::Levels;

/// The channels of a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
    /// Ink: 255 is full.
    Cmyk,
    /// Indices into these colours.
    Palette(Vec<[u8; 3]>),
}

impl Layout {
    pub(crate) fn channels(&self) -> usize {
        match self {
            Self::Grey | Self::Palette(_) => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }
}

/// Samples, `[height, width, channels]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Samples {
    /// Of up to 8 bits, stretched to 0..=255 (indices are not).
    Bytes(Vec<u8>),
    /// Of 9 to 16 bits, as they are.
    Words(Vec<u16>),
    /// Of 32 bits or floating-point, as they are.
    Floats(Vec<f32>),
}

/// A decoded picture.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Raster {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) layout: Layout,
    pub(crate) samples: Samples,
    /// Bits in use, where a file says so or a sample has no more.
    pub(crate) bits: Option<u32>,
    /// What stands for zero: signed samples are stored with this much added.
    pub(crate) zero: u16,
    /// One bit per pixel in the file.
    pub(crate) bilevel: bool,
    pub(crate) orientation: Orientation,
    /// Pages or frames of the file.
    pub(crate) pages: u32,
}

/// The part of their range that samples of more than 8 bits use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Used {
    /// Smallest and largest sample.
    pub(crate) found: (f64, f64),
    /// What became black and what became white.
    pub(crate) range: (f64, f64),
}

impl Raster {
    pub(crate) fn new(width: usize, height: usize, layout: Layout, samples: Samples) -> Self {
        Self {
            width,
            height,
            layout,
            samples,
            bits: None,
            zero: 0,
            bilevel: false,
            orientation: Orientation::NoTransforms,
            pages: 1,
        }
    }

    /// Turns the picture upright.
    pub(crate) fn upright(mut self) -> Self {
        let orientation = std::mem::replace(&mut self.orientation, Orientation::NoTransforms);
        if orientation == Orientation::NoTransforms {
            return self;
        }
        let (size, channels) = ((self.width, self.height), self.layout.channels());
        self.samples = match &self.samples {
            Samples::Bytes(samples) => Samples::Bytes(turned(samples, size, channels, orientation)),
            Samples::Words(samples) => Samples::Words(turned(samples, size, channels, orientation)),
            Samples::Floats(samples) => {
                Samples::Floats(turned(samples, size, channels, orientation))
            }
        };
        if swaps_sides(orientation) {
            (self.width, self.height) = (self.height, self.width);
        }
        self
    }

    /// Brings all samples to 8 bits; what they used of their range, if they had more.
    pub(crate) fn scale_to_bytes(&mut self, levels: Levels) -> Result<Option<Used>, Failure> {
        let range = match (levels, &self.samples) {
            (_, Samples::Bytes(_)) => return Ok(None),
            (Levels::Window { low, high }, _) => {
                let zero = f64::from(self.zero);
                (low + zero, high + zero)
            }
            (Levels::BitDepth(bits), _) => self.range_of(bits.into()),
            (Levels::FromFile, Samples::Words(_)) => self.range_of(self.bits.unwrap_or(16)),
            (Levels::FromFile, Samples::Floats(_)) => {
                let bits = self.bits.ok_or_else(|| {
                    unsupported("samples of 32 bits or floating-point, whose range is not known")
                })?;
                self.range_of(bits)
            }
        };
        let (low, high) = range;
        if high.is_nan() || low.is_nan() || low >= high {
            return Err(unsupported(format!(
                "a range of samples from {low} to {high}"
            )));
        }
        let scale = 255.0 / (high - low);
        // The conversion saturates.
        let level = |value: f64| ((value - low) * scale + 0.5) as u8;
        let (bytes, found) = match &self.samples {
            Samples::Bytes(_) => return Ok(None),
            Samples::Words(words) => {
                let table: Vec<u8> = (0..=u16::MAX).map(|word| level(word.into())).collect();
                let bytes = words.iter().map(|&word| table[usize::from(word)]).collect();
                let (min, max) = extremes(words).unwrap_or_default();
                (bytes, (f64::from(min), f64::from(max)))
            }
            Samples::Floats(values) => {
                let bytes = values.iter().map(|&value| level(value.into())).collect();
                let (min, max) = extremes(values).unwrap_or_default();
                (bytes, (f64::from(min), f64::from(max)))
            }
        };
        self.samples = Samples::Bytes(bytes);
        let zero = f64::from(std::mem::take(&mut self.zero));
        let shifted = |(low, high): (f64, f64)| (low - zero, high - zero);
        Ok(Some(Used {
            found: shifted(found),
            range: shifted(range),
        }))
    }

    /// The values that `bits` bits can hold, as stored.
    fn range_of(&self, bits: u32) -> (f64, f64) {
        let values = (bits.min(64) as f64).exp2();
        match self.zero {
            0 => (0.0, values - 1.0),
            zero => {
                let lowest = f64::from(zero) - values / 2.0;
                (lowest, lowest + values - 1.0)
            }
        }
    }

    /// The pixels of a picture of 8 bits as RGB.
    pub(crate) fn into_rgb(self) -> Result<Vec<u8>, Failure> {
        let Samples::Bytes(bytes) = self.samples else {
            return Err(unsupported("samples of more than 8 bits"));
        };
        if let Layout::Palette(colours) = &self.layout
            && bytes
                .iter()
                .any(|&index| usize::from(index) >= colours.len())
        {
            return Err(damaged("a colour is not in its palette"));
        }
        Ok(to_rgb(&self.layout, bytes))
    }
}

/// Samples of 8 bits as RGB, with Pillow's conversions: transparency is dropped.
pub(crate) fn to_rgb(layout: &Layout, bytes: Vec<u8>) -> Vec<u8> {
    /// Each pixel of `N` samples through `rgb`.
    fn each<const N: usize>(bytes: &[u8], rgb: impl Fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
        let pixels = bytes.as_chunks::<N>().0;
        let mut output = vec![0; 3 * pixels.len()];
        for (output, &pixel) in output.as_chunks_mut().0.iter_mut().zip(pixels) {
            *output = rgb(pixel);
        }
        output
    }
    match layout {
        Layout::Rgb => bytes,
        Layout::Grey => each(&bytes, |[grey]| [grey; 3]),
        Layout::GreyAlpha => each(&bytes, |[grey, _]| [grey; 3]),
        Layout::Rgba => each(&bytes, |[red, green, blue, _]| [red, green, blue]),
        Layout::Cmyk => each(&bytes, rgb_of_cmyk),
        Layout::Palette(colours) => each(&bytes, |[index]| {
            colours.get(usize::from(index)).copied().unwrap_or_default()
        }),
    }
}

/// Pillow's `cmyk2rgb`.
fn rgb_of_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let rest = 255 - u32::from(k);
    [c, m, y].map(|ink| (rest - divided_by_255(u32::from(ink) * rest)) as u8)
}

/// Pillow's `MULDIV255`, rounded.
pub(crate) fn divided_by_255(product: u32) -> u32 {
    let product = product + 128;
    ((product >> 8) + product) >> 8
}

fn extremes<T: Copy + PartialOrd>(values: &[T]) -> Option<(T, T)> {
    let &first = values.first()?;
    let extend = |(min, max): (T, T), &value: &T| {
        (
            if value < min { value } else { min },
            if value > max { value } else { max },
        )
    };
    Some(values.iter().fold((first, first), extend))
}

pub(super) fn swaps_sides(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

/// Pixels of `channels` samples after an EXIF orientation was applied.
fn turned<T: Copy>(
    samples: &[T],
    (width, height): (usize, usize),
    channels: usize,
    orientation: Orientation,
) -> Vec<T> {
    let (columns, rows) = match swaps_sides(orientation) {
        true => (height, width),
        false => (width, height),
    };
    let mut turned = Vec::with_capacity(samples.len());
    for y in 0..rows {
        for x in 0..columns {
            let (right, bottom) = (columns - 1 - x, rows - 1 - y);
            let (from_x, from_y) = match orientation {
                Orientation::NoTransforms => (x, y),
                Orientation::FlipHorizontal => (right, y),
                Orientation::Rotate180 => (right, bottom),
                Orientation::FlipVertical => (x, bottom),
                // Transposed.
                Orientation::Rotate90FlipH => (y, x),
                Orientation::Rotate90 => (y, right),
                Orientation::Rotate270FlipH => (bottom, right),
                Orientation::Rotate270 => (bottom, x),
            };
            let at = (from_y * width + from_x) * channels;
            turned.extend_from_slice(&samples[at..at + channels]);
        }
    }
    turned
}

/// Spreads packed samples of 1 to 16 bits, the first at the top of its byte.
pub(crate) fn unpack(packed: &[u8], bits: u32, samples: &mut [u16]) {
    let (mut buffer, mut count) = (0_u32, 0);
    let mut bytes = packed.iter();
    for sample in samples {
        while count < bits {
            buffer = buffer << 8 | u32::from(bytes.next().copied().unwrap_or(0));
            count += 8;
        }
        count -= bits;
        *sample = (buffer >> count) as u16 & (u16::MAX >> (16 - bits));
    }
}

/// Values of up to 8 bits stretched to 0..=255; indices are kept.
pub(crate) fn stretched(value: u16, bits: u32) -> u8 {
    let most = (1 << bits) - 1;
    ((u32::from(value) * 255 + most / 2) / most) as u8
}

/// The smallest number of bits that hold `largest`.
pub(crate) fn bits_for(largest: u64) -> u32 {
    64 - largest.leading_zeros()
}

/// Whether samples of 16 bits, of which a file says that only `bits` matter, hold them in their lower
/// places: all are small, and the places that would be empty otherwise are not.
pub(crate) fn is_low(samples: &[u16], bits: u32) -> bool {
    let empty = (1 << 16_u32.saturating_sub(bits)) - 1;
    let used = samples
        .iter()
        .fold(0_u32, |used, &word| used | u32::from(word));
    used >> bits == 0 && used & empty != 0
}
