//! CLIP (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
//! 2021), as OpenAI and OpenCLIP publish it.
//!
//! ```text
//! names.rs       the tensors of all three families of weight files under one name
//! tokenizer.rs   text -> token ids
//!   cleaning.rs    what is done to a text before
//! ```

mod cleaning;
mod names;
pub mod tokenizer;

pub use names::{Activation, ClipTensors, Origin};
