//! A linear layer with packed weights: `W x + b` with what comes before it (layer norm) and after
//! it (activation or residual).

use std::io;
use std::ops::Range;

use crate::buffer::Buffer;
use crate::engine::{Engine, Precision};
use crate::error::ShapeError;
use crate::format::{Format, INT8_OFFSET};
use crate::kernel::Kernel;
use crate::packed::Packed;
use crate::parallel::{Parallel, Workers};
use crate::product::{Epilogue, Layer, PANEL, Product, SharedTarget, Sink, Target};
use crate::rows::{LayerNorm, Rows, Values};
use crate::saved::{Reader, SavedError, Writer};
use crate::unpacked::Unpacked;

/// Words of activations that one task works on: half a second-level cache of 2 MiB, so that a
/// panel of weights fits beside them.
const CACHED_WORDS: usize = 256 * 1024;

/// Tasks per thread: enough to even out threads that are interrupted.
const TASKS_PER_THREAD: usize = 4;

/// Weights `[outputs, inputs]` packed for one kernel, and the bias.
pub struct PackedLinear {
    kernel: &'static Kernel,
    inputs: usize,
    outputs: usize,
    panels: Packed,
    /// Per column, what undoes the scaling of its weights.
    factors: Option<Vec<f32>>,
    /// Per column, what undoes the offset of 8-bit activations.
    start: Option<Buffer>,
    /// The same for a kernel that takes off the offset itself.
    signed_start: Option<Buffer>,
    bias: Vec<f32>,
    /// No input is below this. Only of 8-bit layers, whose bias has taken it in.
    lowest: Option<f32>,
}

impl PackedLinear {
    /// Packs `weight`, `[outputs, inputs]` row by row; the number of outputs is that of the bias.
    ///
    /// # Errors
    /// [`ShapeError`] if the weight's length is no multiple of the bias's.
    pub fn new(
        engine: Engine,
        precision: Precision,
        weight: &[f32],
        bias: &[f32],
    ) -> Result<Self, ShapeError> {
        Self::with_kernel(engine.kernel(precision), weight, bias)
    }

    pub(crate) fn with_kernel(
        kernel: &'static Kernel,
        weight: &[f32],
        bias: &[f32],
    ) -> Result<Self, ShapeError> {
        let outputs = bias.len();
        let inputs = weight.len().checked_div(outputs).unwrap_or(0);
        if inputs == 0 || inputs * outputs != weight.len() {
            return Err(ShapeError {
                what: "weight of a layer",
                expected: inputs.max(1) * outputs.max(1),
                found: weight.len(),
            });
        }
        let format = kernel.format;
        let columns = outputs.next_multiple_of(PANEL);
        let mut panels = Packed::new(outputs, format.words(inputs));
        let scaled = matches!(format, Format::F16 | Format::Int8);
        let mut factors = vec![1.0; columns];
        let mut start = Buffer::zeros(columns);
        panels.fill(kernel, weight, inputs, &mut factors, start.words_mut());
        let mut padded = bias.to_vec();
        padded.resize(columns, 0.0);
        Ok(Self {
            kernel,
            inputs,
            outputs,
            panels,
            factors: scaled.then_some(factors),
            start: (format == Format::Int8).then_some(start),
            signed_start: None,
            bias: padded,
            lowest: None,
        }
        .started())
    }

    /// The same layer for inputs that are never below `lowest`, itself not above zero: 8-bit
    /// activations are then twice as fine where few are negative, as after GELU.
    pub(crate) fn above(mut self, lowest: f32) -> Self {
        let Some((factors, start)) = self.factors.as_ref().zip(self.start.as_mut()) else {
            return self;
        };
        let columns = self.bias.iter_mut().zip(factors).zip(start.words_mut());
        for ((bias, factor), start) in columns {
            let weights = *start as i32 / -INT8_OFFSET;
            *bias += lowest * factor * weights as f32;
            *start = 0;
        }
        self.lowest = Some(lowest);
        self.started()
    }

    /// With what its kernel starts from: one that takes off the offset of activations gets back
    /// what the offset would have added.
    fn started(mut self) -> Self {
        if let Some(start) = self.start.as_ref().filter(|_| self.kernel.signed) {
            let mut signed = start.clone();
            for (column, start) in signed.words_mut()[..self.outputs].iter_mut().enumerate() {
                let weights = self.panels.column(Format::Int8, column, self.inputs);
                let total = weights.into_iter().map(|x| x as i32).sum::<i32>();
                *start = start.wrapping_add((INT8_OFFSET * total) as u32);
            }
            self.signed_start = Some(signed);
        }
        self
    }

    /// Writes the packed layer.
    pub(crate) fn write(&self, to: &mut Writer) -> io::Result<()> {
        let sizes = [
            self.kernel.format.code(),
            self.inputs as u32,
            self.outputs as u32,
            self.lowest.unwrap_or(0.0).to_bits(),
        ];
        to.words(&sizes)?;
        to.words(self.panels.words())?;
        if let Some(factors) = &self.factors {
            to.floats(factors)?;
        }
        if let Some(start) = &self.start {
            to.words(&start.words()[..self.bias.len()])?;
        }
        to.floats(&self.bias)
    }

    /// Reads what [`write`](Self::write) has written, for any kernel.
    pub(crate) fn read(kernel: &'static Kernel, from: &mut Reader) -> Result<Self, SavedError> {
        let sizes = from.words(4)?;
        let (inputs, outputs) = (sizes[1] as usize, sizes[2] as usize);
        let lowest = Some(f32::from_bits(sizes[3])).filter(|&lowest| lowest < 0.0);
        let format = Format::of_code(sizes[0])
            .filter(|_| inputs > 0 && outputs > 0)
            .ok_or_else(|| SavedError(format!("a layer of format and sizes {sizes:?}")))?;
        let panels = Packed::read(from, outputs, format.words(inputs))?;
        let columns = outputs.next_multiple_of(PANEL);
        let factors = match format {
            Format::F16 | Format::Int8 | Format::Int16 => Some(from.floats(columns)?),
            Format::F32 | Format::Bf16 => None,
        };
        let start = match format {
            Format::Int8 => {
                let mut start = Buffer::zeros(columns);
                start.words_mut()[..columns].copy_from_slice(&from.words(columns)?);
                Some(start)
            }
            _ => None,
        };
        let bias = from.floats(columns)?;
        if format == kernel.format {
            return Ok(Self {
                kernel,
                inputs,
                outputs,
                panels,
                factors,
                start,
                signed_start: None,
                bias,
                lowest,
            }
            .started());
        }
        let weight = weights(&panels, format, (inputs, outputs), factors.as_deref());
        let bias = plain_bias(&weight, bias, lowest, (inputs, outputs));
        Self::with_kernel(kernel, &weight, &bias).map_err(|error| SavedError(error.to_string()))
    }

    /// The weights and the bias as float32.
    pub fn unpack(&self) -> Unpacked {
        let sizes = (self.inputs, self.outputs);
        let format = self.kernel.format;
        let weight = weights(&self.panels, format, sizes, self.factors.as_deref());
        let bias = plain_bias(&weight, self.bias.clone(), self.lowest, sizes);
        Unpacked { weight, bias }
    }

    /// Length of a row of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of a row of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// What computes the product, for people.
    pub fn kernel_name(&self) -> &'static str {
        self.kernel.name
    }

    /// `output = epilogue(W norm(input) + b)` for rows of `inputs` numbers; of
    /// [`Epilogue::SwiGlu`] rows of half as many numbers as there are outputs.
    ///
    /// # Panics
    /// If the input is no whole number of rows, the output has another number of rows, or the
    /// layer norm has another width than the rows.
    pub fn forward(
        &self,
        input: &[f32],
        norm: Option<&LayerNorm>,
        output: &mut [f32],
        epilogue: Epilogue,
        scratch: &mut LinearScratch,
        parallel: Parallel,
    ) {
        self.forward_by(input, norm, output, epilogue, scratch, parallel.into());
    }

    /// [`forward`](Self::forward) by any workers.
    pub(crate) fn forward_by(
        &self,
        input: &[f32],
        norm: Option<&LayerNorm>,
        output: &mut [f32],
        epilogue: Epilogue,
        scratch: &mut LinearScratch,
        workers: Workers,
    ) {
        let values = self.values(input);
        let target = self.target(output, values.count, epilogue);
        let rows = &mut scratch.rows;
        rows.fill(self.kernel, values, norm, self.lowest, workers);
        self.multiply(rows, values.count, target, epilogue, workers);
    }

    /// [`forward`](Self::forward) for something that computes in `next`.
    pub(crate) fn forward_to(
        &self,
        (output, next): (&mut Rows, Format),
        input: &[f32],
        norm: Option<&LayerNorm>,
        epilogue: Epilogue,
        scratch: &mut LinearScratch,
        workers: Workers,
    ) {
        let values = self.values(input);
        let width = epilogue.columns(self.outputs);
        let format = match next.between_layers() {
            format if Target::takes(format, epilogue, width) => format,
            _ => Format::F32,
        };
        let target = output.target(values.count, width, format);
        let rows = &mut scratch.rows;
        rows.fill(self.kernel, values, norm, self.lowest, workers);
        self.multiply(rows, values.count, target, epilogue, workers);
    }

    /// [`forward`](Self::forward) from what [`forward_to`](Self::forward_to) and
    /// attention have written.
    pub(crate) fn forward_from(
        &self,
        input: &Rows,
        output: &mut [f32],
        epilogue: Epilogue,
        scratch: &mut LinearScratch,
        workers: Workers,
    ) {
        let count = output.len() / epilogue.columns(self.outputs);
        let target = self.target(output, count, epilogue);
        input.require(count, self.inputs);
        let rows =
            match self.kernel.input == input.format() && input.format().whole_lines(self.inputs) {
                true => input,
                false => {
                    let values = input.values(count, self.inputs);
                    let rows = &mut scratch.rows;
                    rows.fill(self.kernel, values, None, self.lowest, workers);
                    rows
                }
            };
        self.multiply(rows, count, target, epilogue, workers);
    }

    /// The format of its rows.
    pub(crate) fn input_format(&self) -> Format {
        self.kernel.input
    }

    fn values<'a>(&self, input: &'a [f32]) -> Values<'a> {
        let values = Values::new(input, self.inputs);
        let length = values.count * self.inputs;
        assert_eq!(length, input.len(), "input of broken rows");
        values
    }

    fn target(&self, output: &mut [f32], count: usize, epilogue: Epilogue) -> Target {
        let width = epilogue.columns(self.outputs);
        assert_eq!(count * width, output.len(), "output of other rows");
        Target {
            start: output.as_mut_ptr().cast(),
            stride: width,
            format: Format::F32,
        }
    }

    /// The layer of the first `count` of `rows`.
    fn multiply(
        &self,
        rows: &Rows,
        count: usize,
        target: Target,
        epilogue: Epilogue,
        workers: Workers,
    ) {
        assert!(
            epilogue != Epilogue::SwiGlu || self.outputs.is_multiple_of(PANEL),
            "gates and values fill whole panels"
        );
        let (block, columns) = self.split(count, workers);
        let target = SharedTarget(target);
        workers.for_each(count.div_ceil(block) * columns, |task| {
            let first = task / columns * block;
            let factors = &rows.factors()[first..first + block.min(count - first)];
            let start = (rows.row(first), rows.row_stride());
            let parts = (task % columns, columns);
            let target = target.from(first, 0);
            // SAFETY: rows are readable up to whole tiles; the tasks' rows and panels tile the
            // target without overlap.
            unsafe { self.multiply_part(start, factors, target, epilogue, parts) }
        });
    }

    /// The layer of as many rows as there are factors, in the kernel's format, from a place in
    /// memory on and so many words apart: the part `part` of `parts` of its panels.
    ///
    /// # Safety
    /// Rows must be readable up to whole tiles, `target` valid for a row of all outputs for each,
    /// and nobody else may use these outputs meanwhile.
    pub(crate) unsafe fn multiply_part(
        &self,
        rows: (*const u32, usize),
        row_factors: &[f32],
        target: Target,
        epilogue: Epilogue,
        (part, parts): (usize, usize),
    ) {
        let panel_count = self.panels.count();
        let from = part * panel_count / parts;
        let to = (part + 1) * panel_count / parts;
        let target = SharedTarget(target).from(0, epilogue.columns(from * PANEL));
        // SAFETY: as for this function.
        unsafe { self.multiply_panels(rows, row_factors, target, epilogue, from..to, None) }
    }

    /// The same for some panels, the first of whose outputs is where `target` starts. Rows may come in
    /// several parts: where these begin in a row, and the words of each.
    ///
    /// # Safety
    /// As for [`multiply_part`](Self::multiply_part).
    pub(crate) unsafe fn multiply_panels(
        &self,
        (rows, stride): (*const u32, usize),
        row_factors: &[f32],
        to: Target,
        epilogue: Epilogue,
        panels: Range<usize>,
        parts: Option<(&[usize], usize)>,
    ) {
        let words = self.kernel.input.words(self.inputs);
        let (parts, used) = parts.unwrap_or((&[0], words));
        assert!(panels.end <= self.panels.count(), "no such panel");
        assert!(parts.len() * used == words, "parts that do not make a row");
        let column = panels.start * PANEL;
        let job = Product {
            rows,
            stride,
            row_count: row_factors.len(),
            panels: self.panels.panel(panels.start),
            panel_count: panels.len(),
            depth: self.panels.depth,
            parts,
            used,
            start: (self.signed_start.as_ref().or(self.start.as_ref()))
                .map(|start| start.words()[column..].as_ptr().cast()),
            sink: Sink::Layer(Layer {
                row_factors,
                column_factors: self.factors.as_ref().map(|factors| &factors[column..]),
                bias: Some(&self.bias[column..]),
                last: epilogue,
                to,
                columns: self.outputs - column,
            }),
        };
        // SAFETY: a kernel is only made where its instruction set is there; the caller vouches for
        // rows and target.
        unsafe { (self.kernel.product)(&job) }
    }

    /// What computes the product.
    pub(crate) fn kernel(&self) -> &'static Kernel {
        self.kernel
    }

    /// What no input is below.
    pub(crate) fn lowest(&self) -> Option<f32> {
        self.lowest
    }

    /// Panels of outputs.
    pub(crate) fn panels(&self) -> usize {
        self.panels.count()
    }

    /// Rows of a task, and in how many parts the panels are cut.
    fn split(&self, rows: usize, workers: Workers) -> (usize, usize) {
        let tile = self.kernel.rows;
        let cached = (CACHED_WORDS / self.panels.depth).max(tile);
        let blocks = rows.div_ceil(cached).max(1);
        let block = rows.div_ceil(blocks).next_multiple_of(tile);
        let blocks = rows.div_ceil(block).max(1);
        let columns = match workers.threads() {
            1 => 1,
            threads => (threads * TASKS_PER_THREAD).div_ceil(blocks),
        };
        (block, columns.clamp(1, self.panels.count()))
    }
}

/// The weights in `panels` with their scaling, `[outputs, inputs]`.
fn weights(
    panels: &Packed,
    format: Format,
    (inputs, outputs): (usize, usize),
    factors: Option<&[f32]>,
) -> Vec<f32> {
    let weight = (0..outputs).flat_map(|column| {
        let factor = factors.map_or(1.0, |factors| factors[column]);
        let numbers = panels.column(format, column, inputs);
        numbers.into_iter().map(move |x| x * factor)
    });
    weight.collect()
}

/// The bias without what it has taken in of the lowest input.
fn plain_bias(
    weight: &[f32],
    mut bias: Vec<f32>,
    lowest: Option<f32>,
    (inputs, outputs): (usize, usize),
) -> Vec<f32> {
    bias.truncate(outputs);
    if let Some(lowest) = lowest {
        for (bias, column) in bias.iter_mut().zip(weight.chunks_exact(inputs)) {
            *bias -= lowest * column.iter().sum::<f32>();
        }
    }
    bias
}

/// Memory that linear layers work in; it keeps its size from call to call.
#[derive(Default)]
pub struct LinearScratch {
    pub(crate) rows: Rows,
}
