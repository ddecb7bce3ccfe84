//! Memory that starts on a cache line, which the kernels read as 32-bit words: one float32, two
//! 16-bit floats or four 8-bit integers.

use std::collections::TryReserveError;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; Buffer::LINE]);

/// A growing piece of aligned memory; it keeps its size, so that a second pass over a network
/// allocates nothing.
#[derive(Default, Clone)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// Words in a cache line.
    pub(crate) const LINE: usize = 16;

    /// A buffer of at least `words` zeros.
    pub(crate) fn zeros(words: usize) -> Self {
        let mut buffer = Self::default();
        buffer.reserve(words);
        buffer
    }

    /// Grows to at least `words`; what is new is zero.
    pub(crate) fn reserve(&mut self, words: usize) {
        let lines = words.div_ceil(Self::LINE);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; Self::LINE]));
        }
    }

    /// As [`reserve`](Self::reserve), for sizes that come from outside.
    pub(crate) fn try_reserve(&mut self, words: usize) -> Result<(), TryReserveError> {
        let lines = words.div_ceil(Self::LINE);
        let more = lines.saturating_sub(self.lines.len());
        self.lines.try_reserve_exact(more)?;
        self.reserve(words);
        Ok(())
    }

    /// All words as bytes, in the machine's order.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: a line is 4 * LINE bytes without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), 4 * self.len()) }
    }

    /// All words as bytes, to be changed.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: a line is 4 * LINE bytes without padding, and any bytes are valid words.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), 4 * len) }
    }

    /// All words.
    pub(crate) fn words(&self) -> &[u32] {
        // SAFETY: a line is LINE words without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len()) }
    }

    /// All words, to be changed.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        let len = self.len();
        // SAFETY: a line is LINE words without padding.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    /// All words as float32.
    pub(crate) fn floats(&self) -> &[f32] {
        // SAFETY: every word is a valid f32, and both types have one size and alignment.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len()) }
    }

    /// All words as float32, to be changed.
    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        let len = self.len();
        // SAFETY: every word is a valid f32, and both types have one size and alignment.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    fn len(&self) -> usize {
        self.lines.len() * Self::LINE
    }
}
