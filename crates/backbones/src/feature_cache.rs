//! Features of images kept on disk, so that an image goes through a network once, whatever is made
//! of its features later.
//!
//! A file is named after everything that its features follow from: the network and how exactly it
//! computes, the pixels as the network sees them (the image's content and its preprocessing), and
//! what is asked for. Numbers are kept as they were computed, in float32: results are the same with
//! and without.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::clip::ClipText;
use crate::{
    BackboneError, BlockFeatures, BlockTokens, FeatureRequest, Features, Grid, ImageEncoder,
    ImageFeatures,
};

/// What a file opens with; another number when the format changes.
const MAGIC: &[u8; 8] = b"ANFEAT01";

/// Bytes of a file beside its numbers: magic, four sizes, checksum.
const FRAME: usize = MAGIC.len() + 4 * size_of::<u32>() + CHECKSUM;

/// Bytes of the SHA-256 over all before it that a file ends with.
const CHECKSUM: usize = 16;

/// A folder of features that does not grow beyond a limit: what was not used for longest goes
/// first. What this run has used stays; once that alone fills it, no more is kept.
pub struct FeatureCache {
    folder: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Files of earlier runs, the one that was not used for longest first.
    old: VecDeque<(PathBuf, u64)>,
    /// Names that this run has read or written.
    used: HashSet<String>,
    usage: CacheUsage,
}

/// What a cache holds and what it did for this run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Images whose features were there.
    pub found: usize,
    /// Images that went through the network.
    pub encoded: usize,
    /// Why features could not be kept, if so.
    pub failure: Option<String>,
}

impl FeatureCache {
    /// Opens `folder`, which is made if it is not there, for at most `limit` bytes.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut files: Vec<(SystemTime, PathBuf, u64)> = vec![];
        for shelf in fs::read_dir(folder)? {
            let shelf = shelf?.path();
            if !shelf.is_dir() {
                continue;
            }
            for file in fs::read_dir(shelf)? {
                let file = file?;
                let about = file.metadata()?;
                files.push((about.modified()?, file.path(), about.len()));
            }
        }
        files.sort();
        let state = State {
            usage: CacheUsage {
                bytes: files.iter().map(|(_, _, bytes)| bytes).sum(),
                ..CacheUsage::default()
            },
            old: files
                .into_iter()
                .map(|(_, path, bytes)| (path, bytes))
                .collect(),
            used: HashSet::new(),
        };
        let cache = Self {
            folder: folder.to_owned(),
            limit,
            state: Mutex::new(state),
        };
        cache.make_room(&mut cache.state(), 0);
        Ok(cache)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it holds now and what it did since it was opened.
    pub fn usage(&self) -> CacheUsage {
        self.state().usage.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(&name[..2]).join(&name[2..])
    }

    /// The features called `name`, if they are there and whole.
    fn read(&self, name: &str, request: &FeatureRequest) -> Option<ImageFeatures> {
        let path = self.path(name);
        let features = decode(&fs::read(&path).ok()?, request)?;
        // Only the order in which files go depends on it.
        let _ = File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        let mut state = self.state();
        state.usage.found += 1;
        state.used.insert(name.to_owned());
        Some(features)
    }

    /// Keeps `features` under `name` if there is room. That it cannot be written costs time later,
    /// and is no reason to stop.
    fn add(&self, name: &str, features: &ImageFeatures) {
        let bytes = encode(features);
        let mut state = self.state();
        state.usage.encoded += 1;
        if !self.make_room(&mut state, bytes.len() as u64) {
            return;
        }
        match self.write(name, &bytes) {
            Ok(()) => {
                state.usage.bytes += bytes.len() as u64;
                state.used.insert(name.to_owned());
            }
            Err(error) => state.usage.failure = Some(error.to_string()),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let shelf = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(shelf)?;
        let mut file = tempfile::Builder::new().tempfile_in(shelf)?;
        file.write_all(bytes)?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Whether `bytes` more fit, when what may go is gone.
    fn make_room(&self, state: &mut State, bytes: u64) -> bool {
        while state.usage.bytes + bytes > self.limit {
            let Some((path, size)) = state.old.pop_front() else {
                return false;
            };
            let is_used = state.used.iter().any(|name| self.path(name) == path);
            if !is_used && fs::remove_file(&path).is_ok() {
                state.usage.bytes = state.usage.bytes.saturating_sub(size);
            }
        }
        true
    }
}

/// A network whose features are looked up before they are computed.
pub struct CachedEncoder {
    network: Arc<dyn ImageEncoder>,
    identity: String,
    cache: Arc<FeatureCache>,
}

impl CachedEncoder {
    /// `network`, its features being kept in `cache`; `identity` tells it from every other that
    /// gives other numbers: its weights, precision and instruction set.
    pub fn new(
        network: Arc<dyn ImageEncoder>,
        identity: impl Into<String>,
        cache: Arc<FeatureCache>,
    ) -> Self {
        Self {
            network,
            identity: identity.into(),
            cache,
        }
    }

    /// What the features of `image`, `[3, height, width]`, are called.
    fn name(&self, image: &Tensor, request: &FeatureRequest) -> candle_core::Result<String> {
        let mut hash = Sha256::new();
        hash.update(format!("{}\n{request:?}\n{:?}\n", self.identity, image.dims()).as_bytes());
        hash.update(le_bytes(image.flatten_all()?.to_vec1::<f32>()?));
        let digest = hash.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl ImageEncoder for CachedEncoder {
    fn name(&self) -> &str {
        self.network.name()
    }

    fn width(&self) -> usize {
        self.network.width()
    }

    fn embedding_width(&self) -> usize {
        self.network.embedding_width()
    }

    fn blocks(&self) -> usize {
        self.network.blocks()
    }

    fn patch(&self) -> usize {
        self.network.patch()
    }

    fn text_encoder(&self) -> Result<Option<ClipText>, BackboneError> {
        self.network.text_encoder()
    }

    fn encode(&self, images: &Tensor, request: &FeatureRequest) -> Result<Features, BackboneError> {
        let batch = match images.dims() {
            &[batch, _, _, _] if batch > 0 => batch,
            // It has the right error for that.
            _ => return self.network.encode(images, request),
        };
        let looked_up: Vec<(String, Option<ImageFeatures>)> = (0..batch)
            .into_par_iter()
            .map(|i| {
                let name = self.name(&images.get(i)?, request)?;
                let features = self.cache.read(&name, request);
                Ok((name, features))
            })
            .collect::<candle_core::Result<_>>()?;
        let missing: Vec<u32> = (0..)
            .zip(&looked_up)
            .filter_map(|(i, (_, features))| features.is_none().then_some(i))
            .collect();
        let mut fresh = vec![];
        if !missing.is_empty() {
            let indices = Tensor::new(missing.as_slice(), images.device())?;
            let encoded = self
                .network
                .encode(&images.index_select(&indices, 0)?, request)?;
            fresh = encoded.into_images()?;
        }
        let mut fresh = fresh.into_iter();
        let all = looked_up.into_iter().filter_map(|(name, found)| {
            found.or_else(|| {
                let features = fresh.next()?;
                self.cache.add(&name, &features);
                Some(features)
            })
        });
        Ok(join(all.collect())?)
    }
}

/// The features of a batch from those of its images, which have the same sizes.
fn join(images: Vec<ImageFeatures>) -> candle_core::Result<Features> {
    let batch = images.len();
    let Some(first) = images.first() else {
        return Err(candle_core::Error::msg("an empty batch has no features"));
    };
    let tensor = |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu);
    let rows = |part: &dyn Fn(&ImageFeatures) -> Vec<f32>| -> Vec<f32> {
        images.iter().flat_map(part).collect()
    };
    let patches = first.grid.len();
    let blocks = first.blocks.iter().enumerate().map(|(i, tokens)| {
        let width = tokens.class_token.len();
        Ok(BlockFeatures {
            block: tokens.block,
            class_token: tensor(
                rows(&|image| image.blocks[i].class_token.clone()),
                &[batch, width],
            )?,
            patch_tokens: tensor(
                rows(&|image| image.blocks[i].patch_tokens.clone()),
                &[batch, patches, width],
            )?,
        })
    });
    let embedding = first.embedding.as_ref().map(|embedding| {
        let values = rows(&|image| image.embedding.clone().unwrap_or_default());
        tensor(values, &[batch, embedding.len()])
    });
    Ok(Features {
        grid: first.grid,
        blocks: blocks.collect::<candle_core::Result<_>>()?,
        embedding: embedding.transpose()?,
    })
}

fn le_bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// The bytes of a file: magic, rows, columns, width of a token, width of the embedding, numbers,
/// checksum.
fn encode(features: &ImageFeatures) -> Vec<u8> {
    let width = features
        .blocks
        .first()
        .map_or(0, |tokens| tokens.class_token.len());
    let embedding = features.embedding.as_deref().unwrap_or_default();
    let Grid { rows, columns } = features.grid;
    let mut bytes = MAGIC.to_vec();
    for size in [rows, columns, width, embedding.len()] {
        bytes.extend((size as u32).to_le_bytes());
    }
    for tokens in &features.blocks {
        bytes.extend(le_bytes(tokens.class_token.iter().copied()));
        bytes.extend(le_bytes(tokens.patch_tokens.iter().copied()));
    }
    bytes.extend(le_bytes(embedding.iter().copied()));
    let checksum = Sha256::digest(&bytes);
    bytes.extend(&checksum[..CHECKSUM]);
    bytes
}

/// What [`encode`] made of the features that `request` asks for; none if it is anything else.
fn decode(bytes: &[u8], request: &FeatureRequest) -> Option<ImageFeatures> {
    let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if Sha256::digest(content)[..CHECKSUM] != *checksum {
        return None;
    }
    let content = content.strip_prefix(MAGIC.as_slice())?;
    let (sizes, numbers) = content.split_at_checked(4 * size_of::<u32>())?;
    let mut sizes = sizes.as_chunks::<4>().0.iter();
    let mut size = || Some(u32::from_le_bytes(*sizes.next()?) as usize);
    let (rows, columns, width, embedding) = (size()?, size()?, size()?, size()?);
    let (grid, blocks) = (Grid { rows, columns }, &request.blocks);
    let expected = blocks.len() * width * (1 + grid.len()) + embedding;
    if bytes.len() != FRAME + expected * size_of::<f32>()
        || (embedding > 0) != request.embedding.is_some()
    {
        return None;
    }
    let mut values = numbers
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes));
    let mut take = |count: usize| values.by_ref().take(count).collect::<Vec<f32>>();
    Some(ImageFeatures {
        grid,
        blocks: blocks
            .iter()
            .map(|&block| BlockTokens {
                block,
                class_token: take(width),
                patch_tokens: take(grid.len() * width),
            })
            .collect(),
        embedding: (embedding > 0).then(|| take(embedding)),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // test code
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Embedding;

    /// Tokens that follow from the first pixel of each image; counts the images it has seen.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl ImageEncoder for Counting {
        fn name(&self) -> &str {
            "counting"
        }

        fn width(&self) -> usize {
            2
        }

        fn blocks(&self) -> usize {
            2
        }

        fn patch(&self) -> usize {
            1
        }

        fn encode(
            &self,
            images: &Tensor,
            request: &FeatureRequest,
        ) -> Result<Features, BackboneError> {
            let (batch, _, rows, columns) = images.dims4()?;
            self.0.fetch_add(batch, Ordering::SeqCst);
            let grid = Grid { rows, columns };
            let features = (0..batch).map(|i| {
                let pixel = images.get(i)?.flatten_all()?.to_vec1::<f32>()?[0];
                let tokens = |&block: &usize| BlockTokens {
                    block,
                    class_token: vec![pixel, block as f32],
                    patch_tokens: vec![pixel * 0.1; 2 * grid.len()],
                };
                Ok(ImageFeatures {
                    grid,
                    blocks: request.blocks.iter().map(tokens).collect(),
                    embedding: request.embedding.map(|_| vec![pixel; 3]),
                })
            });
            Ok(join(features.collect::<candle_core::Result<_>>()?)?)
        }
    }

    fn images(pixels: &[f32]) -> Tensor {
        let values = pixels.iter().flat_map(|&pixel| [pixel; 3 * 2 * 3]);
        Tensor::from_vec(values.collect(), (pixels.len(), 3, 2, 3), &Device::Cpu).unwrap()
    }

    fn request(embedding: bool) -> FeatureRequest {
        FeatureRequest {
            embedding: embedding.then_some(Embedding::Normed),
            ..FeatureRequest::blocks([1, 2])
        }
    }

    /// The network, and the same with its features in `folder`.
    fn both(folder: &Path, limit: u64, identity: &str) -> (Arc<Counting>, CachedEncoder) {
        let network = Arc::new(Counting::default());
        let cache = Arc::new(FeatureCache::open(folder, limit).unwrap());
        let cached = CachedEncoder::new(network.clone(), identity, cache);
        (network, cached)
    }

    #[test]
    fn an_image_is_encoded_once_and_its_features_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for embedding in [false, true] {
            let request = request(embedding);
            let encode = |encoder: &dyn ImageEncoder, pixels: &[f32]| {
                let features = encoder.encode(&images(pixels), &request).unwrap();
                features.into_images().unwrap()
            };
            let (network, cached) = both(folder.path(), u64::MAX, "one");
            encode(&cached, &[1.0, 2.0]);
            assert_eq!(network.0.load(Ordering::SeqCst), 2);
            // Another run: what is there, between what is not, in the order asked for.
            let (network, cached) = both(folder.path(), u64::MAX, "one");
            let mixed = encode(&cached, &[3.0, 2.0, 4.0, 1.0]);
            assert_eq!(network.0.load(Ordering::SeqCst), 2, "{embedding}");
            assert_eq!(mixed, encode(&Counting::default(), &[3.0, 2.0, 4.0, 1.0]));
            let usage = cached.cache.usage();
            assert_eq!((usage.found, usage.encoded), (2, 2));
            // Another network.
            let (network, cached) = both(folder.path(), u64::MAX, "two");
            encode(&cached, &[1.0]);
            assert_eq!(network.0.load(Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn a_damaged_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let request = request(false);
        let (_, cached) = both(folder.path(), u64::MAX, "one");
        let whole = cached.encode(&images(&[1.0]), &request).unwrap();
        let whole = whole.into_images().unwrap();
        let name = CachedEncoder::name(&cached, &images(&[1.0]).get(0).unwrap(), &request);
        let path = cached.cache.path(&name.unwrap());
        let bytes = fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[30] ^= 1;
        for damaged in [&bytes[..20], &bytes[..bytes.len() - 4], &flipped, &[]] {
            fs::write(&path, damaged).unwrap();
            let (network, cached) = both(folder.path(), u64::MAX, "one");
            let again = cached.encode(&images(&[1.0]), &request).unwrap();
            assert_eq!(again.into_images().unwrap(), whole);
            assert_eq!(network.0.load(Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let request = request(false);
        let encode = |limit: u64, pixel: f32| {
            let (network, cached) = both(folder.path(), limit, "one");
            cached.encode(&images(&[pixel]), &request).unwrap();
            let size = cached.cache.usage().bytes;
            (network.0.load(Ordering::SeqCst), size)
        };
        let (_, size) = encode(u64::MAX, 1.0);
        encode(u64::MAX, 2.0);
        assert_eq!(encode(u64::MAX, 1.0), (0, 2 * size), "used again");
        assert_eq!(encode(2 * size, 3.0), (1, 2 * size));
        assert_eq!(encode(2 * size, 1.0).0, 0, "it stayed");
        assert_eq!(encode(2 * size, 2.0).0, 1, "it went");
        assert_eq!(encode(size / 2, 1.0), (1, 0), "nothing fits");
    }
}
