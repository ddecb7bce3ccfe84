//! The loop over epochs: shuffled batches, one optimiser step each, a checkpoint after every
//! epoch. The same seed gives the same result on the same machine, interrupted or not.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anomalens_backbones::ImageEncoder;
use candle_core::Tensor;

use super::progress::Progress;
use super::random::{generator, shuffled};
use super::sample::masks;
use super::store::Batch;
use super::{Adam, Cache, EpochLog, FeatureStore, Record, TrainingSample};
use crate::{Detector, DetectorError, Setup, StreamOptions};

/// How a method is trained. What is not given is the method's own default.
#[derive(Debug, Clone, Default)]
pub struct TrainOptions {
    /// Passes over the data.
    pub epochs: Option<usize>,
    /// Images in a step.
    pub batch: Option<usize>,
    /// The optimiser's learning rate.
    pub learning_rate: Option<f64>,
    /// Seed of initial values and of the order of images.
    pub seed: u32,
    /// Where features are kept.
    pub cache: Cache,
    /// Where checkpoints and the log go.
    pub folder: PathBuf,
    /// How images are read.
    pub stream: StreamOptions,
}

/// What happens during training.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainEvent {
    /// Before anything is computed: bytes that the features of so many images will take.
    CacheSize {
        /// Where.
        cache: Cache,
        /// How many bytes.
        bytes: u64,
        /// Of how many images.
        images: usize,
    },
    /// So many images are encoded.
    Encoded(usize),
    /// A checkpoint after this many epochs was found.
    Resumed(usize),
    /// A step is done.
    Step {
        /// The epoch, counted from 1.
        epoch: usize,
        /// Steps done in it.
        step: usize,
        /// Steps in an epoch.
        steps: usize,
    },
    /// An epoch is done and saved.
    Epoch(EpochLog),
}

/// Is told what happens; breaking off ends the run after the last saved epoch.
pub type Watch<'a> = dyn FnMut(TrainEvent) -> ControlFlow<()> + 'a;

/// What training came to.
pub struct Trained {
    /// The detector, after the last good epoch.
    pub detector: Box<dyn Detector>,
    /// All epochs, those of earlier runs too.
    pub epochs: Vec<EpochLog>,
    /// Why it ended early, if it did.
    pub stopped: Option<String>,
}

/// A loss that is to become smaller, and its parts.
pub(crate) struct Losses {
    pub(crate) total: Tensor,
    pub(crate) parts: Vec<(&'static str, Tensor)>,
}

/// A model whose parameters are learned.
pub(crate) trait Learner {
    /// The loss of a batch.
    fn loss(
        &self,
        features: &Batch,
        anomalous: &[bool],
        masks: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError>;
}

/// What a run is made of.
pub(crate) struct Run<'a> {
    pub(crate) encoder: &'a dyn ImageEncoder,
    pub(crate) setup: &'a Setup,
    pub(crate) record: Record,
    pub(crate) samples: &'a [TrainingSample],
    /// Side of the masks, in pixels.
    pub(crate) mask_side: u32,
    pub(crate) epochs: usize,
    pub(crate) batch: usize,
    /// What a checkpoint must be of to be gone on from.
    pub(crate) identity: String,
}

/// Trains `learner`, whose parameters `optimiser` moves. Returns the log, and why it ended early
/// if it did.
pub(crate) fn run(
    plan: &Run,
    learner: &dyn Learner,
    optimiser: &mut Adam,
    options: &TrainOptions,
    watch: &mut Watch,
) -> Result<(Vec<EpochLog>, Option<String>), DetectorError> {
    let mut progress = Progress::open(&options.folder, plan.identity.clone(), optimiser)?;
    let interrupted = || Some("interrupted".to_owned());
    let finished = progress.epochs.len();
    if finished > 0 && watch(TrainEvent::Resumed(finished)).is_break() {
        return Ok((progress.epochs, interrupted()));
    }
    if finished >= plan.epochs {
        return Ok((progress.epochs, None));
    }
    let images = plan.samples.len();
    if options.cache != Cache::Off {
        let size = TrainEvent::CacheSize {
            cache: options.cache,
            bytes: plan.record.bytes(images),
            images,
        };
        if watch(size).is_break() {
            return Ok((progress.epochs, interrupted()));
        }
    }
    let store = FeatureStore::fill(
        plan.encoder,
        plan.setup,
        &options.stream,
        plan.record,
        plan.samples,
        (options.cache, &options.folder),
        |done| watch(TrainEvent::Encoded(done)),
    )?;
    let Some(mut store) = store else {
        return Ok((progress.epochs, interrupted()));
    };
    for epoch in finished + 1..=plan.epochs {
        let start = Instant::now();
        let order = shuffled(images, &mut generator(options.seed, epoch as u32));
        let steps = images.div_ceil(plan.batch);
        let mut sums: Vec<(String, f64)> = vec![];
        let mut sum = 0.0;
        for (step, indices) in (1..).zip(order.chunks(plan.batch)) {
            let features = store.batch(indices, plan.samples)?;
            let samples: Vec<&TrainingSample> = indices.iter().map(|&i| &plan.samples[i]).collect();
            let anomalous: Vec<bool> = samples.iter().map(|sample| sample.anomalous).collect();
            let masks = masks(&samples, plan.mask_side, &options.stream.limits)?;
            let losses = learner.loss(&features, &anomalous, &masks)?;
            let loss = f64::from(losses.total.to_scalar::<f32>()?);
            if !loss.is_finite() {
                // The parameters of the last saved epoch are the last good ones.
                let reason = format!("the loss became {loss} in step {step} of epoch {epoch}");
                let last = Progress::open(&options.folder, plan.identity.clone(), optimiser)?;
                return Ok((last.epochs, Some(reason)));
            }
            optimiser.step(&losses.total.backward()?)?;
            sum += loss;
            for (i, (name, part)) in losses.parts.into_iter().enumerate() {
                if sums.len() <= i {
                    sums.push((name.to_owned(), 0.0));
                }
                sums[i].1 += f64::from(part.to_scalar::<f32>()?);
            }
            if watch(TrainEvent::Step { epoch, step, steps }).is_break() {
                let last = Progress::open(&options.folder, plan.identity.clone(), optimiser)?;
                return Ok((last.epochs, interrupted()));
            }
        }
        let mean = |sum: f64| sum / steps as f64;
        let log = EpochLog {
            epoch,
            loss: mean(sum),
            parts: sums
                .into_iter()
                .map(|(name, sum)| (name, mean(sum)))
                .collect(),
            seconds: start.elapsed().as_secs_f64(),
        };
        progress.save(log.clone(), optimiser)?;
        if watch(TrainEvent::Epoch(log)).is_break() {
            return Ok((progress.epochs, interrupted()));
        }
    }
    Ok((progress.epochs, None))
}
