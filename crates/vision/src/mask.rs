//! Binary masks: ground truth from files, and thresholded maps.
//!
//! Reading and resizing follow the mask pipeline shared by AnomalyCLIP, VAND and WinCLIP: grey > 0
//! counts as set; {0, 255} is resized with Pillow's bilinear filter; values >= 128 stay set. In JPEG
//! files compression noise around black is > 0 as well: [`MaskFile`] can ask for more than that.

use std::path::PathBuf;

use image::ExtendedColorType;
use serde::Serialize;

use crate::decode::{self, DecodeOptions, Layout, Limits, Raster, Samples};
use crate::error::{GeometryError, ImageError, Origin};
use crate::image::check_crop;
use crate::resample::{self, Filter};
use crate::write::png;

/// A mask in an image file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct MaskFile {
    /// The file.
    pub path: PathBuf,
    /// Pixels are set whose value is above this one, in the units of the file (white is 255, or
    /// 65535 in files of 16 bits).
    pub threshold: u16,
}

/// With the threshold 0: all that is brighter than black is set.
impl From<PathBuf> for MaskFile {
    fn from(path: PathBuf) -> Self {
        Self { path, threshold: 0 }
    }
}

/// A yes or no for every pixel, row-major, at least 1 x 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    width: u32,
    height: u32,
    values: Vec<bool>,
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

    /// A mask of values that are known to fit.
    pub(crate) fn of(width: u32, height: u32, values: Vec<bool>) -> Self {
        debug_assert_eq!(values.len(), width as usize * height as usize);
        Self {
            width,
            height,
            values,
        }
    }

    /// Reads a mask file, upright like an image: every pixel above its threshold is set.
    ///
    /// Colours of 8 bits are turned to grey with Pillow's weights first; of colours of 16 bits the
    /// brightest channel counts. Samples of more than 8 bits are compared before any scaling, so that
    /// small label values are kept. Transparency does not matter.
    ///
    /// # Errors
    /// An [`ImageError`] that carries the path.
    pub fn open(file: &MaskFile, limits: &Limits) -> Result<Self, ImageError> {
        let bytes = decode::read_file(&file.path, limits)?;
        let origin = Origin::File(file.path.clone());
        Self::decode_from(&bytes, file.threshold, limits, &origin)
    }

    /// Decodes a mask in memory; otherwise as [`Mask::open`].
    ///
    /// # Errors
    /// An [`ImageError`] whose origin is [`Origin::Memory`].
    pub fn decode(bytes: &[u8], threshold: u16, limits: &Limits) -> Result<Self, ImageError> {
        Self::decode_from(bytes, threshold, limits, &Origin::Memory)
    }

    fn decode_from(
        bytes: &[u8],
        threshold: u16,
        limits: &Limits,
        origin: &Origin,
    ) -> Result<Self, ImageError> {
        decode::decode(bytes, &DecodeOptions::from(*limits), origin, |raster| {
            Self::from_raster(raster.upright(), threshold)
        })
    }

    fn from_raster(raster: Raster, threshold: u16) -> Result<Self, decode::Failure> {
        let (width, height) = (raster.width as u32, raster.height as u32);
        let channels = raster.layout.channels();
        // Transparency is the last sample.
        let colours = match raster.layout {
            Layout::GreyAlpha | Layout::Rgba => channels - 1,
            _ => channels,
        };
        let threshold_at = i32::from(threshold) + i32::from(raster.zero);
        let values = match &raster.samples {
            Samples::Words(words) => words
                .chunks_exact(channels)
                .map(|pixel| {
                    pixel[..colours]
                        .iter()
                        .any(|&v| i32::from(v) > threshold_at)
                })
                .collect(),
            Samples::Floats(values) => values
                .chunks_exact(channels)
                .map(|pixel| pixel[..colours].iter().any(|&v| v > f32::from(threshold)))
                .collect(),
            Samples::Bytes(_) => raster
                .into_rgb()?
                .as_chunks()
                .0
                .iter()
                .map(|&pixel| grey(pixel) > u32::from(threshold))
                .collect(),
        };
        Ok(Self {
            width,
            height,
            values,
        })
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

/// Pillow's conversion to "L": ITU-R 601-2 luma in 16-bit fixed point, rounded.
fn grey([red, green, blue]: [u8; 3]) -> u32 {
    let [red, green, blue] = [red, green, blue].map(u32::from);
    (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
}
