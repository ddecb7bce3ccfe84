//! Writes state dicts in the form of `torch.save`, for programs that read such files with
//! `torch.load(path, weights_only=True)`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anomalens_base::replace_file;
use candle_core::{DType, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::BackboneError;

/// The folder of all members, as `torch.save` calls it for a nameless file.
const ROOT: &str = "archive";

/// Storages begin at multiples of this, as in PyTorch's own files.
const ALIGNMENT: u16 = 64;

/// Writes `tensors`, in their order, to `path` as one `torch.save` archive: an `OrderedDict`, under
/// `outer_key` of a dictionary if there is one (`prompt_learner` for AnomalyCLIP).
///
/// Floating-point tensors are written as float32, int32 as it is and other whole numbers as int64.
/// The file is replaced in one step.
///
/// # Errors
/// [`BackboneError::Write`] if the file cannot be written; it is then as it was before.
pub fn write_torch(
    path: &Path,
    outer_key: Option<&str>,
    tensors: &[(impl AsRef<str>, Tensor)],
) -> Result<(), BackboneError> {
    let outer = outer_key.map(|key| Outer { key, beside: &[] });
    write_torch_beside(path, outer, tensors)
}

/// A dictionary around the tensors.
#[derive(Debug, Clone, Copy)]
pub struct Outer<'a> {
    /// The key of the tensors.
    pub key: &'a str,
    /// What is beside them (an epoch, a loss), by its key.
    pub beside: &'a [(&'a str, Number)],
}

/// A number beside tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A count.
    Whole(usize),
    /// Any other.
    Real(f64),
}

/// [`write_torch`] with numbers beside the tensors.
///
/// # Errors
/// As [`write_torch`].
pub fn write_torch_beside(
    path: &Path,
    outer: Option<Outer<'_>>,
    tensors: &[(impl AsRef<str>, Tensor)],
) -> Result<(), BackboneError> {
    let key = outer.map(|outer| outer.key);
    let named = tensors
        .iter()
        .map(|(name, tensor)| (key, name.as_ref(), tensor));
    write(path, named, outer.map_or(&[], |outer| outer.beside))
}

/// Writes several state dicts, each under a key of one dictionary: that of a tensor is what stands before
/// the first dot of its name, and tensors of one dict follow each other.
///
/// # Errors
/// As [`write_torch`].
pub fn write_torch_dicts(
    path: &Path,
    tensors: &[(impl AsRef<str>, Tensor)],
) -> Result<(), BackboneError> {
    let named = tensors.iter().map(|(name, tensor)| {
        let name = name.as_ref();
        let (key, rest) = name.split_once('.').unwrap_or((name, ""));
        (Some(key), rest, tensor)
    });
    write(path, named, &[])
}

/// Writes tensors with the key of their state dict, if it is under one, and numbers beside the dicts.
fn write<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (Option<&'a str>, &'a str, &'a Tensor)>,
    beside: &[(&str, Number)],
) -> Result<(), BackboneError> {
    let storages = tensors
        .map(|(key, name, tensor)| Storage::new(key, name, tensor))
        .collect::<candle_core::Result<Vec<_>>>()?;
    write_archive(path, &storages, beside).map_err(|source| BackboneError::Write {
        path: path.to_owned(),
        source,
    })
}

/// A tensor with a storage of its own.
struct Storage<'a> {
    /// That of its state dict.
    key: Option<&'a str>,
    name: &'a str,
    class: &'static str,
    shape: &'a [usize],
    bytes: Vec<u8>,
}

impl<'a> Storage<'a> {
    fn new(key: Option<&'a str>, name: &'a str, tensor: &'a Tensor) -> candle_core::Result<Self> {
        let flat = tensor.flatten_all()?;
        let (class, bytes) = match tensor.dtype() {
            DType::I32 => {
                let values = flat.to_vec1::<i32>()?;
                let bytes = values.iter().flat_map(|value| value.to_le_bytes());
                ("IntStorage", bytes.collect())
            }
            DType::U8 | DType::U32 | DType::I16 | DType::I64 => {
                let values = flat.to_dtype(DType::I64)?.to_vec1::<i64>()?;
                let bytes = values.iter().flat_map(|value| value.to_le_bytes());
                ("LongStorage", bytes.collect())
            }
            _ => {
                let values = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                let bytes = values.iter().flat_map(|value| value.to_le_bytes());
                ("FloatStorage", bytes.collect())
            }
        };
        Ok(Self {
            key,
            name,
            class,
            shape: tensor.dims(),
            bytes,
        })
    }
}

fn write_archive(path: &Path, storages: &[Storage], beside: &[(&str, Number)]) -> io::Result<()> {
    replace_file(path, |file| write_members(file, storages, beside))
}

fn write_members(
    file: &mut File,
    storages: &[Storage],
    beside: &[(&str, Number)],
) -> io::Result<()> {
    let mut zip = ZipWriter::new(BufWriter::new(file));
    let mut member = |name: &str, bytes: &[u8]| {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .large_file(u32::try_from(bytes.len()).is_err())
            .with_alignment(ALIGNMENT);
        zip.start_file(format!("{ROOT}/{name}"), options)?;
        zip.write_all(bytes)
    };
    member("data.pkl", &pickle(storages, beside))?;
    member("byteorder", b"little")?;
    for (key, storage) in storages.iter().enumerate() {
        member(&format!("data/{key}"), &storage.bytes)?;
    }
    member("version", b"3\n")?;
    zip.finish()?.flush()
}

/// The description of the tensors, in pickle protocol 2 without a memo.
fn pickle(storages: &[Storage], beside: &[(&str, Number)]) -> Vec<u8> {
    let mut pickle = Writer(vec![0x80, 2]);
    let nested = storages
        .first()
        .is_some_and(|storage| storage.key.is_some());
    if nested {
        pickle.0.push(b'}');
    }
    if storages.is_empty() {
        pickle.ordered_dict();
    }
    let mut place = 0;
    for dict in storages.chunk_by(|a, b| a.key == b.key) {
        if let Some(key) = dict[0].key {
            pickle.text(key);
        }
        pickle.ordered_dict();
        pickle.0.push(b'(');
        for storage in dict {
            pickle.text(storage.name);
            pickle.tensor(place, storage);
            place += 1;
        }
        pickle.0.push(b'u');
        if nested {
            pickle.0.push(b's');
        }
    }
    for &(key, number) in beside {
        pickle.text(key);
        match number {
            Number::Whole(value) => pickle.int(value),
            Number::Real(value) => {
                pickle.0.push(b'G');
                pickle.0.extend(value.to_be_bytes());
            }
        }
        pickle.0.push(b's');
    }
    pickle.0.push(b'.');
    pickle.0
}

struct Writer(Vec<u8>);

impl Writer {
    /// `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)`.
    fn tensor(&mut self, key: usize, storage: &Storage) {
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.0.extend(b"((");
        self.text("storage");
        self.global("torch", storage.class);
        self.text(&key.to_string());
        self.text("cpu");
        self.int(storage.shape.iter().product());
        self.0.extend(b"tQ");
        self.int(0);
        self.0.push(b'(');
        for &side in storage.shape {
            self.int(side);
        }
        self.0.extend(b"t(");
        for axis in 0..storage.shape.len() {
            self.int(storage.shape[axis + 1..].iter().product());
        }
        self.0.extend(b"t\x89");
        self.ordered_dict();
        self.0.extend(b"tR");
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend(b")R");
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.0.extend(length.to_le_bytes());
        self.0.extend(text.bytes());
    }

    /// A size, which in 64 bits with a sign always has room.
    fn int(&mut self, value: usize) {
        match i32::try_from(value) {
            Ok(value) => {
                self.0.push(b'J');
                self.0.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.0.extend([0x8a, 8]);
                self.0.extend((value as u64).to_le_bytes());
            }
        }
    }
}
