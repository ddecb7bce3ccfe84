//! Images in Pillow's own modes: what `Image.resize` and then `convert("RGB")` make of them.
//!
//! Pillow does not interpolate palettes and bilevel images, weighs colours by their transparency, and
//! resizes CMYK as CMYK. Code that resizes first (torchvision's transforms on an opened file, as in
//! AnomalyCLIP, VAND and open_clip) therefore sees other pixels than code that converts first.

use crate::decode::{Layout, Raster, Samples, divided_by_255, to_rgb};
use crate::resample::{self, Filter};

/// Pixels as a file has them, where resizing them differs from resizing RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Native {
    size: (u32, u32),
    layout: Layout,
    samples: Vec<u8>,
    bilevel: bool,
}

impl Native {
    /// Colours of 16 bits, of which Pillow keeps the upper 8. Grey of 16 bits is not among them:
    /// Pillow clips it to white.
    pub(crate) fn truncated(raster: &Raster) -> Option<Self> {
        let is_colour = raster.layout.channels() >= 3 && raster.zero == 0;
        match &raster.samples {
            Samples::Words(words) if is_colour && raster.bits.is_none_or(|bits| bits == 16) => {
                Some(Self {
                    size: (raster.width as u32, raster.height as u32),
                    layout: raster.layout.clone(),
                    samples: words.iter().map(|word| (word >> 8) as u8).collect(),
                    bilevel: false,
                })
            }
            _ => None,
        }
    }

    /// The mode of a decoded picture; `None` if resizing it is the same as resizing RGB.
    pub(crate) fn new(raster: &Raster) -> Option<Self> {
        let is_plain = !raster.bilevel && matches!(raster.layout, Layout::Grey | Layout::Rgb);
        match &raster.samples {
            Samples::Bytes(samples) if !is_plain => Some(Self {
                size: (raster.width as u32, raster.height as u32),
                layout: raster.layout.clone(),
                samples: samples.clone(),
                bilevel: raster.bilevel,
            }),
            _ => None,
        }
    }

    /// RGB pixels after resizing to a size found acceptable.
    pub(crate) fn resize(&self, to: (u32, u32), filter: Filter) -> Vec<u8> {
        let (samples, from) = (&self.samples[..], self.size);
        let resized = match &self.layout {
            _ if from == to => samples.to_vec(),
            Layout::Palette(_) => nearest(samples, from, to),
            Layout::Grey if self.bilevel => nearest(samples, from, to),
            Layout::Grey => resample::resize::<1>(samples, from, to, filter),
            Layout::Rgb => resample::resize::<3>(samples, from, to, filter),
            Layout::Cmyk => resample::resize::<4>(samples, from, to, filter),
            Layout::GreyAlpha => by_alpha::<2>(samples, from, to, filter),
            Layout::Rgba => by_alpha::<4>(samples, from, to, filter),
        };
        to_rgb(&self.layout, resized)
    }

    /// The part of `size` pixels at (`x`, `y`), which lies within the image.
    pub(crate) fn crop(&self, (x, y): (u32, u32), size: (u32, u32)) -> Self {
        let columns = x as usize..(x + size.0) as usize;
        let rows = y as usize..(y + size.1) as usize;
        let places = rows.flat_map(|y| columns.clone().map(move |x| (x, y)));
        self.rearranged(size, places)
    }

    /// Left and right exchanged.
    pub(crate) fn mirror(&self) -> Self {
        let (width, height) = (self.size.0 as usize, self.size.1 as usize);
        let places = (0..height).flat_map(|y| (0..width).rev().map(move |x| (x, y)));
        self.rearranged(self.size, places)
    }

    /// The pixels at these places.
    fn rearranged(&self, size: (u32, u32), places: impl Iterator<Item = (usize, usize)>) -> Self {
        let (width, channels) = (self.size.0 as usize, self.layout.channels());
        let mut samples = vec![];
        for (x, y) in places {
            let at = (y * width + x) * channels;
            samples.extend_from_slice(&self.samples[at..at + channels]);
        }
        Self {
            size,
            layout: self.layout.clone(),
            samples,
            bilevel: self.bilevel,
        }
    }
}

/// The nearest sample (Geometry.c, `ImagingScaleAffine`, which adds up the steps).
fn nearest(samples: &[u8], from: (u32, u32), to: (u32, u32)) -> Vec<u8> {
    let places = |from: u32, to: u32| {
        let step = f64::from(from) / f64::from(to);
        let places = std::iter::successors(Some(step * 0.5), move |at| Some(at + step));
        places
            .take(to as usize)
            .map(move |at| (at as usize).min(from as usize - 1))
    };
    let columns: Vec<usize> = places(from.0, to.0).collect();
    places(from.1, to.1)
        .flat_map(|y| columns.iter().map(move |x| y * from.0 as usize + x))
        .map(|at| samples[at])
        .collect()
}

/// Resizes colours multiplied by their transparency, which is the last channel.
fn by_alpha<const CHANNELS: usize>(
    samples: &[u8],
    from: (u32, u32),
    to: (u32, u32),
    filter: Filter,
) -> Vec<u8> {
    let mut multiplied = samples.to_vec();
    for pixel in multiplied.as_chunks_mut::<CHANNELS>().0 {
        let alpha = u32::from(pixel[CHANNELS - 1]);
        for colour in &mut pixel[..CHANNELS - 1] {
            *colour = divided_by_255(u32::from(*colour) * alpha) as u8;
        }
    }
    let mut resized = resample::resize::<CHANNELS>(&multiplied, from, to, filter);
    for pixel in resized.as_chunks_mut::<CHANNELS>().0 {
        let alpha = u32::from(pixel[CHANNELS - 1]);
        if alpha != 0 && alpha != 255 {
            for colour in &mut pixel[..CHANNELS - 1] {
                *colour = (255 * u32::from(*colour) / alpha).min(255) as u8;
            }
        }
    }
    resized
}
