//! Networks packed for the kernels, in files that need nothing else.
//!
//! ```text
//! 8 bytes    ANOMPACK
//! 4 bytes    version of the format, little-endian
//! 4 bytes    length of the header
//! 32 bytes   SHA-256 of what follows, see `Digest`
//! header     JSON
//! positions  from a multiple of 64 bytes on; float16 beside 8-bit weights, else float32
//! weights    from a multiple of 64 bytes on, see `Vit::write` of the kernels
//! ```
//!
//! A file may hold the first blocks alone. It is read on any processor: panels depend on the format
//! of their numbers only, and where the processor has no instructions for that, they are converted.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anomalens_base::{open_regular, replace_file};
use anomalens_kernels::{Engine, Precision, SharedBytes, Vit, VitSizes};
use candle_core::{Device, Tensor};
use half::f16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::VisionTransformer;
use super::kernels::config;
use super::parts::Shape;
use crate::weights::ContentHash;
use crate::{BackboneError, ImageEncoder, cnn};

const MAGIC: [u8; 8] = *b"ANOMPACK";

/// Changes whenever older files would be read wrongly.
const VERSION: u32 = 2;

/// Where the header starts.
const HEADER: usize = MAGIC.len() + 4 + 4 + 32;

const ALIGNMENT: usize = 64;

/// Bytes that are hashed at a time.
const CHUNK: usize = 4 << 20;

/// What a file says about its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    shape: Shape,
    sizes: Sizes,
    precision: Precision,
    /// SHA-256 of the weight file that it was made from.
    original: ContentHash,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Sizes {
    /// How many blocks there are, from the first on.
    blocks: usize,
    norm: bool,
    projection: bool,
}

/// A network from a packed file.
pub struct PackedNetwork {
    /// The network; it has no text encoder. Blocks that the file does not hold are an error.
    pub encoder: Arc<dyn ImageEncoder>,
    /// SHA-256 of the weight file that it was made from.
    pub original: ContentHash,
    /// How exactly it computes.
    pub precision: Precision,
}

/// Opens packed weights that were read from a file or are part of the program. They are verified,
/// which takes about half a second for a gigabyte on two cores, and stay where they are if they
/// start on a cache line.
///
/// # Errors
/// [`BackboneError::Packed`] says what is wrong: damaged, of another version, no packed weights;
/// [`BackboneError::Engine`] if `ANOMALENS_CPU` names what is not there.
pub fn open_packed(bytes: SharedBytes) -> Result<PackedNetwork, BackboneError> {
    open_packed_as(bytes, None)
}

/// The same, computed in `computes` in place of the precision that the weights were packed for.
pub(crate) fn open_packed_as(
    bytes: SharedBytes,
    computes: Option<Precision>,
) -> Result<PackedNetwork, BackboneError> {
    let engine = Engine::from_env()?;
    let envelope = Envelope::of(&bytes).map_err(BackboneError::Packed)?;
    if cnn::packed_recognises(envelope.header) {
        let opened = cnn::open(&bytes, &envelope, engine, computes);
        let (network, header) = opened.map_err(BackboneError::Packed)?;
        return Ok(PackedNetwork {
            encoder: Arc::new(network),
            original: header.original,
            precision: header.precision,
        });
    }
    let opened = open(&bytes, &envelope, engine, computes);
    let (network, header) = opened.map_err(BackboneError::Packed)?;
    Ok(PackedNetwork {
        encoder: Arc::new(network),
        original: header.original,
        precision: header.precision,
    })
}

/// Where the packed copy of a weight file is kept.
#[derive(Debug, Clone)]
pub struct PackedCopy {
    /// The folder of all copies.
    pub folder: PathBuf,
    /// SHA-256 of the weight file.
    pub original: ContentHash,
}

impl PackedCopy {
    /// The copy for kernels that take the formats `format`: its name carries all that it depends
    /// on.
    fn path(&self, format: &str, version: u32) -> PathBuf {
        let hash = self.original.to_string();
        self.folder
            .join(format!("{}-{format}-v{version}.packed", &hash[..16]))
    }

    /// The network, if its copy is there and undamaged.
    pub(super) fn open(
        &self,
        shape: &Shape,
        engine: Engine,
        precision: Precision,
    ) -> Option<VisionTransformer> {
        let path = self.path(&Vit::format_name(engine, precision), VERSION);
        let (file, length) = open_regular(&path).ok()?;
        let bytes = SharedBytes::read(file, usize::try_from(length).ok()?).ok()?;
        let envelope = Envelope::of(&bytes).ok()?;
        let (network, header) = open(&bytes, &envelope, engine, None).ok()?;
        let expected = Header {
            shape: shape.clone(),
            sizes: Sizes {
                blocks: shape.blocks,
                ..header.sizes
            },
            precision,
            original: self.original,
        };
        (header == expected).then_some(network)
    }

    /// Keeps `network` for the next start, in place of copies of older versions. That a copy
    /// cannot be kept is no error: it only saves time.
    pub(super) fn keep(&self, network: &VisionTransformer, engine: Engine, precision: Precision) {
        let format = Vit::format_name(engine, precision);
        if std::fs::create_dir_all(&self.folder).is_ok()
            && network
                .save(precision, self.original, &self.path(&format, VERSION))
                .is_ok()
        {
            for version in 0..VERSION {
                let _ = std::fs::remove_file(self.path(&format, version));
            }
        }
    }
}

impl VisionTransformer {
    /// Writes the packed network; the file appears complete or not at all.
    pub(crate) fn save(
        &self,
        precision: Precision,
        original: ContentHash,
        path: &Path,
    ) -> io::Result<()> {
        replace_file(path, |file| self.write(precision, original, file))
    }

    /// Writes the packed network from the start of `file` on.
    pub(crate) fn write(
        &self,
        precision: Precision,
        original: ContentHash,
        file: &mut (impl Write + Seek),
    ) -> io::Result<()> {
        let sizes = self.vit.sizes();
        let header = serde_json::to_vec(&Header {
            shape: self.shape.clone(),
            sizes: Sizes {
                blocks: sizes.blocks,
                norm: sizes.norm,
                projection: sizes.projection,
            },
            precision,
            original,
        })?;
        write_envelope(file, &header, |to| {
            let positions = self.positions.flatten_all().and_then(|x| x.to_vec1());
            let positions: Vec<f32> = positions.map_err(io::Error::other)?;
            for x in positions {
                match precision {
                    Precision::Int8 => to.write_all(&f16::from_f32(x).to_le_bytes())?,
                    Precision::F32 | Precision::Half => to.write_all(&x.to_le_bytes())?,
                }
            }
            to.align()?;
            self.vit.write(to)
        })
    }
}

/// Writes a file from its start on: magic number, version, hash, `header`, and what `rest` writes
/// from a multiple of 64 bytes on.
pub(crate) fn write_envelope<W: Write + Seek>(
    file: &mut W,
    header: &[u8],
    rest: impl FnOnce(&mut Digest<BufWriter<&mut W>>) -> io::Result<()>,
) -> io::Result<()> {
    file.write_all(&[0; HEADER])?;
    let mut to = Digest::new(BufWriter::new(&mut *file), HEADER);
    to.write_all(header)?;
    to.align()?;
    rest(&mut to)?;
    let hash = to.finish()?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&MAGIC)?;
    file.write_all(&VERSION.to_le_bytes())?;
    file.write_all(&(header.len() as u32).to_le_bytes())?;
    file.write_all(&hash)
}

/// The parts of a file that is whole.
pub(crate) struct Envelope<'a> {
    pub(crate) header: &'a [u8],
    /// Where the rest starts.
    pub(crate) start: usize,
}

impl<'a> Envelope<'a> {
    /// Checks the magic number, the version and the hash.
    fn of(bytes: &'a [u8]) -> Result<Self, String> {
        let none = || "they do not start like packed weights".to_owned();
        let (start, rest) = bytes.split_at_checked(HEADER).ok_or_else(none)?;
        let [version, length] = [8, 12].map(|at| {
            let word = start[at..at + 4].try_into();
            u32::from_le_bytes(word.unwrap_or_default())
        });
        if start[..8] != MAGIC {
            return Err(none());
        }
        if version != VERSION {
            return Err(format!(
                "they have version {version}, this program reads version {VERSION}"
            ));
        }
        if start[16..] != Digest::<io::Sink>::of(rest) {
            return Err("they are damaged: their SHA-256 does not match".to_owned());
        }
        let header = rest.get(..length as usize);
        Ok(Self {
            header: header.ok_or_else(cut)?,
            start: (HEADER + length as usize).next_multiple_of(ALIGNMENT),
        })
    }
}

fn cut() -> String {
    "they are cut off".to_owned()
}

/// The transformer in `bytes`, or what is wrong with them.
fn open(
    bytes: &SharedBytes,
    envelope: &Envelope<'_>,
    engine: Engine,
    computes: Option<Precision>,
) -> Result<(VisionTransformer, Header), String> {
    let Envelope { header, start } = *envelope;
    let header: Header = serde_json::from_slice(header).map_err(|error| error.to_string())?;
    let Header {
        shape,
        sizes,
        precision,
        ..
    } = &header;
    if shape.position_side == 0 || shape.width == 0 {
        return Err("they describe an impossible network".to_owned());
    }
    let count = shape.position_side.saturating_mul(shape.position_side);
    let count = count.saturating_add(1).saturating_mul(shape.width);
    let size = match precision {
        Precision::Int8 => 2,
        Precision::F32 | Precision::Half => 4,
    };
    let positions = count
        .checked_mul(size)
        .and_then(|length| bytes.get(start..start.checked_add(length)?))
        .ok_or_else(cut)?;
    let weights = (start + positions.len()).next_multiple_of(ALIGNMENT);
    let positions: Vec<f32> = match precision {
        Precision::Int8 => {
            let (numbers, _) = positions.as_chunks();
            let numbers = numbers.iter().map(|&x| f16::from_le_bytes(x).to_f32());
            numbers.collect()
        }
        Precision::F32 | Precision::Half => {
            let (numbers, _) = positions.as_chunks();
            numbers.iter().map(|&x| f32::from_le_bytes(x)).collect()
        }
    };
    let sizes = VitSizes {
        width: shape.width,
        blocks: sizes.blocks,
        norm: sizes.norm,
        projection: sizes.projection,
    };
    let computes = computes.unwrap_or(*precision);
    let vit = Vit::read(engine, computes, config(shape), sizes, bytes, weights)
        .map_err(|error| error.to_string())?;
    let rows = positions.len().checked_div(shape.width).unwrap_or(0);
    let positions = Tensor::from_vec(positions, (rows, shape.width), &Device::Cpu)
        .map_err(|error| error.to_string())?;
    let precision = engine.runs(computes);
    let network = VisionTransformer::of_parts(shape.clone(), vit, positions, precision);
    Ok((network, header))
}

/// SHA-256 of the SHA-256s of all chunks, so that all cores can verify a file; chunks are counted
/// from the first byte after the hash itself.
pub(crate) struct Digest<W> {
    to: W,
    /// Bytes written, those before the digest included.
    at: usize,
    chunk: Vec<u8>,
    hashes: Sha256,
}

impl<W: Write> Digest<W> {
    fn new(to: W, at: usize) -> Self {
        Self {
            to,
            at,
            chunk: Vec::with_capacity(CHUNK),
            hashes: Sha256::new(),
        }
    }

    /// Writes zeros up to where an array may start.
    fn align(&mut self) -> io::Result<()> {
        let padding = self.at.next_multiple_of(ALIGNMENT) - self.at;
        self.write_all(&[0; ALIGNMENT][..padding])
    }

    fn finish(mut self) -> io::Result<[u8; 32]> {
        if !self.chunk.is_empty() {
            self.hashes.update(Sha256::digest(&self.chunk));
        }
        self.to.flush()?;
        Ok(self.hashes.finalize().into())
    }

    /// The digest of all of `bytes`.
    fn of(bytes: &[u8]) -> [u8; 32] {
        let hashes: Vec<[u8; 32]> = bytes
            .par_chunks(CHUNK)
            .map(|chunk| Sha256::digest(chunk).into())
            .collect();
        Sha256::digest(hashes.concat()).into()
    }
}

impl<W: Write> Write for Digest<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.chunk.len());
        let bytes = &bytes[..count];
        self.to.write_all(bytes)?;
        self.at += count;
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() == CHUNK {
            self.hashes.update(Sha256::digest(&self.chunk));
            self.chunk.clear();
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
