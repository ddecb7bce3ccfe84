//! Convolutions in which every output sees the one input of its number: few operations for each
//! number that is read, so they are computed in float32 straight from the map.

use std::io;
use std::ops::Range;

use crate::buffer::Buffer;
use crate::error::ShapeError;
use crate::kernel::Kernel;
use crate::parallel::{Shared, Workers};
use crate::product::Epilogue;
use crate::saved::{Reader, SavedError, Writer};
use crate::simd::Simd;
use crate::unpacked::Unpacked;

use super::map::{Geometry, Map, inside};
use super::step::Convolution;

/// Weights are padded to a multiple of the widest vector.
const LANES: usize = Buffer::LINE;

/// Rows of the output that one task computes.
const TASK_ROWS: usize = 4;

/// Weights place by place, `[side * side, channels]`, and the bias.
pub(super) struct Depthwise {
    pub(super) convolution: Convolution,
    /// Numbers from place to place.
    pub(super) stride: usize,
    pub(super) weights: Buffer,
    pub(super) bias: Buffer,
}

impl Depthwise {
    /// Packs `weight`, `[channels, side, side]`.
    pub(super) fn new(
        convolution: Convolution,
        weight: &[f32],
        bias: &[f32],
    ) -> Result<Self, ShapeError> {
        let channels = convolution.outputs;
        let area = convolution.window.side * convolution.window.side;
        let stride = channels.next_multiple_of(LANES);
        let mut packed = Self {
            convolution,
            stride,
            weights: Buffer::zeros(area * stride),
            bias: Buffer::zeros(stride),
        };
        packed.bias.floats_mut()[..channels].copy_from_slice(bias);
        let weights = packed.weights.floats_mut();
        for (channel, filter) in weight.chunks_exact(area).enumerate() {
            for (place, &x) in filter.iter().enumerate() {
                weights[place * stride + channel] = x;
            }
        }
        Ok(packed)
    }

    pub(super) fn write(&self, to: &mut Writer) -> io::Result<()> {
        let area = self.convolution.window.side * self.convolution.window.side;
        to.floats(&self.weights.floats()[..area * self.stride])?;
        to.floats(&self.bias.floats()[..self.stride])
    }

    pub(super) fn read(convolution: Convolution, from: &mut Reader) -> Result<Self, SavedError> {
        let area = convolution.window.side * convolution.window.side;
        let stride = convolution.outputs.next_multiple_of(LANES);
        let mut buffer = |count: usize| {
            let numbers = from.floats(count)?;
            let mut buffer = Buffer::zeros(count);
            buffer.floats_mut()[..count].copy_from_slice(&numbers);
            Ok(buffer)
        };
        Ok(Self {
            convolution,
            stride,
            weights: buffer(area * stride)?,
            bias: buffer(stride)?,
        })
    }

    /// Weights `[channels, 1, side, side]` and the bias.
    pub(super) fn unpack(&self) -> Unpacked {
        let channels = self.convolution.outputs;
        let area = self.convolution.window.side * self.convolution.window.side;
        let weights = self.weights.floats();
        let filter = |channel| (0..area).map(move |place| weights[place * self.stride + channel]);
        Unpacked {
            weight: (0..channels).flat_map(filter).collect(),
            bias: self.bias.floats()[..channels].to_vec(),
        }
    }

    /// `to = epilogue(convolution(from))`; `to` has its size.
    pub(super) fn run(
        &self,
        kernel: &Kernel,
        from: &Map,
        to: &mut Map,
        geometry: &Geometry,
        workers: Workers,
    ) {
        let (rows, width) = (geometry.to.rows, geometry.to.columns * to.channels);
        let numbers = Shared::new(to.numbers_mut());
        workers.for_each(rows.div_ceil(TASK_ROWS), |task| {
            for row in task * TASK_ROWS..((task + 1) * TASK_ROWS).min(rows) {
                // SAFETY: every row belongs to one task.
                let to = unsafe { numbers.part(row * width, width) };
                let job = Line {
                    weights: self,
                    from: from.numbers(),
                    geometry,
                    row,
                };
                // SAFETY: a kernel is only made where its instruction set is there.
                unsafe { (kernel.depthwise)(&job, to) };
            }
        });
    }
}

/// One row of a depthwise convolution's output.
pub(crate) struct Line<'a> {
    weights: &'a Depthwise,
    /// `[rows, columns, channels]`
    from: &'a [f32],
    geometry: &'a Geometry,
    row: usize,
}

/// Computes a row, `[columns, channels]`.
///
/// # Safety
/// The processor must have the instruction set, and the caller must be compiled for it.
#[inline(always)]
pub(crate) unsafe fn depthwise<S: Simd>(job: &Line, to: &mut [f32]) {
    // SAFETY: as for this function.
    unsafe {
        match job.weights.convolution.last {
            Epilogue::Relu6 => by_side::<S>(job, to, 0.0, 6.0),
            Epilogue::Relu => by_side::<S>(job, to, 0.0, f32::INFINITY),
            _ => by_side::<S>(job, to, f32::NEG_INFINITY, f32::INFINITY),
        }
    }
}

/// With a window whose size the compiler knows, if it is a usual one.
#[inline(always)]
unsafe fn by_side<S: Simd>(job: &Line, to: &mut [f32], least: f32, most: f32) {
    // SAFETY: as for the caller.
    unsafe {
        match job.geometry.window.side {
            3 => line::<S, 3, 9>(job, to, least, most),
            5 => line::<S, 5, 25>(job, to, least, most),
            _ => line::<S, 0, 1>(job, to, least, most),
        }
    }
}

/// A row, for windows of `SIDE` places, or of any number if it is 0; `AREA` is its square.
#[inline(always)]
unsafe fn line<S: Simd, const SIDE: usize, const AREA: usize>(
    job: &Line,
    to: &mut [f32],
    least: f32,
    most: f32,
) {
    let Depthwise {
        convolution,
        stride: weight_stride,
        weights,
        bias,
    } = job.weights;
    let (channels, side) = (convolution.outputs, convolution.window.side);
    let (weight_stride, stride) = (*weight_stride, convolution.window.stride);
    let Geometry {
        from,
        to: grid,
        top,
        left,
        ..
    } = *job.geometry;
    let (weights, bias) = (weights.floats(), bias.floats());
    assert!(
        job.from.len() == from.len() * channels
            && to.len() == grid.columns * channels
            && weights.len() >= side * side * weight_stride
            && bias.len() >= weight_stride
            && weight_stride >= channels.next_multiple_of(LANES),
        "a map or weights of another size than the convolution"
    );
    let (above, rows) = inside(job.row, stride, top, side, from.rows);
    // Places of the output whose windows lie within the columns.
    let first = left.div_ceil(stride).min(grid.columns);
    let within = (from.columns + left).checked_sub(side);
    let end = within.map_or(0, |room| (room / stride + 1).min(grid.columns));
    let whole = rows.len() == side && SIDE > 0;
    // SAFETY: `inside` keeps rows and columns within the map, places `first..end` have whole
    // windows there; vectors lie within a place's channels, or the part of them that does is named;
    // weights and bias are padded to whole vectors, see above.
    unsafe {
        let (least, most) = (S::splat(least), S::splat(most));
        for channel in (0..channels).step_by(S::LANES) {
            let width = S::LANES.min(channels - channel);
            let vector = Vector::<S> {
                geometry: job.geometry,
                above,
                rows: rows.clone(),
                channels,
                width,
                from: job.from.as_ptr().add(channel),
                weights: weights.as_ptr().add(channel),
                weight_stride,
                start: S::load(bias.as_ptr().add(channel)),
            };
            let to = to.as_mut_ptr().add(channel);
            let inner = match whole && width == S::LANES && first < end {
                true => first..end,
                false => grid.columns..grid.columns,
            };
            for column in (0..inner.start).chain(inner.end..grid.columns) {
                let sum = S::min(S::max(vector.any(column), least), most);
                S::store_part(to.add(column * channels), sum, width);
            }
            if inner.is_empty() {
                continue;
            }
            let mut filter = [S::splat(0.0); AREA];
            for (place, x) in filter.iter_mut().enumerate() {
                *x = S::load(vector.weights.add(place * weight_stride));
            }
            let line = from.columns * channels;
            for column in inner {
                let corner = rows.start * line + (column * stride - left) * channels;
                let window = vector.from.add(corner);
                let mut sum = vector.start;
                for y in 0..SIDE {
                    for x in 0..SIDE {
                        let number = S::load(window.add(y * line + x * channels));
                        sum = S::fma(number, filter[y * SIDE + x], sum);
                    }
                }
                let sum = S::min(S::max(sum, least), most);
                S::store(to.add(column * channels), sum);
            }
        }
    }
}

/// A vector of channels on a row of the output.
struct Vector<'a, S: Simd> {
    geometry: &'a Geometry,
    /// Rows of the window above the map, and those on it.
    above: usize,
    rows: Range<usize>,
    channels: usize,
    /// Channels, at most those of a vector.
    width: usize,
    /// The first place of the map.
    from: *const f32,
    weights: *const f32,
    weight_stride: usize,
    /// The bias.
    start: S::Vector,
}

impl<S: Simd> Vector<'_, S> {
    /// The sum of a window that may reach over the edge.
    ///
    /// # Safety
    /// The processor must have the instruction set, and the pointers must be valid for the sizes
    /// beside them.
    #[inline(always)]
    unsafe fn any(&self, column: usize) -> S::Vector {
        let Geometry {
            window, from, left, ..
        } = *self.geometry;
        let (before, columns) = inside(column, window.stride, left, window.side, from.columns);
        let mut sum = self.start;
        for (y, row) in self.rows.clone().enumerate() {
            for (x, column) in columns.clone().enumerate() {
                let place = (self.above + y) * window.side + before + x;
                // SAFETY: `inside` keeps the place within the map and the window.
                unsafe {
                    let at = (row * from.columns + column) * self.channels;
                    let number = S::load_part(self.from.add(at), self.width);
                    let weight = S::load(self.weights.add(place * self.weight_stride));
                    sum = S::fma(number, weight, sum);
                }
            }
        }
        sum
    }
}
