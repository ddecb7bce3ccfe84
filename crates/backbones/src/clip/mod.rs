//! CLIP (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
//! 2021) in the sizes of OpenAI and OpenCLIP: ViT-B/32, B/16, B/16+ 240, L/14, L/14@336, H/14.
//!
//! ```text
//! architecture.rs  the published sizes
//! names.rs         the tensors of all three families of weight files under one name
//! config.rs        sizes, read from the shapes
//! vision.rs        the image encoder; position.rs: its position embedding at other sizes
//! text.rs          the text encoder, with a gradient
//! layers.rs        layers read by name
//! tokenizer.rs     text -> token ids; cleaning.rs: what is done to a text before
//! ```

mod architecture;
mod cleaning;
mod config;
mod layers;
mod names;
mod text;
pub mod tokenizer;
mod vision;

pub use architecture::Architecture;
pub use config::{TextConfig, VisionConfig};
pub use names::{ActivationSource, ClipTensors, Origin};
pub use text::{ClipText, end_positions};
pub use vision::ClipVision;
