//! Training (paper, section 3.5): episodes of an image and a few normal images of its class, and
//! the focal loss of the score and of the image-level score.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde_json::json;

use super::layout::{BatchSize, ShotOf};
use super::model::Model;
use super::network::{Evidence, Network, Phase};
use super::references::References;
use super::residual::{Compared, Quarters};
use super::score_scale::{self, Residuals};
use super::settings::{Head, Settings};
use super::{InCtrlDetector, NAME, checkpoint, refuse, residual, text};
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
    let text = encoder.text()?;
    let defaults = Settings::defaults(encoder, text.is_some());
    let settings = defaults.replaced_by(context.settings)?;
    let profile = settings.profile()?;
    let sizes = settings.sizes(encoder);
    let model = Model::new(&settings, sizes, options.seed)?;
    let batch = options.batch.unwrap_or(BATCH);
    if settings.head == Head::PowerMean && settings.episode_shots < 2 {
        return Err(refuse(
            "`head = power-mean` measures shots beside each other: `episode_shots` must be at \
             least 2",
        ));
    }
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
    let mut optimiser = Adam::new(model.variables(), rate, BETAS)?.with_decay(DECAY);
    let learner = FocalLoss {
        settings: &settings,
        model: &model,
        texts,
    };
    let plan = Run {
        encoder,
        input: &profile.input,
        record: Record {
            blocks: profile.input.request.layers.len(),
            patches: sizes.patches,
            width: context.width(&profile.input)?,
            embedding: match settings.head {
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
    if let (Model::Network(network), false) = (&model, log.epochs.is_empty()) {
        let path = options.folder.join("checkpoint.pyth");
        checkpoint::write(&path, network, log.epochs.len() * STEPS)?;
    }
    let detector: Box<dyn Detector> = Box::new(InCtrlDetector {
        profile,
        settings,
        model,
        texts: None,
        references: References::default(),
    });
    Ok(Trained { detector, log })
}

/// Learns adapter and heads.
pub(super) struct FocalLoss<'a> {
    pub(super) settings: &'a Settings,
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
        let (anomaly, image) = match self.model {
            Model::Network(network) => {
                let evidence = self.evidence(network, images, size, features)?;
                let scores = network.scores(&evidence, self.settings, Phase::Training)?;
                (scores.anomaly, scores.image)
            }
            Model::PowerMean(head) => {
                let ratios = self.settings.parts(&self.ratios(size, features)?)?;
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
        let layout = self.settings.batch_layout;
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
                self.settings,
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
        let ratios = ratios.collect::<Result<Vec<[f32; score_scale::PARTS]>, DetectorError>>()?;
        let ratios = ratios.iter().map(|ratios| ratios.as_slice());
        Ok(Tensor::new(ratios.collect::<Vec<_>>(), &Device::Cpu)?)
    }

    /// The residuals of an image beside `shots`.
    fn residuals(&self, image: &Compared, shots: &[&Compared]) -> Result<Residuals, DetectorError> {
        let banks = (0..self.settings.blocks.len()).map(|block| {
            let rows: Vec<&Tensor> = shots.iter().map(|shot| &shot.patches[block]).collect();
            residual::bank(&Tensor::cat(&rows, 0)?)
        });
        let banks = banks.collect::<Result<Vec<_>, _>>()?;
        let map = residual::map(&image.patches, &banks)?;
        let wholes = shots.iter().map(|shot| shot.means.as_slice());
        let row = score_scale::row(&map)?;
        let own = self.settings.own(&image.patches)?;
        let blocks = banks.len();
        Ok(Residuals::new(&row, own, &image.means, wholes, blocks))
    }
}
