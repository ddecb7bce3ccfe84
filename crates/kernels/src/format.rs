//! How numbers are held in the 32-bit words of an operand, and the scalar conversions, which the
//! vector ones are tested against.

use half::{bf16, f16};

use crate::buffer::Buffer;

/// The numbers in one word of a product's operands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
// Other processors have kernels for some of them.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) enum Format {
    /// One float32.
    #[default]
    F32,
    /// Two bfloat16.
    Bf16,
    /// Two float16. Rows are scaled by powers of two, so that no sum can overflow.
    F16,
    /// Four 8-bit integers: activations with 128 added, weights signed.
    Int8,
    /// The activations of [`Int8`](Self::Int8) in 16 bits each, for processors that multiply no
    /// narrower ones: of every four the first and the third in one word, the others in the next.
    Int16,
}

/// A format that is known when code is compiled.
pub(crate) trait Holds {
    /// Which one.
    const FORMAT: Format;
}

macro_rules! holds {
    ($($name:ident)*) => {
        $(
            /// The format of the same name.
            #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
            pub(crate) struct $name;

            impl Holds for $name {
                const FORMAT: Format = Format::$name;
            }
        )*
    };
}

holds!(F32 Bf16 F16 Int8 Int16);

/// The largest magnitude of a float16 operand after scaling. A sum of [`F16_TERMS`] products of
/// two such numbers stays below the largest float16, 65504.
const F16_LARGEST: f32 = 16.0;

/// Products that are summed in float16 before the sum moves to float32. Rounding then costs less
/// than the rounding of operands to bfloat16 does, and about as much where one product outweighs
/// all others.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) const F16_TERMS: usize = 128;

/// What activations have added in [`Format::Int8`].
pub(crate) const INT8_OFFSET: i32 = 128;

/// The largest activation in [`Format::Int8`], what is added included.
pub(crate) const INT8_LARGEST: f32 = 255.0;

impl Format {
    /// Its name, for people and for names of files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
        }
    }

    /// Whether it holds integers, those of activations with [`INT8_OFFSET`] added.
    pub(crate) fn whole(self) -> bool {
        matches!(self, Self::Int8 | Self::Int16)
    }

    /// Its number in saved weights.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Bf16 => 1,
            Self::F16 => 2,
            Self::Int8 => 3,
            Self::Int16 => 4,
        }
    }

    /// The format of a number in saved weights.
    pub(crate) fn of_code(code: u32) -> Option<Self> {
        let all = [Self::F32, Self::Bf16, Self::F16, Self::Int8];
        all.into_iter().find(|format| format.code() == code)
    }

    /// The numbers of a word of weights, in their order.
    pub(crate) fn weights(self, word: u32) -> impl Iterator<Item = f32> {
        (0..self.per_word() as u32).map(move |i| match self {
            Self::F32 => f32::from_bits(word),
            Self::Bf16 => bf16::from_bits((word >> (16 * i)) as u16).to_f32(),
            Self::F16 => f16::from_bits((word >> (16 * i)) as u16).to_f32(),
            Self::Int8 => f32::from((word >> (8 * i)) as i8),
            Self::Int16 => f32::from((word >> (16 * i)) as i16),
        })
    }

    /// What a layer may write for one that computes in this format: the format itself, or float32
    /// where a row must be complete before it can be converted.
    pub(crate) fn between_layers(self) -> Self {
        match self {
            Self::F32 | Self::Bf16 => self,
            Self::F16 | Self::Int8 | Self::Int16 => Self::F32,
        }
    }

    /// Numbers in a word.
    pub(crate) const fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::F16 | Self::Int16 => 2,
            Self::Int8 => 4,
        }
    }

    /// Words for `count` numbers.
    pub(crate) fn words(self, count: usize) -> usize {
        match self {
            Self::Int16 => 2 * count.div_ceil(4),
            _ => count.div_ceil(self.per_word()),
        }
    }

    /// Whether `count` numbers fill cache lines, so that no words follow that would have to be zero.
    pub(crate) fn whole_lines(self, count: usize) -> bool {
        count.is_multiple_of(Buffer::LINE * self.per_word())
    }

    /// The factor for numbers up to `largest` in magnitude before they are converted.
    pub(crate) fn factor(self, largest: f32) -> f32 {
        match self {
            Self::F32 | Self::Bf16 => 1.0,
            // The power of two that brings the largest number into [8, 16).
            Self::F16 if largest.is_normal() => {
                let exponent = ((largest.to_bits() >> 23) & 0xff) as i32 - 127;
                let wanted = F16_LARGEST.log2() as i32 - 1 - exponent;
                f32::from_bits(((wanted.clamp(-126, 126) + 127) as u32) << 23)
            }
            Self::Int8 | Self::Int16 if largest.is_normal() => (127.0 / largest).min(f32::MAX),
            Self::F16 | Self::Int8 | Self::Int16 => 1.0,
        }
    }

    /// `values` in this format, as activations.
    pub(crate) fn convert(self, values: &[f32], words: &mut [u32]) {
        for (i, word) in words.iter_mut().enumerate() {
            let number = |j: usize| values.get(i * self.per_word() + j).copied().unwrap_or(0.0);
            let halves = |convert: fn(f32) -> u16| {
                u32::from(convert(number(0))) | u32::from(convert(number(1))) << 16
            };
            *word = match self {
                Self::F32 => number(0).to_bits(),
                Self::Bf16 => halves(|x| bf16::from_f32(x).to_bits()),
                Self::F16 => halves(|x| f16::from_f32(x).to_bits()),
                Self::Int8 => {
                    let byte = |j| (number(j).round_ties_even() as i32 + INT8_OFFSET) as u8;
                    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
                }
                Self::Int16 => {
                    // The first and the third of a group of four, or the second and the fourth.
                    let number = |j: usize| values.get(i / 2 * 4 + j).copied().unwrap_or(0.0);
                    let wide = |j| (number(j).round_ties_even() as i32 + INT8_OFFSET) as u16;
                    u32::from(wide(i % 2)) | u32::from(wide(i % 2 + 2)) << 16
                }
            };
        }
    }
}
