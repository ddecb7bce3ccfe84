//! What needs `unsafe`, and nothing else: every other crate of the workspace forbids it.
//!
//! ```text
//! mapped.rs   files read through the page cache instead of a copy
//! ```

mod mapped;

pub use mapped::MappedFile;
