//! Columns of numbers packed into panels, the way the products read them.

use crate::buffer::Buffer;
use crate::format::{Format, INT8_OFFSET};
use crate::kernel::Kernel;
use crate::parallel::{Shared, Workers};
use crate::product::PANEL;
use crate::rows::{Conversion, Rows};
use crate::saved::{Reader, SavedError, Words};

/// Columns of words in panels.
#[derive(Default)]
pub(crate) struct Packed {
    words: Words,
    columns: usize,
    /// Words in a column, filled up to whole cache lines with zeros.
    pub(crate) depth: usize,
}

impl Packed {
    pub(crate) fn new(columns: usize, depth: usize) -> Self {
        let mut packed = Self::default();
        packed.resize(columns, depth);
        packed
    }

    /// Takes on another size; what was there is lost, and padding may not be zero where the
    /// size is not that of the call before.
    pub(crate) fn resize(&mut self, columns: usize, depth: usize) {
        let depth = depth.next_multiple_of(Buffer::LINE);
        if (self.columns, self.depth) != (columns, depth) {
            (self.columns, self.depth) = (columns, depth);
            let count = self.count() * depth * PANEL;
            let words = self.own();
            words.words_mut().fill(0);
            words.reserve(count);
        }
    }

    /// The panels that `reader` gives.
    pub(crate) fn read(
        reader: &mut Reader,
        columns: usize,
        depth: usize,
    ) -> Result<Self, SavedError> {
        let depth = depth.next_multiple_of(Buffer::LINE);
        let words = columns.next_multiple_of(PANEL).checked_mul(depth);
        Ok(Self {
            words: reader.shared(words.unwrap_or(usize::MAX))?,
            columns,
            depth,
        })
    }

    /// All words, panel after panel.
    pub(crate) fn words(&self) -> &[u32] {
        &self.words.get()[..self.count() * self.depth * PANEL]
    }

    /// The words, to be changed: what was shared is forgotten.
    fn own(&mut self) -> &mut Buffer {
        if let Words::Shared(..) = self.words {
            self.words = Words::default();
        }
        match &mut self.words {
            Words::Own(buffer) => buffer,
            Words::Shared(..) => unreachable!("replaced above"),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.columns.div_ceil(PANEL)
    }

    /// Converts weights, rows of `inputs` numbers, each of which becomes a column. Writes what
    /// undoes each column's scaling and the sums to start from.
    pub(crate) fn fill(
        &mut self,
        kernel: &Kernel,
        weight: &[f32],
        inputs: usize,
        factors: &mut [f32],
        starts: &mut [u32],
    ) {
        let (count, depth) = (self.count(), self.depth);
        let panels = Shared::new(self.own().words_mut());
        let factors = Shared::new(factors);
        let starts = Shared::new(starts);
        let stride = Rows::stride(inputs, kernel.format);
        let used = kernel.format.words(inputs);
        Workers::Pool.for_each(count, |panel| {
            // SAFETY: each panel and its columns belong to one task.
            let (to, factors, starts) = unsafe {
                (
                    panels.part(panel * depth * PANEL, depth * PANEL),
                    factors.part(panel * PANEL, PANEL),
                    starts.part(panel * PANEL, PANEL),
                )
            };
            let mut rows = Buffer::zeros(PANEL * stride);
            let weights = weight.chunks_exact(inputs).skip(panel * PANEL);
            let words = rows.words_mut().chunks_exact_mut(stride);
            for (((input, words), factor), start) in
                weights.zip(words).zip(factors).zip(starts.iter_mut())
            {
                let job = Conversion {
                    input,
                    norm: None,
                    factor: None,
                    lowest: None,
                };
                // SAFETY: a kernel is only made where its instruction set is there.
                *factor = unsafe { (kernel.pack)(&job, words) };
                if kernel.format == Format::Int8 {
                    // Rows are made for activations, which have an offset.
                    words[used..].fill(0);
                    let mut total = 0;
                    for word in &mut words[..used] {
                        *word ^= 0x8080_8080;
                        let bytes = word.to_le_bytes().map(|byte| i32::from(byte as i8));
                        total += bytes.iter().sum::<i32>();
                    }
                    *start = (-INT8_OFFSET * total) as u32;
                }
            }
            // SAFETY: as above.
            unsafe { (kernel.transpose)(rows.words(), stride, to) };
        });
    }

    pub(crate) fn panel(&self, panel: usize) -> *const u32 {
        self.words.get()[panel * self.depth * PANEL..].as_ptr()
    }

    /// All words of a panel.
    pub(crate) fn panel_mut(&mut self, panel: usize) -> &mut [u32] {
        let size = self.depth * PANEL;
        &mut self.own().words_mut()[panel * size..(panel + 1) * size]
    }

    /// The numbers of a column, without their scaling.
    pub(crate) fn column(&self, format: Format, column: usize, count: usize) -> Vec<f32> {
        let (panel, column) = (column / PANEL, column % PANEL);
        let words = &self.words.get()[panel * self.depth * PANEL..];
        let words = words.iter().skip(column).step_by(PANEL);
        let numbers = words.flat_map(|&word| format.weights(word));
        numbers.take(count).collect()
    }
}
