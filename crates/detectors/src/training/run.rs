//! The loop over epochs: batches in a given order, one optimiser step each, a checkpoint after every
//! epoch. The same seed gives the same result on the same machine, interrupted or not.

use std::path::PathBuf;
use std::time::Instant;

use anomalens_backbones::ImageEncoder;
use candle_core::Tensor;

use super::checkpoint::Checkpoint;
use super::random::{generator, shuffled};
use super::sample::Masks;
use super::store::Batch;
use super::{Cache, EpochLog, FeatureStore, Optimiser, Record, TrainingSample};
use crate::{Detector, DetectorError, InputSpec, StreamOptions};

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
    /// Where features on disk are kept for other runs too; else they are in `folder` and removed
    /// when the run is done.
    pub features: Option<PathBuf>,
    /// What distinguishes the backbone from others, to which checkpoints and kept features are
    /// bound: the SHA-256 of its weights, its precision.
    pub backbone: String,
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

/// Called with what happens; a break ends the run after the last saved epoch.
pub type TrainProgress<'a> = anomalens_base::Progress<'a, TrainEvent>;

/// The result of training.
pub struct Trained {
    /// The detector, after the last good epoch.
    pub detector: Box<dyn Detector>,
    /// How it went.
    pub log: TrainLog,
}

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainLog {
    /// All epochs, those of earlier runs too.
    pub epochs: Vec<EpochLog>,
    /// Why it ended early, if it did.
    pub stopped: Option<String>,
    /// How long it takes to encode all images once, in seconds; none if this run encoded none
    /// ahead of the epochs.
    pub encoding: Option<f64>,
}

impl TrainLog {
    /// Seconds that all epochs take with features that are kept, and with every image encoded
    /// again in every epoch.
    pub fn costs(&self) -> Option<(f64, f64)> {
        let encoding = self.encoding?;
        let epochs: f64 = self.epochs.iter().map(|epoch| epoch.seconds).sum();
        let count = self.epochs.len() as f64;
        Some((encoding + epochs, encoding * count + epochs))
    }
}

/// A loss that is to become smaller, and its parts.
pub(crate) struct Losses {
    pub(crate) total: Tensor,
    pub(crate) parts: Vec<(&'static str, Tensor)>,
}

/// A model whose parameters are learned.
pub(crate) trait Learner {
    /// Told before each step, which is counted from 1 over all epochs. Which patch of each of the step's
    /// images is looked at; none if all of every image are.
    fn prepare(&self, _step: usize) -> Option<Vec<usize>> {
        None
    }

    /// The loss of a step over `samples`.
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        masks: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError>;
}

/// What a run is made of.
pub(crate) struct Run<'a> {
    pub(crate) encoder: &'a dyn ImageEncoder,
    pub(crate) input: &'a InputSpec,
    pub(crate) record: Record,
    pub(crate) samples: &'a [TrainingSample],
    /// Side of the masks, in pixels; none if they are not used.
    pub(crate) mask_side: Option<u32>,
    pub(crate) epochs: usize,
    /// The steps of an epoch, which is counted from 1: indices into `samples` for each.
    pub(crate) order: &'a dyn Fn(usize) -> Vec<Vec<usize>>,
    /// The learning rate in an epoch, which is counted from 1; the optimiser's own in all if none.
    pub(crate) rate: Option<&'a dyn Fn(usize) -> f64>,
    /// What a checkpoint must be of, to resume from it.
    pub(crate) identity: String,
}

/// Why a run ends that was cancelled.
const INTERRUPTED: &str = "interrupted";

/// Every one of `images` once in an epoch, in an order that follows from the seed, `batch` in a
/// step.
pub(crate) fn shuffled_batches(
    images: usize,
    batch: usize,
    seed: u32,
    epoch: usize,
) -> Vec<Vec<usize>> {
    let order = shuffled(images, &mut generator(seed, epoch as u32));
    order.chunks(batch).map(<[usize]>::to_vec).collect()
}

/// Trains `learner`, whose parameters `optimiser` moves.
pub(crate) fn run(
    plan: &Run,
    learner: &dyn Learner,
    optimiser: &mut dyn Optimiser,
    options: &TrainOptions,
    progress: &mut TrainProgress<'_>,
) -> Result<TrainLog, DetectorError> {
    let mut checkpoint = Checkpoint::open(&options.folder, plan.identity.clone(), optimiser)?;
    let ended = |epochs: &[EpochLog], stopped: Option<&str>, encoding: Option<f64>| TrainLog {
        epochs: epochs.to_vec(),
        stopped: stopped.map(str::to_owned),
        encoding,
    };
    let finished = checkpoint.epochs.len();
    if finished > 0 && progress(TrainEvent::Resumed(finished)).is_break() {
        return Ok(ended(&checkpoint.epochs, Some(INTERRUPTED), None));
    }
    if finished >= plan.epochs {
        return Ok(ended(&checkpoint.epochs, None, None));
    }
    let images = plan.samples.len();
    if options.cache != Cache::Off {
        let size = TrainEvent::CacheSize {
            cache: options.cache,
            bytes: plan.record.bytes(images),
            images,
        };
        if progress(size).is_break() {
            return Ok(ended(&checkpoint.epochs, Some(INTERRUPTED), None));
        }
    }
    let filled = FeatureStore::fill(plan, options, |done| progress(TrainEvent::Encoded(done)))?;
    let Some((mut store, encoding)) = filled else {
        return Ok(ended(&checkpoint.epochs, Some(INTERRUPTED), None));
    };
    let limits = &options.stream.decode.limits;
    let mut masks = plan
        .mask_side
        .map(|side| Masks::new(plan.samples, side, limits));
    for epoch in finished + 1..=plan.epochs {
        match train_epoch(
            plan, learner, optimiser, progress, &mut store, &mut masks, epoch,
        )? {
            Ok(log) => {
                checkpoint.save(log.clone(), optimiser)?;
                if progress(TrainEvent::Epoch(log)).is_break() {
                    return Ok(ended(&checkpoint.epochs, Some(INTERRUPTED), encoding));
                }
            }
            Err(reason) => {
                // The parameters of the last saved epoch are the last good ones.
                let last = Checkpoint::open(&options.folder, plan.identity.clone(), optimiser)?;
                return Ok(ended(&last.epochs, Some(&reason), encoding));
            }
        }
    }
    store.close()?;
    Ok(ended(&checkpoint.epochs, None, encoding))
}

/// One pass over the data, or why it cannot go on.
fn train_epoch(
    plan: &Run,
    learner: &dyn Learner,
    optimiser: &mut dyn Optimiser,
    progress: &mut TrainProgress<'_>,
    store: &mut FeatureStore,
    masks: &mut Option<Masks>,
    epoch: usize,
) -> Result<Result<EpochLog, String>, DetectorError> {
    let start = Instant::now();
    let order = (plan.order)(epoch);
    if let Some(rate) = plan.rate {
        optimiser.set_rate(rate(epoch));
    }
    let steps = order.len();
    let mut sums: Vec<(String, f64)> = vec![];
    let mut sum = 0.0;
    for (step, indices) in (1..).zip(&order) {
        let patches = learner.prepare((epoch - 1) * steps + step);
        let features = store.batch(indices, patches.as_deref())?;
        let samples: Vec<&TrainingSample> = indices.iter().map(|&i| &plan.samples[i]).collect();
        let masks = match masks {
            Some(masks) => masks.batch(indices)?,
            None => vec![],
        };
        let losses = learner.loss(&features, &samples, &masks)?;
        let loss = f64::from(losses.total.to_scalar::<f32>()?);
        if !loss.is_finite() {
            let reason = format!("the loss became {loss} in step {step} of epoch {epoch}");
            return Ok(Err(reason));
        }
        if !optimiser.step(&losses.total.backward()?)? {
            let reason = format!("a parameter was not finite after step {step} of epoch {epoch}");
            return Ok(Err(reason));
        }
        sum += loss;
        for (i, (name, part)) in losses.parts.into_iter().enumerate() {
            if sums.len() <= i {
                sums.push((name.to_owned(), 0.0));
            }
            sums[i].1 += f64::from(part.to_scalar::<f32>()?);
        }
        if progress(TrainEvent::Step { epoch, step, steps }).is_break() {
            return Ok(Err(INTERRUPTED.to_owned()));
        }
    }
    let mean = |sum: f64| sum / steps as f64;
    Ok(Ok(EpochLog {
        epoch,
        loss: mean(sum),
        parts: sums
            .into_iter()
            .map(|(name, sum)| (name, mean(sum)))
            .collect(),
        seconds: start.elapsed().as_secs_f64(),
    }))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anomalens_backbones::{
        BackboneError, EncoderSpec, FeatureRequest, ImageFeatures, Normalisation, Precision,
    };
    use anomalens_vision::{Image, MaskSource, Preprocess, Preprocessed};
    use candle_core::{Device, Var};

    use super::*;
    use crate::training::Adam;

    /// Sees nothing.
    struct Blind;

    static SPEC: LazyLock<EncoderSpec> = LazyLock::new(|| EncoderSpec {
        name: "blind".to_owned(),
        layers: vec![],
        embedding: 1,
        multiple: 14,
        normalisation: Normalisation::IMAGENET,
        precision: Precision::F32,
    });

    impl ImageEncoder for Blind {
        fn spec(&self) -> &EncoderSpec {
            &SPEC
        }

        fn encode(
            &self,
            images: &[Preprocessed],
            _: &FeatureRequest,
        ) -> Result<Vec<ImageFeatures>, BackboneError> {
            let features = ImageFeatures {
                maps: vec![],
                embedding: Some(vec![0.0]),
                further: vec![],
            };
            Ok(vec![features; images.len()])
        }
    }

    #[derive(Clone, Copy)]
    enum Fault {
        Loss,
        Gradient,
    }

    /// Goes well for `good` steps.
    struct Breaks {
        parameter: Var,
        good: usize,
        fault: Fault,
        steps: AtomicUsize,
    }

    impl Learner for Breaks {
        fn loss(
            &self,
            _: &Batch,
            _: &[&TrainingSample],
            _: &[Option<Vec<bool>>],
        ) -> Result<Losses, DetectorError> {
            let (value, step) = (
                self.parameter.as_tensor(),
                self.steps.fetch_add(1, Ordering::Relaxed),
            );
            let total = match self.fault {
                _ if step < self.good => value.sqr()?,
                Fault::Loss => (value * f64::NAN)?,
                // Its gradient is finite, the square of that is not.
                Fault::Gradient => (value * 3e38)?,
            };
            Ok(Losses {
                total,
                parts: vec![],
            })
        }
    }

    #[test]
    fn a_run_that_breaks_keeps_its_last_good_epoch() {
        for (fault, reason) in [
            (Fault::Loss, "the loss became NaN in step 1 of epoch 3"),
            (Fault::Gradient, "not finite after step 1 of epoch 3"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("image.png");
            let image = Image::new(14, 14, vec![9; 14 * 14 * 3]).unwrap();
            image.save_png(&path).unwrap();
            let sample = TrainingSample {
                source: path.into(),
                class: "plate".to_owned(),
                anomalous: false,
                mask: MaskSource::Unknown,
            };
            let input = InputSpec::new(Preprocess::clip_square(14), FeatureRequest::blocks([]));
            let samples = [sample.clone(), sample];
            let plan = |epochs| Run {
                encoder: &Blind,
                input: &input,
                record: Record {
                    blocks: 0,
                    patches: 1,
                    width: 1,
                    embedding: 1,
                },
                samples: &samples,
                mask_side: Some(14),
                epochs,
                order: &|epoch| shuffled_batches(2, 1, 0, epoch),
                rate: None,
                identity: "a test".to_owned(),
            };
            // Two steps make an epoch; the fifth one goes wrong.
            let start = |good| {
                let parameter = Var::new(1_f32, &Device::Cpu).unwrap();
                let named = vec![("parameter".to_owned(), parameter.clone())];
                let learner = Breaks {
                    parameter,
                    good,
                    fault,
                    steps: AtomicUsize::new(0),
                };
                (learner, Adam::new(named, 0.1, [0.5, 0.999]).unwrap())
            };
            let options = |name: &str| TrainOptions {
                folder: folder.path().join(name),
                cache: Cache::Off,
                ..TrainOptions::default()
            };
            let progress = &mut |_| ControlFlow::Continue(());
            let value = |learner: &Breaks| learner.parameter.to_scalar::<f32>().unwrap();
            let (good, mut optimiser) = start(4);
            let whole = run(&plan(2), &good, &mut optimiser, &options("good"), progress).unwrap();
            assert_eq!(whole.stopped, None);
            let (bad, mut optimiser) = start(4);
            let broken = run(&plan(9), &bad, &mut optimiser, &options("bad"), progress).unwrap();
            let told = broken.stopped.unwrap_or_default();
            assert!(told.contains(reason), "{told}");
            assert_eq!(broken.epochs.len(), 2);
            assert_eq!(value(&bad), value(&good));
            let kept = std::fs::read_to_string(folder.path().join("bad/log.jsonl")).unwrap();
            assert_eq!(kept.lines().count(), 2);
        }
    }
}
