//! What an annotation marks, as pixels. A polygon marks the pixels whose centres it holds; COCO's
//! own tools also take some that it touches, so that masks differ along the outline.

use std::borrow::Cow;

use anomalens_vision::Mask;

use super::file::{Annotation, Counts, Runs, Segmentation};

/// How far an outline may reach beyond its image before that is reported: tools round.
const TOLERANCE: f64 = 1.0;

/// What came of drawing an annotation.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    /// Whether it marks a pixel.
    pub(super) any: bool,
    /// A corner that lies outside the image.
    pub(super) outside: Option<[f64; 2]>,
}

impl Annotation {
    /// Marks in the mask of its image what it marks; the error is a clause.
    pub(super) fn draw(&self, mask: &mut Mask) -> Result<Drawn, String> {
        let mut drawn = Drawn::default();
        match &self.segmentation {
            Some(Segmentation::Polygons(polygons)) if !polygons.is_empty() => {
                for polygon in polygons {
                    drawn.polygon(&corners(polygon)?, mask)?;
                }
            }
            Some(Segmentation::Runs(Runs { size, counts })) => {
                let (width, height) = (mask.width(), mask.height());
                if *size != [height, width] {
                    return Err(format!(
                        "its runs are for an image of {}x{}, its image has {width}x{height}",
                        size[1], size[0]
                    ));
                }
                let lengths = counts.lengths()?;
                drawn.any = mask.fill_column_runs(&lengths).ok_or_else(|| {
                    let pixels: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
                    let expected = u64::from(width) * u64::from(height);
                    format!("its runs have {pixels} pixels, its image {expected}")
                })?;
            }
            Some(Segmentation::Polygons(_)) | None => {
                drawn.polygon(&corners_of_box(&self.bbox)?, mask)?;
            }
        }
        Ok(drawn)
    }
}

impl Drawn {
    fn polygon(&mut self, corners: &[[f64; 2]], mask: &mut Mask) -> Result<(), String> {
        if !corners.as_flattened().iter().all(|value| value.is_finite()) {
            return Err("a corner is not finite".to_owned());
        }
        let (right, bottom) = (f64::from(mask.width()), f64::from(mask.height()));
        let beyond = |value: f64, end: f64| value < -TOLERANCE || value > end + TOLERANCE;
        let outside = |[x, y]: &&[f64; 2]| beyond(*x, right) || beyond(*y, bottom);
        self.outside = self.outside.or(corners.iter().find(outside).copied());
        self.any |= mask.fill_polygon(corners);
        Ok(())
    }
}

fn corners(polygon: &[f64]) -> Result<Vec<[f64; 2]>, String> {
    let (corners, rest) = polygon.as_chunks::<2>();
    if corners.len() < 3 || !rest.is_empty() {
        return Err(format!(
            "a polygon has {} numbers; x and y of three or more corners expected",
            polygon.len()
        ));
    }
    Ok(corners.to_vec())
}

fn corners_of_box(numbers: &[f64]) -> Result<[[f64; 2]; 4], String> {
    match *numbers {
        [] => Err("it has neither a segmentation nor a box".to_owned()),
        [x, y, width, height] if width > 0.0 && height > 0.0 => {
            let (right, bottom) = (x + width, y + height);
            Ok([[x, y], [right, y], [right, bottom], [x, bottom]])
        }
        [_, _, width, height] => Err(format!("its box is {width} wide and {height} high")),
        _ => Err(format!(
            "its box has {} numbers; left, top, width and height expected",
            numbers.len()
        )),
    }
}

impl Counts {
    fn lengths(&self) -> Result<Cow<'_, [u32]>, String> {
        match self {
            Self::Plain(lengths) => Ok(lengths.into()),
            Self::Packed(text) => {
                let lengths = unpack(text).ok_or("its runs are damaged")?;
                Ok(lengths.into())
            }
        }
    }
}

/// Runs as COCO's tools compress them: five bits a character, the lowest first, a sixth that says
/// whether more follow; from the fourth on the difference to the last but one.
fn unpack(text: &str) -> Option<Vec<u32>> {
    const MORE: u8 = 0x20;
    const SIGN: u8 = 0x10;
    let mut lengths: Vec<u32> = Vec::new();
    let mut characters = text.bytes();
    while characters.len() > 0 {
        let (mut value, mut shift) = (0_i64, 0);
        loop {
            let bits = characters.next()?.checked_sub(b'0')?;
            if bits >= 0x40 || shift > 35 {
                return None;
            }
            value |= i64::from(bits & 0x1f) << shift;
            shift += 5;
            if bits & MORE == 0 {
                if bits & SIGN != 0 {
                    value -= 1 << shift;
                }
                break;
            }
        }
        if lengths.len() > 2 {
            value += i64::from(lengths[lengths.len() - 2]);
        }
        lengths.push(u32::try_from(value).ok()?);
    }
    Some(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What pycocotools 2.0 writes for these runs; the last stand for long ones.
    #[test]
    fn packed_runs_are_those_of_cocos_tools() {
        let cases: [(&str, &[u32]); 2] = [
            ("031O0O0140LO", &[0, 3, 1, 2, 1, 1, 1, 2, 5, 2, 1, 1]),
            (
                "0190H00270JN10N020N",
                &[0, 1, 9, 1, 1, 1, 1, 3, 8, 3, 2, 1, 3, 1, 1, 1, 3, 1, 1],
            ),
        ];
        for (text, lengths) in cases {
            assert_eq!(unpack(text).as_deref(), Some(lengths), "{text}");
        }
        let long = format!("el5^5n3{}\\[e0fJUUI", "0".repeat(111));
        let lengths = unpack(&long).unwrap_or_default();
        assert_eq!(lengths[..6], [6037, 174, 126, 174, 126, 174]);
        assert_eq!(lengths.iter().sum::<u32>(), 300 * 200);
        assert_eq!(lengths.iter().skip(1).step_by(2).sum::<u32>(), 9922);
    }

    #[test]
    fn damaged_runs_are_refused() {
        for text in ["o", "0 1", "ooooooooooo1", "\u{e9}", "01O", "X"] {
            let lengths = unpack(text);
            assert!(lengths.is_none(), "{text}: {lengths:?}");
        }
    }
}
