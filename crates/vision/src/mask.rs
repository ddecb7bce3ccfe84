//! Binary masks: ground truth from files, and thresholded maps.
//!
//! Reading and resizing follow the mask pipeline shared by AnomalyCLIP, VAND and WinCLIP: grey > 0
//! counts as set; {0, 255} is resized with Pillow's bilinear filter; values >= 128 stay set. In JPEG
//! files compression noise around black is > 0 as well, and some tools mark in black or in the
//! alpha channel: [`MaskReading`] says what counts.

use std::ops::Range;
use std::path::PathBuf;

use image::ExtendedColorType;

use crate::decode::{self, DecodeOptions, Layout, Limits, Raster, Samples};
use crate::error::{GeometryError, ImageError, Origin};
use crate::image::check_crop;
use crate::resample::{self, Filter};
use crate::sparse::SparseMask;
use crate::write::png;

/// Where the anomalous pixels of an image are known from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MaskSource {
    /// An image of the same size, to be cropped like it.
    File(MaskFile),
    /// Outlines, drawn at the size of the image.
    Outlines(SparseMask),
    /// No pixel is anomalous.
    Empty,
    /// Nothing is known of its pixels.
    Unknown,
}

impl MaskSource {
    /// Whether some pixels may be anomalous.
    pub fn is_marked(&self) -> bool {
        matches!(self, Self::File(_) | Self::Outlines(_))
    }

    /// The mask of the image before any crop; `None` if no pixel is known to be anomalous.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn open(&self, limits: &Limits) -> Result<Option<Mask>, ImageError> {
        match self {
            Self::File(file) => Mask::open(file, limits).map(Some),
            Self::Outlines(mask) => Ok(Some(mask.to_mask())),
            Self::Empty | Self::Unknown => Ok(None),
        }
    }
}

/// A mask in an image file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MaskFile {
    /// The file.
    pub path: PathBuf,
    /// Which of its pixels are set.
    pub reading: MaskReading,
}

/// Which pixels of a mask file are set; by default all that are brighter than black.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MaskReading {
    /// Pixels are set whose value is above this one, in the units of the file (white is 255, or
    /// 65535 in files of 16 bits).
    pub threshold: u16,
    /// What their value is.
    pub channel: MaskChannel,
    /// Whether the others are set instead.
    pub invert: bool,
}

/// What counts as the value of a pixel in a mask file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MaskChannel {
    /// How bright it is; transparency does not matter.
    #[default]
    Brightness,
    /// How opaque it is.
    Alpha,
}

/// Read by default.
impl From<PathBuf> for MaskFile {
    fn from(path: PathBuf) -> Self {
        Self {
            path,
            reading: MaskReading::default(),
        }
    }
}

/// A yes or no for every pixel, row-major, at least 1 x 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    width: u32,
    height: u32,
    pub(crate) values: Vec<bool>,
}

impl Mask {
    /// Makes a mask from `width * height` values, row-major.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] if a side is zero, [`GeometryError::WrongLength`] if the number of
    /// values does not fit.
    pub fn new(width: u32, height: u32, values: Vec<bool>) -> Result<Self, GeometryError> {
        let size = (width as usize, height as usize);
        GeometryError::check("a mask", size, 1, values.len())?;
        Ok(Self {
            width,
            height,
            values,
        })
    }

    /// A mask without any pixel set.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] if a side is zero, [`GeometryError::TooLarge`] for absurd sizes.
    pub fn empty(width: u32, height: u32) -> Result<Self, GeometryError> {
        if width == 0 || height == 0 {
            return Err(GeometryError::empty("a mask", width, height));
        }
        let size = (width.into(), height.into());
        resample::check_size((1, 1), size, resample::MAX_PIXELS)?;
        Ok(Self::of(
            width,
            height,
            vec![false; width as usize * height as usize],
        ))
    }

    /// A mask of values that are known to fit.
    pub(crate) fn of(width: u32, height: u32, values: Vec<bool>) -> Self {
        debug_assert_eq!(values.len(), width as usize * height as usize);
        Self {
            width,
            height,
            values,
        }
    }

    /// Reads a mask file, upright like an image.
    ///
    /// Colours of 8 bits are turned to grey with Pillow's weights first; of colours of 16 bits the
    /// brightest channel counts. Samples of more than 8 bits are compared before any scaling, so that
    /// small label values are kept.
    ///
    /// # Errors
    /// An [`ImageError`] that carries the path.
    pub fn open(file: &MaskFile, limits: &Limits) -> Result<Self, ImageError> {
        let bytes = decode::read_file(&file.path, limits)?;
        let origin = Origin::File(file.path.clone());
        Self::decode_from(&bytes, file.reading, limits, &origin)
    }

    /// Decodes a mask in memory; otherwise as [`Mask::open`].
    ///
    /// # Errors
    /// An [`ImageError`] whose origin is [`Origin::Memory`].
    pub fn decode(bytes: &[u8], reading: MaskReading, limits: &Limits) -> Result<Self, ImageError> {
        Self::decode_from(bytes, reading, limits, &Origin::Memory)
    }

    fn decode_from(
        bytes: &[u8],
        reading: MaskReading,
        limits: &Limits,
        origin: &Origin,
    ) -> Result<Self, ImageError> {
        let mask = decode::decode(bytes, &DecodeOptions::from(*limits), origin, |raster| {
            let raster = raster.upright();
            let (width, height) = (raster.width as u32, raster.height as u32);
            let values = match reading.channel {
                MaskChannel::Brightness => Some(brighter(raster, reading.threshold)?),
                MaskChannel::Alpha => more_opaque(&raster, reading.threshold),
            };
            Ok(values.map(|values| Self::of(width, height, values)))
        })?;
        let mut mask = mask.ok_or_else(|| ImageError::NoAlpha {
            origin: origin.clone(),
        })?;
        if reading.invert {
            mask.values.iter_mut().for_each(|value| *value = !*value);
        }
        Ok(mask)
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The values, `[height, width]`, row-major.
    pub fn values(&self) -> &[bool] {
        &self.values
    }

    /// Whether the pixel at column `x`, row `y` is set; outside the mask nothing is.
    pub fn get(&self, x: u32, y: u32) -> bool {
        x < self.width
            && y < self.height
            && self.values[y as usize * self.width as usize + x as usize]
    }

    /// Number of pixels that are set.
    pub fn count(&self) -> usize {
        self.values.iter().filter(|&&value| value).count()
    }

    /// Whether any pixel is set.
    pub fn any(&self) -> bool {
        self.values.contains(&true)
    }

    /// The mask as a grey PNG file: 255 where it is set, 0 elsewhere.
    ///
    /// # Errors
    /// [`ImageError::Unencodable`].
    pub fn to_png(&self) -> Result<Vec<u8>, ImageError> {
        png(
            &self.grey(),
            (self.width, self.height),
            ExtendedColorType::L8,
        )
    }

    /// 255 where it is set, 0 elsewhere.
    fn grey(&self) -> Vec<u8> {
        self.values
            .iter()
            .map(|&value| u8::from(value) * 255)
            .collect()
    }

    /// Cuts out `width` x `height` pixels with the top left corner at (`x`, `y`).
    ///
    /// # Errors
    /// [`GeometryError::Empty`] or [`GeometryError::CropOutside`].
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> Result<Self, GeometryError> {
        check_crop((self.width, self.height), x, y, width, height)?;
        let columns = x as usize..(x + width) as usize;
        let values = self
            .values
            .chunks_exact(self.width as usize)
            .skip(y as usize)
            .take(height as usize)
            .flat_map(|row| &row[columns.clone()])
            .copied()
            .collect();
        Ok(Self {
            width,
            height,
            values,
        })
    }

    /// Resizes to exactly `width` x `height`.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] for a size of zero, [`GeometryError::TooLarge`] for absurd ones.
    pub fn resize(&self, width: u32, height: u32) -> Result<Self, GeometryError> {
        let from = (self.width, self.height);
        resample::check_size(from, (width.into(), height.into()), resample::MAX_PIXELS)?;
        let resized = resample::resize::<1>(&self.grey(), from, (width, height), Filter::Bilinear);
        // "> 0.5" after division by 255.
        let values = resized.iter().map(|&value| value >= 128).collect();
        Ok(Self {
            width,
            height,
            values,
        })
    }
}

/// Which pixels are brighter than `threshold`.
fn brighter(raster: Raster, threshold: u16) -> Result<Vec<bool>, decode::Failure> {
    // Transparency is the last sample.
    let colours = raster.layout.channels() - usize::from(has_alpha(&raster));
    if let Samples::Bytes(_) = raster.samples {
        let pixels = raster.into_rgb()?;
        let pixels = pixels.as_chunks().0.iter();
        return Ok(pixels
            .map(|&pixel| grey(pixel) > u32::from(threshold))
            .collect());
    }
    Ok(any_above(&raster, 0..colours, threshold))
}

/// Which pixels have more alpha than `threshold`; `None` if they have none.
fn more_opaque(raster: &Raster, threshold: u16) -> Option<Vec<bool>> {
    let channels = raster.layout.channels();
    has_alpha(raster).then(|| any_above(raster, channels - 1..channels, threshold))
}

fn has_alpha(raster: &Raster) -> bool {
    matches!(raster.layout, Layout::GreyAlpha | Layout::Rgba)
}

/// Which pixels have a sample above `threshold` among those of these channels.
fn any_above(raster: &Raster, of: Range<usize>, threshold: u16) -> Vec<bool> {
    fn each<T>(
        values: &[T],
        channels: usize,
        of: Range<usize>,
        above: impl Fn(&T) -> bool,
    ) -> Vec<bool> {
        let pixels = values.chunks_exact(channels);
        pixels
            .map(|pixel| pixel[of.clone()].iter().any(&above))
            .collect()
    }
    let channels = raster.layout.channels();
    let with_zero = i32::from(threshold) + i32::from(raster.zero);
    match &raster.samples {
        Samples::Bytes(values) => each(values, channels, of, |&v| u16::from(v) > threshold),
        Samples::Words(values) => each(values, channels, of, |&v| i32::from(v) > with_zero),
        Samples::Floats(values) => each(values, channels, of, |&v| v > f32::from(threshold)),
    }
}

/// Pillow's conversion to "L": ITU-R 601-2 luma in 16-bit fixed point, rounded.
fn grey([red, green, blue]: [u8; 3]) -> u32 {
    let [red, green, blue] = [red, green, blue].map(u32::from);
    (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
}
