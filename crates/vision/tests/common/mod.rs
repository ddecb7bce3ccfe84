//! Reference outputs, read from the repository's `tests/goldens`.

#![allow(dead_code, reason = "every test file uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a missing golden fails the test")]

pub(crate) mod tiff;

use std::path::PathBuf;

use anomalens_vision::Image;
use safetensors::SafeTensors;

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens")).join(name)
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name)
}

pub(crate) fn image(name: &str) -> Image {
    Image::open(path(name)).unwrap()
}

/// All tensors of one file.
pub(crate) struct Goldens(Vec<u8>);

impl Goldens {
    pub(crate) fn open(name: &str) -> Self {
        Self(std::fs::read(path(name)).unwrap())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors()
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).unwrap().shape().to_vec()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensors().tensor(name).unwrap().data().to_vec()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name);
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect()
    }

    /// An 8-bit tensor of `[height, width, 3]`.
    pub(crate) fn image(&self, name: &str) -> Image {
        let shape = self.shape(name);
        Image::new(shape[1] as u32, shape[0] as u32, self.bytes(name)).unwrap()
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }
}

/// The largest difference of two equally long slices.
pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}
