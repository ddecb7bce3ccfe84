//! The CPU's inner loops for vision transformers and convolutional networks: products with packed weights, attention and
//! layer norm, each for the instructions that the processor has.
//!
//! ```text
//! vit         whole networks from plain slices of weights; conv: the same for convolutions
//! activation  the function between feed-forward layers
//! request     which features of an image are wanted; features: what is returned
//! engine      which instructions there are, which kernel a precision gets
//! linear      PackedLinear: layer norm -> product -> bias, activation or residual
//! attention   softmax(a b') v without the tokens-by-tokens matrix, DPAM's kinds included
//! search      nearest neighbours among packed vectors
//! rows        layer norm, conversion of activations
//! packed      weights in panels; unpacked: plain float32 again
//!   kernel    function pointers to the generic code, compiled for each instruction set
//!   product   stretches of the depth, tiles of sums in registers, the ends of layers
//!   simd      one interface to portable, AVX2, AVX-512 and NEON vectors
//!   amx       tile registers
//! parallel    who does the tasks of a step; worker_group: threads that stay awake between steps
//! saved       packed weights as bytes, read without a copy
//! peak        the most that the arithmetic can do
//! ```
//!
//! This crate alone may hold `unsafe`; every block says why it is sound. The functions that are safe to
//! call check every length that they are given, and panic or return an error where one does not fit.

mod activation;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod attention;
mod buffer;
mod conv;
mod engine;
mod error;
mod features;
mod format;
mod kernel;
mod linear;
mod packed;
mod parallel;
mod peak;
mod product;
mod request;
mod rows;
mod saved;
mod search;
mod simd;
#[cfg(test)]
mod tests;
mod unpacked;
mod vit;
mod worker_group;

pub use activation::{Activation, QUICK_GELU, UnknownActivation};
pub use attention::{Attention, AttentionOutput, AttentionScratch};
pub use conv::{ConvNet, Convolution, Operation, Padding, StageInfo, Step, Window};
pub use engine::{CPU_VARIABLE, Engine, EngineError, Isa, Precision};
pub use error::ShapeError;
pub use features::{FeatureMap, Grid, ImageFeatures};
pub use linear::{LinearScratch, PackedLinear};
pub use parallel::Parallel;
pub use peak::peak;
pub use product::Epilogue;
pub use request::{
    Departures, Dpam, Embedding, FeatureRequest, LayerId, PositionResize, SelfAttention, TokenStage,
};
pub use rows::{LayerNorm, layer_norm};
pub use saved::{SavedError, SharedBytes};
pub use search::{Neighbour, PackedVectors, SearchScratch};
pub use unpacked::Unpacked;
pub use vit::{
    BlockWeights, Calibration, HeadWeights, Images, LinearWeights, NormWeights, StemWeights,
    UnpackedBlock, UnpackedHead, UnpackedStem, Vit, VitConfig, VitSizes,
};
