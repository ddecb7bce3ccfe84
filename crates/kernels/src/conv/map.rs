//! Feature maps between the steps of a convolutional network: row by row, the channels of a place
//! side by side, so that a place is a row of a product.

use crate::buffer::Buffer;
use crate::features::Grid;
use crate::format::Format;
use crate::parallel::{Shared, Workers};
use crate::product::TILE_ROWS;

use super::step::{COLOURS, Window};

/// A feature map, in float32 or, for products of such numbers alone, in bfloat16.
pub(super) struct Map {
    pub(super) words: Buffer,
    pub(super) grid: Grid,
    pub(super) channels: usize,
    pub(super) format: Format,
}

impl Default for Map {
    fn default() -> Self {
        Self {
            words: Buffer::default(),
            grid: Grid {
                rows: 0,
                columns: 0,
            },
            channels: 0,
            format: Format::F32,
        }
    }
}

impl Map {
    /// Takes on a size; the numbers are any. Rows of a whole tile can be read after the last one.
    pub(super) fn resize(&mut self, grid: Grid, channels: usize, format: Format) {
        (self.grid, self.channels, self.format) = (grid, channels, format);
        let words = format.words(channels);
        self.words.reserve((grid.len() + TILE_ROWS) * words);
    }

    /// The numbers, `[rows * columns, channels]`, of a map in float32.
    pub(super) fn numbers(&self) -> &[f32] {
        assert_eq!(self.format, Format::F32, "a map that is converted already");
        &self.words.floats()[..self.grid.len() * self.channels]
    }

    pub(super) fn numbers_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.format, Format::F32, "a map that is converted already");
        let count = self.grid.len() * self.channels;
        &mut self.words.floats_mut()[..count]
    }

    /// Takes an image, `[3, rows, columns]`.
    pub(super) fn fill(&mut self, pixels: &[f32], grid: Grid, workers: Workers) {
        self.resize(grid, COLOURS, Format::F32);
        let plane = grid.len();
        let width = grid.columns * COLOURS;
        let to = Shared::new(self.numbers_mut());
        workers.for_each(grid.rows, |row| {
            // SAFETY: every row belongs to one task.
            let to = unsafe { to.part(row * width, width) };
            let (places, _) = to.as_chunks_mut::<COLOURS>();
            for (column, place) in places.iter_mut().enumerate() {
                let at = row * grid.columns + column;
                *place = [pixels[at], pixels[plane + at], pixels[2 * plane + at]];
            }
        });
    }

    /// The mean of each channel.
    pub(super) fn mean(&self) -> Vec<f32> {
        let mut sums = vec![0.0_f64; self.channels];
        for place in self.numbers().chunks_exact(self.channels) {
            for (sum, &x) in sums.iter_mut().zip(place) {
                *sum += f64::from(x);
            }
        }
        let count = self.grid.len() as f64;
        sums.into_iter().map(|sum| (sum / count) as f32).collect()
    }
}

/// Where the windows of one step lie on its map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) window: Window,
    pub(super) from: Grid,
    pub(super) to: Grid,
    /// Places that the first windows begin before the edge.
    pub(super) top: usize,
    pub(super) left: usize,
}

impl Geometry {
    pub(super) fn new(window: Window, from: Grid) -> Self {
        let (rows, top) = window.along(from.rows);
        let (columns, left) = window.along(from.columns);
        Self {
            window,
            from,
            to: Grid { rows, columns },
            top,
            left,
        }
    }
}

/// The part of a window of `side` places that lies on a line of `length` places: how many of its
/// places come before, and the places of the line.
pub(super) fn inside(
    number: usize,
    stride: usize,
    before: usize,
    side: usize,
    length: usize,
) -> (usize, std::ops::Range<usize>) {
    let start = number * stride;
    let skipped = before.saturating_sub(start).min(side);
    let first = (start + skipped).saturating_sub(before).min(length);
    let end = (start + side).saturating_sub(before).min(length);
    (skipped, first..end.max(first))
}
