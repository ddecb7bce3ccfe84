//! Training (paper, section 3.5): episodes of an image and a few normal images of its class, and
//! the focal loss of the score and of the image-level score.

use std::collections::BTreeMap;

use anomalens_backbones::ImageEncoder;
use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::config::{Config, Head};
use super::layout::{BatchSize, ShotOf};
use super::model::Model;
use super::network::{Evidence, Network, Phase};
use super::residual::{Compared, Quarters};
use super::shots::References;
use super::units::{self, Residuals};
use super::{InCtrl, NAME, checkpoint, refuse, residual, text};
use crate::registry::configure;
use crate::training::random::{generator, shuffled};
use crate::training::{
    Adam, Batch, Learner, Losses, Record, Run, TrainOptions, Trained, TrainingSample, Watch,
    fingerprint, run,
};
use crate::{Detector, DetectorError};

/// AdamW's settings in the paper's code, and how long it trains.
pub(super) const LEARNING_RATE: f64 = 1e-3;
pub(super) const BETAS: [f64; 2] = [0.9, 0.999];
pub(super) const DECAY: f64 = 0.01;
const EPOCHS: usize = 10;
const STEPS: usize = 100;
const BATCH: usize = 16;

/// Learns adapter and heads from `samples`.
pub(super) fn train(
    settings: &Value,
    encoder: &dyn ImageEncoder,
    samples: &[TrainingSample],
    options: &TrainOptions,
    watch: &mut Watch,
) -> Result<Trained, DetectorError> {
    let text = encoder.text()?;
    let defaults = Config::defaults(encoder, text.is_some());
    let config: Config = configure(NAME, &defaults, settings)?;
    if config.trained.is_some() {
        return Err(refuse(
            "`trained` is what `anomalens fit` and `eval` start from, not `train`",
        ));
    }
    let setup = config.setup()?;
    let sizes = config.sizes(encoder);
    let model = Model::new(&config, sizes, options.seed)?;
    let batch = options.batch.unwrap_or(BATCH);
    if config.head == Head::PowerMean && config.episode_shots < 2 {
        return Err(refuse(
            "`head = power-mean` measures shots beside each other: `episode_shots` must be at \
             least 2",
        ));
    }
    let episodes = Episodes::new(samples, batch / 2, config.episode_shots, options.seed)?;
    let mut texts = BTreeMap::new();
    if config.text_prior {
        let text = text.ok_or_else(|| refuse("`text_prior` needs a text encoder"))?;
        for sample in samples {
            if !texts.contains_key(&sample.class) {
                let embeddings = text::embeddings(&text, &sample.class)?;
                texts.insert(sample.class.clone(), embeddings);
            }
        }
    }
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(model.variables(), rate, BETAS)?.with_decay(DECAY);
    let learner = FocalLoss {
        config: &config,
        model: &model,
        texts,
    };
    let plan = Run {
        encoder,
        setup: &setup,
        record: Record {
            blocks: setup.request.layers.len(),
            patches: sizes.patches,
            width: match setup.request.layers.first() {
                Some(&layer) => encoder.spec().layer(layer)?.dim,
                None => 0,
            },
            embedding: match config.head {
                Head::Network => sizes.embedding,
                Head::PowerMean => 0,
            },
        },
        samples,
        mask_side: None,
        epochs: options.epochs.unwrap_or(EPOCHS),
        order: &|epoch| episodes.of(epoch),
        identity: json!({
            "method": NAME,
            "config": config,
            "backbone": options.backbone,
            "batch": batch,
            "learning_rate": rate,
            "seed": options.seed,
            "samples": fingerprint(samples),
        })
        .to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, watch)?;
    if let (Model::Network(network), false) = (&model, log.epochs.is_empty()) {
        let path = options.folder.join("checkpoint.pyth");
        checkpoint::write(&path, network, log.epochs.len() * STEPS)?;
    }
    let detector: Box<dyn Detector> = Box::new(InCtrl {
        setup,
        config,
        model,
        texts: None,
        references: References::default(),
    });
    Ok(Trained { detector, log })
}

/// The images of each step: as many normal as anomalous ones, then the shots of each.
pub(super) struct Episodes {
    normal: Vec<usize>,
    anomalous: Vec<usize>,
    /// For each sample the normal ones of its class.
    peers: Vec<Vec<usize>>,
    half: usize,
    shots: usize,
    seed: u32,
}

/// Purposes of the generators; those of the two streams go up from there.
const SHOTS: u32 = 1;
const STREAMS: [u32; 2] = [1 << 24, 1 << 28];

impl Episodes {
    pub(super) fn new(
        samples: &[TrainingSample],
        half: usize,
        shots: usize,
        seed: u32,
    ) -> Result<Self, DetectorError> {
        if half == 0 {
            return Err(refuse(
                "a step needs at least two images, a normal and an anomalous one: `--batch 2`",
            ));
        }
        let all = 0..samples.len();
        let (anomalous, normal): (Vec<usize>, Vec<usize>) =
            all.partition(|&i| samples[i].anomalous);
        let mut classes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for sample in samples {
            classes.entry(&sample.class).or_default();
        }
        for &i in &normal {
            classes.entry(&samples[i].class).or_default().push(i);
        }
        if let Some((class, normal)) = classes.iter().find(|(_, all)| all.len() < shots) {
            return Err(refuse(format!(
                "an episode needs {shots} normal images of a class, but there are {} of `{class}`",
                normal.len()
            )));
        }
        Ok(Self {
            peers: samples
                .iter()
                .map(|sample| classes[sample.class.as_str()].clone())
                .collect(),
            normal,
            anomalous,
            half,
            shots,
            seed,
        })
    }

    /// The steps of an epoch, counted from 1: the images, normal ones first, then `shots` shots
    /// of the first image, of the second, and so on.
    pub(super) fn of(&self, epoch: usize) -> Vec<Vec<usize>> {
        let mut random = generator(self.seed, SHOTS + epoch as u32);
        let first = (epoch - 1) * STEPS;
        (first..first + STEPS)
            .map(|step| {
                let mut images = self.drawn(&self.normal, STREAMS[0], step);
                images.extend(self.drawn(&self.anomalous, STREAMS[1], step));
                let shots: Vec<usize> = images
                    .iter()
                    .flat_map(|&image| {
                        let peers = &self.peers[image];
                        let order = shuffled(peers.len(), &mut random);
                        order.into_iter().take(self.shots).map(|i| peers[i])
                    })
                    .collect();
                [images, shots].concat()
            })
            .collect()
    }

    /// Half of a step's images, from an endless stream of permutations of `all`.
    fn drawn(&self, all: &[usize], purpose: u32, step: usize) -> Vec<usize> {
        let mut permutation = (usize::MAX, vec![]);
        let places = step * self.half..(step + 1) * self.half;
        places
            .map(|place| {
                let round = place / all.len();
                if permutation.0 != round {
                    let mut random = generator(self.seed, purpose + round as u32);
                    permutation = (round, shuffled(all.len(), &mut random));
                }
                all[permutation.1[place % all.len()]]
            })
            .collect()
    }
}

/// Learns adapter and heads.
pub(super) struct FocalLoss<'a> {
    pub(super) config: &'a Config,
    pub(super) model: &'a Model,
    /// The prompts of each class; none without the text prior.
    pub(super) texts: BTreeMap<String, [Vec<f32>; 2]>,
}

impl Learner for FocalLoss<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        _: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let size = BatchSize {
            images: samples.len() / (1 + self.config.episode_shots),
            shots: self.config.episode_shots,
            blocks: features.blocks.len(),
        };
        let images = &samples[..size.images];
        let truth: Vec<f32> = images
            .iter()
            .map(|sample| f32::from(u8::from(sample.anomalous)))
            .collect();
        let truth = Tensor::new(truth, &Device::Cpu)?;
        let (anomaly, image) = match self.model {
            Model::Network(network) => {
                let evidence = self.evidence(network, images, size, features)?;
                let scores = network.scores(&evidence, self.config, Phase::Training)?;
                (scores.anomaly, scores.image)
            }
            Model::PowerMean(head) => {
                let ratios = self.config.parts(&self.ratios(size, features)?)?;
                (head.logits(&ratios)?, None)
            }
        };
        let anomaly = focal(&anomaly, &truth)?;
        let mut losses = Losses {
            total: anomaly.clone(),
            parts: vec![("anomaly", anomaly)],
        };
        if let Some(image) = image {
            let image = focal(&image, &truth)?;
            losses.total = (losses.total + &image)?;
            losses.parts.push(("image", image));
        }
        Ok(losses)
    }
}

impl FocalLoss<'_> {
    /// What the frozen networks say: of the images first, then of their shots.
    pub(super) fn evidence(
        &self,
        network: &Network,
        images: &[&TrainingSample],
        size: BatchSize,
        features: &Batch,
    ) -> Result<Evidence, DetectorError> {
        let layout = self.config.batch_layout;
        let embeddings = features
            .embedding
            .as_ref()
            .ok_or_else(|| refuse("the features lack the embedding"))?;
        let place = |shot: &ShotOf| size.images + shot.image * size.shots + shot.shot;
        let embedding = embeddings.narrow(0, 0, size.images)?;
        let adapted = network.adapt(embeddings)?;
        let references = (0..size.images).map(|image| {
            let shots = layout.embeddings(size, image);
            let places: Vec<u32> = shots.iter().map(|shot| place(shot) as u32).collect();
            adapted
                .index_select(&Tensor::new(places, &Device::Cpu)?, 0)?
                .mean(0)
        });
        let references = references.collect::<candle_core::Result<Vec<_>>>()?;
        let all = self.compared(features)?;
        let maps = (0..size.images).map(|image| {
            let (mut own, mut references) = (vec![], vec![]);
            for block in 0..size.blocks {
                let (tokens, shots) = layout.comparison(size, image, block);
                own.push(all[tokens.image].patches[tokens.block].clone());
                let shots = shots
                    .iter()
                    .map(|(block, shot)| &all[place(shot)].patches[*block]);
                references.push(residual::bank(&Tensor::cat(
                    &shots.collect::<Vec<_>>(),
                    0,
                )?)?);
            }
            let map = residual::map(&own, &references)?;
            Ok(Tensor::new(map, &Device::Cpu)?)
        });
        let maps = maps.collect::<Result<Vec<_>, DetectorError>>()?;
        let scores = images
            .iter()
            .zip(embedding.to_vec2::<f32>()?)
            .map(|(sample, embedding)| {
                let texts = self.texts.get(&sample.class);
                texts.map_or(0.0, |texts| text::score(&embedding, texts))
            });
        Ok(Evidence {
            text: Tensor::new(scores.collect::<Vec<f32>>(), &Device::Cpu)?,
            map: Tensor::stack(&maps, 0)?,
            embedding,
            references: Tensor::stack(&references, 0)?,
        })
    }

    /// The images of a step, then their shots, as they are compared.
    fn compared(&self, features: &Batch) -> Result<Vec<Compared>, DetectorError> {
        let count = features
            .blocks
            .first()
            .map_or(Ok(0), |block| block.dim(0))?;
        let one = |place: usize| {
            let blocks = features.blocks.iter().map(|tokens| {
                let tokens = tokens.get(place)?;
                Ok((tokens.flatten_all()?.to_vec1()?, tokens.dim(1)?))
            });
            Compared::new(
                blocks.collect::<candle_core::Result<Vec<_>>>()?,
                self.config,
            )
        };
        (0..count).map(one).collect()
    }

    /// The residuals `[images, 3]` of the images in units of their shots' own.
    fn ratios(&self, size: BatchSize, features: &Batch) -> Result<Tensor, DetectorError> {
        let all = self.compared(features)?;
        let ratios = (0..size.images).map(|image| {
            let first = size.images + image * size.shots;
            let shots: Vec<&Compared> = all[first..first + size.shots].iter().collect();
            let patches: Vec<Vec<Tensor>> = shots.iter().map(|s| s.patches.clone()).collect();
            let own = (0..shots.len()).map(|i| {
                let others: Vec<&Compared> = (0..shots.len())
                    .filter(|j| *j != i)
                    .map(|j| shots[j])
                    .collect();
                self.residuals(shots[i], &others)
            });
            let own = own.collect::<Result<Vec<_>, _>>()?;
            let unit = Residuals::unit(&own, Quarters::of(&patches)?);
            Ok(self.residuals(&all[image], &shots)?.ratios(unit))
        });
        let ratios = ratios.collect::<Result<Vec<[f32; units::PARTS]>, DetectorError>>()?;
        let ratios = ratios.iter().map(|ratios| ratios.as_slice());
        Ok(Tensor::new(ratios.collect::<Vec<_>>(), &Device::Cpu)?)
    }

    /// The residuals of an image beside `shots`.
    fn residuals(&self, image: &Compared, shots: &[&Compared]) -> Result<Residuals, DetectorError> {
        let banks = (0..self.config.blocks.len()).map(|block| {
            let rows: Vec<&Tensor> = shots.iter().map(|shot| &shot.patches[block]).collect();
            residual::bank(&Tensor::cat(&rows, 0)?)
        });
        let banks = banks.collect::<Result<Vec<_>, _>>()?;
        let map = residual::map(&image.patches, &banks)?;
        let wholes = shots.iter().map(|shot| shot.means.as_slice());
        let row = units::row(&map)?;
        let own = self.config.own(&image.patches)?;
        let blocks = banks.len();
        Ok(Residuals::new(&row, own, &image.means, wholes, blocks))
    }
}

/// Focal loss (Lin et al., 2017) with exponent 2 and weight 1, of logits. The scores of the paper's
/// heads are probabilities already and are taken for logits nevertheless, as the original has it.
fn focal(scores: &Tensor, truth: &Tensor) -> candle_core::Result<Tensor> {
    // Neither kind is so large that the exponential would be infinite.
    let entropy = ((scores.exp()? + 1.0)?.log()? - (scores * truth)?)?;
    let wrong = (1.0 - entropy.neg()?.exp()?)?;
    (wrong.sqr()? * entropy)?.mean_all()
}
