//! Pretrained networks that turn images into features.
//!
//! ```text
//! weights/     where weight files come from: registry, cache, hub, Python packages
//! checkpoint/  file formats: safetensors, PyTorch, ONNX initialisers -> named tensors
//! dinov2/      the DINOv2 family of vision transformers
//! clip/        CLIP of OpenAI and OpenCLIP: vision and text transformers
//! vit/         the vision transformer that both families are
//! resnet/      residual networks; efficientnet/: EfficientNet-Lite
//! cnn/         the convolutional network that both families are
//! blueprint.rs what a network computes, as plain numbers
//! encoder.rs   the `ImageEncoder` trait and what is known of a network
//! feature_cache/  features kept on disk
//! embedded.rs  the backbone that is part of the program
//! load.rs      a weight file -> the encoder that it holds; describe.rs: -> what it is
//! ```
//!
//! A family's folder reads its configuration from the shapes of its tensors. DINOv2's have their
//! Hugging Face names, CLIP's those of OpenAI, whatever file they came from. What is requested of a
//! network and what it returns are types of the kernels (`request.rs`, `features.rs` there).

mod blueprint;
pub mod checkpoint;
pub mod clip;
mod cnn;
mod describe;
pub mod dinov2;
mod efficientnet;
mod embedded;
mod encoder;
mod error;
mod feature_cache;
mod load;
mod resnet;
mod vit;
pub mod weights;

pub use anomalens_kernels::{
    Activation, CPU_VARIABLE, Convolution, Departures, Dpam, Embedding, Engine, EngineError,
    Epilogue, FeatureMap, FeatureRequest, Grid, ImageFeatures, Isa, LayerId, Operation,
    PositionResize, Precision, QUICK_GELU, SelfAttention, SharedBytes, Step, TokenStage,
    UnknownActivation, Unpacked, UnpackedBlock, UnpackedHead, UnpackedStem, Window,
};

pub use anomalens_kernels::Images;
pub use blueprint::{Blueprint, ConvBlueprint, TransformerBlueprint};
pub use describe::{Description, describe};
pub use embedded::{
    DEFAULT_COMPANION, DEFAULT_WEIGHTS, EMBEDDED, Embedded, WHOLE_WEIGHTS, write_embedded,
};
pub use encoder::{EncoderSpec, ImageEncoder, LayerInfo, Normalisation, by_size};
pub use error::BackboneError;
pub use feature_cache::{CacheUsage, CachedEncoder, FeatureCache, FeatureKey, Numbers};
pub use load::{Backbone, BackboneOptions, OpenError, RunsAs, load_encoder, write_packed};
pub use vit::calibration_images::{test_images, test_inputs};
pub use vit::{Kernels, PackedCopy, PackedNetwork, open_packed};
