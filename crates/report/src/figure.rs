//! An image's pictures: the part of it that the network saw, and the same under its heat map, with
//! the outlines of what the detector and the mask call anomalous; smaller, its map and mask too.

use std::error::Error;

use anomalens_datasets::{Label, Sample};
use anomalens_detectors::Prediction;
use anomalens_vision::{ColourMap, GeometryError, Image, Limits, Mask, draw_contours};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use anomalens_evaluation::picture::{Drawn, Style, draw};
use anomalens_evaluation::pixels::seen_mask;
use anomalens_evaluation::run::source;

/// Pictures small enough for a page with many of them.
const STYLE: Style = Style {
    colours: COLOURS,
    longer_side: 256,
    enlarge: true,
    contour_width: 1,
};

/// Pictures of which a page has a thousand times three or four.
const SMALL: Style = Style {
    longer_side: 144,
    ..STYLE
};

/// Below this, the outlines fray.
const JPEG_QUALITY: u8 = 85;

/// Outline of the mask: a blue that the heat map does not have.
const MASK_OUTLINE: [u8; 3] = [0, 200, 255];

/// Colours of heat maps and their legend.
pub(super) const COLOURS: ColourMap = ColourMap::Inferno;

/// The two pictures of a figure, of the same size.
pub(super) struct Pictures {
    /// The image, as a `data:` address.
    pub(super) image: String,
    /// The image under its heat map, as a `data:` address.
    pub(super) heat: String,
    /// Width in pixels.
    pub(super) width: u32,
    /// Height in pixels.
    pub(super) height: u32,
}

impl Pictures {
    /// Reads the image (and its mask) again and draws it.
    pub(super) fn draw(
        sample: &Sample,
        prediction: &Prediction,
        limits: &Limits,
    ) -> Result<Self, Box<dyn Error>> {
        let (drawn, _) = drawn(sample, prediction, limits, STYLE)?;
        Ok(Self {
            image: jpeg_address(&drawn.image)?,
            heat: jpeg_address(&drawn.overlay)?,
            width: drawn.image.width(),
            height: drawn.image.height(),
        })
    }

    /// Whether the pictures are better placed one below the other.
    pub(super) fn is_wide(&self) -> bool {
        2 * self.width >= 3 * self.height
    }
}

/// Small pictures of an image, of the same size, as `data:` addresses.
pub(super) struct Thumbnails {
    image: String,
    map: String,
    mask: Option<String>,
    overlay: String,
    /// Width in pixels.
    pub(super) width: u32,
    /// Height in pixels.
    pub(super) height: u32,
}

impl Thumbnails {
    /// Reads the image (and its mask) again and draws it.
    pub(super) fn draw(
        sample: &Sample,
        prediction: &Prediction,
        limits: &Limits,
    ) -> Result<Self, Box<dyn Error>> {
        let (drawn, mask) = drawn(sample, prediction, limits, SMALL)?;
        let mask = mask.map(|mask| Ok::<_, Box<dyn Error>>(address("png", &mask.to_png()?)));
        Ok(Self {
            image: jpeg_address(&drawn.image)?,
            map: jpeg_address(&drawn.heat_map)?,
            mask: mask.transpose()?,
            overlay: jpeg_address(&drawn.overlay)?,
            width: drawn.image.width(),
            height: drawn.image.height(),
        })
    }

    /// The pictures and what they are.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("image", Some(&self.image)),
            ("map", Some(&self.map)),
            ("mask", self.mask.as_ref()),
            ("overlay", Some(&self.overlay)),
        ]
        .into_iter()
        .filter_map(|(what, address)| Some((what, address?.as_str())))
    }
}

/// An image's label, and what the anomaly is called.
pub(super) fn label(sample: &Sample) -> String {
    match sample.label {
        Label::Normal => "normal".to_owned(),
        Label::Anomalous => format!("anomalous: {}", sample.kind),
    }
}

/// The pictures of a prediction, the overlay with the outline of the mask, and the mask at their
/// size where some pixel is known to be anomalous.
fn drawn(
    sample: &Sample,
    prediction: &Prediction,
    limits: &Limits,
    style: Style,
) -> Result<(Drawn, Option<Mask>), Box<dyn Error>> {
    let image = source(sample).open(&(*limits).into())?;
    let mut drawn = draw(&image, prediction, style)?;
    let (width, height) = (drawn.image.width(), drawn.image.height());
    let mask = seen_mask(sample, prediction, limits)?;
    let mask = mask.map(|mask| cover(&mask, width, height)).transpose()?;
    if let Some(mask) = &mask {
        draw_contours(&mut drawn.overlay, mask, MASK_OUTLINE, 2)?;
    }
    Ok((drawn, mask))
}

/// Resizes a mask; a pixel is set if it covers any that is, so that fine cracks do not vanish.
fn cover(mask: &Mask, width: u32, height: u32) -> Result<Mask, GeometryError> {
    let covered = |index: u32, from: u32, to: u32| {
        let (index, from, to) = (u64::from(index), u64::from(from), u64::from(to));
        (index * from / to) as u32..((index + 1) * from).div_ceil(to) as u32
    };
    let values = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .map(|(x, y)| {
            let mut rows = covered(y, mask.height(), height);
            rows.any(|y| covered(x, mask.width(), width).any(|x| mask.get(x, y)))
        })
        .collect();
    Mask::new(width, height, values)
}

fn jpeg_address(image: &Image) -> Result<String, Box<dyn Error>> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode(
        image.as_bytes(),
        image.width(),
        image.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(address("jpeg", &jpeg))
}

fn address(format: &str, bytes: &[u8]) -> String {
    format!(
        "data:image/{format};base64,{}",
        BASE64_STANDARD.encode(bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fine_crack_survives_shrinking() {
        let crack = (0..100 * 100).map(|at| at % 100 == 37).collect();
        let mask = cover(&Mask::new(100, 100, crack).unwrap(), 10, 7).unwrap();
        assert_eq!((mask.width(), mask.height(), mask.count()), (10, 7, 7));
        assert!((0..7).all(|y| mask.get(3, y)));
    }

    #[test]
    fn a_mask_grows_without_holes() {
        let mask = cover(&Mask::new(2, 1, vec![true, false]).unwrap(), 7, 3).unwrap();
        for y in 0..3 {
            let row: Vec<bool> = (0..7).map(|x| mask.get(x, y)).collect();
            assert_eq!(row, [true, true, true, true, false, false, false]);
        }
    }
}
