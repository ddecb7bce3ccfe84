//! Training (paper, section 3.5): episodes of an image and a few normal images of its class, and
//! the focal loss of the score and of the image-level score.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde_json::json;

use super::layout::{BatchSize, ShotOf};
use super::network::{Evidence, Network, Scores};
use super::references::References;
use super::settings::Settings;
use super::{InCtrlDetector, NAME, checkpoint, refuse, residual, text};
use crate::components::convnet::Phase;
use crate::components::prompts::Texts;
use crate::training::{
    Adam, Batch, Episodes, Learner, Losses, Record, Run, STEPS, TrainProgress, Trained,
    TrainingSample, fingerprint, focal, run,
};
use crate::{Detector, DetectorError, Settings as _, TrainContext};

/// AdamW's settings in the paper's code, and how long it trains.
pub(super) const LEARNING_RATE: f64 = 1e-3;
pub(super) const BETAS: [f64; 2] = [0.9, 0.999];
pub(super) const DECAY: f64 = 0.01;
const EPOCHS: usize = 10;
const BATCH: usize = 16;

/// Learns adapter and heads.
pub(super) fn train(
    context: &TrainContext<'_>,
    progress: &mut TrainProgress<'_>,
) -> Result<Trained, DetectorError> {
    let TrainContext {
        encoder,
        samples,
        options,
        ..
    } = *context;
    context.require_samples(true)?;
    if context.start.is_some() {
        return Err(refuse("its training starts from random weights alone"));
    }
    let text = encoder.text(None)?;
    let defaults = Settings::defaults(encoder, text.is_some());
    let settings = defaults.replaced_by(context.settings)?;
    let profile = settings.profile()?;
    let sizes = settings.sizes(encoder);
    let network = Network::new(sizes, options.seed)?;
    let batch = options.batch.unwrap_or(BATCH);
    let episodes = Episodes::new(
        NAME,
        samples,
        batch / 2,
        settings.episode_shots,
        options.seed,
    )?;
    let mut texts = BTreeMap::new();
    if settings.text_prior {
        let text = text.ok_or_else(|| refuse("`text_prior` needs a text encoder"))?;
        for sample in samples {
            if !texts.contains_key(&sample.class) {
                let embeddings = text::embeddings(&text, &sample.class)?;
                texts.insert(sample.class.clone(), embeddings);
            }
        }
    }
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(network.variables(), rate, BETAS)?.with_decay(DECAY);
    let learner = FocalLoss {
        settings: &settings,
        network: &network,
        texts,
    };
    let plan = Run {
        encoder,
        input: &profile.input,
        record: Record {
            blocks: profile.input.request.layers.len(),
            patches: sizes.patches,
            width: context.width(&profile.input)?,
            embedding: sizes.embedding,
        },
        samples,
        mask_side: None,
        epochs: options.epochs.unwrap_or(EPOCHS),
        order: &|epoch| episodes.of(epoch),
        rate: None,
        identity: json!({
            "method": NAME,
            "config": settings,
            "backbone": options.backbone,
            "batch": batch,
            "learning_rate": rate,
            "seed": options.seed,
            "samples": fingerprint(samples),
        })
        .to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    if !log.epochs.is_empty() {
        let path = options.folder.join("checkpoint.pyth");
        checkpoint::write(&path, &network, log.epochs.len() * STEPS)?;
    }
    let detector: Box<dyn Detector> = Box::new(InCtrlDetector {
        profile,
        settings,
        network,
        texts: None,
        references: References::default(),
    });
    Ok(Trained { detector, log })
}

/// Learns adapter and heads.
pub(super) struct FocalLoss<'a> {
    pub(super) settings: &'a Settings,
    pub(super) network: &'a Network,
    /// The prompts of each class; none without the text prior.
    pub(super) texts: BTreeMap<String, Texts>,
}

impl Learner for FocalLoss<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        _: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let size = BatchSize {
            images: samples.len() / (1 + self.settings.episode_shots),
            shots: self.settings.episode_shots,
            blocks: features.blocks.len(),
        };
        let images = &samples[..size.images];
        let truth: Vec<f32> = images
            .iter()
            .map(|sample| f32::from(u8::from(sample.anomalous)))
            .collect();
        let truth = Tensor::new(truth, &Device::Cpu)?;
        let evidence = self.evidence(images, size, features)?;
        let Scores { anomaly, image, .. } =
            (self.network).scores(&evidence, self.settings, Phase::Training)?;
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
        images: &[&TrainingSample],
        size: BatchSize,
        features: &Batch,
    ) -> Result<Evidence, DetectorError> {
        let layout = self.settings.batch_layout;
        let embeddings = features
            .embedding
            .as_ref()
            .ok_or_else(|| refuse("the features lack the embedding"))?;
        let place = |shot: &ShotOf| size.images + shot.image * size.shots + shot.shot;
        let embedding = embeddings.narrow(0, 0, size.images)?;
        let adapted = self.network.adapt(embeddings)?;
        let references = (0..size.images).map(|image| {
            let shots = layout.embeddings(size, image);
            let places: Vec<u32> = shots.iter().map(|shot| place(shot) as u32).collect();
            adapted
                .index_select(&Tensor::new(places, &Device::Cpu)?, 0)?
                .mean(0)
        });
        let references = references.collect::<candle_core::Result<Vec<_>>>()?;
        let all = self.patches(features)?;
        let maps = (0..size.images).map(|image| {
            let (mut own, mut references) = (vec![], vec![]);
            for block in 0..size.blocks {
                let (tokens, shots) = layout.comparison(size, image, block);
                own.push(all[tokens.image][tokens.block].clone());
                let shots = shots.iter().map(|(block, shot)| &all[place(shot)][*block]);
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
                texts.map_or(0.0, |texts| {
                    texts.probability(&embedding, text::TEMPERATURE)
                })
            });
        Ok(Evidence {
            text: Tensor::new(scores.collect::<Vec<f32>>(), &Device::Cpu)?,
            map: Tensor::stack(&maps, 0)?,
            embedding,
            references: Tensor::stack(&references, 0)?,
        })
    }

    /// The patches of the images of a step, then of their references, after each block.
    fn patches(&self, features: &Batch) -> Result<Vec<Vec<Tensor>>, DetectorError> {
        let count = features
            .blocks
            .first()
            .map_or(Ok(0), |block| block.dim(0))?;
        let one = |place: usize| {
            let blocks = features.blocks.iter().map(|tokens| {
                let tokens = tokens.get(place)?;
                residual::unit(tokens.flatten_all()?.to_vec1()?, tokens.dim(1)?)
            });
            blocks.collect()
        };
        (0..count).into_par_iter().map(one).collect()
    }
}
