//! Training (paper, section 3.3): normal images of one class are registered with each other, so that the
//! prediction of one is what the encoder makes of the others. It needs no anomalous images.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use candle_core::{Result as TensorResult, Tensor};
use serde_json::json;

use super::checkpoint;
use super::network::Network;
use super::references::References;
use super::settings::Settings;
use super::{NAME, Regad, RegadDetector, network_of, pixels, refuse};
use crate::components::convnet::Phase;
use crate::settings::Checked;
use crate::training::random::{generator, shuffled, uniform};
use crate::training::{
    Batch, Learned, Learner, Losses, Record, Run, Sgd, TrainProgress, Trained, TrainingSample,
    fingerprint, run,
};
use crate::{DetectorError, TrainContext, Trainer};

/// SGD's settings in the paper's code, how long it trains, and images of a step.
const LEARNING_RATE: f64 = 1e-4;
pub(super) const MOMENTUM: f64 = 0.9;
const EPOCHS: usize = 50;
const BATCH: usize = 32;

/// The least square of a length in a cosine.
const EPSILON: f64 = 1e-16;

/// Learns the network.
pub(super) fn train(
    context: &TrainContext<'_>,
    progress: &mut TrainProgress<'_>,
) -> Result<Trained, DetectorError> {
    let TrainContext {
        encoder, options, ..
    } = *context;
    let normal = context.samples.iter().filter(|sample| !sample.anomalous);
    let samples: Vec<TrainingSample> = normal.cloned().collect();
    if samples.is_empty() {
        return Err(DetectorError::NothingToLearn("normal"));
    }
    let learned = context.start.map(Learned::<Settings>::read).transpose()?;
    let settings = Learned::configure(learned.as_ref(), Settings::default, context.settings)?;
    let checked = Checked::new(settings)?;
    let Checked { settings, profile } = &checked;
    let batch = options.batch.unwrap_or(BATCH).max(1);
    let episodes = Episodes::new(&samples, batch, settings.episode_shots, options.seed)?;
    let network = match learned {
        Some(learned) => checkpoint::network(settings, &mut |name| learned.tensor(name))?,
        None => network_of(encoder, settings, options.seed)?,
    };
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let epochs = options.epochs.unwrap_or(EPOCHS);
    let mut optimiser = Sgd::new(network.variables().collect(), rate, MOMENTUM)?;
    let side = settings.image_size as usize;
    let plan = Run {
        encoder,
        input: &profile.input,
        record: Record {
            blocks: 1,
            patches: side * side,
            width: 3,
            embedding: 0,
        },
        samples: &samples,
        mask_side: None,
        epochs,
        order: &|epoch| episodes.of(epoch),
        rate: Some(&|epoch| cosine_rate(rate, epoch, epochs)),
        identity: json!({
            "method": NAME,
            "config": settings,
            "start": context.start,
            "backbone": options.backbone,
            "batch": batch,
            "learning_rate": rate,
            "epochs": epochs,
            "seed": options.seed,
            "samples": fingerprint(&samples),
        })
        .to_string(),
    };
    let learner = Registration {
        network: &network,
        settings,
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    if let Some(path) = Regad
        .start_file(&options.folder)
        .filter(|_| !log.epochs.is_empty())
    {
        // Each step has a batch of images, and one of those that they are registered with.
        let steps = (1..=log.epochs.len()).map(|epoch| episodes.of(epoch).len());
        checkpoint::write(&path, &network, 2 * steps.sum::<usize>())?;
    }
    Ok(Trained {
        detector: Box::new(RegadDetector {
            references: References::default(),
            network,
            checked,
        }),
        log,
    })
}

/// The learning rate in an epoch, counted from 1; it is zero in the last one.
pub(super) fn cosine_rate(rate: f64, epoch: usize, epochs: usize) -> f64 {
    rate * (1.0 + (PI * epoch as f64 / epochs as f64).cos()) / 2.0
}

/// The steps of each epoch: images of one class, then those that each is registered with.
struct Episodes {
    /// The images of each class.
    classes: Vec<Vec<usize>>,
    batch: usize,
    shots: usize,
    seed: u32,
}

impl Episodes {
    fn new(
        samples: &[TrainingSample],
        batch: usize,
        shots: usize,
        seed: u32,
    ) -> Result<Self, DetectorError> {
        let mut classes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, sample) in samples.iter().enumerate() {
            classes.entry(&sample.class).or_default().push(i);
        }
        if let Some((class, _)) = classes.iter().find(|(_, images)| images.len() < 2) {
            return Err(refuse(format!(
                "it registers normal images with others of their class, and there is only one of \
                 `{class}`"
            )));
        }
        Ok(Self {
            classes: classes.into_values().collect(),
            batch,
            shots,
            seed,
        })
    }

    /// The steps of an epoch, in random order. Of each class the last step may be smaller, and one image may
    /// be registered with another one twice, as in the paper's code.
    fn of(&self, epoch: usize) -> Vec<Vec<usize>> {
        let mut random = generator(self.seed, epoch as u32);
        let mut steps = vec![];
        for images in &self.classes {
            let order = shuffled(images.len(), &mut random);
            for queries in order.chunks(self.batch) {
                let mut step: Vec<usize> = queries.iter().map(|&query| images[query]).collect();
                for &query in queries {
                    for _ in 0..self.shots {
                        let others = images.len() - 1;
                        let other = (uniform(&mut random) * others as f64) as usize;
                        let other = other.min(others - 1);
                        // Any but the image itself.
                        step.push(images[other + usize::from(other >= query)]);
                    }
                }
                steps.push(step);
            }
        }
        let order = shuffled(steps.len(), &mut random);
        order
            .into_iter()
            .map(|step| std::mem::take(&mut steps[step]))
            .collect()
    }
}

/// What is learned: that the prediction of an image is what the encoder makes of those it is registered with.
pub(super) struct Registration<'a> {
    pub(super) network: &'a Network,
    pub(super) settings: &'a Settings,
}

impl Learner for Registration<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        _: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let tokens = features.blocks.first();
        let tokens = tokens.ok_or_else(|| refuse("the features lack the pixels"))?;
        let images = pixels(tokens, self.settings.image_size as usize)?;
        // The store may have rounded them to bfloat16, which keeps the 256 levels apart.
        let images = ((images * 255.0)?.round()? / 255.0)?;
        let queries = samples.len() / (1 + self.settings.episode_shots);
        let supports = images.narrow(0, queries, images.dim(0)? - queries)?;
        let queries = images.narrow(0, 0, queries)?;
        let loss = self
            .distances(&queries, &supports, Phase::Training)?
            .mean_all()?;
        Ok(Losses {
            parts: vec![("registration", loss.clone())],
            total: loss,
        })
    }
}

impl Registration<'_> {
    /// The loss of `queries`, `[queries, 3, side, side]`, and of those that each is registered with, one
    /// query's after the other's: that of each place, `[queries, rows, columns]`.
    pub(super) fn distances(
        &self,
        queries: &Tensor,
        supports: &Tensor,
        phase: Phase,
    ) -> TensorResult<Tensor> {
        let network = self.network;
        let query = network.register(queries, phase)?;
        let support = network.register(supports, phase)?;
        let support = mean_of_each(support.last()?, queries.dim(0)?)?;
        let query = network.encode(query.last()?, phase)?;
        let support = network.encode(&support, phase)?;
        let of_query = cosine(&network.predict(&query, phase)?, &support.detach())?;
        let of_support = cosine(&network.predict(&support, phase)?, &query.detach())?;
        (of_query + of_support)? / -2.0
    }
}

/// The mean over the supports of each of `queries`.
fn mean_of_each(supports: &Tensor, queries: usize) -> TensorResult<Tensor> {
    let (all, channels, rows, columns) = supports.dims4()?;
    let each = all / queries.max(1);
    let supports = supports.reshape((queries, each, channels, rows, columns))?;
    (supports / each as f64)?.sum(1)
}

/// The cosine of the vectors of each place, `[images, rows, columns]`.
fn cosine(a: &Tensor, b: &Tensor) -> TensorResult<Tensor> {
    let length = |x: &Tensor| x.sqr()?.sum(1)?.maximum(EPSILON)?.sqrt();
    (a * b)?.sum(1)?.div(&(length(a)? * length(b)?)?)
}

#[cfg(test)]
mod tests {
    use anomalens_vision::MaskSource;

    use super::*;

    #[test]
    fn a_step_is_of_one_class_and_no_image_meets_itself() {
        let classes = [("nut", 7), ("bolt", 2), ("pin", 3)];
        let samples = classes.iter().flat_map(|&(class, count)| {
            (0..count).map(move |i| TrainingSample {
                source: std::path::PathBuf::from(format!("{class}{i}.png")).into(),
                class: class.to_owned(),
                anomalous: false,
                mask: MaskSource::Empty,
            })
        });
        let samples: Vec<TrainingSample> = samples.collect();
        let episodes = Episodes::new(&samples, 3, 2, 5).unwrap();
        let steps = episodes.of(1);
        assert_eq!(steps, episodes.of(1));
        assert_ne!(steps, episodes.of(2));
        assert_eq!(steps.len(), 5); // 3 + 3 + 1, 2, 3
        let mut seen = vec![];
        let mut met = std::collections::BTreeSet::new();
        for epoch in 1..30 {
            for step in episodes.of(epoch) {
                let (queries, supports) = step.split_at(step.len() / 3);
                assert!(queries.len() <= 3);
                let class = &samples[queries[0]].class;
                assert!(step.iter().all(|&i| samples[i].class == *class));
                for (query, own) in queries.iter().zip(supports.chunks(2)) {
                    assert!(!own.contains(query));
                    met.extend(own.iter().map(|support| (*query, *support)));
                }
                if epoch == 1 {
                    seen.extend(queries.to_vec());
                }
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..12).collect::<Vec<_>>());
        assert_eq!(met.len(), 7 * 6 + 2 + 3 * 2, "every image meets all others");
        let one = Episodes::new(&samples[6..8], 3, 2, 5)
            .err()
            .unwrap()
            .to_string();
        assert!(one.contains("there is only one of `bolt`"), "{one}");
    }

    #[test]
    fn the_rate_falls_to_zero() {
        let rate = |epoch| cosine_rate(1e-4, epoch, 50);
        assert!((rate(1) - 9.990133642141359e-05).abs() < 1e-15);
        assert!((rate(25) - 0.5e-4).abs() < 1e-15 && rate(50) == 0.0);
    }

    #[test]
    fn bfloat16_keeps_the_levels_of_pixels_apart() {
        for level in 0..=255_u8 {
            let pixel = f32::from(level) / 255.0;
            let kept = half::bf16::from_f32(pixel).to_f32();
            assert_eq!((kept * 255.0).round() / 255.0, pixel);
        }
    }
}
