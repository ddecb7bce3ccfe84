//! Features of images kept on disk, so that an image goes through a network once, whatever is made
//! of its features later.
//!
//! A file is named after everything that its features follow from. For [`CachedEncoder`], whose
//! results are the same with and without, that is the network and how exactly it computes, the
//! pixels as the network sees them, and what is requested. Training keeps its features in the same
//! files, but in half the space and without looking at the pixels again.
//!
//! ```text
//! encoder.rs  a network whose features are looked up before they are computed
//! file.rs     the bytes of a file
//! ```

mod encoder;
mod file;

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anomalens_base::write_cached;
pub use encoder::CachedEncoder;
pub use file::Numbers;
use sha2::{Digest, Sha256};

use crate::ImageFeatures;

/// A folder of features that does not grow beyond a limit: what was not used for longest goes
/// first. What this run has used stays; once that alone fills it, no more is kept.
pub struct FeatureCache {
    folder: PathBuf,
    limit: u64,
    numbers: Numbers,
    state: Mutex<State>,
}

/// What the features of an image are kept under: a hash of everything that they follow from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FeatureKey(String);

impl FeatureKey {
    /// The key of features that follow from `parts`.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[derive(Default)]
struct State {
    /// Files of earlier runs, the one that was not used for longest first.
    old: VecDeque<(PathBuf, u64)>,
    /// What this run has read or written.
    used: HashSet<FeatureKey>,
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
    /// Opens `folder`, which is made if it is not there, for at most `limit` bytes; what is added
    /// is kept as `numbers`.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: &Path, limit: u64, numbers: Numbers) -> io::Result<Self> {
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
            numbers,
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

    fn path(&self, FeatureKey(name): &FeatureKey) -> PathBuf {
        let (shelf, file) = name.split_at(2);
        self.folder.join(shelf).join(file)
    }

    /// The features under `key`, if they are there and undamaged.
    pub fn read(&self, key: &FeatureKey) -> Option<ImageFeatures> {
        let path = self.path(key);
        let features = file::decode(&fs::read(&path).ok()?)?;
        // Only the order in which files go depends on it.
        let _ = File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        let mut state = self.state();
        state.usage.found += 1;
        state.used.insert(key.clone());
        Some(features)
    }

    /// Keeps `features` under `key` if there is room; the file appears complete or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&self, key: &FeatureKey, features: &ImageFeatures) -> io::Result<()> {
        let bytes = file::encode(features, self.numbers)?;
        let mut state = self.state();
        state.usage.encoded += 1;
        if self.make_room(&mut state, bytes.len() as u64) {
            self.write(key, &bytes)?;
            state.usage.bytes += bytes.len() as u64;
            state.used.insert(key.clone());
        }
        Ok(())
    }

    fn write(&self, key: &FeatureKey, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        write_cached(&path, bytes)
    }

    /// Whether `bytes` more fit, when what may go is gone.
    fn make_room(&self, state: &mut State, bytes: u64) -> bool {
        while state.usage.bytes + bytes > self.limit {
            let Some((path, size)) = state.old.pop_front() else {
                return false;
            };
            let is_used = state.used.iter().any(|key| self.path(key) == path);
            let is_gone = || match fs::remove_file(&path) {
                Ok(()) => true,
                // Another run removed it, or it was a temporary file that has a name now.
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if !is_used && is_gone() {
                state.usage.bytes = state.usage.bytes.saturating_sub(size);
            }
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // test code
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anomalens_vision::Preprocessed;

    use super::*;
    use crate::{
        BackboneError, Embedding, EncoderSpec, FeatureMap, FeatureRequest, Grid, ImageEncoder,
        LayerId, LayerInfo, Precision,
    };

    /// Tokens that follow from the first pixel of each image; counts the images it has seen.
    struct Counting {
        spec: EncoderSpec,
        seen: AtomicUsize,
    }

    impl Default for Counting {
        fn default() -> Self {
            let layer = |id, dim| LayerInfo { id, dim, stride: 1 };
            Self {
                spec: EncoderSpec {
                    name: "counting".to_owned(),
                    layers: vec![layer(LayerId::Block(1), 2), layer(LayerId::Stage(2), 3)],
                    embedding: 3,
                    multiple: 1,
                    normalisation: crate::Normalisation::IMAGENET,
                    precision: Precision::F32,
                },
                seen: AtomicUsize::new(0),
            }
        }
    }

    impl ImageEncoder for Counting {
        fn spec(&self) -> &EncoderSpec {
            &self.spec
        }

        fn encode(
            &self,
            images: &[Preprocessed],
            request: &FeatureRequest,
        ) -> Result<Vec<ImageFeatures>, BackboneError> {
            self.seen.fetch_add(images.len(), Ordering::SeqCst);
            let features = images.iter().map(|image| {
                let pixel = image.values[0];
                let grid = Grid {
                    rows: image.height,
                    columns: image.width,
                };
                let map = |&layer: &LayerId| {
                    let dim = self.spec.layer(layer)?.dim;
                    let class_token = match layer {
                        LayerId::Block(_) => Some(vec![pixel + 1.0; dim]),
                        LayerId::Stage(_) | LayerId::Window(_) => None,
                    };
                    Ok::<_, BackboneError>(FeatureMap {
                        layer,
                        grid,
                        dim,
                        tokens: vec![pixel * 0.1; dim * grid.len()],
                        class_token,
                    })
                };
                Ok(ImageFeatures {
                    maps: request.layers.iter().map(map).collect::<Result<_, _>>()?,
                    embedding: request.embedding.map(|_| vec![pixel; 3]),
                    further: vec![],
                })
            });
            features.collect()
        }
    }

    fn images(pixels: &[f32]) -> Vec<Preprocessed> {
        let image = |&pixel: &f32| Preprocessed {
            height: 2,
            width: 3,
            values: vec![pixel; 3 * 2 * 3],
        };
        pixels.iter().map(image).collect()
    }

    fn request(embedding: bool) -> FeatureRequest {
        FeatureRequest {
            embedding: embedding.then_some(Embedding::Normed),
            ..FeatureRequest::layers([LayerId::Block(1), LayerId::Stage(2)])
        }
    }

    /// The network, and the same with its features in `folder`.
    fn both(folder: &Path, limit: u64, identity: &str) -> (Arc<Counting>, CachedEncoder) {
        let network = Arc::new(Counting::default());
        let cache = Arc::new(FeatureCache::open(folder, limit, Numbers::F32).unwrap());
        let cached = CachedEncoder::new(network.clone(), identity, cache);
        (network, cached)
    }

    #[test]
    fn an_image_is_encoded_once_and_its_features_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for embedding in [false, true] {
            let request = request(embedding);
            let encode = |encoder: &dyn ImageEncoder, pixels: &[f32]| {
                encoder.encode(&images(pixels), &request).unwrap()
            };
            let (network, cached) = both(folder.path(), u64::MAX, "one");
            encode(&cached, &[1.0, 2.0]);
            assert_eq!(network.seen.load(Ordering::SeqCst), 2);
            // Another run: what is there, between what is not, in the order asked for.
            let (network, cached) = both(folder.path(), u64::MAX, "one");
            let mixed = encode(&cached, &[3.0, 2.0, 4.0, 1.0]);
            assert_eq!(network.seen.load(Ordering::SeqCst), 2, "{embedding}");
            assert_eq!(mixed, encode(&Counting::default(), &[3.0, 2.0, 4.0, 1.0]));
            let usage = cached.cache.usage();
            assert_eq!((usage.found, usage.encoded), (2, 2));
            // Another network.
            let (network, cached) = both(folder.path(), u64::MAX, "two");
            encode(&cached, &[1.0]);
            assert_eq!(network.seen.load(Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn a_damaged_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let request = request(false);
        let (_, cached) = both(folder.path(), u64::MAX, "one");
        let whole = cached.encode(&images(&[1.0]), &request).unwrap();
        let key = cached.key(&images(&[1.0])[0], &request);
        let path = cached.cache.path(&key);
        let bytes = fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        flipped[30] ^= 1;
        for damaged in [&bytes[..20], &bytes[..bytes.len() - 4], &flipped, &[]] {
            fs::write(&path, damaged).unwrap();
            let (network, cached) = both(folder.path(), u64::MAX, "one");
            let again = cached.encode(&images(&[1.0]), &request).unwrap();
            assert_eq!(again, whole);
            assert_eq!(network.seen.load(Ordering::SeqCst), 1);
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
            (network.seen.load(Ordering::SeqCst), size)
        };
        let (_, size) = encode(u64::MAX, 1.0);
        encode(u64::MAX, 2.0);
        assert_eq!(encode(u64::MAX, 1.0), (0, 2 * size), "used again");
        assert_eq!(encode(2 * size, 3.0), (1, 2 * size));
        assert_eq!(encode(2 * size, 1.0).0, 0, "it stayed");
        assert_eq!(encode(2 * size, 2.0).0, 1, "it went");
        assert_eq!(encode(size / 2, 1.0), (1, 0), "nothing fits");
    }

    #[test]
    fn numbers_are_rounded_where_half_the_space_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let features = Counting::default().encode(&images(&[1.234_567]), &request(true));
        let features = &features.unwrap()[0];
        let kept = |numbers: Numbers| {
            let cache = FeatureCache::open(folder.path(), u64::MAX, numbers).unwrap();
            let (key, before) = (FeatureKey::of([&[numbers as u8][..]]), cache.usage().bytes);
            cache.add(&key, features).unwrap();
            (cache.read(&key).unwrap(), cache.usage().bytes - before)
        };
        let (exact, size) = kept(Numbers::F32);
        assert_eq!(&exact, features);
        let (rounded, half) = kept(Numbers::Bf16);
        assert_eq!(rounded.embedding, Some(vec![1.234_375; 3]));
        assert!(half < size, "{half} {size}");
    }
}
