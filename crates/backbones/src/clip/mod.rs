//! CLIP (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
//! 2021) in the sizes of OpenAI and OpenCLIP: ViT-B/32, B/16, B/16+ 240, L/14, L/14@336, H/14.
//!
//! ```text
//! architecture.rs  the published sizes
//! names.rs      tensors of every kind of checkpoint under OpenAI's names
//! config.rs     sizes, read from the shapes
//! vision.rs     the image encoder; position.rs: its position embedding at other sizes
//! text.rs       the text encoder, with a gradient
//! tokenizer.rs  texts to token ids
//! ```

mod architecture;
mod block;
mod config;
mod names;
mod position;
mod text;
mod vision;

pub use architecture::Architecture;
pub use config::{TextConfig, VisionConfig};
pub use names::ClipTensors;
pub use text::{ClipText, end_positions};
pub use vision::{ClipVision, PositionResize};
