//! What decoding may cost: limits for one image, and one budget of memory for all that are decoded
//! at the same time.

use std::sync::{Condvar, Mutex, PoisonError};

use image::metadata::Orientation;

use super::options::Limits;
use super::raster::swaps_sides;

/// Why a file cannot be decoded; the file and its format are added later.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The reason.
    Damaged(String),
    /// What is not supported.
    Unsupported(String),
    /// Width and height in the header.
    TooManyPixels(u32, u32),
    TooMuchMemory,
    /// The number of pages that there are.
    NoSuchPage(u32),
    /// No failure: only the size was asked for, which is this, upright.
    Size(u32, u32),
}

pub(crate) fn damaged(reason: impl Into<String>) -> Failure {
    Failure::Damaged(reason.into())
}

pub(super) fn unsupported(feature: impl Into<String>) -> Failure {
    Failure::Unsupported(feature.into())
}

/// The memory in use by all decoders of this process, in bytes.
static IN_USE: Mutex<u64> = Mutex::new(0);
static RELEASED: Condvar = Condvar::new();

/// What one image may cost; it holds its part of the memory until it is dropped.
///
/// A decoder asks once, and never waits for another thread while it holds memory: that is what keeps
/// waiting for memory from ending in a deadlock.
pub(super) struct Guard<'a> {
    limits: &'a Limits,
    held: u64,
    purpose: Purpose,
}

#[derive(PartialEq, Eq)]
enum Purpose {
    Decode,
    /// A part of an image whose memory was asked for with the image.
    Part,
    /// Only the size of the image.
    Size,
}

/// What the header of an image says.
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) orientation: Orientation,
    /// Bytes that decoding it takes.
    pub(super) memory: u64,
}

impl<'a> Guard<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            held: 0,
            purpose: Purpose::Decode,
        }
    }

    /// For a part of an image whose memory was asked for with the image.
    pub(super) fn within(limits: &'a Limits) -> Self {
        let mut guard = Self::new(limits);
        guard.purpose = Purpose::Part;
        guard
    }

    /// For the size of an image alone: decoding ends with [`Failure::Size`].
    pub(super) fn size_only(limits: &'a Limits) -> Self {
        let mut guard = Self::new(limits);
        guard.purpose = Purpose::Size;
        guard
    }

    /// Checks an image against the limits, before memory is allocated for it, and waits until other
    /// images leave room for it.
    pub(super) fn admit(&mut self, header: &Header) -> Result<(), Failure> {
        let &Header {
            width,
            height,
            memory,
            ..
        } = header;
        if width == 0 || height == 0 {
            return Err(damaged(format!(
                "its header says {width} x {height} pixels"
            )));
        }
        if u64::from(width) * u64::from(height) > self.limits.max_pixels {
            return Err(Failure::TooManyPixels(width, height));
        }
        match self.purpose {
            Purpose::Part => return Ok(()),
            Purpose::Size => {
                return Err(match swaps_sides(header.orientation) {
                    true => Failure::Size(height, width),
                    false => Failure::Size(width, height),
                });
            }
            Purpose::Decode if memory > self.limits.max_memory => {
                return Err(Failure::TooMuchMemory);
            }
            Purpose::Decode => {}
        }
        self.release();
        let in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut in_use = RELEASED
            .wait_while(in_use, |in_use| {
                *in_use > 0 && *in_use + memory > self.limits.max_memory
            })
            .unwrap_or_else(PoisonError::into_inner);
        *in_use += memory;
        self.held = memory;
        Ok(())
    }

    fn release(&mut self) {
        if self.held > 0 {
            *IN_USE.lock().unwrap_or_else(PoisonError::into_inner) -= self.held;
            self.held = 0;
            RELEASED.notify_all();
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.release();
    }
}
