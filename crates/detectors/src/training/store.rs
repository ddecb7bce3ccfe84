//! Features of the frozen backbone, computed once and kept as bfloat16 in memory or in a file: an
//! epoch then costs no pass through the network.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;

use anomalens_backbones::{BackboneError, ImageEncoder, ImageFeatures};
use candle_core::{Device, Tensor};
use half::bf16;
use serde::{Deserialize, Serialize};

use super::TrainingSample;
use crate::stream::encode_images;
use crate::{DetectorError, ImageSource, Setup, StreamOptions, stream_features};

/// Where features are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// In memory.
    #[default]
    Memory,
    /// In a temporary file beside the checkpoints.
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
    encoder: &'a dyn ImageEncoder,
    setup: &'a Setup,
    stream: &'a StreamOptions,
    record: Record,
    place: Place,
}

enum Place {
    Memory(Vec<bf16>),
    Disk(File),
    Off,
}

impl<'a> FeatureStore<'a> {
    /// Encodes `samples` and keeps the result as `cache` says; `progress` is told how many are
    /// done. None if it breaks off.
    pub(crate) fn fill(
        encoder: &'a dyn ImageEncoder,
        setup: &'a Setup,
        stream: &'a StreamOptions,
        record: Record,
        samples: &[TrainingSample],
        (cache, folder): (Cache, &Path),
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Self>, DetectorError> {
        let failed = |source| DetectorError::TrainingFile {
            path: folder.to_owned(),
            source,
        };
        let place = match cache {
            Cache::Memory => Place::Memory(Vec::with_capacity(record.numbers() * samples.len())),
            Cache::Disk => Place::Disk(tempfile::tempfile_in(folder).map_err(failed)?),
            Cache::Off => Place::Off,
        };
        let mut store = Self {
            encoder,
            setup,
            stream,
            record,
            place,
        };
        if cache == Cache::Off {
            return Ok(Some(store));
        }
        let sources: Vec<ImageSource> = samples.iter().map(|s| s.source.clone()).collect();
        let mut outcome = Ok(());
        let mut stopped = false;
        stream_features(encoder, setup, &sources, stream, |index, encoded| {
            let added = match encoded {
                Ok((features, _)) => store.add(&features).map_err(failed),
                Err(error) => Err(DetectorError::TrainingImage(error)),
            };
            if added.is_err() {
                outcome = added;
                return ControlFlow::Break(());
            }
            let flow = progress(index + 1);
            stopped = flow.is_break();
            flow
        })?;
        outcome?;
        Ok((!stopped).then_some(store))
    }

    fn add(&mut self, features: &ImageFeatures) -> std::io::Result<()> {
        let numbers = numbers(features).map(bf16::from_f32);
        match &mut self.place {
            Place::Memory(values) => values.extend(numbers),
            Place::Disk(file) => {
                let bytes: Vec<u8> = numbers.flat_map(bf16::to_le_bytes).collect();
                file.write_all(&bytes)?;
            }
            Place::Off => {}
        }
        Ok(())
    }

    /// The features of the samples at `indices`.
    pub(crate) fn batch(
        &mut self,
        indices: &[usize],
        samples: &[TrainingSample],
    ) -> Result<Batch, DetectorError> {
        let length = self.record.numbers();
        let mut values: Vec<f32> = Vec::with_capacity(length * indices.len());
        match &mut self.place {
            Place::Memory(stored) => {
                for &i in indices {
                    values.extend(
                        stored[i * length..(i + 1) * length]
                            .iter()
                            .map(|x| x.to_f32()),
                    );
                }
            }
            Place::Disk(file) => {
                let mut bytes = vec![0; length * size_of::<bf16>()];
                for &i in indices {
                    file.seek(SeekFrom::Start((i * bytes.len()) as u64))
                        .and_then(|_| file.read_exact(&mut bytes))
                        .map_err(|source| DetectorError::TrainingFile {
                            path: "the feature cache".into(),
                            source,
                        })?;
                    let (words, _) = bytes.as_chunks::<2>();
                    values.extend(words.iter().map(|&word| bf16::from_le_bytes(word).to_f32()));
                }
            }
            Place::Off => {
                let images = indices
                    .iter()
                    .map(|&i| samples[i].source.open(&self.stream.limits))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(DetectorError::TrainingImage)?;
                for features in encode_images(self.encoder, self.setup, &images)? {
                    values.extend(numbers(&features));
                }
            }
        }
        self.split(values, indices.len())
            .map_err(|e| BackboneError::from(e).into())
    }

    /// The parts of `batch` joined records.
    fn split(&self, values: Vec<f32>, batch: usize) -> candle_core::Result<Batch> {
        let Record {
            blocks,
            patches,
            width,
            embedding,
        } = self.record;
        let all = Tensor::from_vec(values, (batch, self.record.numbers()), &Device::Cpu)?;
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
    let tokens = features.blocks.iter();
    embedding.chain(tokens.flat_map(|block| block.patch_tokens.iter().copied()))
}
