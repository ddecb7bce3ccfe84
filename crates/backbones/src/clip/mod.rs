//! CLIP (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
//! 2021), as OpenAI and OpenCLIP publish it.
//!
//! ```text
//! tokenizer.rs   text -> token ids
//!   cleaning.rs    what is done to a text before
//! ```

mod cleaning;
pub mod tokenizer;
