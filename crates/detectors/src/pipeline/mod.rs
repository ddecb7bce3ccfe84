//! The path of an image: file or memory -> network input -> features -> predictions.
//!
//! ```text
//! source.rs   images in files and in memory
//! tta.rs      test-time augmentation: moved views of an image, and how their results are merged
//! cells.rs    maps of a convolutional network joined to one
//! tiles.rs    large inputs in overlapping parts
//! stream.rs   batches of features; the next images are decoded while the network works
//! predict.rs  a backbone and detectors together
//! ```

mod cells;
mod predict;
mod source;
mod stream;
mod tiles;
mod tta;

pub use predict::{Outcome, Prediction, predict};
pub use source::ImageSource;
pub(crate) use source::is_flat;
pub(crate) use stream::encode_images;
pub use stream::{Encoded, ImageSize, StreamOptions, stream_features};
pub use tta::Tta;
