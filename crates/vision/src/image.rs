//! The one picture type of the project: 8-bit RGB, never empty.
//!
//! Whatever a file holds becomes this on reading: grey is repeated, palettes are looked up, CMYK is
//! converted, alpha is dropped (the colour beneath stays; nothing is composited). Samples of more than
//! 8 bits are scaled by a rule that is the same for all images ([`Levels`](crate::Levels)), since a
//! stretch chosen per image would make a detector compare different things. Where an image uses little
//! of its range, [`Image::notes`] says so.

use std::path::Path;

use image::{DynamicImage, ExtendedColorType, RgbImage};

use crate::decode::{self, DecodeOptions, Levels, Raster};
use crate::error::{GeometryError, ImageError, Origin};
use crate::native::Native;
use crate::notes::DecodeNote;
use crate::resample::{self, Filter};
use anomalens_base::write_atomic;

use crate::write::png;

/// An 8-bit RGB image, row-major, at least 1 x 1.
#[derive(Clone, Debug)]
pub struct Image {
    pixels: RgbImage,
    /// The file's own mode, where resizing it differs from resizing RGB.
    native: Option<Box<Native>>,
    notes: Vec<DecodeNote>,
}

/// Images are equal if their pixels are, whatever was noted about their files.
impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.pixels == other.pixels
    }
}

impl Eq for Image {}

impl Image {
    /// Makes an image from `3 * width * height` bytes: R, G, B of the top left pixel, then onwards
    /// along the row.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] if a side is zero, [`GeometryError::WrongLength`] if the number of
    /// bytes does not fit.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, GeometryError> {
        const WHAT: &str = "an RGB image";
        let size = (width as usize, height as usize);
        GeometryError::check(WHAT, size, 3, pixels.len())?;
        RgbImage::from_raw(width, height, pixels)
            .map(|pixels| Self {
                pixels,
                native: None,
                notes: vec![],
            })
            .ok_or(GeometryError::empty(WHAT, width, height))
    }

    /// An image of one colour, whose size was found acceptable.
    pub(crate) fn filled(width: u32, height: u32, colour: [u8; 3]) -> Result<Self, GeometryError> {
        Self::new(
            width,
            height,
            colour.repeat(width as usize * height as usize),
        )
    }

    /// Reads a PNG, JPEG, BMP, TIFF or WebP file; the bytes decide, not the extension.
    ///
    /// Of several pages or frames the first is read. EXIF orientation is applied.
    ///
    /// # Errors
    /// An [`ImageError`] that carries the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImageError> {
        Self::open_with(path, &DecodeOptions::default())
    }

    /// [`Image::open`] with limits and rules of one's own.
    ///
    /// # Errors
    /// An [`ImageError`] that carries the path.
    pub fn open_with(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Self, ImageError> {
        let path = path.as_ref();
        let bytes = decode::read_file(path, &options.limits)?;
        Self::decode_from(&bytes, options, &Origin::File(path.into()))
    }

    /// Decodes bytes in memory; otherwise as [`Image::open`].
    ///
    /// # Errors
    /// An [`ImageError`] whose origin is [`Origin::Memory`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        Self::decode_with(bytes, &DecodeOptions::default())
    }

    /// [`Image::decode`] with limits and rules of one's own.
    ///
    /// # Errors
    /// An [`ImageError`] whose origin is [`Origin::Memory`].
    pub fn decode_with(bytes: &[u8], options: &DecodeOptions) -> Result<Self, ImageError> {
        Self::decode_from(bytes, options, &Origin::Memory)
    }

    fn decode_from(
        bytes: &[u8],
        options: &DecodeOptions,
        origin: &Origin,
    ) -> Result<Self, ImageError> {
        decode::decode(bytes, options, origin, |raster| {
            Self::from_raster(raster, options)
        })
    }

    fn from_raster(mut raster: Raster, options: &DecodeOptions) -> Result<Self, decode::Failure> {
        let mut notes = vec![];
        if raster.pages > 1 {
            notes.push(DecodeNote::OtherPages {
                page: options.page,
                pages: raster.pages,
            });
        }
        if options.upright {
            raster = raster.upright();
        }
        let from_file = options.levels == Levels::FromFile;
        let truncated = from_file.then(|| Native::truncated(&raster)).flatten();
        if let Some(decode::Used { found, range }) = raster.scale_to_bytes(options.levels)? {
            let is_window = matches!(options.levels, Levels::Window { .. });
            if !is_window && (found.1 - found.0) * 8.0 < range.1 - range.0 {
                notes.push(DecodeNote::NarrowRange { found, range });
            }
            if !is_window && (found.0 < range.0 || found.1 > range.1) {
                notes.push(DecodeNote::OutsideRange { found, range });
            }
        }
        let native = truncated.or_else(|| Native::new(&raster)).map(Box::new);
        let (width, height) = (raster.width as u32, raster.height as u32);
        let image = Self::new(width, height, raster.into_rgb()?);
        let image = image.map_err(|error| decode::damaged(error.to_string()))?;
        Ok(Self {
            native,
            notes,
            ..image
        })
    }

    /// What should be known about the file that this image was decoded from; nothing for most.
    pub fn notes(&self) -> &[DecodeNote] {
        &self.notes
    }

    /// Whether all pixels have the same colour, as with a closed shutter: nothing can be found in it.
    pub fn is_flat(&self) -> bool {
        let (pixels, _) = self.as_bytes().as_chunks::<3>();
        pixels.iter().all(|pixel| *pixel == pixels[0])
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.pixels.width()
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.pixels.height()
    }

    /// The pixels, `[height, width, 3]`, row-major.
    pub fn as_bytes(&self) -> &[u8] {
        self.pixels.as_raw()
    }

    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// The pixels, `[height, width, 3]`, row-major.
    pub fn into_bytes(self) -> Vec<u8> {
        self.pixels.into_raw()
    }

    /// The colour at column `x`, row `y`, or `None` outside the image.
    pub fn pixel(&self, x: u32, y: u32) -> Option<[u8; 3]> {
        self.pixels.get_pixel_checked(x, y).map(|pixel| pixel.0)
    }

    pub(crate) fn set_pixel(&mut self, x: u32, y: u32, colour: [u8; 3]) {
        self.pixels.put_pixel(x, y, image::Rgb(colour));
    }

    /// Pastes `image` with its top left corner at (`x`, `y`); what reaches outside is lost.
    pub(crate) fn paste(&mut self, image: &Image, x: u32, y: u32) {
        image::imageops::replace(&mut self.pixels, &image.pixels, x.into(), y.into());
    }

    /// Cuts out `width` x `height` pixels with the top left corner at (`x`, `y`).
    ///
    /// # Errors
    /// [`GeometryError::Empty`] or [`GeometryError::CropOutside`].
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> Result<Self, GeometryError> {
        check_crop((self.width(), self.height()), x, y, width, height)?;
        let pixels = image::imageops::crop_imm(&self.pixels, x, y, width, height).to_image();
        let native = self.native.as_ref();
        Ok(Self {
            pixels,
            native: native.map(|native| Box::new(native.crop((x, y), (width, height)))),
            notes: self.notes.clone(),
        })
    }

    /// The image with left and right exchanged.
    #[must_use]
    pub fn mirror(&self) -> Self {
        Self {
            pixels: image::imageops::flip_horizontal(&self.pixels),
            native: self.native.as_ref().map(|native| Box::new(native.mirror())),
            notes: self.notes.clone(),
        }
    }

    /// Resizes to exactly `width` x `height`, with the same pixels as Pillow's `Image.resize`.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] for a size of zero, [`GeometryError::TooLarge`] for absurd ones.
    pub fn resize(&self, width: u32, height: u32, filter: Filter) -> Result<Self, GeometryError> {
        let from = (self.width(), self.height());
        resample::check_size(from, (width.into(), height.into()), resample::MAX_PIXELS)?;
        Self::new(
            width,
            height,
            resample::resize::<3>(self.as_bytes(), from, (width, height), filter),
        )
    }

    /// As [`Image::resize`], in the mode that the file had, and RGB afterwards: what Pillow makes of
    /// a file by `resize` and `convert("RGB")`. An image that is not from a file is RGB.
    ///
    /// # Errors
    /// As [`Image::resize`].
    pub fn resize_in_file_mode(
        &self,
        width: u32,
        height: u32,
        filter: Filter,
    ) -> Result<Self, GeometryError> {
        let Some(native) = &self.native else {
            return self.resize(width, height, filter);
        };
        let from = (self.width(), self.height());
        resample::check_size(from, (width.into(), height.into()), resample::MAX_PIXELS)?;
        Self::new(width, height, native.resize((width, height), filter))
    }

    /// The image as a PNG file.
    ///
    /// # Errors
    /// [`ImageError::Unencodable`].
    pub fn to_png(&self) -> Result<Vec<u8>, ImageError> {
        png(
            self.as_bytes(),
            (self.width(), self.height()),
            ExtendedColorType::Rgb8,
        )
    }

    /// Writes a PNG file; an existing file is replaced only when the new one is complete.
    ///
    /// # Errors
    /// [`ImageError::Unwritable`] with the path, or [`ImageError::Unencodable`].
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<(), ImageError> {
        let path = path.as_ref();
        write_atomic(path, &self.to_png()?).map_err(|source| ImageError::Unwritable {
            path: path.into(),
            source,
        })
    }
}

impl From<Image> for DynamicImage {
    fn from(image: Image) -> Self {
        DynamicImage::ImageRgb8(image.pixels)
    }
}

/// Whether an area lies within an image and is not empty.
pub(crate) fn check_crop(
    (image_width, image_height): (u32, u32),
    x: u32,
    y: u32,
    width: u32,
    height: u32,
) -> Result<(), GeometryError> {
    if width == 0 || height == 0 {
        return Err(GeometryError::empty("the area to cut out", width, height));
    }
    let inside = |start: u32, length: u32, size: u32| {
        start.checked_add(length).is_some_and(|end| end <= size)
    };
    if inside(x, width, image_width) && inside(y, height, image_height) {
        Ok(())
    } else {
        Err(GeometryError::CropOutside {
            x,
            y,
            width,
            height,
            image_width,
            image_height,
        })
    }
}
