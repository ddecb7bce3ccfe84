//! Pretrained networks that turn images into features.
//!
//! ```text
//! weights/     where weight files come from: registry, cache, hub, Python packages
//! checkpoint/  file formats: safetensors, PyTorch, ONNX initialisers -> named tensors
//! dinov2/      the DINOv2 family of vision transformers
//! clip/        CLIP of OpenAI and OpenCLIP: vision and text transformers
//! encoder.rs   the `ImageEncoder` trait, `FeatureRequest`, `Features`
//! transformer.rs, tower.rs, position.rs   what both families share
//! load.rs      a weight file -> the encoder that it holds
//! ops.rs       element-wise operations on the CPU that candle leaves slow
//! ```
//!
//! A family's folder reads its configuration from the shapes of its tensors. DINOv2's have their
//! Hugging Face names, CLIP's those of OpenAI, whatever file they came from.

pub mod checkpoint;
pub mod clip;
pub mod dinov2;
mod encoder;
mod error;
mod load;
mod ops;
mod position;
mod tower;
mod transformer;
pub mod weights;

pub use encoder::{
    BlockFeatures, BlockTokens, Dpam, Embedding, FeatureRequest, Features, Grid, ImageEncoder,
    ImageFeatures, SelfAttention, TokenStage,
};
pub use error::BackboneError;
pub use load::{Backbone, OpenError, load_encoder};
pub use ops::Activation;
