//! Activations on their way into a product: layer norm (Ba et al., 2016), the row's factor, and
//! the conversion to the product's format, in one pass over each row.

use std::io;

use crate::buffer::Buffer;
use crate::error::ShapeError;
use crate::format::{Format, Holds, INT8_LARGEST, INT8_OFFSET};
use crate::kernel::Kernel;
use crate::linear::LinearScratch;
use crate::parallel::{Parallel, Shared, Workers};
use crate::product::{TILE_ROWS, Target};
use crate::saved::{Reader, SavedError, Writer};
use crate::simd::Simd;
use crate::unpacked::Unpacked;

/// A layer norm: `(x - mean) / sqrt(variance + epsilon) * weight + bias` over each row.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl LayerNorm {
    /// A layer norm over rows of `weight.len()` numbers, at least one.
    ///
    /// # Errors
    /// [`ShapeError`] if there is no weight, or the bias has another length.
    pub fn new(weight: &[f32], bias: &[f32], epsilon: f32) -> Result<Self, ShapeError> {
        ShapeError::check("bias of a layer norm", bias.len(), weight.len().max(1))?;
        Ok(Self {
            weight: weight.to_vec(),
            bias: bias.to_vec(),
            epsilon,
        })
    }

    /// Weight and bias.
    pub(crate) fn unpack(&self) -> Unpacked {
        Unpacked {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) -> io::Result<()> {
        to.floats(&self.weight)?;
        to.floats(&self.bias)
    }

    /// Reads what [`write`](Self::write) has written, over rows of `width` numbers.
    pub(crate) fn read(from: &mut Reader, width: usize, epsilon: f32) -> Result<Self, SavedError> {
        Ok(Self {
            weight: from.floats(width)?,
            bias: from.floats(width)?,
            epsilon,
        })
    }

    /// The same with another epsilon.
    pub(crate) fn with_epsilon(&self, epsilon: f32) -> Self {
        Self {
            epsilon,
            ..self.clone()
        }
    }

    /// Length of a row.
    pub fn width(&self) -> usize {
        self.weight.len()
    }
}

/// Rows in the format of a product, each with its factor.
#[derive(Default)]
pub(crate) struct Rows {
    words: Buffer,
    /// What a row's sums are multiplied by.
    factors: Vec<f32>,
    /// Rows that there is room for, and the numbers of each.
    count: usize,
    width: usize,
    stride: usize,
    format: Format,
}

impl Rows {
    /// Words from row to row for rows of `width` numbers: whole cache lines, and no large power
    /// of two, with which the rows of a tile would share one set of the first-level cache.
    pub(crate) fn stride(width: usize, format: Format) -> usize {
        let words = format.words(width).next_multiple_of(Buffer::LINE);
        words
            + if words.is_multiple_of(256) {
                Buffer::LINE
            } else {
                0
            }
    }

    /// Makes room for `count` rows of `width` numbers without factors, and returns where it is.
    pub(crate) fn target(&mut self, count: usize, width: usize, format: Format) -> Target {
        self.reserve(count, width, format);
        self.factors.fill(1.0);
        Target {
            start: self.words.words_mut().as_mut_ptr(),
            stride: self.stride,
            format,
        }
    }

    /// Takes `values` as they are.
    pub(crate) fn copy(&mut self, values: Values) {
        let Values { count, width, .. } = values;
        self.reserve(count, width, Format::F32);
        let rows = self.words.floats_mut().chunks_exact_mut(self.stride);
        for (row, values) in rows.zip(values.numbers.chunks(values.stride)).take(count) {
            row[..width].copy_from_slice(&values[..width]);
        }
    }

    fn reserve(&mut self, count: usize, width: usize, format: Format) {
        (self.count, self.width, self.format) = (count, width, format);
        self.stride = Self::stride(width, format);
        self.words.reserve((count + TILE_ROWS) * self.stride);
        if self.factors.len() < count {
            self.factors.resize(count, 1.0);
        }
    }

    /// Converts `values` after the layer norm if there is one; of `lowest` see [`Conversion`].
    pub(crate) fn fill(
        &mut self,
        kernel: &Kernel,
        values: Values,
        norm: Option<&LayerNorm>,
        lowest: Option<f32>,
        workers: Workers,
    ) {
        let Values { count, width, .. } = values;
        assert!(
            norm.is_none_or(|norm| norm.width() == width),
            "a layer norm of another width than the rows"
        );
        self.reserve(count, width, kernel.input);
        let stride = self.stride;
        let words = Shared::new(self.words.words_mut());
        let factors = Shared::new(&mut self.factors[..count]);
        workers.for_each(count.div_ceil(TASK), |task| {
            for row in task * TASK..((task + 1) * TASK).min(count) {
                // SAFETY: every row belongs to one task.
                let (words, factor) = unsafe {
                    (
                        words.part(row * stride, stride),
                        &mut factors.part(row, 1)[0],
                    )
                };
                let input = &values.numbers[row * values.stride..][..width];
                let job = Conversion {
                    input,
                    norm,
                    factor: None,
                    lowest,
                };
                // SAFETY: a kernel is only made where its instruction set is there.
                *factor = unsafe { (kernel.convert)(&job, words) };
            }
        });
    }

    /// The first `count` rows of `width` numbers, which are float32.
    pub(crate) fn values(&self, count: usize, width: usize) -> Values<'_> {
        assert_eq!(self.format, Format::F32, "rows that are converted already");
        self.require(count, width);
        Values {
            numbers: self.words.floats(),
            count,
            width,
            stride: self.stride,
        }
    }

    /// Panics unless there are `count` rows of `width` numbers.
    pub(crate) fn require(&self, count: usize, width: usize) {
        assert!(
            count <= self.count && width == self.width,
            "{count} rows of {width} numbers where there are {} of {}",
            self.count,
            self.width
        );
    }

    /// Sets what the sums of the first `count` rows are multiplied by.
    pub(crate) fn set_factors(&mut self, count: usize, factor: f32) {
        self.factors[..count].fill(factor);
    }

    /// All words, those of [`TILE_ROWS`] more rows with them.
    pub(crate) fn words(&self) -> &[u32] {
        self.words.words()
    }

    /// The same, to be changed.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        self.words.words_mut()
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn row(&self, row: usize) -> *const u32 {
        self.words.words()[row * self.stride..].as_ptr()
    }

    pub(crate) fn row_stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn factors(&self) -> &[f32] {
        &self.factors
    }
}

/// Rows of numbers, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl<'a> Values<'a> {
    /// Rows without gaps.
    pub(crate) fn new(numbers: &'a [f32], width: usize) -> Self {
        Self {
            numbers,
            count: numbers.len() / width,
            width,
            stride: width,
        }
    }
}

/// Rows that one task converts.
const TASK: usize = 16;

/// One row to convert.
pub(crate) struct Conversion<'a> {
    pub(crate) input: &'a [f32],
    pub(crate) norm: Option<&'a LayerNorm>,
    /// What to multiply by, after `lowest` was subtracted; without it, what suits the format.
    pub(crate) factor: Option<f32>,
    /// No number is below this, itself not above zero: 8 bits then hold `number - lowest`, and spend
    /// no values on what does not occur.
    pub(crate) lowest: Option<f32>,
}

/// Converts one row into `words`; what is left of them becomes zeros. Returns the factor that
/// undoes the row's scaling.
///
/// # Safety
/// The processor must have the instruction set, and the caller must be compiled for it.
#[inline(always)]
pub(crate) unsafe fn convert<S: Simd, F: Holds>(job: &Conversion, words: &mut [u32]) -> f32 {
    let format = F::FORMAT;
    let lanes = S::LANES;
    let count = job.input.len();
    assert!(
        words.len() * format.per_word() >= count.next_multiple_of(lanes)
            && job.norm.is_none_or(|norm| norm.width() == count),
        "words or a layer norm of another width than the row"
    );
    // SAFETY: vectors lie within the row, or the part of them that does is named; a layer norm has
    // a weight and a bias for each number of the row, and the words have room for whole vectors,
    // see above.
    unsafe {
        let values = match job.norm {
            Some(norm) => {
                let (mean, inverse) = moments::<S>(job.input, norm.epsilon);
                Row::<S> {
                    input: job.input,
                    norm: Some(norm),
                    mean: S::splat(mean),
                    inverse: S::splat(inverse),
                }
            }
            None => Row {
                input: job.input,
                norm: None,
                mean: S::splat(0.0),
                inverse: S::splat(1.0),
            },
        };
        let (factor, offset) = match job.factor {
            Some(factor) => match (format, job.lowest) {
                (Format::Int8 | Format::Int16, Some(lowest)) => {
                    (factor, -lowest * factor - INT8_OFFSET as f32)
                }
                _ => (factor, 0.0),
            },
            None if format.whole() && job.lowest.is_some() => {
                let lowest = job.lowest.unwrap_or(0.0);
                let mut most = S::splat(0.0);
                for at in (0..count).step_by(lanes) {
                    most = S::max(most, values.at(at));
                }
                let span = S::largest(most) - lowest;
                let factor = match span.is_normal() {
                    true => (INT8_LARGEST / span).min(f32::MAX),
                    false => 1.0,
                };
                (factor, -lowest * factor - INT8_OFFSET as f32)
            }
            None if format == Format::F16 || format.whole() => {
                let mut most = S::splat(0.0);
                for at in (0..count).step_by(lanes) {
                    most = S::max(most, S::abs(values.at(at)));
                }
                (format.factor(S::largest(most)), 0.0)
            }
            None => (1.0, 0.0),
        };
        let (scale, offset) = (S::splat(factor), S::splat(offset));
        let bytes = words.as_mut_ptr().cast::<u8>();
        let size = 4 / format.per_word();
        for at in (0..count).step_by(lanes) {
            let x = S::fma(values.at(at), scale, offset);
            S::narrow(x, format, bytes.add(at * size));
        }
        let done = count.next_multiple_of(lanes) * size;
        std::ptr::write_bytes(bytes.add(done), 0, (words.len() * 4).saturating_sub(done));
        1.0 / factor
    }
}

/// A row's numbers after its layer norm. (Functions rather than closures: a closure would not be
/// compiled for the instruction set.)
struct Row<'a, S: Simd> {
    input: &'a [f32],
    norm: Option<&'a LayerNorm>,
    mean: S::Vector,
    inverse: S::Vector,
}

impl<S: Simd> Row<'_, S> {
    /// The vector at `at`; what lies beyond the row's end is of no use, but finite.
    ///
    /// # Safety
    /// The processor must have the instruction set, the norm the width of the row, and `at` must
    /// lie within both.
    #[inline(always)]
    unsafe fn at(&self, at: usize) -> S::Vector {
        // SAFETY: `at` lies within the row, and so within weight and bias of the norm.
        unsafe {
            let x = load::<S>(self.input, at);
            match self.norm {
                Some(norm) => {
                    let x = S::mul(S::sub(x, self.mean), self.inverse);
                    S::fma(x, load::<S>(&norm.weight, at), load::<S>(&norm.bias, at))
                }
                None => x,
            }
        }
    }
}

/// The vector at `at`, zero beyond the end.
///
/// # Safety
/// The processor must have the instruction set, and `at` must not lie beyond the end.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(from: &[f32], at: usize) -> S::Vector {
    let left = from.len() - at;
    // SAFETY: the instruction set is there, and so are `left` lanes.
    unsafe {
        match left >= S::LANES {
            true => S::load(from.as_ptr().add(at)),
            false => S::load_part(from.as_ptr().add(at), left),
        }
    }
}

/// Mean and inverse standard deviation.
///
/// # Safety
/// The processor must have the instruction set.
#[inline(always)]
unsafe fn moments<S: Simd>(input: &[f32], epsilon: f32) -> (f32, f32) {
    let count = input.len() as f32;
    let whole = input.len() / S::LANES * S::LANES;
    // SAFETY: vectors up to `whole` lie within the row.
    unsafe {
        let mut total = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            total = S::add(total, S::load(input.as_ptr().add(at)));
        }
        let mut sum = S::total(total);
        for x in &input[whole..] {
            sum += x;
        }
        let mean = sum / count;
        let mut squares = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let x = S::sub(S::load(input.as_ptr().add(at)), S::splat(mean));
            squares = S::fma(x, x, squares);
        }
        let mut sum = S::total(squares);
        for x in &input[whole..] {
            sum += (x - mean) * (x - mean);
        }
        (mean, 1.0 / (sum / count + epsilon).sqrt())
    }
}

/// `output = norm(input)` for rows of the norm's width.
///
/// # Panics
/// If the lengths differ, or are no multiple of the norm's width.
pub fn layer_norm(
    engine: crate::Engine,
    norm: &LayerNorm,
    input: &[f32],
    output: &mut [f32],
    scratch: &mut LinearScratch,
    parallel: Parallel,
) {
    layer_norm_by(engine, norm, input, output, scratch, parallel.into());
}

/// [`layer_norm`] by any workers.
pub(crate) fn layer_norm_by(
    engine: crate::Engine,
    norm: &LayerNorm,
    input: &[f32],
    output: &mut [f32],
    scratch: &mut LinearScratch,
    workers: Workers,
) {
    assert_eq!(
        input.len(),
        output.len(),
        "input and output differ in length"
    );
    let kernel = engine.kernel(crate::Precision::F32);
    let width = norm.width();
    assert!(input.len().is_multiple_of(width), "input of broken rows");
    let rows = &mut scratch.rows;
    rows.fill(kernel, Values::new(input, width), Some(norm), None, workers);
    let words = rows.words.words().chunks_exact(rows.stride);
    for (output, words) in output.chunks_exact_mut(width).zip(words) {
        for (output, word) in output.iter_mut().zip(words) {
            *output = f32::from_bits(*word);
        }
    }
}
