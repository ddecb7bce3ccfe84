//! The wide inside of an inverted residual block (Sandler et al., "MobileNetV2", 2018): a pointwise
//! convolution to many channels, and a depthwise one over these.
//!
//! The wide map between the two is the largest of the network, and never exists all at once: a task
//! computes one panel of its channels for some rows, with zeros around them, and the depthwise
//! convolution of these while they are in the cache. What comes out is converted at once to what the
//! next product reads; since it lies between 0 and 6, all rows have one factor.

use crate::buffer::Buffer;
use crate::format::{Format, INT8_LARGEST, INT8_OFFSET};
use crate::kernel::Kernel;
use crate::parallel::{Shared, Workers};
use crate::product::{Epilogue, PANEL, Target};
use crate::rows::{Rows, Values};
use crate::simd::Simd;

use super::dense::{Dense, Scratch};
use super::depthwise::Depthwise;
use super::map::{Geometry, Map};

/// Words of the wide map that a task holds: a quarter of a second-level cache of 2 MiB.
const CACHED_WORDS: usize = 128 * 1024;

/// What no number after [`Epilogue::Relu6`] is above.
const HIGHEST: f32 = 6.0;

/// The first two convolutions of a block, and the one that reads what they make.
pub(super) struct Inverted<'a> {
    pub(super) expand: &'a Dense,
    pub(super) depthwise: &'a Depthwise,
    pub(super) project: &'a Dense,
}

impl<'a> Inverted<'a> {
    /// The three convolutions, if they are such a block.
    pub(super) fn of(
        expand: &'a Dense,
        depthwise: &'a Depthwise,
        project: &'a Dense,
    ) -> Option<Self> {
        let clipped = |last| last == Epilogue::Relu6;
        let side = depthwise.convolution.window.side;
        let fits = expand.pointwise()
            && project.pointwise()
            && clipped(expand.convolution.last)
            && clipped(depthwise.convolution.last)
            && matches!(side, 3 | 5)
            && depthwise.convolution.outputs.is_multiple_of(Buffer::LINE);
        fits.then_some(Self {
            expand,
            depthwise,
            project,
        })
    }

    /// Writes the rows `to` that the last convolution reads, with `input` for the converted input;
    /// `geometry` is that of the depthwise one.
    pub(super) fn run(
        &self,
        vectors: &Kernel,
        from: &Map,
        (input, to): (&mut Rows, &mut Rows),
        geometry: &Geometry,
        scratch: &mut [Scratch],
        workers: Workers,
    ) {
        let kernel = self.expand.linear.kernel();
        let direct = kernel.reads(Format::F32, from.channels);
        if !direct {
            let values = Values::new(from.numbers(), from.channels);
            input.fill(kernel, values, None, self.expand.linear.lowest(), workers);
        }
        let channels = self.depthwise.convolution.outputs;
        let format = self.project.linear.kernel().input;
        let (count, used) = (geometry.to.len(), format.words(channels));
        let row_words = to.target(count, channels, format).stride;
        let factor = match format {
            Format::F32 | Format::Bf16 => 1.0,
            Format::F16 => format.factor(HIGHEST),
            Format::Int8 | Format::Int16 => INT8_LARGEST / HIGHEST,
        };
        to.set_factors(count, 1.0 / factor);
        let offset = match format.whole() {
            true => -(INT8_OFFSET as f32),
            false => 0.0,
        };
        let Geometry {
            window,
            from: whole,
            to: grid,
            top,
            left,
        } = *geometry;
        let (side, stride) = (window.side, window.stride);
        let panels = self.expand.linear.panels();
        let width = (grid.columns - 1) * stride + side;
        let rows = bands(width, side, stride, grid.rows, panels, workers);
        let bands = grid.rows.div_ceil(rows);
        let words = Shared::new(to.words_mut());
        let scratch = Shared::new(scratch);
        workers.for_each_on(bands * panels, |task, thread| {
            // SAFETY: a thread does one task at a time.
            let Scratch {
                hidden, factors, ..
            } = unsafe { &mut scratch.part(thread, 1)[0] };
            factors.clear();
            factors.resize(whole.columns, 1.0);
            let (band, panel) = (task / panels, task % panels);
            let out = band * rows..grid.rows.min((band + 1) * rows);
            let first = out.start * stride;
            let height = (out.len() - 1) * stride + side;
            hidden.reserve(height * width * PANEL);
            let numbers = hidden.floats_mut();
            for (y, line) in numbers
                .chunks_exact_mut(width * PANEL)
                .take(height)
                .enumerate()
            {
                let Some(row) = (first + y).checked_sub(top).filter(|&y| y < whole.rows) else {
                    line.fill(0.0);
                    continue;
                };
                let inside = whole.columns.min(width - left);
                line[..left * PANEL].fill(0.0);
                line[(left + inside) * PANEL..].fill(0.0);
                let at = row * whole.columns;
                let (rows, factors) = match direct {
                    true => {
                        let row = from.words.words()[at * from.channels..].as_ptr();
                        ((row, from.channels), &factors[..inside])
                    }
                    false => {
                        let factors = &input.factors()[at..at + inside];
                        ((input.row(at), input.row_stride()), factors)
                    }
                };
                let target = Target {
                    start: line[left * PANEL..].as_mut_ptr().cast(),
                    stride: PANEL,
                    format: Format::F32,
                };
                // SAFETY: rows are readable up to whole tiles, for maps and rows have that many more;
                // a line has a panel for each place; it is this thread's alone.
                unsafe {
                    let (linear, last) = (&self.expand.linear, self.expand.convolution.last);
                    linear.multiply_panels(rows, factors, target, last, panel..panel + 1, None);
                }
            }
            let channel = panel * PANEL;
            let job = Wide {
                numbers: &numbers[..height * width * PANEL],
                width,
                side,
                stride,
                weights: &self.depthwise.weights.floats()[channel..],
                weight_stride: self.depthwise.stride,
                bias: &self.depthwise.bias.floats()[channel..],
                channels: PANEL.min(channels - channel),
                grid: (out.len(), grid.columns),
                format,
                factor,
                offset,
                row_words,
                channel,
                padding: match panel + 1 == panels {
                    true => used.next_multiple_of(Buffer::LINE) - used,
                    false => 0,
                },
            };
            let places = out.len() * grid.columns;
            // SAFETY: a kernel is only made where its instruction set is there; each task writes the
            // words of its panel in its rows.
            unsafe {
                let start = out.start * grid.columns * row_words;
                (vectors.wide)(&job, words.place(start, places * row_words));
            }
        });
    }
}

/// Rows of the output for each task.
fn bands(
    width: usize,
    side: usize,
    stride: usize,
    rows: usize,
    panels: usize,
    workers: Workers,
) -> usize {
    let cached = (CACHED_WORDS / (width * PANEL)).saturating_sub(side) / stride + 1;
    // A few tasks for each thread, but not so many that most rows are computed twice.
    let bands = match workers.threads() {
        1 => 1,
        threads => (2 * threads).div_ceil(panels).min(rows.div_ceil(2 * side)),
    };
    cached.min(rows.div_ceil(bands.max(1))).max(1)
}

/// A panel of the wide map, and what the depthwise convolution of it is.
pub(crate) struct Wide<'a> {
    /// `[height, width, PANEL]`, zeros where windows reach over the edge.
    numbers: &'a [f32],
    width: usize,
    side: usize,
    stride: usize,
    /// From the panel's first channel on, places `weight_stride` apart.
    weights: &'a [f32],
    weight_stride: usize,
    bias: &'a [f32],
    /// Channels of the panel.
    channels: usize,
    /// Rows and columns of the output.
    grid: (usize, usize),
    /// What numbers become: `number * factor + offset`, then the format.
    format: Format,
    factor: f32,
    offset: f32,
    /// Words from place to place of the output, and those that must be zero behind the channels.
    row_words: usize,
    padding: usize,
    /// The panel's first channel.
    channel: usize,
}

/// Computes the depthwise convolution of a panel. Words behind the last channel become zeros.
///
/// # Safety
/// The processor must have the instruction set, and the caller must be compiled for it; `to` must be
/// valid for `row_words` words for each place of the output, of which the panel's are written.
#[inline(always)]
pub(crate) unsafe fn wide<S: Simd>(job: &Wide, to: *mut u32) {
    // SAFETY: as for this function.
    unsafe {
        match job.side {
            3 => by_side::<S, 3, 9>(job, to),
            _ => by_side::<S, 5, 25>(job, to),
        }
    }
}

#[inline(always)]
unsafe fn by_side<S: Simd, const SIDE: usize, const AREA: usize>(job: &Wide, to: *mut u32) {
    let (rows, columns) = job.grid;
    let (stride, line) = (job.stride, job.width * PANEL);
    let reach = |count: usize| (count - 1) * stride + SIDE;
    assert!(
        job.side == SIDE
            && rows > 0
            && columns > 0
            && reach(columns) <= job.width
            && reach(rows) * line <= job.numbers.len()
            && job.channels <= PANEL
            && job.channels.is_multiple_of(S::LANES)
            && job.bias.len() >= job.channels
            && job.weights.len() >= (AREA - 1) * job.weight_stride + job.channels,
        "a panel or weights of another size than the windows"
    );
    let size = 4 / job.format.per_word();
    let bytes = to.cast::<u8>();
    // SAFETY: all windows lie within the numbers, see above; the panel has whole vectors, for which
    // there are weights; the caller vouches for the output.
    unsafe {
        let (zero, most) = (S::splat(0.0), S::splat(HIGHEST));
        let (factor, offset) = (S::splat(job.factor), S::splat(job.offset));
        for channel in (0..job.channels).step_by(S::LANES) {
            let start = S::load(job.bias.as_ptr().add(channel));
            let mut filter = [zero; AREA];
            for (place, x) in filter.iter_mut().enumerate() {
                *x = S::load(
                    job.weights
                        .as_ptr()
                        .add(place * job.weight_stride + channel),
                );
            }
            let source = job.numbers.as_ptr().add(channel);
            let target = bytes.add((job.channel + channel) * size);
            for row in 0..rows {
                for column in 0..columns {
                    let window = source.add(row * stride * line + column * stride * PANEL);
                    let mut sum = start;
                    for y in 0..SIDE {
                        for x in 0..SIDE {
                            let number = S::load(window.add(y * line + x * PANEL));
                            sum = S::fma(number, filter[y * SIDE + x], sum);
                        }
                    }
                    let sum = S::min(S::max(sum, zero), most);
                    let to = target.add((row * columns + column) * job.row_words * 4);
                    match job.format {
                        Format::F32 => S::store(to.cast(), sum),
                        format => S::narrow(S::fma(sum, factor, offset), format, to),
                    }
                }
            }
        }
        if job.padding > 0 {
            let done = job.format.words(job.channel + job.channels);
            for place in 0..rows * columns {
                std::ptr::write_bytes(to.add(place * job.row_words + done), 0, job.padding);
            }
        }
    }
}
