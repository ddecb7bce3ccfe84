//! An image's pictures: the part of it that the network saw, its heat map, and both in one with the
//! outlines of what the detector and the mask call anomalous and boxes around the regions.

use std::error::Error;

use anomalens_datasets::{Label, Sample};
use anomalens_detectors::{NormalRange, Prediction};
use anomalens_vision::{
    ColourMap, DecodeOptions, Filter, GeometryError, Image, Mask, draw_contours,
};
use askama::Template;
use askama::filters::HtmlSafe;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use anomalens_evaluation::picture::{AnomalousArea, Drawn, Style, boxes, draw};
use anomalens_evaluation::pixels::seen_mask;
use anomalens_evaluation::run::source;

use crate::page::three;
use crate::results::ResultImage;

/// Pictures small enough for a page with many of them.
const LARGE: Style = Style {
    colours: COLOURS,
    longer_side: 256,
    enlarge: true,
    contour_width: 1,
};

/// Pictures of which a page has thousands.
const SMALL: Style = Style {
    longer_side: 144,
    ..LARGE
};

/// Below this, the outlines fray.
const JPEG_QUALITY: u8 = 85;

/// Outline of the mask: a blue that the heat map does not have.
const MASK_OUTLINE: [u8; 3] = [0, 200, 255];

/// Colours of heat maps and their legend.
const COLOURS: ColourMap = ColourMap::Inferno;

/// What the colours and outlines of the pictures mean.
#[derive(Template)]
#[template(path = "legend.html")]
pub(super) struct Legend {
    /// The colours from cold to hot, for a CSS gradient.
    colours: String,
    /// The scores at their ends, if they are the same for all images.
    range: Option<(String, String)>,
    has_masks: bool,
}

impl HtmlSafe for Legend {}

impl Legend {
    pub(super) fn new(range: Option<NormalRange>, has_masks: bool) -> Self {
        const STOPS: u8 = 16;
        let stop = |i: u8| {
            let [red, green, blue] = COLOURS.colour(f32::from(i) / f32::from(STOPS));
            format!("rgb({red} {green} {blue})")
        };
        Self {
            colours: (0..=STOPS).map(stop).collect::<Vec<_>>().join(", "),
            range: range.map(
                |NormalRange {
                     median,
                     upper_quantile,
                 }| { (three(median.into()), three(upper_quantile.into())) },
            ),
            has_masks,
        }
    }
}

/// The pictures of an image: itself, its heat map, its mask where there is one, and the overlay.
pub(super) struct Pictures {
    pub(super) shown: Vec<Picture>,
    /// Boxes around the regions, in pixels of the image.
    pub(super) boxes: Vec<AnomalousArea>,
    /// The part of the image that the pictures show, as an SVG view box.
    pub(super) view: String,
}

/// A picture, as a `data:` address.
pub(super) struct Picture {
    /// What it shows: `image`, `heat map`, `mask` or `overlay`.
    pub(super) what: &'static str,
    pub(super) address: String,
    /// Width in pixels.
    pub(super) width: u32,
    /// Height in pixels.
    pub(super) height: u32,
}

impl Pictures {
    /// Large pictures of a labelled image, which is read again.
    pub(super) fn large(
        sample: &Sample,
        prediction: &Prediction,
        decode: &DecodeOptions,
    ) -> Result<Self, Box<dyn Error>> {
        let (pictures, _) = Self::draw(sample, prediction, decode, LARGE)?;
        Ok(pictures)
    }

    /// Small pictures of a labelled image, with its mask.
    pub(super) fn small(
        sample: &Sample,
        prediction: &Prediction,
        decode: &DecodeOptions,
    ) -> Result<Self, Box<dyn Error>> {
        let (mut pictures, mask) = Self::draw(sample, prediction, decode, SMALL)?;
        if let Some(mask) = mask {
            let mask = Picture {
                what: "mask",
                address: address("png", &mask.to_png()?),
                width: mask.width(),
                height: mask.height(),
            };
            pictures.shown.insert(2, mask);
        }
        Ok(pictures)
    }

    fn draw(
        sample: &Sample,
        prediction: &Prediction,
        decode: &DecodeOptions,
        style: Style,
    ) -> Result<(Self, Option<Mask>), Box<dyn Error>> {
        let (drawn, mask) = drawn(sample, prediction, decode, style)?;
        let seen = prediction.size.footprint;
        let pictures = Self {
            shown: vec![
                Picture::new("image", &drawn.image)?,
                Picture::new("heat map", &drawn.heat_map)?,
                Picture::new("overlay", &drawn.overlay)?,
            ],
            boxes: boxes(prediction)?,
            view: format!("{} {} {} {}", seen.x, seen.y, seen.width, seen.height),
        };
        Ok((pictures, mask))
    }

    /// Small pictures of an image and of the files that were made of it.
    pub(super) fn of_result(
        result: &ResultImage,
        decode: &DecodeOptions,
    ) -> Result<Self, Box<dyn Error>> {
        let mut shown = vec![];
        let mut view = String::new();
        if let Some(source) = &result.source {
            let image = source.open(decode)?;
            let [x, y, width, height] =
                source
                    .crop()
                    .unwrap_or([0, 0, image.width(), image.height()]);
            view = format!("{x} {y} {width} {height}");
            shown.push(Picture::shrunk("image", &image)?);
        }
        for (what, path) in [("heat map", &result.heat_map), ("overlay", &result.overlay)] {
            if let Some(path) = path {
                shown.push(Picture::shrunk(what, &Image::open(path)?)?);
            }
        }
        Ok(Self {
            shown,
            boxes: result.regions.clone(),
            view,
        })
    }

    /// Whether the pictures are better placed one below the other.
    pub(super) fn is_wide(&self) -> bool {
        let first = self.shown.first();
        first.is_some_and(|picture| picture.width >= 2 * picture.height)
    }

    /// Whether the boxes are drawn over the picture of this index: over the last one, which has the
    /// heat map under it where there is one.
    pub(super) fn has_boxes(&self, index: &usize) -> bool {
        index + 1 == self.shown.len() && !self.boxes.is_empty() && !self.view.is_empty()
    }
}

impl Picture {
    fn new(what: &'static str, image: &Image) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            what,
            address: jpeg_address(image)?,
            width: image.width(),
            height: image.height(),
        })
    }

    fn shrunk(what: &'static str, image: &Image) -> Result<Self, Box<dyn Error>> {
        let (width, height) = SMALL.size(image.width(), image.height());
        Self::new(what, &image.resize(width, height, Filter::Bilinear)?)
    }
}

/// An image's label, and what the anomaly is called.
pub(super) fn label(sample: &Sample) -> String {
    match sample.label {
        Label::Normal => "normal".to_owned(),
        Label::Anomalous => format!("anomalous: {}", sample.defect_type),
    }
}

/// The pictures of a prediction, the overlay with the outline of the mask, and the mask at their
/// size where some pixel is known to be anomalous.
fn drawn(
    sample: &Sample,
    prediction: &Prediction,
    decode: &DecodeOptions,
    style: Style,
) -> Result<(Drawn, Option<Mask>), Box<dyn Error>> {
    let image = source(sample).open(decode)?;
    let mut drawn = draw(&image, prediction, style)?;
    let (width, height) = (drawn.image.width(), drawn.image.height());
    let mask = seen_mask(sample, prediction, &decode.limits)?;
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
