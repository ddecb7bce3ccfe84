//! Multi-head self-attention that never holds the tokens-by-tokens matrix: the scores of a few
//! queries against all keys stay in the second-level cache until they are used.
//!
//! Beside the usual attention there are those of DPAM (AnomalyCLIP, section 3.3), in which values,
//! keys or queries attend to themselves; all of them share the packed values.

use std::ops::Range;

use crate::buffer::Buffer;
use crate::engine::{Engine, Precision};
use crate::format::{Format, Holds};
use crate::kernel::Kernel;
use crate::packed::Packed;
use crate::parallel::{Parallel, Shared, Workers};
use crate::product::{Epilogue, Layer, PANEL, Product, SharedTarget, Sink, TILE_ROWS, Target};
use crate::request::SelfAttention;
use crate::rows::{Conversion, Rows, Values, load};
use crate::simd::{Dot, Simd, exp2, exp2_rough};

/// The parts of a row (query, key, value) that are compared.
fn parts(own: Option<SelfAttention>) -> (usize, usize) {
    match own {
        None => (0, 1),
        Some(SelfAttention::Values) => (2, 2),
        Some(SelfAttention::Keys) => (1, 1),
        Some(SelfAttention::Queries) => (0, 0),
        // Not attended at all: whoever asks takes the values.
        Some(SelfAttention::Alone) => (2, 2),
    }
}

/// The shape of an attention, and the kernel that computes it.
#[derive(Clone, Copy)]
pub struct Attention {
    kernel: &'static Kernel,
    heads: usize,
    head_width: usize,
}

/// One kind of attention and where its result goes, `[queries, heads * head_width]`: the first
/// tokens are the queries, as many as there is room for.
pub struct AttentionOutput<'a> {
    /// What attends to itself; queries to keys if `None`.
    pub own: Option<SelfAttention>,
    /// The result.
    pub to: &'a mut [f32],
}

impl Attention {
    /// An attention of `heads` heads of `head_width` numbers each. [`Precision::Int8`] counts as
    /// [`Precision::Half`].
    pub fn new(engine: Engine, precision: Precision, heads: usize, head_width: usize) -> Self {
        Self::with_kernel(engine.attention(precision), heads, head_width)
    }

    pub(crate) fn with_kernel(kernel: &'static Kernel, heads: usize, head_width: usize) -> Self {
        Self {
            kernel,
            heads,
            head_width,
        }
    }

    /// `softmax(a b' / sqrt(head_width)) v` for each of `outputs`, from rows of queries, keys and
    /// values side by side, `[tokens, 3 * heads * head_width]`.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn forward(
        &self,
        qkv: &[f32],
        outputs: &mut [AttentionOutput],
        scratch: &mut AttentionScratch,
        parallel: Parallel,
    ) {
        let width = self.heads * self.head_width;
        let values = Values::new(qkv, 3 * width);
        let tokens = values.count;
        assert_eq!(
            tokens * 3 * width,
            qkv.len(),
            "broken rows of queries, keys and values"
        );
        let targets = outputs.iter_mut().map(|output| {
            let count = output.to.len() / width;
            assert!(
                count <= tokens && output.to.len() == count * width,
                "an output of {} numbers for {tokens} tokens of {width}",
                output.to.len()
            );
            let target = Target {
                start: output.to.as_mut_ptr().cast(),
                stride: width,
                format: Format::F32,
            };
            (output.own, target, count)
        });
        let targets: Vec<_> = targets.collect();
        let mut rows = std::mem::take(&mut scratch.rows);
        rows.copy(values);
        // SAFETY: each target has room for its rows, see above.
        unsafe { self.attend(&rows, tokens, &targets, scratch, parallel.into()) };
        scratch.rows = rows;
    }

    /// The format that [`attend`](Self::attend) takes its rows in.
    pub(crate) fn input_format(&self) -> Format {
        let format = self.kernel.format;
        match format.whole_lines(self.head_width) {
            true => format.between_layers(),
            false => Format::F32,
        }
    }

    /// The format in which it can write for something that computes in `next`.
    pub(crate) fn output_format(&self, next: Format) -> Format {
        let format = next.between_layers();
        match Target::takes(format, Epilogue::Store, self.head_width) {
            true => format,
            false => Format::F32,
        }
    }

    /// [`forward`](Self::forward) from rows in the format that it takes them in, for kinds of
    /// attention, where their results go, and of how many tokens.
    ///
    /// # Safety
    /// Targets must have room for the rows of so many tokens, and must not overlap.
    pub(crate) unsafe fn attend(
        &self,
        rows: &Rows,
        tokens: usize,
        outputs: &[(Option<SelfAttention>, Target, usize)],
        scratch: &mut AttentionScratch,
        workers: Workers,
    ) {
        if tokens == 0 {
            return;
        }
        let format = self.kernel.format;
        let qkv = match rows.format() == format && format.whole_lines(self.head_width) {
            true => Qkv::Words(rows.words(), rows.row_stride()),
            false => Qkv::Numbers(rows.values(tokens, 3 * self.heads * self.head_width)),
        };
        scratch.heads.resize_with(self.heads, Head::default);
        scratch.threads.resize_with(
            workers.threads().max(scratch.threads.len()),
            Thread::default,
        );
        let mut keys = [false; 3];
        for &(own, _, count) in outputs {
            keys[parts(own).1] |= count > 0;
        }
        let heads = Shared::new(&mut scratch.heads);
        workers.for_each(self.heads, |head| {
            // SAFETY: each head is one task's.
            let packed = unsafe { &mut heads.part(head, 1)[0] };
            self.pack(&qkv, tokens, head, keys, packed);
        });

        // The first multiple of the tile's rows that fits, so that no tile is narrow.
        let queries = TILE_ROWS / self.kernel.rows * self.kernel.rows;
        let threads = Shared::new(&mut scratch.threads);
        let heads = &scratch.heads;
        for &(own, target, wanted) in outputs {
            let target = SharedTarget(target);
            let blocks = wanted.div_ceil(queries);
            workers.for_each_on(self.heads * blocks, |task, thread| {
                let (head, first) = (task / blocks, task % blocks * queries);
                let block = Block {
                    qkv: &qkv,
                    tokens,
                    head,
                    queries: first..(first + queries).min(wanted),
                    own,
                    to: target.from(first, head * self.head_width),
                };
                // SAFETY: a thread does one task at a time.
                let thread = unsafe { &mut threads.part(thread, 1)[0] };
                // SAFETY: the blocks of queries and the heads tile the output.
                unsafe { self.block(&block, &heads[head], thread) }
            });
        }
    }

    /// Packs one head's values, and as keys those parts that `keys` names.
    fn pack(&self, qkv: &Qkv, tokens: usize, head: usize, keys: [bool; 3], to: &mut Head) {
        let format = self.kernel.format;
        for (part, factor) in to.factors.iter_mut().enumerate() {
            *factor = match (format, qkv) {
                (Format::F16, Qkv::Numbers(values)) => {
                    let rows = &values.numbers[self.start(part, head)..];
                    let rows = &rows[..(tokens - 1) * values.stride + self.head_width];
                    // SAFETY: a kernel is only made where its instruction set is there.
                    let largest =
                        unsafe { (self.kernel.largest)(rows, self.head_width, values.stride) };
                    format.factor(largest)
                }
                _ => 1.0,
            };
        }
        let depth = format.words(self.head_width);
        for (part, packed) in to.keys.iter_mut().enumerate() {
            if !keys[part] {
                continue;
            }
            packed.resize(tokens, depth);
            for panel in 0..packed.count() {
                let first = panel * PANEL;
                let count = PANEL.min(tokens - first);
                let converted = self.slices(
                    qkv,
                    first..first + count,
                    part,
                    head,
                    to.factors,
                    &mut to.rows,
                );
                // What follows the last row ends in columns that nobody reads.
                // SAFETY: a kernel is only made where its instruction set is there.
                unsafe {
                    (self.kernel.transpose)(
                        converted.words,
                        converted.stride,
                        packed.panel_mut(panel),
                    )
                };
            }
        }

        to.values.resize(self.head_width, format.words(tokens));
        let per_word = format.per_word();
        for first in (0..tokens).step_by(PANEL) {
            let count = PANEL.min(tokens - first);
            let converted =
                self.slices(qkv, first..first + count, 2, head, to.factors, &mut to.rows);
            let row = |i: usize| &converted.words[i * converted.stride..][..depth];
            for i in (0..count).step_by(per_word) {
                let word = (first + i) / per_word;
                for panel in 0..to.values.count() {
                    let at = panel * PANEL;
                    let width = PANEL.min(self.head_width - at);
                    let line = &mut to.values.panel_mut(panel)[word * PANEL..][..width];
                    if per_word == 1 {
                        line.copy_from_slice(&row(i)[at..at + width]);
                        continue;
                    }
                    let low = halves(row(i))[at..].iter();
                    match i + 1 < count {
                        true => {
                            let pairs = low.zip(&halves(row(i + 1))[at..]);
                            for (to, (&low, &high)) in line.iter_mut().zip(pairs) {
                                *to = u32::from(low) | u32::from(high) << 16;
                            }
                        }
                        false => {
                            for (to, &low) in line.iter_mut().zip(low) {
                                *to = u32::from(low);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The attention of some queries of one head.
    ///
    /// # Safety
    /// The block's target must be valid for the rows of its queries.
    unsafe fn block(&self, block: &Block, packed: &Head, thread: &mut Thread) {
        let kernel = self.kernel;
        let Block { tokens, head, .. } = *block;
        let (query, key) = parts(block.own);
        let (keys, values) = (&packed.keys[key], &packed.values);
        let count = block.queries.len();
        let queries = block.queries.clone();
        let queries = self.slices(
            block.qkv,
            queries,
            query,
            head,
            packed.factors,
            &mut thread.queries,
        );

        let score_stride = keys.count() * PANEL;
        thread.scores.reserve(TILE_ROWS * score_stride);
        let job = Product {
            rows: queries.words.as_ptr(),
            stride: queries.stride,
            row_count: count,
            panels: keys.panel(0),
            panel_count: keys.count(),
            depth: keys.depth,
            parts: &[0],
            used: keys.depth,
            start: None,
            sink: Sink::Plain {
                to: thread.scores.floats_mut().as_mut_ptr(),
                stride: score_stride,
            },
        };
        // SAFETY: the kernel is there; operands and scores have the sizes given.
        unsafe { (kernel.product)(&job) };

        let factors = packed.factors[query] * packed.factors[key];
        let softmax = Softmax {
            count: tokens,
            factor: std::f32::consts::LOG2_E / (factors * (self.head_width as f32).sqrt()),
        };
        let weight_stride = Rows::stride(tokens, kernel.format);
        thread.weights.reserve(TILE_ROWS * weight_stride);
        let mut row_factors = [1.0; TILE_ROWS];
        let scores = thread.scores.floats_mut().chunks_exact_mut(score_stride);
        let weights = thread.weights.words_mut().chunks_exact_mut(weight_stride);
        for ((scores, weights), factor) in scores.zip(weights).zip(&mut row_factors[..count]) {
            // SAFETY: the kernel is there.
            let total = unsafe { (kernel.softmax)(&softmax, scores, weights) };
            *factor = 1.0 / (total * packed.factors[2]);
        }

        let job = Product {
            rows: thread.weights.words().as_ptr(),
            stride: weight_stride,
            row_count: count,
            panels: values.panel(0),
            panel_count: values.count(),
            depth: values.depth,
            parts: &[0],
            used: values.depth,
            start: None,
            sink: Sink::Layer(Layer {
                row_factors: &row_factors,
                column_factors: None,
                bias: None,
                last: Epilogue::Store,
                to: block.to,
                columns: self.head_width,
            }),
        };
        // SAFETY: the kernel is there; the caller vouches for the output.
        unsafe { (kernel.product)(&job) }
    }

    /// A head's queries, keys or values (`part`) of at most [`PANEL`] tokens, in the words of the
    /// kernel: those of the rows, or converted into `buffer`. Rows of a whole panel can be read.
    fn slices<'a>(
        &self,
        qkv: &Qkv<'a>,
        tokens: Range<usize>,
        part: usize,
        head: usize,
        factors: [f32; 3],
        buffer: &'a mut Buffer,
    ) -> Slices<'a> {
        let start = self.start(part, head);
        let format = self.kernel.format;
        match *qkv {
            Qkv::Words(words, stride) => Slices {
                words: &words[tokens.start * stride + start / format.per_word()..],
                stride,
            },
            Qkv::Numbers(values) => {
                let stride = Rows::stride(self.head_width, format);
                buffer.reserve(PANEL * stride);
                let rows = buffer.words_mut().chunks_exact_mut(stride);
                for (token, row) in tokens.zip(rows) {
                    let job = Conversion {
                        input: &values.numbers[token * values.stride + start..][..self.head_width],
                        norm: None,
                        factor: Some(factors[part]),
                        lowest: None,
                    };
                    // SAFETY: a kernel is only made where its instruction set is there.
                    unsafe { (self.kernel.convert)(&job, row) };
                }
                Slices {
                    words: buffer.words(),
                    stride,
                }
            }
        }
    }

    /// Where a part of a head begins in a row.
    fn start(&self, part: usize, head: usize) -> usize {
        (part * self.heads + head) * self.head_width
    }
}

/// Rows of queries, keys and values: in the words of the kernel and how many there are from row to
/// row, or numbers that are yet to be converted.
enum Qkv<'a> {
    Words(&'a [u32], usize),
    Numbers(Values<'a>),
}

/// Rows of words, `stride` apart.
struct Slices<'a> {
    words: &'a [u32],
    stride: usize,
}

/// Queries of one head, what they are compared with, and where the result goes.
struct Block<'a> {
    qkv: &'a Qkv<'a>,
    tokens: usize,
    head: usize,
    queries: Range<usize>,
    own: Option<SelfAttention>,
    to: Target,
}

/// Memory that attention works in; it keeps its size from call to call.
#[derive(Default)]
pub struct AttentionScratch {
    rows: Rows,
    heads: Vec<Head>,
    threads: Vec<Thread>,
}

/// One head, packed.
#[derive(Default)]
struct Head {
    /// Queries, keys and values in the role of keys.
    keys: [Packed; 3],
    values: Packed,
    /// What queries, keys and values were multiplied by.
    factors: [f32; 3],
    rows: Buffer,
}

/// The block that a thread works on.
#[derive(Default)]
struct Thread {
    queries: Buffer,
    scores: Buffer,
    weights: Buffer,
}

/// Words as the pairs of 16-bit numbers that they hold, in the order of memory.
fn halves(words: &[u32]) -> &[u16] {
    // SAFETY: a word is two halves, which need less alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 2 * words.len()) }
}

/// Turns the words of [`PANEL`] rows into those of a panel.
///
/// # Safety
/// The processor must have the instruction set, and the caller must be compiled for it.
#[inline(always)]
pub(crate) unsafe fn transpose<S: Simd>(rows: &[u32], stride: usize, panel: &mut [u32]) {
    let depth = panel.len() / PANEL;
    assert!(
        depth.is_multiple_of(Buffer::LINE) && depth <= stride && rows.len() >= PANEL * stride,
        "panels and rows of other sizes"
    );
    for row in (0..PANEL).step_by(S::LANES) {
        for word in (0..depth).step_by(S::LANES) {
            // SAFETY: both squares lie within their slices, see above; a line has a whole number
            // of vectors.
            unsafe {
                let from = rows.as_ptr().add(row * stride + word);
                S::transpose(
                    from,
                    stride,
                    panel.as_mut_ptr().add(word * PANEL + row),
                    PANEL,
                );
            }
        }
    }
}

/// The largest magnitude of the first `width` numbers of rows that are `stride` numbers apart.
///
/// # Safety
/// The processor must have the instruction set, and the caller must be compiled for it.
#[inline(always)]
pub(crate) unsafe fn largest<S: Simd>(rows: &[f32], width: usize, stride: usize) -> f32 {
    // SAFETY: the caller vouches for the instruction set; `load` keeps to the slice.
    unsafe {
        let mut most = S::splat(0.0);
        for start in (0..rows.len()).step_by(stride) {
            let row = &rows[start..(start + width).min(rows.len())];
            for at in (0..row.len()).step_by(S::LANES) {
                most = S::max(most, S::abs(load::<S>(row, at)));
            }
        }
        S::largest(most)
    }
}

/// The softmax of one row of scores.
pub(crate) struct Softmax {
    /// Scores in the row.
    pub(crate) count: usize,
    /// What scores are multiplied by, log2(e) included.
    pub(crate) factor: f32,
}

/// Writes the exponentials of a row of scores, less the largest, and returns their sum. Words
/// after the last become zeros.
///
/// # Safety
/// The processor must have the instruction set, and the caller must be compiled for it.
#[inline(always)]
pub(crate) unsafe fn softmax<D: Dot>(job: &Softmax, row: &mut [f32], words: &mut [u32]) -> f32 {
    let Softmax { count, factor } = *job;
    let lanes = D::Simd::LANES;
    // Whole vectors: the scores of the padding are as small as can be.
    let padded = count.next_multiple_of(lanes);
    assert!(
        words.len() * D::Rows::FORMAT.per_word() >= padded,
        "too few words for a row of scores"
    );
    row[count..padded].fill(f32::MIN);
    // SAFETY: the row has whole vectors of scores, and there are as many words as they need, see
    // above.
    unsafe {
        // Four maxima, that do not wait for each other.
        let mut most = [D::Simd::splat(f32::MIN); 4];
        let vectors = padded / lanes;
        for at in (0..vectors / 4 * 4).step_by(4) {
            for (i, most) in most.iter_mut().enumerate() {
                let scores = D::Simd::load(row.as_ptr().add((at + i) * lanes));
                *most = D::Simd::max(*most, scores);
            }
        }
        for at in vectors / 4 * 4..vectors {
            most[0] = D::Simd::max(most[0], D::Simd::load(row.as_ptr().add(at * lanes)));
        }
        let most = D::Simd::max(
            D::Simd::max(most[0], most[1]),
            D::Simd::max(most[2], most[3]),
        );
        let offset = D::Simd::splat(-D::Simd::largest(most) * factor);
        let factor = D::Simd::splat(factor);
        let bytes = words.as_mut_ptr().cast::<u8>();
        let size = 4 / D::Rows::FORMAT.per_word();
        let mut total = D::Simd::splat(0.0);
        for at in (0..padded).step_by(lanes) {
            let x = D::Simd::fma(D::Simd::load(row.as_ptr().add(at)), factor, offset);
            let power = match D::Rows::FORMAT {
                Format::F32 => exp2::<D::Simd>(x),
                _ => exp2_rough::<D::Simd>(x),
            };
            total = D::Simd::add(total, power);
            D::Simd::narrow(power, D::Rows::FORMAT, bytes.add(at * size));
        }
        let done = padded * size;
        std::ptr::write_bytes(bytes.add(done), 0, words.len() * 4 - done);
        D::Simd::total(total)
    }
}
