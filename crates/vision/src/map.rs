//! A map of scores over an image: what detectors produce, at any resolution.
//!
//! Scores may be NaN if a network went wrong; statistics skip NaN, resizing and smoothing keep it.

use crate::error::GeometryError;
use crate::mask::Mask;

/// Scores, `[rows, columns]`, row-major, at least 1 x 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Map {
    /// Makes a map from `rows * columns` scores, row-major.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] if a side is zero, [`GeometryError::WrongLength`] if the number of
    /// scores does not fit.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Result<Self, GeometryError> {
        GeometryError::check("a map", (columns, rows), 1, values.len())?;
        Ok(Self {
            rows,
            columns,
            values,
        })
    }

    /// Number of rows, from top to bottom.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, from left to right.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The scores, `[rows, columns]`, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The scores, `[rows, columns]`, row-major.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// Smallest and largest score; `None` if all are NaN.
    pub fn range(&self) -> Option<(f32, f32)> {
        self.scores().fold(None, |range, score| match range {
            None => Some((score, score)),
            Some((low, high)) => Some((score.min(low), score.max(high))),
        })
    }

    /// Mean of the largest `trunc(fraction * n)` of the `n` scores, but of one at least; NaN if all
    /// scores are NaN. AnomalyDINO's image score has the fraction 0.01.
    pub fn top_mean(&self, fraction: f64) -> f32 {
        let mut scores: Vec<f32> = self.scores().collect();
        if scores.is_empty() {
            return f32::NAN;
        }
        let count = Self::top_count(fraction, scores.len());
        scores.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        let sum: f64 = scores[..count].iter().copied().map(f64::from).sum();
        (sum / count as f64) as f32
    }

    /// How many of `scores` scores [`top_mean`](Self::top_mean) averages.
    pub fn top_count(fraction: f64, scores: usize) -> usize {
        // The conversion turns a negative or NaN fraction into 0.
        ((fraction * scores as f64) as usize).clamp(1, scores.max(1))
    }

    /// The pixels with a score of at least `threshold`; NaN is below every threshold.
    ///
    /// # Errors
    /// [`GeometryError::TooLarge`] if a side does not fit into 32 bits.
    pub fn at_least(&self, threshold: f32) -> Result<Mask, GeometryError> {
        let (width, height) = self.size()?;
        Mask::new(
            width,
            height,
            self.values
                .iter()
                .map(|&score| score >= threshold)
                .collect(),
        )
    }

    fn scores(&self) -> impl Iterator<Item = f32> {
        self.values.iter().copied().filter(|score| !score.is_nan())
    }

    /// Width and height as image sizes.
    pub(crate) fn size(&self) -> Result<(u32, u32), GeometryError> {
        match (u32::try_from(self.columns()), u32::try_from(self.rows())) {
            (Ok(width), Ok(height)) => Ok((width, height)),
            _ => Err(self.too_large(self.rows(), self.columns())),
        }
    }

    pub(crate) fn too_large(&self, rows: usize, columns: usize) -> GeometryError {
        GeometryError::TooLarge {
            from_width: self.columns() as u64,
            from_height: self.rows() as u64,
            width: columns as u64,
            height: rows as u64,
        }
    }
}
