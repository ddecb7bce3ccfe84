//! Convolutions in which every output sees every input, as products with packed weights.
//!
//! The windows of some places of the output are gathered into rows, which stay in the second-level
//! cache, and multiplied with all panels of weights before the next places have their turn: the
//! image's windows never exist all at once. Windows of a single place need no gathering where a map
//! holds what the product reads.

use std::io;

use crate::buffer::Buffer;
use crate::engine::{Engine, Precision};
use crate::error::ShapeError;
use crate::format::INT8_LARGEST;
use crate::kernel::Kernel;
use crate::linear::PackedLinear;
use crate::parallel::{Shared, Workers};
use crate::product::{PANEL, SharedTarget, TILE_ROWS, Target};
use crate::rows::{Conversion, Rows};
use crate::saved::{Reader, SavedError, Writer};

use super::map::{Geometry, Map, inside};
use super::step::{Convolution, Window};

/// Words of rows that one task gathers: half a second-level cache of 2 MiB, so that a panel of
/// weights fits beside them.
const CACHED_WORDS: usize = 256 * 1024;

/// Tasks per thread: enough to even out threads that are interrupted.
const TASKS_PER_THREAD: usize = 4;

/// Rows that share the lines of one set of the first-level cache, if they lie so many words apart.
const CROWDED: usize = 256;

/// Places in a row of the output from which on windows are read where they are, for a product of up
/// to 14 rows at once and for one of more: for fewer places windows are gathered, so that several rows
/// of places share a product.
const LEAST_COLUMNS: [usize; 2] = [4, 12];

/// Places of the output that share a panel at least, or else fetching it would take longer than the
/// products.
const MOST_SHARED: usize = 112;

/// Places that one task converts.
const TASK_PLACES: usize = 64;

/// What each thread works in; it keeps its size from call to call.
#[derive(Default)]
pub(super) struct Scratch {
    rows: Buffer,
    pub(super) factors: Vec<f32>,
    /// A row in float32, before it is converted.
    window: Vec<f32>,
    /// See `inverted.rs`.
    pub(super) hidden: Buffer,
}

/// A map as 8-bit integers, all with one factor, and a map with zeros around it.
#[derive(Default)]
pub(super) struct Codes {
    words: Buffer,
    most: Vec<f32>,
    padded: Buffer,
}

/// A map with zeros around it, of which products read windows where they are.
struct Padded<'a> {
    words: &'a [u32],
    /// Words of a place, and of a row of places.
    place: usize,
    line: usize,
    /// Where the parts of a window begin, and the words of each.
    parts: Vec<usize>,
    used: usize,
    factor: f32,
}

/// A packed convolution.
pub(super) struct Dense {
    pub(super) convolution: Convolution,
    pub(super) linear: PackedLinear,
}

impl Dense {
    /// Packs `weight`, `[outputs, inputs, side, side]`; `positive` if no input is below zero.
    pub(super) fn new(
        engine: Engine,
        precision: Precision,
        convolution: Convolution,
        weight: &[f32],
        bias: &[f32],
        positive: bool,
    ) -> Result<Self, ShapeError> {
        let Convolution { inputs, window, .. } = convolution;
        let area = window.side * window.side;
        // From a plane for each input to a place after the other, as windows are gathered.
        let mut turned = vec![0.0; weight.len()];
        let filters = weight.chunks_exact(inputs * area);
        for (to, from) in turned.chunks_exact_mut(inputs * area).zip(filters) {
            for (place, to) in to.chunks_exact_mut(inputs).enumerate() {
                for (to, plane) in to.iter_mut().zip(from.chunks_exact(area)) {
                    *to = plane[place];
                }
            }
        }
        let linear = PackedLinear::new(engine, precision, &turned, bias)?;
        Ok(Self {
            convolution,
            linear: match positive {
                true => linear.above(0.0),
                false => linear,
            },
        })
    }

    pub(super) fn write(&self, to: &mut Writer) -> io::Result<()> {
        self.linear.write(to)
    }

    pub(super) fn read(
        engine: Engine,
        precision: Precision,
        convolution: Convolution,
        from: &mut Reader,
        positive: bool,
    ) -> Result<Self, SavedError> {
        let linear = PackedLinear::read(engine.kernel(precision), from)?;
        let area = convolution.window.side * convolution.window.side;
        let expected = (convolution.inputs * area, convolution.outputs);
        let found = (linear.inputs(), linear.outputs());
        match found == expected {
            true => Ok(Self {
                convolution,
                linear: match positive {
                    true => linear.above(0.0),
                    false => linear,
                },
            }),
            false => Err(SavedError(format!(
                "a convolution of {found:?} numbers and outputs where {expected:?} are expected"
            ))),
        }
    }

    /// Whether its windows have one place each, without gaps.
    pub(super) fn pointwise(&self) -> bool {
        let Window { side, stride, .. } = self.convolution.window;
        (side, stride) == (1, 1)
    }

    /// `to = epilogue(convolution(from))`; `to` has its size and format.
    pub(super) fn run(
        &self,
        from: &Map,
        to: &mut Map,
        geometry: &Geometry,
        scratch: &mut [Scratch],
        codes: &mut Codes,
        workers: Workers,
    ) {
        let kernel = self.linear.kernel();
        let quantised = self.quantised(from, codes, workers);
        let Codes { words, padded, .. } = codes;
        let source = match quantised {
            Some(factor) => Source::Words {
                words: words.words(),
                factor,
            },
            None if from.format == kernel.input => Source::Words {
                words: from.words.words(),
                factor: 1.0,
            },
            None => Source::Numbers(from.numbers()),
        };
        let window = Windows {
            source,
            channels: from.channels,
            geometry,
            kernel,
            lowest: self.linear.lowest(),
        };
        if let Some(padded) = window.padded(padded, workers) {
            self.run_padded(&padded, to, geometry, scratch, workers);
            return;
        }
        let depth = kernel.input.words(self.linear.inputs());
        let stride = Rows::stride(self.linear.inputs(), kernel.input);
        // Rows that can be read where they are: no padding follows that would have to be zero.
        let direct = match source {
            Source::Words { words, factor } if kernel.reads(kernel.input, from.channels) => {
                Some((words, factor))
            }
            _ => None,
        };
        let direct = direct.filter(|_| self.pointwise() && !depth.is_multiple_of(CROWDED));
        let outputs = self.linear.outputs();
        let target = Target {
            start: to.words.words_mut().as_mut_ptr(),
            stride: to.format.words(outputs),
            format: to.format,
        };
        let (rows, factors) = match direct {
            Some((words, factor)) => ((words, depth), Some(factor)),
            None => ((&[][..], stride), None),
        };
        self.in_parts(
            geometry.to.len(),
            stride,
            target,
            scratch,
            workers,
            |part, scratch| {
                scratch.factors.clear();
                scratch.factors.resize(part.len(), factors.unwrap_or(1.0));
                match factors {
                    Some(_) => (rows.0[part.start * depth..].as_ptr(), rows.1),
                    None => {
                        window.gather(part.start, stride, scratch);
                        (scratch.rows.words().as_ptr(), stride)
                    }
                }
            },
        );
    }

    /// The same from a map with zeros around it: a row of places is a product whose rows begin one
    /// stride after the other, and the map stays in the cache for all panels.
    fn run_padded(
        &self,
        from: &Padded<'_>,
        to: &mut Map,
        geometry: &Geometry,
        scratch: &mut [Scratch],
        workers: Workers,
    ) {
        let grid = geometry.to;
        let Window { stride, .. } = geometry.window;
        let (outputs, panels) = (self.linear.outputs(), self.linear.panels());
        let target = SharedTarget(Target {
            start: to.words.words_mut().as_mut_ptr(),
            stride: to.format.words(outputs),
            format: to.format,
        });
        // Rows of the output whose windows fit the cache beside a panel; as many parts of the panels
        // as it takes to keep all threads at work.
        let band = (CACHED_WORDS / 2 / (stride * from.line)).clamp(1, grid.rows);
        let tasks = match workers.threads() {
            1 => 1,
            threads => threads * TASKS_PER_THREAD,
        };
        let band = band.min(
            grid.rows
                .div_ceil(tasks)
                .max(MOST_SHARED / grid.columns)
                .max(1),
        );
        let bands = grid.rows.div_ceil(band);
        let groups = match workers.threads() {
            threads if bands < 2 * threads => (2 * threads).div_ceil(bands).min(panels),
            _ => 1,
        };
        let scratch = Shared::new(scratch);
        workers.for_each_on(bands * groups, |task, thread| {
            // SAFETY: a thread does one task at a time.
            let scratch = unsafe { &mut scratch.part(thread, 1)[0] };
            scratch.factors.clear();
            scratch.factors.resize(grid.columns, from.factor);
            let (number, group) = (task / groups, task % groups);
            let rows = number * band..grid.rows.min((number + 1) * band);
            for panel in group * panels / groups..(group + 1) * panels / groups {
                for row in rows.clone() {
                    let start = from.words[row * stride * from.line..].as_ptr();
                    let to = target.from(row * grid.columns, panel * PANEL);
                    // SAFETY: windows lie within the padded map, which has rows of a whole tile after
                    // the last one; tasks write different rows or columns of the output, which has a
                    // row for each place.
                    unsafe {
                        self.linear.multiply_panels(
                            (start, stride * from.place),
                            &scratch.factors,
                            to,
                            self.convolution.last,
                            panel..panel + 1,
                            Some((&from.parts, from.used)),
                        );
                    }
                }
            }
        });
    }

    /// The same for a window of one place, from rows that are converted already.
    pub(super) fn run_rows(
        &self,
        rows: &Rows,
        to: &mut Map,
        scratch: &mut [Scratch],
        workers: Workers,
    ) {
        let count = to.grid.len();
        rows.require(count, self.linear.inputs());
        assert_eq!(
            rows.format(),
            self.linear.kernel().input,
            "rows of another format"
        );
        let target = Target {
            start: to.words.words_mut().as_mut_ptr(),
            stride: to.format.words(self.linear.outputs()),
            format: to.format,
        };
        let stride = rows.row_stride();
        self.in_parts(count, stride, target, scratch, workers, |part, scratch| {
            scratch.factors.clear();
            scratch
                .factors
                .extend_from_slice(&rows.factors()[part.clone()]);
            (rows.row(part.start), stride)
        });
    }

    /// The product in tasks: `rows` tells where those of a task lie and how many words apart, and
    /// leaves their factors in the scratch.
    fn in_parts(
        &self,
        count: usize,
        stride: usize,
        target: Target,
        scratch: &mut [Scratch],
        workers: Workers,
        rows: impl Fn(std::ops::Range<usize>, &mut Scratch) -> (*const u32, usize) + Sync,
    ) {
        let (block, columns) = self.split(count, stride, workers);
        let epilogue = self.convolution.last;
        let target = SharedTarget(target);
        let scratch = Shared::new(scratch);
        workers.for_each_on(count.div_ceil(block) * columns, |task, thread| {
            let first = task / columns * block;
            let part = first..count.min(first + block);
            // SAFETY: a thread does one task at a time.
            let scratch = unsafe { &mut scratch.part(thread, 1)[0] };
            let rows = rows(part, scratch);
            let parts = (task % columns, columns);
            let target = target.from(first, 0);
            // SAFETY: rows are readable up to whole tiles, for maps and gathered rows have that many
            // more; tasks write different rows or columns of the map, which has a row for each
            // place.
            unsafe {
                self.linear
                    .multiply_part(rows, &scratch.factors, target, epilogue, parts);
            }
        });
    }

    /// Converts a map to 8-bit integers once, where windows would convert each of its places
    /// several times; gives what undoes the scaling.
    fn quantised(&self, from: &Map, codes: &mut Codes, workers: Workers) -> Option<f32> {
        let kernel = self.linear.kernel();
        let lowest = self.linear.lowest()?;
        let channels = from.channels;
        let format = kernel.input;
        if !format.whole()
            || self.convolution.window.side == 1
            || !channels.is_multiple_of(Buffer::LINE)
        {
            return None;
        }
        let count = from.grid.len();
        let words = format.words(channels);
        let numbers = from.numbers();
        let tasks = count.div_ceil(TASK_PLACES);
        let places = |task: usize| {
            let first = task * TASK_PLACES;
            first..count.min(first + TASK_PLACES)
        };
        codes.most.resize(tasks, 0.0);
        let most = Shared::new(&mut codes.most[..tasks]);
        workers.for_each(tasks, |task| {
            let places = places(task);
            let part = &numbers[places.start * channels..places.end * channels];
            // SAFETY: a kernel is only made where its instruction set is there; each number is one
            // task's.
            unsafe { most.part(task, 1)[0] = (kernel.largest)(part, part.len(), part.len()) };
        });
        let most = codes.most[..tasks].iter().copied().fold(0.0, f32::max);
        let span = most - lowest;
        let factor = match span.is_normal() {
            true => (INT8_LARGEST / span).min(f32::MAX),
            false => 1.0,
        };
        codes.words.reserve((count + TILE_ROWS) * words);
        let shared = Shared::new(codes.words.words_mut());
        workers.for_each(tasks, |task| {
            let places = places(task);
            let job = Conversion {
                input: &numbers[places.start * channels..places.end * channels],
                norm: None,
                factor: Some(factor),
                lowest: Some(lowest),
            };
            // SAFETY: a kernel is only made where its instruction set is there; each place belongs
            // to one task.
            unsafe {
                let to = shared.part(places.start * words, places.len() * words);
                (kernel.convert)(&job, to);
            }
        });
        Some(1.0 / factor)
    }

    /// Rows of a task, and in how many parts the panels are cut.
    fn split(&self, rows: usize, stride: usize, workers: Workers) -> (usize, usize) {
        let tile = self.linear.kernel().rows;
        let cached = (CACHED_WORDS / stride).max(tile);
        let tasks = match workers.threads() {
            1 => 1,
            threads => threads * TASKS_PER_THREAD,
        };
        // Several tiles at least, or else every task would fetch all weights for little work.
        let block = rows.div_ceil(tasks).next_multiple_of(tile).max(2 * tile);
        let block = block.min(cached / tile * tile);
        let blocks = rows.div_ceil(block).max(1);
        let columns = match workers.threads() {
            threads if blocks < threads => threads.div_ceil(blocks),
            _ => 1,
        };
        (block, columns.clamp(1, self.linear.panels()))
    }
}

/// What windows are gathered from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// Float32, to be converted.
    Numbers(&'a [f32]),
    /// What the product reads, all with one factor.
    Words { words: &'a [u32], factor: f32 },
}

/// How windows become rows.
struct Windows<'a> {
    source: Source<'a>,
    channels: usize,
    geometry: &'a Geometry,
    kernel: &'static Kernel,
    lowest: Option<f32>,
}

impl Windows<'_> {
    /// The map with zeros around it, if products can read windows there.
    fn padded<'b>(&self, buffer: &'b mut Buffer, workers: Workers) -> Option<Padded<'b>> {
        let Source::Words { words, factor } = self.source else {
            return None;
        };
        let Geometry {
            window,
            from,
            to,
            top,
            left,
        } = *self.geometry;
        let Window { side, stride, .. } = window;
        let format = self.kernel.input;
        let size = format.words(self.channels);
        let lines = self.kernel.reads(format, self.channels);
        let least = LEAST_COLUMNS[usize::from(self.kernel.rows > 14)];
        if side == 1 || to.columns < least || !lines {
            return None;
        }
        // Places whose windows would crowd the cache lie a little further apart.
        let crowded = (stride * size).is_multiple_of(2 * CROWDED);
        let place = if crowded { size + Buffer::LINE } else { size };
        let reach = |count: usize| (count - 1) * stride + side;
        let (rows, columns) = (reach(to.rows), reach(to.columns));
        let line = columns * place;
        buffer.reserve(rows * line + TILE_ROWS * stride * place + side * line);
        let all = &mut buffer.words_mut()[..rows * line];
        let shared = Shared::new(all);
        workers.for_each(rows, |row| {
            // SAFETY: every row belongs to one task.
            let to = unsafe { shared.part(row * line, line) };
            let Some(row) = row.checked_sub(top).filter(|&row| row < from.rows) else {
                to.fill(0);
                return;
            };
            let inside = from.columns.min(columns - left);
            to[..left * place].fill(0);
            to[(left + inside) * place..].fill(0);
            let source = &words[row * from.columns * size..][..inside * size];
            let to = &mut to[left * place..][..inside * place];
            match crowded {
                false => to.copy_from_slice(source),
                true => {
                    let places = to.chunks_exact_mut(place).zip(source.chunks_exact(size));
                    for (to, from) in places {
                        to[..size].copy_from_slice(from);
                    }
                }
            }
        });
        let parts = match crowded {
            false => (0..side).map(|y| y * line).collect(),
            true => (0..side * side)
                .map(|tap| tap / side * line + tap % side * place)
                .collect(),
        };
        Some(Padded {
            words: buffer.words(),
            place,
            line,
            parts,
            used: if crowded { size } else { side * size },
            factor,
        })
    }

    /// As many rows as there are factors, from the place `first` of the output on.
    fn gather(&self, first: usize, stride: usize, scratch: &mut Scratch) {
        let Scratch {
            rows,
            factors,
            window,
            ..
        } = scratch;
        rows.reserve((factors.len() + TILE_ROWS) * stride);
        let side = self.geometry.window.side;
        let format = self.kernel.input;
        match self.source {
            Source::Words { words, factor } => {
                let size = format.words(self.channels);
                let depth = side * side * size;
                factors.fill(factor);
                let rows = rows.words_mut().chunks_exact_mut(stride);
                for (i, row) in rows.take(factors.len()).enumerate() {
                    let (window, padding) = row.split_at_mut(depth);
                    self.window(first + i, words, size, window);
                    padding.fill(0);
                }
            }
            Source::Numbers(numbers) => {
                window.resize(side * side * self.channels, 0.0);
                let rows = rows.words_mut().chunks_exact_mut(stride);
                for (i, (words, factor)) in rows.zip(factors).enumerate() {
                    let input = match side {
                        1 => {
                            let at = self.place(first + i) * self.channels;
                            &numbers[at..at + self.channels]
                        }
                        _ => {
                            self.window(first + i, numbers, self.channels, window);
                            &window[..]
                        }
                    };
                    let job = Conversion {
                        input,
                        norm: None,
                        factor: None,
                        lowest: self.lowest,
                    };
                    // SAFETY: a kernel is only made where its instruction set is there.
                    *factor = unsafe { (self.kernel.convert)(&job, words) };
                }
            }
        }
    }

    /// The place of the map that is the window of one place at `place` of the output.
    fn place(&self, place: usize) -> usize {
        let Geometry {
            window, from, to, ..
        } = *self.geometry;
        let (row, column) = (place / to.columns, place % to.columns);
        row * window.stride * from.columns + column * window.stride
    }

    /// The window of one place of the output, zeros where it reaches over the edge; places of the
    /// map have `size` elements each.
    fn window<T: Copy + Default>(&self, place: usize, from_all: &[T], size: usize, to: &mut [T]) {
        let Geometry {
            window,
            from,
            to: grid,
            top,
            left,
        } = *self.geometry;
        let (side, stride) = (window.side, window.stride);
        let (row, column) = (place / grid.columns, place % grid.columns);
        let (above, rows) = inside(row, stride, top, side, from.rows);
        let (before, columns) = inside(column, stride, left, side, from.columns);
        if rows.len() < side || columns.len() < side {
            to.fill(T::default());
        }
        let lines = to.chunks_exact_mut(side * size).skip(above);
        for (to, row) in lines.zip(rows) {
            let start = (row * from.columns + columns.start) * size;
            let length = columns.len() * size;
            to[before * size..][..length].copy_from_slice(&from_all[start..][..length]);
        }
    }
}
