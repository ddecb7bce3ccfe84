//! How files become pixels.

use serde::{Deserialize, Serialize};

/// How an image is decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeOptions {
    /// What it may cost.
    pub limits: Limits,
    /// How samples of more than 8 bits become 8 bits.
    pub levels: Levels,
    /// Whether the picture is turned as EXIF or TIFF orientation says. Code that only calls Pillow's
    /// `Image.open` does not do that; most viewers, and OpenCV, do.
    pub upright: bool,
    /// Which page of a TIFF, from 0. Thumbnails and other reduced versions are not counted.
    pub page: u32,
}

impl Default for DecodeOptions {
    /// What suits photos of all kinds: the default limits, levels from the file, upright, page 0.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            levels: Levels::FromFile,
            upright: true,
            page: 0,
        }
    }
}

impl From<Limits> for DecodeOptions {
    fn from(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }
}

/// What decoding may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// Most pixels, width times height.
    pub max_pixels: u64,
    /// Most memory, in bytes, for all images that are decoded at the same time in this process. An
    /// image waits until others leave room for it; one that needs more than this is refused.
    pub max_memory: u64,
}

impl Default for Limits {
    /// 256 MiB, 100 megapixels (above any area camera, below what fills a small machine), 2 GiB.
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            max_pixels: 100_000_000,
            max_memory: 2 << 30,
        }
    }
}

impl Levels {
    /// Whether they come from the file.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How samples of more than 8 bits become 8 bits. Samples of up to 8 bits are not changed by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Levels {
    /// By the bits that the file says are in use (PNG `sBIT`, TIFF `MaxSampleValue`), otherwise by
    /// all bits of a sample.
    #[default]
    FromFile,
    /// By this many bits, 8 to 32: 12 where a camera stores 12 bits in samples of 16.
    BitDepth(u8),
    /// From `low`, which becomes black, to `high`, which becomes white, in the file's own values.
    /// The only way to read floating-point samples.
    Window {
        /// Black.
        low: f64,
        /// White.
        high: f64,
    },
}
