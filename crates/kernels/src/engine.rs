//! Which instructions this processor has, and which kernel a precision gets on it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::format::Format;
use crate::kernel::{self, Kernel};

/// The environment variable that chooses the instruction set.
pub const CPU_VARIABLE: &str = "ANOMALENS_CPU";

/// A family of instructions, from the plainest to the fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What every processor has.
    Portable,
    /// NEON.
    Neon,
    /// The 8-bit products of DotProd beside NEON.
    NeonDot,
    /// AVX2 and FMA.
    Avx2,
    /// The 8-bit products of AVX-VNNI beside AVX2.
    AvxVnni,
    /// AVX-512, with BF16, FP16 and VNNI where they are there.
    Avx512,
    /// The tiles of AMX beside AVX-512.
    Amx,
}

impl Isa {
    /// All of them, the fastest first.
    pub const ALL: [Self; 7] = [
        Self::Amx,
        Self::Avx512,
        Self::AvxVnni,
        Self::Avx2,
        Self::NeonDot,
        Self::Neon,
        Self::Portable,
    ];

    /// The name used in [`CPU_VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::NeonDot => "neon-dot",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// The name that processors' makers use.
    pub fn title(self) -> &'static str {
        match self {
            Self::Portable => "no vector instructions",
            Self::Neon => "NEON",
            Self::NeonDot => "NEON with DotProd",
            Self::Avx2 => "AVX2",
            Self::AvxVnni => "AVX-VNNI",
            Self::Avx512 => "AVX-512",
            Self::Amx => "AMX",
        }
    }

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::Avx512.available() && crate::amx::available(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        let found = Self::ALL.into_iter().find(|isa| isa.name() == name);
        found.ok_or_else(|| EngineError::Unknown(name.to_owned()))
    }
}

/// How exact the products are. Sums over a layer and everything between layers are float32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Float32.
    F32,
    /// 16-bit floating point: bfloat16, or float16 with rows scaled by powers of two and sums
    /// carried over to float32, whichever the processor is faster at.
    #[default]
    Half,
    /// 8-bit integers, weights scaled per channel and activations per token; attention as
    /// [`Half`](Self::Half).
    Int8,
}

impl Precision {
    /// All of them, the most exact first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Half, Self::Int8];

    /// The same for what 8 bits do not suit: pixels, attention, final tokens.
    pub(crate) fn wide(self) -> Self {
        match self {
            Self::Int8 => Self::Half,
            other => other,
        }
    }

    /// The name that users know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Half => "half",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| EngineError::UnknownPrecision(name.to_owned()))
    }
}

/// Why an engine is unavailable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No instruction set has this name.
    #[error(
        "{CPU_VARIABLE}: `{0}` is no instruction set; use amx, avx512, avx-vnni, avx2, neon-dot, neon or portable"
    )]
    Unknown(String),
    /// No precision has this name.
    #[error("`{0}` is no precision; use f32, half or int8")]
    UnknownPrecision(String),
    /// This machine lacks the instruction set.
    #[error("this machine has no {0}; leave {CPU_VARIABLE} empty for the fastest that it has")]
    Unavailable(Isa),
}

/// An instruction set that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Engine {
    isa: Isa,
}

impl Engine {
    /// The fastest that this machine has.
    pub fn detect() -> Self {
        let isa = Isa::ALL.into_iter().find(|isa| isa.available());
        Self {
            isa: isa.unwrap_or(Isa::Portable),
        }
    }

    /// The one named by [`CPU_VARIABLE`], or else the fastest.
    ///
    /// # Errors
    /// [`EngineError`] if the variable names none, or one that this machine lacks.
    pub fn from_env() -> Result<Self, EngineError> {
        match std::env::var(CPU_VARIABLE) {
            Ok(name) if !name.is_empty() => Self::new(name.parse()?),
            _ => Ok(Self::detect()),
        }
    }

    /// The engine of an instruction set.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] if this machine lacks it.
    pub fn new(isa: Isa) -> Result<Self, EngineError> {
        match isa.available() {
            true => Ok(Self { isa }),
            false => Err(EngineError::Unavailable(isa)),
        }
    }

    /// All engines of this machine, the fastest first.
    pub fn all() -> Vec<Self> {
        let engines = Isa::ALL.into_iter().filter_map(|isa| Self::new(isa).ok());
        engines.collect()
    }

    /// Its instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// What computes products of this precision, for people: `avx512 float16`.
    pub fn kernel_name(self, precision: Precision) -> &'static str {
        self.kernel(precision).name
    }

    /// The precision that runs where `precision` is asked for: a wider one where the processor has
    /// no instructions for it.
    pub fn runs(self, precision: Precision) -> Precision {
        match self.kernel(precision).format {
            Format::F32 => Precision::F32,
            Format::Bf16 | Format::F16 => Precision::Half,
            Format::Int8 | Format::Int16 => Precision::Int8,
        }
    }

    /// Whether products of [`Precision::Int8`] are computed with 8-bit integers.
    pub fn has_int8(self) -> bool {
        self.kernel(Precision::Int8).format == Format::Int8
    }

    /// The kernel for a precision. Where the processor has no instructions for a narrow one, a
    /// wider one takes its place.
    pub(crate) fn kernel(self, precision: Precision) -> &'static Kernel {
        kernel_of(self.isa, precision)
    }

    /// The kernel for attention, whose operands are both made on the way: where narrow weights do
    /// nothing but save memory it has none to save.
    pub(crate) fn attention(self, precision: Precision) -> &'static Kernel {
        let kernel = self.kernel(precision.wide());
        match kernel.input == kernel.format {
            true => kernel,
            false => self.kernel(Precision::F32),
        }
    }
}

#[cfg(target_arch = "aarch64")]
fn kernel_of(isa: Isa, precision: Precision) -> &'static Kernel {
    match (isa, precision) {
        (Isa::NeonDot, Precision::Int8) => &kernel::NEON_INT8,
        (Isa::NeonDot | Isa::Neon, _) => &kernel::NEON,
        _ => &kernel::PORTABLE,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn kernel_of(_: Isa, _: Precision) -> &'static Kernel {
    &kernel::PORTABLE
}

#[cfg(target_arch = "x86_64")]
fn kernel_of(isa: Isa, precision: Precision) -> &'static Kernel {
    match (isa, precision) {
        (Isa::Portable | Isa::Neon | Isa::NeonDot, _) => &kernel::PORTABLE,
        #[cfg(target_os = "linux")]
        (Isa::Amx, Precision::Half) => &crate::amx::BF16,
        #[cfg(target_os = "linux")]
        (Isa::Amx, Precision::Int8) => &crate::amx::INT8,
        (Isa::Avx2 | Isa::AvxVnni, Precision::F32) => &kernel::AVX2,
        (Isa::Avx2 | Isa::AvxVnni, Precision::Half) => &kernel::AVX2_BF16,
        (Isa::Avx2, Precision::Int8) => &kernel::AVX2_INT8,
        (Isa::AvxVnni, Precision::Int8) => &kernel::AVX_VNNI_INT8,
        (_, Precision::F32) => &kernel::AVX512_F32,
        (_, Precision::Int8) if is_x86_feature_detected!("avx512vnni") => &kernel::AVX512_INT8,
        _ if is_x86_feature_detected!("avx512fp16") => &kernel::AVX512_F16,
        _ if is_x86_feature_detected!("avx512bf16") => &kernel::AVX512_BF16,
        _ => &kernel::AVX512_F32,
    }
}

/// Every kernel of this machine.
#[cfg(test)]
pub(crate) fn every_kernel() -> Vec<&'static Kernel> {
    let precisions = [Precision::F32, Precision::Half, Precision::Int8];
    let engines = Engine::all().into_iter();
    let mut kernels: Vec<&'static Kernel> = engines
        .flat_map(|engine| precisions.map(|precision| engine.kernel(precision)))
        .collect();
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512.available() && is_x86_feature_detected!("avx512bf16") {
        kernels.push(&kernel::AVX512_BF16);
    }
    kernels.sort_by_key(|kernel| kernel.name);
    kernels.dedup_by_key(|kernel| kernel.name);
    kernels
}
