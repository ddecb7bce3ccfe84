//! Windows that move over an image.

use candle_core::{Error, Result};

/// Square windows over the images of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) side: usize,
    pub(super) stride: usize,
    /// How far the first window reaches over the edge.
    pub(super) padding: usize,
}

/// The windows over images of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    window: Window,
    rows: usize,
    columns: usize,
    /// Places of the windows.
    pub(super) down: usize,
    pub(super) across: usize,
}

/// A run of neighbouring windows, and the pixels that one of their entries lies on.
pub(super) struct Run {
    /// The first window.
    pub(super) window: usize,
    pub(super) count: usize,
    /// The first pixel; the others follow at the stride.
    pub(super) pixel: usize,
}

impl Window {
    /// Over images of `rows x columns` pixels.
    pub(super) fn over(self, rows: usize, columns: usize) -> Result<Windows> {
        let places = |length: usize| {
            let room = (length + 2 * self.padding).checked_sub(self.side)?;
            Some(room / self.stride + 1)
        };
        match (places(rows), places(columns)) {
            (Some(down), Some(across)) if rows > 0 && columns > 0 => Ok(Windows {
                window: self,
                rows,
                columns,
                down,
                across,
            }),
            _ => Err(Error::msg(format!("{rows}x{columns} pixels are too few"))),
        }
    }
}

impl Windows {
    pub(super) fn pixels(&self) -> usize {
        self.rows * self.columns
    }

    pub(super) fn places(&self) -> usize {
        self.down * self.across
    }

    /// Calls `each` with the windows whose entry in row `y` and column `x` lies inside the image, line
    /// after line.
    pub(super) fn runs(&self, y: usize, x: usize, mut each: impl FnMut(Run)) {
        let Window {
            stride, padding, ..
        } = self.window;
        // The windows along a side of which an entry lies inside: from the first to before the second.
        let inside = |entry: usize, length: usize, places: usize| {
            let first = padding.saturating_sub(entry).div_ceil(stride);
            let last = (length + padding).saturating_sub(entry).div_ceil(stride);
            (first, last.min(places))
        };
        let (top, bottom) = inside(y, self.rows, self.down);
        let (left, right) = inside(x, self.columns, self.across);
        if left >= right {
            return;
        }
        for row in top..bottom {
            each(Run {
                window: row * self.across + left,
                count: right - left,
                pixel: (row * stride + y - padding) * self.columns + left * stride + x - padding,
            });
        }
    }
}
