//! Maps seen through an affine matrix, as PyTorch's `affine_grid` and `grid_sample` have it: places are
//! centres of pixels, values between them are bilinear, and what lies beyond the outer edges is mirrored.

use candle_core::{CpuStorage, CustomOp2, Device, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{numbers, of_numbers, to_vec};

/// `[2, 3]`: from a place of the result to one of the input, both from -1 to 1 and x first.
pub(crate) const MATRIX: [usize; 2] = [2, 3];
const NUMBERS: usize = 6;

/// Each of `maps`, `[images, channels, rows, columns]`, seen through its own of `matrices`,
/// `[images, 2, 3]`.
pub(crate) fn warp(maps: &Tensor, matrices: &Tensor) -> Result<Tensor> {
    maps.contiguous()?.apply_op2(&matrices.contiguous()?, Warp)
}

/// The inverses of `matrices` (by Cramer's rule); none if one maps the plane to a line.
pub(crate) fn inverses(matrices: &Tensor) -> Result<Option<Tensor>> {
    let inverse = |matrix: &[f32; NUMBERS]| {
        let [a, b, x, c, d, y] = matrix.map(f64::from);
        let determinant = a * d - b * c;
        let [a, b, c, d] = [a, b, c, d].map(|entry| entry / determinant);
        let inverse = [d, -b, b * y - d * x, -c, a, c * x - a * y].map(|entry| entry as f32);
        inverse
            .iter()
            .all(|entry| entry.is_finite())
            .then_some(inverse)
    };
    let values = to_vec(matrices)?;
    let inverses = values.as_chunks().0.iter().map(inverse);
    let inverses: Option<Vec<[f32; NUMBERS]>> = inverses.collect();
    let inverses = inverses.map(|all| {
        let all: Vec<f32> = all.into_iter().flatten().collect();
        Tensor::from_vec(all, matrices.shape(), &Device::Cpu)
    });
    inverses.transpose()
}

struct Warp;

/// Sizes of the maps.
#[derive(Clone, Copy)]
struct Sizes {
    channels: usize,
    rows: usize,
    columns: usize,
}

/// Where a place of the result lies between four places of the input.
#[derive(Clone, Copy)]
struct Sample {
    /// Upper left, upper right, lower left, lower right; those outside have the weight 0.
    places: [usize; 4],
    inside: [bool; 4],
    /// Parts to the right and down.
    parts: [f32; 2],
    /// How the place moves with the matrix's result, in x and y.
    slopes: [f32; 2],
    /// The place in the result, from -1 to 1.
    at: [f32; 2],
}

/// A coordinate from -1 to 1 in pixels of `side`, mirrored into the map; and how fast it moves.
fn mirrored(coordinate: f32, side: usize) -> (f32, f32) {
    let side = side as f32;
    // From the outer edge.
    let from_edge = ((coordinate + 1.0) * side - 1.0) / 2.0 + 0.5;
    let sign = if from_edge < 0.0 { -1.0 } else { 1.0 };
    let rest = from_edge.abs() % side;
    let turned = (from_edge.abs() / side).floor() % 2.0 != 0.0;
    let (pixel, sign) = match turned {
        true => (side - rest - 0.5, -sign),
        false => (rest - 0.5, sign),
    };
    let last = side - 1.0;
    // At the outer half of the first and last pixels nothing changes.
    let slope = match pixel > 0.0 && pixel < last {
        true => sign * side / 2.0,
        false => 0.0,
    };
    (pixel.clamp(0.0, last), slope)
}

impl Sizes {
    /// Those of maps `[images, channels, rows, columns]`, if there is a matrix for each.
    fn new(maps: &[usize], matrices: &[usize]) -> Result<Self> {
        match *maps {
            [images, channels, rows, columns]
                if matrices == [images, MATRIX[0], MATRIX[1]] && rows * columns > 0 =>
            {
                Ok(Self {
                    channels,
                    rows,
                    columns,
                })
            }
            _ => Err(Error::msg(format!("maps {maps:?} with {matrices:?}"))),
        }
    }

    fn places(self) -> usize {
        self.rows * self.columns
    }

    /// What each place of the result is made of.
    fn samples(self, matrix: &[f32]) -> Vec<Sample> {
        let Self { rows, columns, .. } = self;
        let centre = |place: usize, side: usize| (2 * place + 1) as f32 / side as f32 - 1.0;
        let sample = |place: usize| {
            let at = [
                centre(place % columns, columns),
                centre(place / columns, rows),
            ];
            let coordinate = |row: usize| {
                let row = &matrix[3 * row..][..3];
                row[0] * at[0] + row[1] * at[1] + row[2]
            };
            let (x, slope_x) = mirrored(coordinate(0), columns);
            let (y, slope_y) = mirrored(coordinate(1), rows);
            let (left, top) = (x.floor(), y.floor());
            let parts = [x - left, y - top];
            let (left, top) = (left as usize, top as usize);
            let corners = [(0, 0), (1, 0), (0, 1), (1, 1)];
            let inside = corners.map(|(x, y)| left + x < columns && top + y < rows);
            let places = corners
                .map(|(x, y)| (top + y).min(rows - 1) * columns + (left + x).min(columns - 1));
            Sample {
                places,
                inside,
                parts,
                slopes: [slope_x, slope_y],
                at,
            }
        };
        (0..self.places()).map(sample).collect()
    }
}

impl Sample {
    fn weights(&self) -> [f32; 4] {
        let [right, down] = self.parts;
        let weights = [
            (1.0 - right) * (1.0 - down),
            right * (1.0 - down),
            (1.0 - right) * down,
            right * down,
        ];
        std::array::from_fn(|i| if self.inside[i] { weights[i] } else { 0.0 })
    }

    /// How the value changes to the right and down.
    fn slopes(&self, map: &[f32]) -> [f32; 2] {
        let value = |i: usize| {
            if self.inside[i] {
                map[self.places[i]]
            } else {
                0.0
            }
        };
        let [a, b, c, d] = [0, 1, 2, 3].map(value);
        let [right, down] = self.parts;
        [
            ((b - a) * (1.0 - down) + (d - c) * down) * self.slopes[0],
            ((c - a) * (1.0 - right) + (d - b) * right) * self.slopes[1],
        ]
    }
}

impl CustomOp2 for Warp {
    fn name(&self) -> &'static str {
        "warp"
    }

    fn cpu_fwd(
        &self,
        maps: &CpuStorage,
        maps_layout: &Layout,
        matrices: &CpuStorage,
        matrices_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::new(maps_layout.dims(), matrices_layout.dims())?;
        let maps = numbers(maps, maps_layout)?;
        let matrices = numbers(matrices, matrices_layout)?;
        let mut warped = vec![0.0; maps.len()];
        let image = (sizes.channels * sizes.places()).max(1);
        let images = warped.chunks_exact_mut(image).zip(maps.chunks_exact(image));
        for ((warped, maps), matrix) in images.zip(matrices.chunks_exact(NUMBERS)) {
            let samples = sizes.samples(matrix);
            let samples: Vec<_> = samples.iter().map(|s| (s.places, s.weights())).collect();
            let channels = warped.par_chunks_exact_mut(sizes.places());
            let channels = channels.zip(maps.par_chunks_exact(sizes.places()));
            channels.for_each(|(warped, map)| {
                for (value, (places, weights)) in warped.iter_mut().zip(&samples) {
                    let parts = places.iter().zip(weights);
                    *value = parts.map(|(&place, weight)| map[place] * weight).sum();
                }
            });
        }
        Ok(of_numbers(warped, maps_layout.shape()))
    }

    fn bwd(
        &self,
        maps: &Tensor,
        matrices: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::new(maps.dims(), matrices.dims())?;
        let (shape, values) = (maps.shape(), to_vec(maps)?);
        let (of_matrix, gradient) = (to_vec(matrices)?, to_vec(gradient)?);
        let mut of_maps = vec![0.0; values.len()];
        let mut of_matrices = vec![];
        let image = sizes.channels * sizes.places();
        for (number, matrix) in of_matrix.chunks_exact(NUMBERS).enumerate() {
            let samples = sizes.samples(matrix);
            let own = number * image..(number + 1) * image;
            let channels = of_maps[own.clone()].par_chunks_exact_mut(sizes.places());
            let channels = channels.zip(values[own.clone()].par_chunks_exact(sizes.places()));
            let channels = channels.zip(gradient[own].par_chunks_exact(sizes.places()));
            let of_channels = channels.map(|((of_map, map), gradient)| {
                let mut of_matrix = [0.0_f64; NUMBERS];
                for (sample, &gradient) in samples.iter().zip(gradient) {
                    for (place, weight) in sample.places.into_iter().zip(sample.weights()) {
                        of_map[place] += gradient * weight;
                    }
                    let [x, y] = sample.slopes(map).map(|slope| f64::from(slope * gradient));
                    let [column, row] = sample.at.map(f64::from);
                    let parts = [x * column, x * row, x, y * column, y * row, y];
                    let sums = of_matrix.iter_mut().zip(parts);
                    sums.for_each(|(sum, part)| *sum += part);
                }
                of_matrix
            });
            // In the channels' order, so that the sum does not depend on the threads.
            let mut sums = [0.0_f64; NUMBERS];
            for of_channel in of_channels.collect::<Vec<_>>() {
                let both = sums.iter_mut().zip(of_channel);
                both.for_each(|(sum, part)| *sum += part);
            }
            of_matrices.extend(sums.map(|sum| sum as f32));
        }
        Ok((
            Some(Tensor::from_vec(of_maps, shape, &Device::Cpu)?),
            Some(Tensor::from_vec(
                of_matrices,
                matrices.shape(),
                &Device::Cpu,
            )?),
        ))
    }
}
