//! Masks kept as runs of pixels: a list of outlines has thousands of images and marks little of each.

use std::ops::Range;

use crate::error::GeometryError;
use crate::mask::Mask;

/// Most runs of one mask: far more than outlines by hand have, and 32 MiB at the most.
const MAX_RUNS: usize = 1 << 22;

/// A mask as the runs of pixels that are set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SparseMask {
    width: u32,
    height: u32,
    /// Row-major, sorted, neither overlapping nor touching.
    runs: Vec<Range<u32>>,
}

impl SparseMask {
    /// The runs of a mask.
    ///
    /// # Errors
    /// [`GeometryError::TooManyRuns`].
    pub fn of(mask: &Mask) -> Result<Self, GeometryError> {
        let values = mask.values();
        let mut runs: Vec<Range<u32>> = Vec::new();
        let mut at = 0;
        while let Some(skipped) = values[at..].iter().position(|&value| value) {
            let start = at + skipped;
            let length = values[start..].iter().position(|&value| !value);
            at = length.map_or(values.len(), |length| start + length);
            if runs.len() == MAX_RUNS {
                return Err(GeometryError::TooManyRuns { limit: MAX_RUNS });
            }
            // Fits: a mask has less than 2³² pixels.
            runs.push(start as u32..at as u32);
        }
        Ok(Self {
            width: mask.width(),
            height: mask.height(),
            runs,
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
}
