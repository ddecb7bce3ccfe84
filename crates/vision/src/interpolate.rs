//! Resizing of score maps, bilinearly or to the nearest value, as PyTorch's `interpolate` does it
//! (without antialiasing).
//!
//! Sums are made in f64 and rounded once, so that a resized map never leaves the range of the
//! original. PyTorch computes in f32; the results differ by rounding only.

use rayon::prelude::*;

use crate::error::GeometryError;
use crate::map::Map;
use crate::resample::MAX_SIDE;

/// What stays in place when a map is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// The outer edges of the border pixels (PyTorch's `align_corners=False`, also OpenCV's rule).
    Edges,
    /// The centres of the corner pixels (PyTorch's `align_corners=True`).
    Corners,
}

/// Most values of a resized map: 1 GiB of f32.
const MAX_VALUES: usize = 1 << 28;

/// An output value between two inputs: `(1 - fraction) * low + fraction * high`.
struct Blend {
    low: usize,
    high: usize,
    fraction: f64,
}

impl Blend {
    fn of(&self, low: f64, high: f64) -> f64 {
        // Zero times NaN is NaN; an input without weight must not get in.
        if self.fraction == 0.0 {
            low
        } else {
            low * (1.0 - self.fraction) + high * self.fraction
        }
    }
}

impl Alignment {
    fn blends(self, from: usize, to: usize) -> Vec<Blend> {
        let scale = match self {
            Alignment::Edges => from as f64 / to as f64,
            Alignment::Corners if to > 1 => (from - 1) as f64 / (to - 1) as f64,
            Alignment::Corners => 0.0,
        };
        (0..to)
            .map(|output| {
                let source = match self {
                    Alignment::Edges => ((output as f64 + 0.5) * scale - 0.5).max(0.0),
                    Alignment::Corners => output as f64 * scale,
                };
                let low = (source as usize).min(from - 1);
                let high = (low + 1).min(from - 1);
                Blend {
                    low,
                    high,
                    fraction: (source - low as f64).clamp(0.0, 1.0),
                }
            })
            .collect()
    }
}

impl Map {
    /// Resizes to exactly `rows` x `columns`, bilinearly.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] for a size of zero, [`GeometryError::TooLarge`] for absurd ones.
    pub fn resize(
        &self,
        rows: usize,
        columns: usize,
        alignment: Alignment,
    ) -> Result<Map, GeometryError> {
        self.check_target(rows, columns)?;
        if rows == 0 || columns == 0 {
            return Map::new(rows, columns, Vec::new());
        }
        let across = alignment.blends(self.columns(), columns);
        let down = alignment.blends(self.rows(), rows);
        let row = |index: usize| &self.values()[index * self.columns()..][..self.columns()];
        let mut values = vec![0.0; rows * columns];
        values
            .par_chunks_exact_mut(columns)
            .zip(&down)
            .for_each_init(
                || vec![0.0; self.columns()],
                |blended, (output, down)| {
                    for ((blended, &low), &high) in
                        blended.iter_mut().zip(row(down.low)).zip(row(down.high))
                    {
                        *blended = down.of(low.into(), high.into());
                    }
                    for (output, across) in output.iter_mut().zip(&across) {
                        *output = across.of(blended[across.low], blended[across.high]) as f32;
                    }
                },
            );
        Map::new(rows, columns, values)
    }

    /// Resizes to exactly `rows` x `columns`; each pixel takes the value of the one that it lies in.
    ///
    /// # Errors
    /// As [`Map::resize`].
    pub fn resize_nearest(&self, rows: usize, columns: usize) -> Result<Map, GeometryError> {
        self.check_target(rows, columns)?;
        let row = |y: usize| &self.values()[y * self.rows() / rows * self.columns()..];
        let values = (0..rows).flat_map(|y| {
            let row = row(y);
            (0..columns).map(move |x| row[x * self.columns() / columns])
        });
        Map::new(rows, columns, values.collect())
    }

    fn check_target(&self, rows: usize, columns: usize) -> Result<(), GeometryError> {
        match rows.saturating_mul(columns) > MAX_VALUES || rows.max(columns) as u64 > MAX_SIDE {
            true => Err(self.too_large(rows, columns)),
            false => Ok(()),
        }
    }
}
