//! Training (paper, section 3.2; the published code): each task is a batch of one place in images of one
//! class, half of it with noise added; the centre is learned so that in every such batch the normal half is
//! near it.

use std::cell::Cell;
use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rand_mt::Mt;
use serde_json::json;

use super::network::{Network, loss};
use super::settings::Settings;
use super::{AcrDetector, NAME, check_width, checkpoint, configured};
use crate::components::convnet::Phase;
use crate::settings::Checked;
use crate::training::random::{generator, normal, shuffled, uniform};
use crate::training::{
    Adam, Batch, Learned, Learner, Losses, Record, Run, TrainProgress, Trained, TrainingSample,
    fingerprint, run,
};
use crate::{DetectorError, TrainContext};

/// Adam's settings in the published code, and how long it trains: an epoch is ten steps.
pub(super) const LEARNING_RATE: f64 = 3e-4;
pub(super) const BETAS: [f64; 2] = [0.9, 0.999];
const STEPS: usize = 10;
const EPOCHS: usize = 5;
const TASKS: usize = 32;

/// After so many steps the learning rate is multiplied by the second number.
const DECAY: (usize, f64) = (3000, 0.8);

/// Purposes of the generators; those of the steps go up from there.
const CHOICES: u32 = 1;
const NOISE: u32 = 1 << 30;

/// Learns the network.
pub(super) fn train(
    context: &TrainContext<'_>,
    progress: &mut TrainProgress<'_>,
) -> Result<Trained, DetectorError> {
    let TrainContext {
        encoder, options, ..
    } = *context;
    let samples = context.samples.iter().filter(|sample| !sample.anomalous);
    let samples: Vec<TrainingSample> = samples.cloned().collect();
    if samples.is_empty() {
        return Err(DetectorError::NothingToLearn("normal"));
    }
    let learned = context.start.map(Learned::read).transpose()?;
    let checked = configured(context.settings, learned.as_ref(), encoder)?;
    let Checked { settings, profile } = &checked;
    let width = encoder.spec().layer(settings.layer()?)?;
    let network = match &learned {
        Some(learned) => checkpoint::network(|name| learned.tensor(name))?,
        None => Network::new(&settings.sizes(width.dim), options.seed)?,
    };
    check_width(&network, encoder, settings)?;
    let side = settings.framing().side() as usize / width.stride;
    let record = Record {
        blocks: 1,
        patches: side * side,
        width: width.dim,
        embedding: 0,
    };
    let (normal, pseudo) = settings.task();
    let tasks = Tasks {
        classes: classes(&samples, normal)?,
        tasks: options.batch.unwrap_or(TASKS).max(1),
        images: normal,
        places: record.patches,
        seed: options.seed,
    };
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(network.variables(), rate, BETAS)?;
    let learner = MetaLoss {
        settings,
        network: &network,
        tasks: &tasks,
        pseudo,
        step: Cell::new(0),
    };
    let identity = json!({
        "method": NAME,
        "config": settings,
        "start": context.start,
        "backbone": options.backbone,
        "batch": tasks.tasks,
        "learning_rate": rate,
        "seed": options.seed,
        "samples": fingerprint(&samples),
    });
    let plan = Run {
        encoder,
        input: &profile.input,
        record,
        samples: &samples,
        mask_side: None,
        epochs: options.epochs.unwrap_or(EPOCHS),
        order: &|epoch| tasks.of(epoch),
        rate: Some(&|epoch| {
            let times = (epoch - 1) * STEPS / DECAY.0;
            rate * DECAY.1.powi(times as i32)
        }),
        identity: identity.to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    if !log.epochs.is_empty() {
        let steps = log.epochs.len() * STEPS;
        let path = options.folder.join(format!("ckpt_{steps}.pt"));
        checkpoint::write(&path, &network, steps * tasks.tasks)?;
    }
    Ok(Trained {
        detector: Box::new(AcrDetector::new(checked, network)?),
        log,
    })
}

/// The images of each class, of which a task needs so many.
fn classes(samples: &[TrainingSample], needed: usize) -> Result<Vec<Vec<usize>>, DetectorError> {
    let mut classes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, sample) in samples.iter().enumerate() {
        classes.entry(&sample.class).or_default().push(i);
    }
    if let Some((class, all)) = classes.iter().find(|(_, all)| all.len() < needed) {
        let reason = format!(
            "a task needs {needed} normal images of a class, but there are {} of `{class}`; a smaller \
             `task_size` needs fewer",
            all.len()
        );
        return Err(DetectorError::settings(NAME, reason));
    }
    Ok(classes.into_values().collect())
}

/// The tasks of each step.
pub(super) struct Tasks {
    /// Images of each class.
    pub(super) classes: Vec<Vec<usize>>,
    /// Tasks of a step.
    pub(super) tasks: usize,
    /// Images of a task.
    pub(super) images: usize,
    /// Places of an image.
    pub(super) places: usize,
    pub(super) seed: u32,
}

/// Images of one class, seen at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) images: Vec<usize>,
    pub(super) place: usize,
}

impl Tasks {
    /// The images of the steps of an epoch, which is counted from 1: those of the first task, of the second,
    /// and so on.
    fn of(&self, epoch: usize) -> Vec<Vec<usize>> {
        let steps = (epoch - 1) * STEPS + 1..=epoch * STEPS;
        let images = |step| self.step(step).into_iter().flat_map(|task| task.images);
        steps.map(|step| images(step).collect()).collect()
    }

    /// The tasks of a step, which is counted from 1 over all epochs.
    pub(super) fn step(&self, step: usize) -> Vec<Task> {
        let mut random = generator(self.seed, CHOICES + step as u32);
        let below = |count: usize, random: &mut Mt| {
            let drawn = (uniform(random) * count as f64) as usize;
            drawn.min(count.saturating_sub(1))
        };
        let task = |_| {
            let class = &self.classes[below(self.classes.len(), &mut random)];
            let order = shuffled(class.len(), &mut random).into_iter();
            Task {
                images: order.take(self.images).map(|i| class[i]).collect(),
                place: below(self.places, &mut random),
            }
        };
        (0..self.tasks).map(task).collect()
    }
}

/// Learns the network.
pub(super) struct MetaLoss<'a> {
    pub(super) settings: &'a Settings,
    pub(super) network: &'a Network,
    pub(super) tasks: &'a Tasks,
    /// Pseudo-anomalies of a task.
    pub(super) pseudo: usize,
    /// The step at work.
    pub(super) step: Cell<usize>,
}

impl Learner for MetaLoss<'_> {
    fn prepare(&self, step: usize) -> Option<Vec<usize>> {
        self.step.set(step);
        let tasks = self.tasks.step(step).into_iter();
        let places = tasks.flat_map(|task| vec![task.place; task.images.len()]);
        Some(places.collect())
    }

    fn loss(
        &self,
        features: &Batch,
        _: &[&TrainingSample],
        _: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let Tasks { tasks, images, .. } = *self.tasks;
        let tokens = features.blocks.first();
        let tokens =
            tokens.ok_or_else(|| DetectorError::settings(NAME, "the features lack the layer"))?;
        let width = self.network.width();
        let normal = tokens.reshape((tasks, images, width))?;
        let mut random = generator(self.tasks.seed, NOISE + self.step.get() as u32);
        let noise = noise((tasks, self.pseudo, width), self.settings, &mut random)?;
        let pseudo = (normal.narrow(1, 0, self.pseudo)? + noise)?;
        let anomalous = |count: usize, value: f64| {
            let zeros = Tensor::zeros((tasks, count), DType::F32, &Device::Cpu)?;
            zeros + value
        };
        let anomalous = [anomalous(images, 0.0)?, anomalous(self.pseudo, 1.0)?];
        let all = Tensor::cat(&[normal, pseudo], 1)?;
        let anomalous = Tensor::cat(&anomalous, 1)?;
        let distances = self.network.distances(&all, Phase::Training)?;
        let noisy = distances.narrow(1, images, self.pseudo)?;
        Ok(Losses {
            total: loss(&distances, &anomalous, self.settings.one_class)?,
            parts: vec![
                ("normal", distances.narrow(1, 0, images)?.mean_all()?),
                ("noise", noisy.recip()?.mean_all()?),
            ],
        })
    }
}

/// What is added to features to make anomalies of them.
fn noise(
    shape: (usize, usize, usize),
    settings: &Settings,
    random: &mut Mt,
) -> candle_core::Result<Tensor> {
    let values = normal(shape.0 * shape.1 * shape.2, settings.noise, random);
    Tensor::from_vec(values, shape, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_of_one_class_and_follows_from_the_seed() {
        let tasks = |seed| Tasks {
            classes: vec![vec![0, 2, 4, 6, 8], vec![1, 3, 5]],
            tasks: 16,
            images: 3,
            places: 196,
            seed,
        };
        let step = tasks(1).step(7);
        assert_eq!(step, tasks(1).step(7));
        assert_ne!(step, tasks(1).step(8));
        assert_ne!(step, tasks(2).step(7));
        let mut places = std::collections::BTreeSet::new();
        let mut odd = 0;
        for Task { mut images, place } in step.clone() {
            assert!(place < 196);
            places.insert(place);
            odd += images[0] % 2;
            assert!(images.iter().all(|i| i % 2 == images[0] % 2), "{images:?}");
            images.sort_unstable();
            images.dedup();
            assert_eq!(images.len(), 3, "each image once");
        }
        assert!(places.len() > 8 && (1..16).contains(&odd), "{odd}");
        let second = &tasks(1).of(1)[6];
        let flat: Vec<usize> = step.into_iter().flat_map(|task| task.images).collect();
        assert_eq!(*second, flat);
    }
}
