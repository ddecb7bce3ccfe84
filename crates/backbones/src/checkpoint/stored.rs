//! A tensor that still lies in its file: where its elements are, and of what type.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{Device, Tensor, WithDType};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use rayon::prelude::*;

use super::data::Data;
use crate::BackboneError;

/// Half-precision values that are widened at a time.
const CHUNK: usize = 4096;

/// The type of a stored element, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    Bf16,
    F32,
    F64,
    I32,
    I64,
    U8,
}

impl Element {
    /// Bytes of one element.
    pub(super) fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

/// A tensor in a file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    data: Data,
    element: Element,
    /// From the first byte of the first element to the last byte of the last one.
    bytes: Range<usize>,
    shape: Vec<usize>,
    /// Steps in elements.
    strides: Vec<usize>,
}

impl Stored {
    /// The tensor whose elements lie without gaps in `bytes` of `data`.
    ///
    /// Says what is wrong if they do not fit there.
    pub(super) fn contiguous(
        data: &Data,
        bytes: Range<usize>,
        element: Element,
        shape: Vec<usize>,
    ) -> Result<Self, String> {
        let strides = row_major(&shape);
        Self::view(data, bytes, element, 0, shape, strides)
    }

    /// A view into the storage `bytes` of `data`: `offset` and `strides` are counted in elements.
    ///
    /// Says what is wrong if the view leaves its storage, has more elements than that, or has none
    /// but a side longer than the file: an empty tensor's shape could claim any size.
    pub(super) fn view(
        data: &Data,
        bytes: Range<usize>,
        element: Element,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Result<Self, String> {
        if bytes.start > bytes.end || bytes.end > data.len() {
            return Err("its data are not in the file".to_owned());
        }
        let storage = bytes.len() / element.size();
        let outside = || {
            format!(
                "the shape {shape:?} with strides {strides:?} from element {offset} on does not \
                 fit into its {storage} stored elements"
            )
        };
        if shape.len() != strides.len() {
            return Err(outside());
        }
        if shape.contains(&0) && shape.iter().any(|&side| side > data.len()) {
            return Err(format!("its shape {shape:?} has no elements"));
        }
        let count = count(&shape).ok_or_else(outside)?;
        let span = shape
            .iter()
            .zip(&strides)
            .try_fold(1_usize, |span, (&side, &stride)| {
                span.checked_add(side.saturating_sub(1).checked_mul(stride)?)
            })
            .map(|span| if count == 0 { 0 } else { span })
            .ok_or_else(outside)?;
        let end = offset.checked_add(span).ok_or_else(outside)?;
        if end > storage || count > storage {
            return Err(outside());
        }
        let start = bytes.start;
        Ok(Self {
            data: data.clone(),
            element,
            bytes: start + offset * element.size()..start + end * element.size(),
            shape,
            strides,
        })
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes that the elements have together.
    pub(super) fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.element.size()
    }

    /// The tensor on the CPU: floating-point elements as float32, whole numbers as they are.
    ///
    /// # Errors
    /// [`BackboneError::Read`] if the file is not what it was any more.
    pub(super) fn tensor(&self) -> Result<Tensor, BackboneError> {
        let bytes = self.gathered()?;
        let shape = &self.shape;
        Ok(match self.element {
            Element::F16 => widen(&bytes, shape, |bits, out| {
                bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
            }),
            Element::Bf16 => widen(&bytes, shape, |bits, out| {
                bits.reinterpret_cast::<bf16>().convert_to_f32_slice(out);
            }),
            Element::F32 => decode(&bytes, shape, f32::from_le_bytes),
            Element::F64 => decode(&bytes, shape, |word| f64::from_le_bytes(word) as f32),
            Element::I32 => decode(&bytes, shape, i32::from_le_bytes),
            Element::I64 => decode(&bytes, shape, i64::from_le_bytes),
            Element::U8 => Tensor::from_vec(bytes.into_owned(), &shape[..], &Device::Cpu),
        }?)
    }

    /// The elements' bytes in row-major order.
    fn gathered(&self) -> Result<Cow<'_, [u8]>, BackboneError> {
        let Self { shape, strides, .. } = self;
        let bytes = self.data.read(self.bytes.clone())?;
        let gapless = shape
            .iter()
            .zip(strides)
            .zip(row_major(shape))
            .all(|((&side, &stride), natural)| side == 1 || stride == natural);
        if bytes.is_empty() || gapless {
            return Ok(bytes);
        }
        let size = self.element.size();
        let mut gathered = Vec::with_capacity(self.size());
        let mut index = vec![0; shape.len()];
        let mut at = 0;
        for _ in 0..shape.iter().product() {
            gathered.extend_from_slice(&bytes[at * size..][..size]);
            // To the next index, the last axis first.
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                at += strides[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                at -= strides[axis] * shape[axis];
                index[axis] = 0;
            }
        }
        Ok(Cow::Owned(gathered))
    }
}

/// The number of elements, unless it overflows.
fn count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |count, &side| count.checked_mul(side))
}

/// Strides of a tensor without gaps.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = shape[axis].saturating_mul(strides[axis]);
    }
    strides
}

fn decode<const SIZE: usize, T: WithDType + Send>(
    bytes: &[u8],
    shape: &[usize],
    value: impl Fn([u8; SIZE]) -> T + Sync,
) -> candle_core::Result<Tensor> {
    let (words, _) = bytes.as_chunks::<SIZE>();
    let values: Vec<T> = words.par_iter().map(|&word| value(word)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Half-precision values to float32, which is exact.
fn widen(
    bytes: &[u8],
    shape: &[usize],
    convert: impl Fn(&[u16], &mut [f32]) + Sync,
) -> candle_core::Result<Tensor> {
    let (words, _) = bytes.as_chunks::<2>();
    let mut values = vec![0_f32; words.len()];
    values
        .par_chunks_mut(CHUNK)
        .zip(words.par_chunks(CHUNK))
        .for_each(|(values, words)| {
            let mut bits = [0_u16; CHUNK];
            let bits = &mut bits[..words.len()];
            for (bits, &word) in bits.iter_mut().zip(words) {
                *bits = u16::from_le_bytes(word);
            }
            convert(bits, values);
        });
    Tensor::from_vec(values, shape, &Device::Cpu)
}
