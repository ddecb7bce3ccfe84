//! Masks drawn from outlines, kept as runs of pixels: a list of outlines has thousands of images and
//! marks little of each.

use std::ops::Range;

use serde::Serialize;

use crate::error::GeometryError;
use crate::mask::Mask;
use crate::resample::{MAX_PIXELS, check_size};

/// A mask as the runs of pixels that are set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct SparseMask {
    width: u32,
    height: u32,
    /// Row-major, sorted, neither overlapping nor touching.
    runs: Vec<Range<u32>>,
}

impl SparseMask {
    /// A mask without any pixel set.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] if a side is zero, [`GeometryError::TooLarge`] for absurd sizes.
    pub fn new(width: u32, height: u32) -> Result<Self, GeometryError> {
        if width == 0 || height == 0 {
            return Err(GeometryError::empty("a mask", width, height));
        }
        check_size((1, 1), (width.into(), height.into()), MAX_PIXELS)?;
        Ok(Self {
            width,
            height,
            runs: Vec::new(),
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

    /// Whether any pixel is set.
    pub fn any(&self) -> bool {
        !self.runs.is_empty()
    }

    /// The same as a value for every pixel.
    pub fn to_mask(&self) -> Mask {
        let mut values = vec![false; self.width as usize * self.height as usize];
        for run in &self.runs {
            values[run.start as usize..run.end as usize].fill(true);
        }
        Mask::of(self.width, self.height, values)
    }

    /// Sets the pixels of these runs, row-major; what lies behind the last pixel is left out.
    pub fn add_runs(&mut self, runs: impl IntoIterator<Item = Range<u32>>) {
        let pixels = self.width * self.height;
        self.runs.extend(
            runs.into_iter()
                .map(|run| run.start..run.end.min(pixels))
                .filter(|run| run.start < run.end),
        );
        self.runs.sort_unstable_by_key(|run| run.start);
        self.runs.dedup_by(|next, run| {
            let joined = next.start <= run.end;
            if joined {
                run.end = run.end.max(next.end);
            }
            joined
        });
    }

    /// Sets the pixels that are set in another mask of the same size.
    pub fn unite(&mut self, other: &Self) {
        self.add_runs(other.runs.iter().cloned());
    }

    /// Sets the pixels whose centres lie in a polygon, by the even-odd rule. A corner is (x, y) in
    /// pixels from the outer corner of the top left pixel, so that the pixel in column i, row j has
    /// its centre at (i + 0.5, j + 0.5); a centre on a left or top edge lies in it, one on a right
    /// or bottom edge does not, so that polygons side by side share no pixel. What lies outside the
    /// image is left out, as is a polygon with a corner that is not finite.
    pub fn add_polygon(&mut self, corners: &[[f64; 2]]) {
        let Some(last) = corners.last() else {
            return;
        };
        if !corners.as_flattened().iter().all(|value| value.is_finite()) {
            return;
        }
        let edges: Vec<Edge> = corners
            .iter()
            .zip([last].into_iter().chain(corners))
            .map(|(to, from)| Edge::new(*from, *to))
            .collect();
        let top = edges.iter().map(|edge| edge.top[1]);
        let top = first_centre(top.fold(f64::INFINITY, f64::min), self.height);
        let bottom = edges.iter().map(|edge| edge.bottom[1]);
        let bottom = first_centre(bottom.fold(f64::NEG_INFINITY, f64::max), self.height);

        let mut runs = Vec::new();
        let mut crossings: Vec<f64> = Vec::new();
        for row in top..bottom {
            let y = f64::from(row) + 0.5;
            crossings.clear();
            crossings.extend(edges.iter().filter_map(|edge| edge.crossing(y)));
            crossings.sort_unstable_by(f64::total_cmp);
            let (pairs, _) = crossings.as_chunks::<2>();
            runs.extend(pairs.iter().map(|pair| {
                let [start, end] = pair.map(|x| row * self.width + first_centre(x, self.width));
                start..end
            }));
        }
        self.add_runs(runs);
    }
}

/// The first pixel of `count` whose centre does not lie before `position`.
fn first_centre(position: f64, count: u32) -> u32 {
    // Casts saturate: what lies before the first pixel is 0.
    ((position - 0.5).ceil() as u32).min(count)
}

/// A side of a polygon, its upper end first whichever way the polygon turns: polygons that share a
/// side must agree on it to the last bit.
struct Edge {
    top: [f64; 2],
    bottom: [f64; 2],
}

impl Edge {
    fn new(a: [f64; 2], b: [f64; 2]) -> Self {
        let (top, bottom) = if (a[1], a[0]) <= (b[1], b[0]) {
            (a, b)
        } else {
            (b, a)
        };
        Self { top, bottom }
    }

    /// Where a horizontal line crosses it; an end counts with the side below it alone.
    fn crossing(&self, y: f64) -> Option<f64> {
        let ([x0, y0], [x1, y1]) = (self.top, self.bottom);
        (y0 <= y && y < y1).then(|| x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    }
}
