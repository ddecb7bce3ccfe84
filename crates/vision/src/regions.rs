//! Connected regions of high score: where the anomalies are.

use crate::map::Map;

/// One 8-connected component of the scores at or above a threshold. Coordinates are in map pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// Left edge of the bounding box.
    pub x: usize,
    /// Top edge of the bounding box.
    pub y: usize,
    /// Width of the bounding box.
    pub width: usize,
    /// Height of the bounding box.
    pub height: usize,
    /// Number of pixels.
    pub area: usize,
    /// Largest score.
    pub peak: f32,
}

impl Map {
    /// The regions with scores of at least `threshold`, highest peak first; equal peaks from top to
    /// bottom and left to right.
    pub fn regions(&self, threshold: f32) -> Vec<Region> {
        let mut open: Vec<bool> = self
            .values()
            .iter()
            .map(|&score| score >= threshold)
            .collect();
        let mut regions = Vec::new();
        for start in 0..open.len() {
            if open[start] {
                regions.push(self.take_region(start, &mut open));
            }
        }
        regions.sort_by(|a, b| b.peak.total_cmp(&a.peak));
        regions
    }

    /// Measures the region around `start` and closes its pixels.
    fn take_region(&self, start: usize, open: &mut [bool]) -> Region {
        let (rows, columns) = (self.rows(), self.columns());
        let (mut left, mut top) = (columns, rows);
        let (mut right, mut bottom) = (0, 0);
        let (mut area, mut peak) = (0, f32::NEG_INFINITY);
        let mut pending = vec![start];
        open[start] = false;
        while let Some(at) = pending.pop() {
            let (x, y) = (at % columns, at / columns);
            (left, right) = (left.min(x), right.max(x));
            (top, bottom) = (top.min(y), bottom.max(y));
            area += 1;
            peak = peak.max(self.values()[at]);
            for y in y.saturating_sub(1)..(y + 2).min(rows) {
                for x in x.saturating_sub(1)..(x + 2).min(columns) {
                    let neighbour = y * columns + x;
                    if std::mem::take(&mut open[neighbour]) {
                        pending.push(neighbour);
                    }
                }
            }
        }
        let (width, height) = (right - left + 1, bottom - top + 1);
        Region {
            x: left,
            y: top,
            width,
            height,
            area,
            peak,
        }
    }
}
