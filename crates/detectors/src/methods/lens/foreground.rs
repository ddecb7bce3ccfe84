//! Where the object is: patches of an even ground around it differ from each other by light, dust and
//! writing, and count less.
//!
//! The first principal component of the references' tokens tells the two apart where there are two
//! (AnomalyDINO, section 3.2, takes that of each image; here one threshold, Otsu's, serves all). What
//! the border of the references shows is the ground. How this was found: docs/research/lens.md.

use anomalens_backbones::Grid;
use candle_core::Tensor;
use nalgebra::DMatrix;

use crate::DetectorError;
use crate::components::nearest::with_values;
use crate::components::principal_components::longest_axis;
use crate::components::tokens::dot;
use crate::detector::Array;

/// What a patch of the ground counts. At 0 it is as good on scans, and a foreign object beside the
/// part would not be seen.
pub(super) const GROUND: f32 = 0.5;

/// The least part of the border's patches that lie on one side of the threshold where there is a
/// ground. Scans and screws have .87 to 1, surfaces .5 to .82.
const PURE: f64 = 0.85;

/// The least part of the variance along the component that lies between both sides. Scans and screws
/// have .75 to .91, surfaces .66 to .86.
const SEPARATE: f64 = 0.74;

/// Patches that are looked at, at most.
const SAMPLE: usize = 8192;

/// Steps in which the threshold is sought.
const STEPS: usize = 256;

/// Tells an object's patches from those of its ground.
pub(super) struct Foreground {
    axis: Vec<f32>,
    threshold: f32,
    /// Whether the object is above the threshold.
    above: bool,
}

/// How clearly references show an object on a ground.
pub(super) struct Evidence {
    /// Part of their border that is ground.
    pub(super) pure: f64,
    /// Part of the variance that lies between object and ground.
    pub(super) separate: f64,
}

impl Evidence {
    /// Whether there is an object on an even ground.
    pub(super) fn is_clear(&self) -> bool {
        self.pure >= PURE && self.separate >= SEPARATE
    }
}

impl Foreground {
    /// From the patches `[patches, width]` of the references, each on `grid`.
    pub(super) fn of(images: &[&Tensor], grid: Grid) -> Result<(Self, Evidence), DetectorError> {
        let width = images.first().map_or(Ok(0), |image| image.dim(1))?;
        let all = images.len() * grid.len();
        let every = all.div_ceil(SAMPLE).max(1);
        let mut rows = Vec::with_capacity(all.div_ceil(every) * width);
        for image in images {
            with_values(image, |values| {
                let tokens = values.chunks_exact(width.max(1)).step_by(every);
                rows.extend(tokens.flatten().map(|&x| f64::from(x)));
            })?;
        }
        let mut centred = DMatrix::from_row_slice(rows.len() / width.max(1), width, &rows);
        let mean = centred.row_mean();
        centred.row_iter_mut().for_each(|mut row| row -= &mean);
        let axis = longest_axis(&centred.tr_mul(&centred));
        let axis: Vec<f32> = axis.iter().map(|&x| x as f32).collect();

        let (mut values, mut border) = (vec![], vec![]);
        for image in images {
            let found = project(image, &axis)?;
            let places = found.iter().enumerate();
            border.extend(
                places
                    .filter(|(at, _)| at_border(*at, grid))
                    .map(|(_, x)| *x),
            );
            values.extend(found);
        }
        let (threshold, separate) = otsu(&values);
        let above = border.iter().filter(|x| **x > threshold).count() as f64;
        let above = above / border.len().max(1) as f64;
        let foreground = Self {
            axis,
            threshold,
            above: above <= 0.5,
        };
        let pure = above.max(1.0 - above);
        Ok((foreground, Evidence { pure, separate }))
    }

    /// As it stands in a detector file: the axis, the threshold, and 1 if the object is above it.
    pub(super) fn array(&self) -> Array {
        let above = f32::from(u8::from(self.above));
        Array::vector([self.axis.as_slice(), &[self.threshold, above]].concat())
    }

    /// The axis, the threshold, and whether the object is above it.
    pub(super) fn parts(&self) -> (&[f32], f32, bool) {
        (&self.axis, self.threshold, self.above)
    }

    /// Again from there; none for other numbers.
    pub(super) fn from_array(array: Array, width: usize) -> Option<Self> {
        let mut axis = array.values;
        let (above, threshold) = (axis.pop()?, axis.pop()?);
        (axis.len() == width).then_some(Self {
            axis,
            threshold,
            above: above > 0.0,
        })
    }

    /// What each patch of an image counts: those of the object, and those beside it, in full.
    pub(super) fn weights(&self, patches: &Tensor, grid: Grid) -> Result<Vec<f32>, DetectorError> {
        let values = project(patches, &self.axis)?;
        let object: Vec<bool> = values
            .into_iter()
            .map(|value| (value > self.threshold) == self.above)
            .collect();
        let near = |at: usize| {
            let (row, column) = (at / grid.columns, at % grid.columns);
            let rows = row.saturating_sub(1)..(row + 2).min(grid.rows);
            let columns = column.saturating_sub(1)..(column + 2).min(grid.columns);
            rows.into_iter().any(|row| {
                let row = object.get(row * grid.columns..).unwrap_or_default();
                row.get(columns.clone())
                    .is_some_and(|row| row.contains(&true))
            })
        };
        let weight = |at| if near(at) { 1.0 } else { GROUND };
        Ok((0..object.len()).map(weight).collect())
    }
}

/// The component of each patch along `axis`.
fn project(patches: &Tensor, axis: &[f32]) -> Result<Vec<f32>, DetectorError> {
    with_values(patches, |values| {
        let tokens = values.chunks_exact(axis.len().max(1));
        tokens.map(|token| dot(token, axis)).collect()
    })
}

fn at_border(at: usize, grid: Grid) -> bool {
    let (row, column) = (at / grid.columns, at % grid.columns);
    row == 0 || column == 0 || row + 1 == grid.rows || column + 1 == grid.columns
}

/// Otsu's threshold, which parts `values` into two groups as different as can be, and the part of
/// their variance that lies between the groups; 0 where all are the same.
fn otsu(values: &[f32]) -> (f32, f64) {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = f64::from(high - low) / STEPS as f64;
    if step.is_nan() || step <= 0.0 {
        return (low, 0.0);
    }
    let mut counts = [0.0_f64; STEPS];
    for value in values {
        let at = (f64::from(value - low) / step) as usize;
        counts[at.min(STEPS - 1)] += 1.0;
    }
    let count = values.len() as f64;
    let centre = |at: usize| (at as f64 + 0.5) * step;
    let mean = (0..STEPS).map(|at| counts[at] * centre(at)).sum::<f64>() / count;
    let squares = (0..STEPS).map(|at| counts[at] * (centre(at) - mean).powi(2));
    let variance = squares.sum::<f64>() / count;
    let (mut below, mut sum) = (0.0, 0.0);
    let (mut best, mut threshold) = (0.0, 0.0);
    for (at, in_step) in counts.iter().enumerate() {
        below += in_step / count;
        sum += in_step / count * centre(at);
        let between = (mean * below - sum).powi(2) / (below * (1.0 - below));
        if between.is_finite() && between > best {
            (best, threshold) = (between, (at + 1) as f64 * step);
        }
    }
    (low + threshold as f32, best / variance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::nearest::matrix;

    const GRID: Grid = Grid {
        rows: 8,
        columns: 6,
    };

    /// An image whose patches point along one axis where `object` is, along another elsewhere, and
    /// a little along a third that changes from patch to patch.
    fn image(object: impl Fn(usize, usize) -> bool, seed: usize) -> Tensor {
        let tokens = (0..GRID.len()).flat_map(|at| {
            let inside = object(at / GRID.columns, at % GRID.columns);
            let noise = ((at * 37 + seed * 11) % 17) as f32 / 50.0;
            let mut token = [
                f32::from(u8::from(inside)),
                f32::from(u8::from(!inside)),
                noise,
            ];
            crate::components::tokens::normalise(&mut token);
            token
        });
        matrix(tokens.collect(), 3).unwrap()
    }

    #[test]
    fn an_object_on_an_even_ground_is_found_and_a_surface_has_none() {
        let middle = |row, column| (2..6).contains(&row) && (2..4).contains(&column);
        // (name, the object, whether there is one)
        type Object = fn(usize, usize) -> bool;
        let cases: [(&str, Object, bool); 4] = [
            ("in the middle", middle, true),
            ("a half of the picture", |row, _| row < 4, false),
            ("everywhere", |_, _| true, false),
            ("a chessboard", |row, column| (row + column) % 2 == 0, false),
        ];
        for (name, object, expected) in cases {
            let images = [image(object, 1), image(object, 2)];
            let (_, found) = Foreground::of(&images.iter().collect::<Vec<_>>(), GRID).unwrap();
            assert_eq!(
                found.is_clear(),
                expected,
                "{name}: {} {}",
                found.pure,
                found.separate
            );
        }
    }

    #[test]
    fn the_object_and_the_patches_beside_it_count_in_full() {
        let middle = |row, column| (3..5).contains(&row) && column == 2;
        let images = [image(middle, 1)];
        let (found, _) = Foreground::of(&images.iter().collect::<Vec<_>>(), GRID).unwrap();
        let again = Foreground::from_array(found.array(), 3).unwrap();
        assert_eq!(again.array(), found.array());
        assert!(Foreground::from_array(found.array(), 4).is_none());
        let weights = found.weights(&image(middle, 5), GRID).unwrap();
        for (at, weight) in weights.into_iter().enumerate() {
            let (row, column) = (at / GRID.columns, at % GRID.columns);
            let near = (2..6).contains(&row) && (1..4).contains(&column);
            assert_eq!(weight, if near { 1.0 } else { GROUND }, "{row} {column}");
        }
    }

    #[test]
    fn the_threshold_parts_two_groups() {
        for (name, values, between, separate) in [
            ("two groups", vec![0.0, 0.1, 0.9, 1.0], 0.1..0.9, 0.95),
            (
                "unequal ones",
                vec![5.0, 0.0, 0.1, 0.0, 0.1, 0.0],
                0.1..5.0,
                0.99,
            ),
            ("one value", vec![2.0; 5], 2.0..2.1, 0.0),
        ] {
            let (threshold, found) = otsu(&values);
            assert!(between.contains(&threshold), "{name}: {threshold}");
            assert!(found >= separate, "{name}: {found}");
        }
        assert_eq!(otsu(&[]).1, 0.0);
    }
}
