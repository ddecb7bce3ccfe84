//! Images in and out: everything between a file and a tensor, and between a score map and a picture.
//!
//! ```text
//! bytes ── decode ──> Image ── preprocess ──> Preprocessed (f32, CHW) ──> a backbone
//!            │          ├ resample  Pillow's 8-bit resizing, bit for bit
//!            │          ├ rotate    OpenCV's warpAffine, for rotated shots
//!            │          └ write     PNG, atomic files
//!            └───────> Mask         ground truth and thresholded maps
//!                        ├ outline   polygons and runs drawn into a mask
//!                        └ sparse    a mask kept as runs
//!
//! a detector ──> Map ── interpolate, smooth ──> full-resolution Map
//!                 └ picture   heat maps (colour), overlays, contours, sheets
//! ```
//!
//! `error` holds the two error types: [`ImageError`] for files and bytes, [`GeometryError`] for
//! sizes that make no sense.

mod colour;
mod decode;
mod error;
mod image;
mod interpolate;
mod map;
mod map_file;
mod mask;
mod native;
mod notes;
mod outline;
mod picture;
mod preprocess;
mod resample;
mod rotate;
mod smooth;
mod sparse;
mod write;

pub use crate::colour::ColourMap;
pub use crate::decode::{DecodeOptions, FileKind, IMAGE_ENDINGS, Levels, Limits, image_size};
pub use crate::error::{GeometryError, ImageError, Origin};
pub use crate::image::Image;
pub use crate::interpolate::Alignment;
pub use crate::map::Map;
pub use crate::mask::{Mask, MaskChannel, MaskFile, MaskReading, MaskSource};
pub use crate::notes::{DecodeNote, NoteLog};
pub use crate::picture::{draw_contours, heat_map, overlay, sheet};
pub use crate::preprocess::{Preprocess, Preprocessed, Rect, Resize, RgbConversion};
pub use crate::resample::Filter;
pub use crate::smooth::Border;
pub use crate::sparse::SparseMask;
