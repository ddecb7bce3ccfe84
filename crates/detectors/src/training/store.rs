//! Features of the frozen backbone, computed once and kept as bfloat16 in memory or in a file: an
//! epoch then costs no pass through the network.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

use anomalens_backbones::{BackboneError, ImageFeatures};
use candle_core::{Device, Tensor};
use half::bf16;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Run, TrainOptions, TrainingSample};
use crate::stream::encode_images;
use crate::{DetectorError, ImageSource, Looks, StreamOptions, stream_features};

/// Where features are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// In memory.
    #[default]
    Memory,
    /// In a file beside the checkpoints, so that a run that was killed need not encode again.
    Disk,
    /// Nowhere: every epoch encodes every image again.
    Off,
}

/// The sizes of the features of one image, the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Blocks whose patch tokens are kept.
    pub(crate) blocks: usize,
    /// Patches of an image.
    pub(crate) patches: usize,
    /// Length of a token as the setup asks for it.
    pub(crate) width: usize,
    /// Length of the embedding; zero if none is asked for.
    pub(crate) embedding: usize,
}

impl Record {
    fn numbers(self) -> usize {
        self.embedding + self.blocks * self.patches * self.width
    }

    /// Bytes that `images` images take.
    pub(crate) fn bytes(self, images: usize) -> u64 {
        (self.numbers() * size_of::<bf16>() * images) as u64
    }
}

/// The features of a batch, float32.
pub(crate) struct Batch {
    /// `[batch, embedding]`.
    pub(crate) embedding: Option<Tensor>,
    /// `[batch, patches, width]` for each block.
    pub(crate) blocks: Vec<Tensor>,
}

/// The features of all training images.
pub(crate) struct FeatureStore<'a> {
    plan: &'a Run<'a>,
    stream: &'a StreamOptions,
    place: Place,
}

enum Place {
    Memory(Vec<bf16>),
    Disk {
        file: File,
        path: PathBuf,
        /// Whether it is for this run alone.
        own: bool,
    },
    Off,
}

impl<'a> FeatureStore<'a> {
    /// Encodes the images of `plan` and keeps the result as `options` say; what an earlier run
    /// left on disk is not encoded again. `progress` is told how many are done. Returns how long
    /// all would take, too; none if `progress` breaks off.
    pub(crate) fn fill(
        plan: &'a Run<'a>,
        options: &'a TrainOptions,
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<(Self, Option<f64>)>, DetectorError> {
        let mut done = 0;
        let place = match options.cache {
            Cache::Memory => Place::Memory(Vec::with_capacity(
                plan.record.numbers() * plan.samples.len(),
            )),
            Cache::Disk => {
                let folder = options.features.as_ref().unwrap_or(&options.folder);
                let path = folder.join(format!("features-{}.bf16", key(plan, options)));
                let failed = file_error(&path);
                let file = File::options()
                    .read(true)
                    .append(true)
                    .create(true)
                    .open(&path)
                    .map_err(&failed)?;
                // Whole records stay; one that was cut off is made again.
                let record = plan.record.bytes(1).max(1);
                let whole = file.metadata().map_err(&failed)?.len() / record;
                file.set_len(whole * record).map_err(&failed)?;
                done = whole as usize;
                let own = options.features.is_none();
                Place::Disk { file, path, own }
            }
            Cache::Off => Place::Off,
        };
        let mut store = Self {
            plan,
            stream: &options.stream,
            place,
        };
        if options.cache == Cache::Off {
            return Ok(Some((store, None)));
        }
        let start = Instant::now();
        let left = plan.samples.iter().skip(done).map(|s| s.source.clone());
        let left: Vec<ImageSource> = left.collect();
        let mut outcome = Ok(());
        let mut stopped = done > 0 && progress(done).is_break();
        if !stopped {
            let (encoder, setup) = (plan.encoder, plan.setup);
            stream_features(encoder, setup, &left, &options.stream, |index, encoded| {
                let added = match encoded {
                    Ok((features, _)) => store.add(&features),
                    Err(error) => Err(DetectorError::TrainingImage(error)),
                };
                if added.is_err() {
                    outcome = added;
                    return ControlFlow::Break(());
                }
                let flow = progress(done + index + 1);
                stopped = flow.is_break();
                flow
            })?;
        }
        outcome?;
        let each = start.elapsed().as_secs_f64() / left.len() as f64;
        let all = (!left.is_empty()).then_some(each * plan.samples.len() as f64);
        Ok((!stopped).then_some((store, all)))
    }

    fn add(&mut self, features: &ImageFeatures) -> Result<(), DetectorError> {
        let numbers = numbers(features).map(bf16::from_f32);
        match &mut self.place {
            Place::Memory(values) => values.extend(numbers),
            Place::Disk { file, path, .. } => {
                let bytes: Vec<u8> = numbers.flat_map(bf16::to_le_bytes).collect();
                file.write_all(&bytes).map_err(file_error(path))?;
            }
            Place::Off => {}
        }
        Ok(())
    }

    /// The features of the samples at `indices`.
    pub(crate) fn batch(&mut self, indices: &[usize]) -> Result<Batch, DetectorError> {
        let Run {
            encoder,
            setup,
            samples,
            record,
            ..
        } = self.plan;
        let length = record.numbers();
        let mut values: Vec<f32> = Vec::with_capacity(length * indices.len());
        match &mut self.place {
            Place::Memory(stored) => {
                for &i in indices {
                    let stored = &stored[i * length..(i + 1) * length];
                    values.extend(stored.iter().map(|x| x.to_f32()));
                }
            }
            Place::Disk { file, path, .. } => {
                let mut bytes = vec![0; length * size_of::<bf16>()];
                for &i in indices {
                    file.seek(SeekFrom::Start((i * bytes.len()) as u64))
                        .and_then(|_| file.read_exact(&mut bytes))
                        .map_err(file_error(path))?;
                    let (words, _) = bytes.as_chunks::<2>();
                    values.extend(words.iter().map(|&word| bf16::from_le_bytes(word).to_f32()));
                }
            }
            Place::Off => {
                let images = indices
                    .iter()
                    .map(|&i| samples[i].source.open(&self.stream.limits.into()))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(DetectorError::TrainingImage)?;
                for features in encode_images(*encoder, setup, Looks::Once, &images)? {
                    values.extend(numbers(&features));
                }
            }
        }
        self.split(values, indices.len())
            .map_err(|e| BackboneError::from(e).into())
    }

    /// Removes what is on disk, unless other runs may use it.
    pub(crate) fn close(self) -> Result<(), DetectorError> {
        match self.place {
            Place::Disk {
                file,
                path,
                own: true,
            } => {
                drop(file);
                std::fs::remove_file(&path).map_err(file_error(&path))
            }
            _ => Ok(()),
        }
    }

    /// The parts of `batch` joined records.
    fn split(&self, values: Vec<f32>, batch: usize) -> candle_core::Result<Batch> {
        let Record {
            blocks,
            patches,
            width,
            embedding,
        } = self.plan.record;
        let all = Tensor::from_vec(values, (batch, self.plan.record.numbers()), &Device::Cpu)?;
        let block = |i: usize| {
            all.narrow(1, embedding + i * patches * width, patches * width)?
                .reshape((batch, patches, width))
        };
        Ok(Batch {
            embedding: (embedding > 0)
                .then(|| all.narrow(1, 0, embedding)?.contiguous())
                .transpose()?,
            blocks: (0..blocks).map(block).collect::<candle_core::Result<_>>()?,
        })
    }
}

/// The numbers that are kept of an image: embedding, then the patch tokens of each block.
fn numbers(features: &ImageFeatures) -> impl Iterator<Item = f32> + '_ {
    let embedding = features.embedding.iter().flatten().copied();
    embedding.chain(
        features
            .maps
            .iter()
            .flat_map(|map| map.tokens.iter().copied()),
    )
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> DetectorError + use<> {
    let path = path.to_owned();
    move |source| DetectorError::TrainingFile {
        path: path.clone(),
        source,
    }
}

/// Tells features apart that differ in their weights, their preprocessing or their images.
fn key(plan: &Run, options: &TrainOptions) -> String {
    let images = plan.samples.iter().map(|TrainingSample { source, .. }| {
        let file = std::fs::metadata(&source.path).ok();
        let changed = file.as_ref().and_then(|file| file.modified().ok());
        let age = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let size = file.map(|file| file.len());
        format!("{:?} {:?} {size:?} {age:?}\n", source.path, source.crop)
    });
    let mut hash = Sha256::new();
    hash.update(format!("{} {:?}\n", options.backbone, plan.setup));
    images.for_each(|image| hash.update(image));
    let bytes = hash.finalize();
    bytes[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
