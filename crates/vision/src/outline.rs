//! Outlines drawn into masks: polygons, and runs down the columns as COCO has them.

use crate::mask::Mask;

impl Mask {
    /// Sets the pixels whose centres lie in a polygon, by the even-odd rule, and says whether there
    /// are any. A corner is (x, y) in pixels from the outer corner of the top left pixel, so that the
    /// pixel in column i, row j has its centre at (i + 0.5, j + 0.5); a centre on a left or top edge
    /// lies in it, one on a right or bottom edge does not, so that polygons side by side share no
    /// pixel. What lies outside the mask is left out, as is a polygon with a corner that is not
    /// finite.
    pub fn fill_polygon(&mut self, corners: &[[f64; 2]]) -> bool {
        let Some(last) = corners.last() else {
            return false;
        };
        if !corners.as_flattened().iter().all(|value| value.is_finite()) {
            return false;
        }
        let (width, height) = (self.width(), self.height());
        let edges: Vec<Edge> = corners
            .iter()
            .zip([last].into_iter().chain(corners))
            .map(|(to, from)| Edge::new(*from, *to))
            .collect();
        let top = edges.iter().map(|edge| edge.top[1]);
        let top = first_centre(top.fold(f64::INFINITY, f64::min), height);
        let bottom = edges.iter().map(|edge| edge.bottom[1]);
        let bottom = first_centre(bottom.fold(f64::NEG_INFINITY, f64::max), height);

        let mut any = false;
        let mut crossings: Vec<f64> = Vec::new();
        let rows = self.values.chunks_exact_mut(width as usize).enumerate();
        for (row, pixels) in rows.take(bottom as usize).skip(top as usize) {
            let y = row as f64 + 0.5;
            crossings.clear();
            crossings.extend(edges.iter().filter_map(|edge| edge.crossing(y)));
            crossings.sort_unstable_by(f64::total_cmp);
            let (pairs, _) = crossings.as_chunks::<2>();
            for pair in pairs {
                let [start, end] = pair.map(|x| first_centre(x, width) as usize);
                if start < end {
                    pixels[start..end].fill(true);
                    any = true;
                }
            }
        }
        any
    }

    /// Sets pixels by the lengths of runs that go down the columns, from the left one to the right
    /// one, the first run being of pixels that stay as they are; says whether any pixel was set, or
    /// `None`, with nothing set, if the lengths do not add up to the number of pixels.
    pub fn fill_column_runs(&mut self, lengths: &[u32]) -> Option<bool> {
        let total: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        if total != self.values.len() as u64 {
            return None;
        }
        let (width, height) = (self.width() as usize, self.height() as usize);
        let (mut any, mut start) = (false, 0);
        for (index, &length) in lengths.iter().enumerate() {
            let end = start + length as usize;
            if index % 2 == 1 {
                for at in start..end {
                    self.values[at % height * width + at / height] = true;
                }
                any |= start < end;
            }
            start = end;
        }
        Some(any)
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
