//! What people look at: heat map, overlay and boxes of a prediction.

use anomalens_detectors::{NormalRange, Prediction};
use anomalens_metrics::{Region, peaks};
use anomalens_vision::{
    Alignment, ColourMap, Filter, GeometryError, Image, Map, Rect, draw_contours, heat_map, overlay,
};
use serde::{Deserialize, Serialize};

/// Longer side of pictures that are written, in pixels: those of most cameras are not reduced.
pub const LONGER_SIDE: u32 = 4096;

/// Longer side of maps in which areas are found and that are enlarged from there, in pixels: several
/// for each patch.
const MAP_SIDE: u32 = 768;

/// Share of the heat map in an overlay, where it is hottest.
const OVERLAY_ALPHA: f32 = 0.6;

/// Where a heat map begins to show in an overlay and where it is shown in full: parts of the way from
/// typical scores to the highest normal ones.
const SHOWN: (f32, f32) = (0.5, 1.5);

/// Colour of contour lines.
const CONTOUR_COLOUR: [u8; 3] = [255, 255, 255];

/// How pictures look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Style {
    /// The colours of heat maps.
    pub colours: ColourMap,
    /// The longer side of a picture, in pixels.
    pub longer_side: u32,
    /// Whether smaller images are enlarged to it.
    pub enlarge: bool,
    /// Width of contour lines in pixels, in pictures of up to 768 pixels; in larger ones it grows with them.
    pub contour_width: u32,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            colours: ColourMap::default(),
            longer_side: LONGER_SIDE,
            enlarge: false,
            contour_width: 2,
        }
    }
}

impl Style {
    /// The width and height at which an image is drawn, in pixels; never 0.
    pub fn size(&self, width: u32, height: u32) -> (u32, u32) {
        let scale = f64::from(self.longer_side) / f64::from(width.max(height));
        let scale = if self.enlarge { scale } else { scale.min(1.0) };
        let side = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
        (side(width), side(height))
    }
}

/// A part of an image that looks different from anything normal: around a peak, as far as scores are
/// at least four fifths as high. In pixels of the image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AnomalousArea {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Pixels of the part itself.
    pub area: u64,
    /// Highest score in it.
    pub peak: f32,
    /// What around it is higher than normal patches ever get; areas may share it.
    pub outer: Area,
}

/// A box in an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// The pictures and boxes of one image.
pub struct Drawn {
    /// The part of the image that the network saw, at the style's size.
    pub image: Image,
    /// The heat map, of the same size.
    pub heat_map: Image,
    /// The heat map laid over the image, with the contour of what is anomalous.
    pub overlay: Image,
}

/// The scores at the ends of the colour scale: normal patches are cold, and what is twice as far
/// from typical as normal patches ever get is hot. Never narrowed to the image at hand, which
/// would make normal images look anomalous; widened where it is far above, so that its peak is seen.
pub fn colour_range(range: NormalRange) -> (f32, f32) {
    (
        range.median,
        range.median + 2.0 * (range.upper_quantile - range.median),
    )
}

/// Draws the prediction of `image`.
///
/// # Errors
/// [`GeometryError`] for an image whose shape is too extreme to be drawn.
pub fn draw(image: &Image, prediction: &Prediction, style: Style) -> Result<Drawn, GeometryError> {
    let seen = prediction.size.footprint;
    let is_all = (seen.width, seen.height) == (image.width() as f32, image.height() as f32);
    let cut = if is_all {
        None
    } else {
        Some(crop(image, seen)?)
    };
    let image = cut.as_ref().unwrap_or(image);
    let (width, height) = style.size(image.width(), image.height());
    let image = image.resize(width, height, Filter::Bilinear)?;
    let map = bounded_map(prediction, width, height)?;
    let map = map.resize(height as usize, width as usize, Alignment::Edges)?;
    let (cold, hot) = colour_range(prediction.range);
    let peak = map.values().iter().copied().fold(hot, f32::max);
    let range = (cold, peak);
    let NormalRange {
        median,
        upper_quantile,
    } = prediction.range;
    let at = |part: f32| median + part * (upper_quantile - median);
    let shown = (at(SHOWN.0), at(SHOWN.1));
    let mut laid = overlay(&image, &map, range, shown, style.colours, OVERLAY_ALPHA)?;
    let enlarged = width.max(height).div_ceil(MAP_SIDE);
    draw_contours(
        &mut laid,
        &map.at_least(prediction.range.upper_quantile)?,
        CONTOUR_COLOUR,
        style.contour_width * enlarged,
    )?;
    Ok(Drawn {
        heat_map: heat_map(&map, range, style.colours)?,
        overlay: laid,
        image,
    })
}

/// The map for a picture of so many pixels, not larger than is of use.
fn bounded_map(prediction: &Prediction, width: u32, height: u32) -> Result<Map, GeometryError> {
    let bounded = Style {
        longer_side: MAP_SIDE,
        ..Style::default()
    };
    let (width, height) = bounded.size(width, height);
    prediction.smooth_map(height as usize, width as usize)
}

/// The anomaly map at the image's size, `[height, width]`; NaN where the network did not see the
/// image.
///
/// # Errors
/// [`GeometryError`] for an image whose shape is too extreme.
pub fn full_map(prediction: &Prediction) -> Result<Map, GeometryError> {
    let size = prediction.size;
    let (width, height) = (size.width as usize, size.height as usize);
    let seen = size.footprint;
    let (columns, rows) = (seen.width.round() as usize, seen.height.round() as usize);
    let map = prediction.smooth_map(rows.clamp(1, height), columns.clamp(1, width))?;
    if (map.columns(), map.rows()) == (width, height) {
        return Ok(map);
    }
    let (left, top) = (
        (seen.x.round() as usize).min(width - map.columns()),
        (seen.y.round() as usize).min(height - map.rows()),
    );
    let mut values = vec![f32::NAN; width * height];
    for (row, seen) in map.values().chunks_exact(map.columns()).enumerate() {
        values[(top + row) * width + left..][..seen.len()].copy_from_slice(seen);
    }
    Map::new(height, width, values)
}

/// The anomalous parts of a prediction, the highest peak first: each around a peak, as far as scores are
/// four fifths as high, from what normal patches score.
///
/// # Errors
/// [`GeometryError`] for an image whose shape is too extreme.
pub fn boxes(prediction: &Prediction) -> Result<Vec<AnomalousArea>, GeometryError> {
    let seen = prediction.size.footprint;
    let map = bounded_map(prediction, seen.width as u32, seen.height as u32)?;
    let across = seen.width / map.columns() as f32;
    let down = seen.height / map.rows() as f32;
    let range = prediction.range;
    let found = peaks(
        map.columns(),
        map.values(),
        range.upper_quantile,
        range.median,
    );
    let area = |region: Region| Area {
        x: (seen.x + region.x as f32 * across) as u32,
        y: (seen.y + region.y as f32 * down) as u32,
        width: (region.width as f32 * across).ceil() as u32,
        height: (region.height as f32 * down).ceil() as u32,
    };
    let found = found.into_iter().map(|peak| {
        let core = area(peak.core);
        AnomalousArea {
            x: core.x,
            y: core.y,
            width: core.width,
            height: core.height,
            area: (peak.core.area as f64 * f64::from(across * down)) as u64,
            peak: peak.core.peak,
            outer: area(peak.outer),
        }
    });
    Ok(found.collect())
}

fn crop(image: &Image, area: Rect) -> Result<Image, GeometryError> {
    image.crop(
        area.x as u32,
        area.y as u32,
        area.width as u32,
        area.height as u32,
    )
}

#[cfg(test)]
mod tests {
    use anomalens_detectors::ImageSize;

    use super::*;

    #[test]
    fn a_full_map_is_nan_outside_of_what_was_seen() {
        let rect = |x: f32, y: f32, width: f32, height: f32| Rect {
            x,
            y,
            width,
            height,
        };
        // (name, what was seen, first row, numbers in all)
        let nan = f32::NAN;
        for (name, footprint, first_row, count) in [
            ("all", rect(0.0, 0.0, 4.0, 3.0), [1.0; 4], 12),
            (
                "the middle",
                rect(1.0, 0.0, 2.0, 3.0),
                [nan, 1.0, 1.0, nan],
                6,
            ),
            ("the end", rect(3.0, 1.0, 1.0, 2.0), [nan; 4], 2),
        ] {
            let prediction = Prediction {
                notes: vec![],
                score: 1.0,
                map: Map::new(1, 1, vec![1.0]).unwrap(),
                range: NormalRange::default(),
                enlargement: anomalens_detectors::Enlargement {
                    smoothing: anomalens_detectors::Smoothing::Off,
                    ..Default::default()
                },
                size: ImageSize {
                    width: 4,
                    height: 3,
                    footprint,
                },
            };
            let map = full_map(&prediction).unwrap();
            assert_eq!((map.rows(), map.columns()), (3, 4), "{name}");
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&map.values()[..4]), bits(&first_row), "{name}");
            let numbers = map.values().iter().filter(|value| !value.is_nan());
            assert_eq!(numbers.count(), count, "{name}");
        }
    }

    #[test]
    fn pictures_keep_their_proportions() {
        for ((width, height), enlarge, expected) in [
            ((512, 512), false, (256, 256)),
            ((500, 1270), true, (101, 256)),
            ((64, 32), false, (64, 32)),
            ((64, 32), true, (256, 128)),
            ((10_000, 1), false, (256, 1)),
        ] {
            let style = Style {
                longer_side: 256,
                enlarge,
                ..Style::default()
            };
            assert_eq!(style.size(width, height), expected);
        }
    }
}
