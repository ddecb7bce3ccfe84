//! From an image to a network's input: resize, crop, scale, normalise, with torchvision's rounding.
//!
//! The rule is data: it is stored in detector files and compared when they are loaded.

use rayon::prelude::*;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::GeometryError;
use crate::image::Image;
use crate::resample::{self, Filter};

/// How an image is brought to the input size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Resize {
    /// To exactly this size, whatever the aspect ratio.
    Stretch {
        /// Rows of the result.
        height: u32,
        /// Columns of the result.
        width: u32,
    },
    /// The shorter side to `size`, the longer one in proportion (truncated).
    ShorterSide {
        /// Pixels of the shorter side.
        size: u32,
    },
    /// As `ShorterSide`, then a square of `crop` pixels from the centre.
    ShorterSideCentreCrop {
        /// Pixels of the shorter side.
        size: u32,
        /// Side of the square, at most `size`.
        crop: u32,
    },
    /// As `ShorterSide`, then right and bottom are cut to multiples of `multiple`.
    ShorterSideMultiple {
        /// Pixels of the shorter side.
        size: u32,
        /// Usually the patch size.
        multiple: u32,
    },
}

/// When an image becomes RGB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RgbConversion {
    /// Before it is resized, as code has it that reads images with OpenCV, or calls `convert("RGB")`
    /// first.
    #[default]
    BeforeResize,
    /// After it was resized in the mode of its file, as torchvision's transforms do on what Pillow
    /// opens (AnomalyCLIP, VAND, open_clip). That differs for images with a palette or of one bit,
    /// which Pillow does not interpolate, with transparency, which weighs their colours, and of CMYK.
    AfterResize,
}

impl RgbConversion {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything that happens to an image before a backbone sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// How the size is reached.
    pub resize: Resize,
    /// With which filter.
    pub filter: Filter,
    /// Whether it is RGB before or after that.
    #[serde(default, skip_serializing_if = "RgbConversion::is_default")]
    pub rgb: RgbConversion,
    /// Subtracted from R, G, B in 0..=1.
    pub mean: [f32; 3],
    /// Then divided by; positive.
    #[serde(deserialize_with = "positive")]
    pub std: [f32; 3],
}

/// Largest input, in pixels: about 85,000 patches of 14 pixels, beyond any encoder.
const MAX_PIXELS: u64 = 1 << 24;

/// Mean and standard deviation of OpenAI's CLIP, used by OpenCLIP as well.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Mean and standard deviation of ImageNet as torchvision has them.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// A network's input.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessed {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[3, height, width]`: all of R, then G, then B.
    pub values: Vec<f32>,
}

impl Preprocessed {
    /// Number of colour planes.
    pub const CHANNELS: usize = 3;
}

/// An area in pixels of an image; fractions of pixels are possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
}

/// Sizes (width, height) and position for one image.
struct Plan {
    resized: (u32, u32),
    offset: (u32, u32),
    output: (u32, u32),
}

impl Preprocess {
    /// AnomalyCLIP, VAND, WinCLIP: stretched to `size` x `size`, bicubic, CLIP's normalisation.
    pub fn clip_square(size: u32) -> Self {
        let resize = Resize::Stretch {
            height: size,
            width: size,
        };
        Self {
            resize,
            filter: Filter::Bicubic,
            rgb: RgbConversion::default(),
            mean: CLIP_MEAN,
            std: CLIP_STD,
        }
    }

    /// InCTRL: shorter side to `size`, bicubic, the central square, CLIP's normalisation.
    pub fn clip_centre_crop(size: u32) -> Self {
        let resize = Resize::ShorterSideCentreCrop { size, crop: size };
        Self {
            resize,
            filter: Filter::Bicubic,
            rgb: RgbConversion::default(),
            mean: CLIP_MEAN,
            std: CLIP_STD,
        }
    }

    /// Stretched to `size` x `size`, bicubic, ImageNet's normalisation.
    pub fn imagenet_square(size: u32) -> Self {
        let resize = Resize::Stretch {
            height: size,
            width: size,
        };
        Self {
            resize,
            filter: Filter::Bicubic,
            rgb: RgbConversion::default(),
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// AnomalyDINO: shorter side to `size`, bicubic, right and bottom cut to multiples of `patch`,
    /// ImageNet's normalisation.
    pub fn imagenet_shorter_side(size: u32, patch: u32) -> Self {
        let resize = Resize::ShorterSideMultiple {
            size,
            multiple: patch,
        };
        Self {
            resize,
            filter: Filter::Bicubic,
            rgb: RgbConversion::default(),
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// Rows and columns of the input made from an image of `width` x `height` pixels.
    ///
    /// # Errors
    /// [`GeometryError::Empty`], [`GeometryError::TooLarge`] (more than 16.8 million pixels, as for a
    /// very long strip), or [`GeometryError::CropOutside`] if the centre crop exceeds the size.
    pub fn output_size(&self, width: u32, height: u32) -> Result<(usize, usize), GeometryError> {
        let (width, height) = self.plan(width, height)?.output;
        Ok((height as usize, width as usize))
    }

    /// The area of an image of `width` x `height` pixels that the network sees, in its pixels.
    ///
    /// # Errors
    /// As [`Preprocess::output_size`].
    pub fn footprint(&self, width: u32, height: u32) -> Result<Rect, GeometryError> {
        let plan = self.plan(width, height)?;
        let to_original = |length: u32, original: u32, resized: u32| {
            (f64::from(length) * f64::from(original) / f64::from(resized)) as f32
        };
        Ok(Rect {
            x: to_original(plan.offset.0, width, plan.resized.0),
            y: to_original(plan.offset.1, height, plan.resized.1),
            width: to_original(plan.output.0, width, plan.resized.0),
            height: to_original(plan.output.1, height, plan.resized.1),
        })
    }

    /// Makes a network's input.
    ///
    /// # Errors
    /// As [`Preprocess::output_size`].
    pub fn apply(&self, image: &Image) -> Result<Preprocessed, GeometryError> {
        let plan = self.plan(image.width(), image.height())?;
        let (width, height) = plan.output;
        let (columns, rows) = plan.resized;
        let resized = match self.rgb {
            RgbConversion::BeforeResize => image.resize(columns, rows, self.filter)?,
            RgbConversion::AfterResize => image.resize_in_file_mode(columns, rows, self.filter)?,
        };
        let pixels = resized.crop(plan.offset.0, plan.offset.1, width, height)?;
        let (pixels, _) = pixels.as_bytes().as_chunks::<{ Preprocessed::CHANNELS }>();
        let mut values = vec![0.0; pixels.len() * Preprocessed::CHANNELS];
        values
            .par_chunks_exact_mut(pixels.len())
            .enumerate()
            .for_each(|(channel, plane)| {
                let normalised = self.normalised(channel);
                for (value, pixel) in plane.iter_mut().zip(pixels) {
                    *value = normalised[usize::from(pixel[channel])];
                }
            });
        Ok(Preprocessed {
            height: height as usize,
            width: width as usize,
            values,
        })
    }

    /// The value of each of the 256 levels of a channel.
    fn normalised(&self, channel: usize) -> [f32; 256] {
        let (mean, std) = (self.mean[channel], self.std[channel]);
        std::array::from_fn(|level| (level as f32 / 255.0 - mean) / std)
    }

    fn plan(&self, width: u32, height: u32) -> Result<Plan, GeometryError> {
        if width == 0 || height == 0 {
            return Err(GeometryError::empty("the image", width, height));
        }
        let resized = match self.resize {
            Resize::Stretch { height, width } => (width.into(), height.into()),
            Resize::ShorterSide { size }
            | Resize::ShorterSideCentreCrop { size, .. }
            | Resize::ShorterSideMultiple { size, .. } => shorter_side(width, height, size),
        };
        resample::check_size((width, height), resized, MAX_PIXELS)?;
        // Checked to be far below 2^32.
        let resized = (resized.0 as u32, resized.1 as u32);

        let output = match self.resize {
            Resize::Stretch { .. } | Resize::ShorterSide { .. } => resized,
            Resize::ShorterSideCentreCrop { crop, .. } => (crop, crop),
            Resize::ShorterSideMultiple { multiple, .. } => {
                let whole = |side: u32| side - side.checked_rem(multiple).unwrap_or(side);
                (whole(resized.0), whole(resized.1))
            }
        };
        let offset = match self.resize {
            Resize::ShorterSideCentreCrop { .. } => {
                (centred(resized.0, output.0), centred(resized.1, output.1))
            }
            _ => (0, 0),
        };
        crate::image::check_crop(resized, offset.0, offset.1, output.0, output.1)?;
        Ok(Plan {
            resized,
            offset,
            output,
        })
    }
}

/// torchvision's `Resize(size)`: the longer side is truncated.
fn shorter_side(width: u32, height: u32, size: u32) -> (u64, u64) {
    let scaled = |long: u32, short: u32| u64::from(size) * u64::from(long) / u64::from(short);
    if width <= height {
        (size.into(), scaled(height, width))
    } else {
        (scaled(width, height), size.into())
    }
}

/// torchvision's `CenterCrop`: half of the surplus, rounded half to even.
fn centred(size: u32, crop: u32) -> u32 {
    (f64::from(size.saturating_sub(crop)) / 2.0).round_ties_even() as u32
}

/// A division by zero in a stored rule would make every input infinite.
fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f32; 3], D::Error> {
    let std = <[f32; 3]>::deserialize(deserializer)?;
    if std.iter().all(|&std| std > 0.0 && std.is_finite()) {
        Ok(std)
    } else {
        Err(D::Error::custom("std must be three positive numbers"))
    }
}
