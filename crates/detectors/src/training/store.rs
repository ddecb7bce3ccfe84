//! Features of the frozen backbone, computed once and kept as bfloat16 in memory or on disk: an
//! epoch then costs no pass through the network.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anomalens_backbones::{
    BackboneError, FeatureCache, FeatureKey, FeatureMap, ImageFeatures, Numbers,
};
use candle_core::{Device, Tensor};
use half::bf16;
use serde::{Deserialize, Serialize};

use super::{Run, TrainOptions};
use crate::pipeline::encode_images;
use crate::{DetectorError, ImageSource, StreamOptions, Tta, stream_features};

/// Where features are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// In memory.
    #[default]
    Memory,
    /// In files beside the checkpoints, so that a run that was killed need not encode again.
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

    /// Where the embedding lies in a record, and the tokens of each block: of all patches, or of one.
    fn ranges(self, patch: Option<usize>) -> Vec<Range<usize>> {
        let (first, count) = patch.map_or((0, self.patches), |patch| (patch, 1));
        let block = |block: usize| {
            let start = self.embedding + (block * self.patches + first) * self.width;
            start..start + count * self.width
        };
        let embedding = 0..self.embedding;
        std::iter::once(embedding)
            .chain((0..self.blocks).map(block))
            .collect()
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
        cache: FeatureCache,
        /// For each sample.
        keys: Vec<FeatureKey>,
        /// Whether it is for this run alone.
        own: bool,
    },
    Off,
}

impl<'a> FeatureStore<'a> {
    /// Encodes the images of `plan` and keeps the result as `options` say; what an earlier run
    /// left on disk is not encoded again. `progress` gets how many are done. Returns how long
    /// all would take, too; none if `progress` breaks off.
    pub(crate) fn fill(
        plan: &'a Run<'a>,
        options: &'a TrainOptions,
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<(Self, Option<f64>)>, DetectorError> {
        let mut left: Vec<usize> = (0..plan.samples.len()).collect();
        let place = match options.cache {
            Cache::Memory => Place::Memory(Vec::with_capacity(
                plan.record.numbers() * plan.samples.len(),
            )),
            Cache::Disk => {
                let own = options.features.is_none();
                let folder = match &options.features {
                    Some(folder) => folder.clone(),
                    None => options.folder.join("features"),
                };
                let cache = FeatureCache::open(&folder, u64::MAX, Numbers::Bf16)
                    .map_err(file_error(&folder))?;
                let keys = keys(plan, options);
                left.retain(|&i| cache.read(&keys[i]).is_none());
                Place::Disk { cache, keys, own }
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
        let done = plan.samples.len() - left.len();
        let sources = left.iter().map(|&i| plan.samples[i].source.clone());
        let sources: Vec<ImageSource> = sources.collect();
        let mut outcome = Ok(());
        let mut stopped = done > 0 && progress(done).is_break();
        if !stopped {
            let (encoder, input) = (plan.encoder, plan.input);
            stream_features(
                encoder,
                input,
                &sources,
                &options.stream,
                |index, encoded| {
                    let added = match encoded {
                        Ok((features, _)) => store.add(left[index], features),
                        Err(error) => Err(DetectorError::TrainingImage(error)),
                    };
                    if added.is_err() {
                        outcome = added;
                        return ControlFlow::Break(());
                    }
                    let flow = progress(done + index + 1);
                    stopped = flow.is_break();
                    flow
                },
            )?;
        }
        outcome?;
        let each = start.elapsed().as_secs_f64() / left.len() as f64;
        let all = (!left.is_empty()).then_some(each * plan.samples.len() as f64);
        Ok((!stopped).then_some((store, all)))
    }

    fn add(&mut self, sample: usize, features: ImageFeatures) -> Result<(), DetectorError> {
        match &mut self.place {
            Place::Memory(values) => values.extend(numbers(&features).map(bf16::from_f32)),
            Place::Disk { cache, keys, .. } => {
                let kept = |map: FeatureMap| FeatureMap {
                    class_token: None,
                    ..map
                };
                let features = ImageFeatures {
                    maps: features.maps.into_iter().map(kept).collect(),
                    embedding: features.embedding,
                    further: vec![],
                };
                cache
                    .add(&keys[sample], &features)
                    .map_err(file_error(cache.folder()))?;
            }
            Place::Off => {}
        }
        Ok(())
    }

    /// The features of the samples at `indices`: of all their patches, or of one `patches` for each.
    pub(crate) fn batch(
        &mut self,
        indices: &[usize],
        patches: Option<&[usize]>,
    ) -> Result<Batch, DetectorError> {
        let record = self.plan.record;
        let length = record.numbers();
        let part = Record {
            patches: patches.map_or(record.patches, |_| 1),
            ..record
        };
        let wanted = |place: usize| {
            let patch = patches.and_then(|patches| patches.get(place));
            record.ranges(patch.copied())
        };
        let mut values: Vec<f32> = Vec::with_capacity(part.numbers() * indices.len());
        match &mut self.place {
            Place::Memory(stored) => {
                for (place, &i) in indices.iter().enumerate() {
                    let stored = &stored[i * length..(i + 1) * length];
                    for range in wanted(place) {
                        values.extend(stored[range].iter().map(|x| x.to_f32()));
                    }
                }
            }
            Place::Disk { cache, keys, .. } => {
                for (place, &i) in indices.iter().enumerate() {
                    let features = match cache.read(&keys[i]) {
                        Some(features) => features,
                        // Someone else removed or damaged it.
                        None => {
                            let mut features = encode(self.plan, self.stream, &[i])?;
                            features.pop().unwrap_or_default()
                        }
                    };
                    let all: Vec<f32> = numbers(&features).collect();
                    for range in wanted(place) {
                        let rounded = |&x: &f32| bf16::from_f32(x).to_f32();
                        values.extend(all.get(range).unwrap_or_default().iter().map(rounded));
                    }
                }
            }
            Place::Off => {
                let features = encode(self.plan, self.stream, indices)?;
                for (place, features) in features.iter().enumerate() {
                    let all: Vec<f32> = numbers(features).collect();
                    for range in wanted(place) {
                        values.extend_from_slice(all.get(range).unwrap_or_default());
                    }
                }
            }
        }
        split(part, values, indices.len()).map_err(|e| BackboneError::from(e).into())
    }

    /// Removes what is on disk, unless other runs may use it.
    pub(crate) fn close(self) -> Result<(), DetectorError> {
        match self.place {
            Place::Disk {
                cache, own: true, ..
            } => std::fs::remove_dir_all(cache.folder()).map_err(file_error(cache.folder())),
            _ => Ok(()),
        }
    }
}

/// The parts of `batch` joined records.
fn split(record: Record, values: Vec<f32>, batch: usize) -> candle_core::Result<Batch> {
    let Record {
        blocks,
        patches,
        width,
        embedding,
    } = record;
    let all = Tensor::from_vec(values, (batch, record.numbers()), &Device::Cpu)?;
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

/// The features of the samples at `indices`, in float32.
fn encode(
    plan: &Run,
    stream: &StreamOptions,
    indices: &[usize],
) -> Result<Vec<ImageFeatures>, DetectorError> {
    let images = indices
        .iter()
        .map(|&i| plan.samples[i].source.open(&stream.decode))
        .collect::<Result<Vec<_>, _>>()
        .map_err(DetectorError::TrainingImage)?;
    let images = images.iter().map(Arc::as_ref);
    encode_images(plan.encoder, plan.input, Tta::default(), images)
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> DetectorError + use<> {
    let path = path.to_owned();
    move |source| DetectorError::TrainingFile {
        path: path.clone(),
        source,
    }
}

/// What the features of each sample follow from: weights, preprocessing and request, image file.
fn keys(plan: &Run, options: &TrainOptions) -> Vec<FeatureKey> {
    let common = format!("{} {:?}", options.backbone, plan.input);
    let key =
        |source: &ImageSource| FeatureKey::of([common.as_bytes(), source.content().as_bytes()]);
    let samples = plan.samples.iter();
    samples.map(|sample| key(&sample.source)).collect()
}
