//! Training: the cross-entropy of images that are normal or anomalous, stochastic gradient descent, and a
//! learning rate that falls like a cosine after a first epoch at a small one.

use std::f64::consts::PI;

use anomalens_backbones::FeatureRequest;
use candle_core::{Device, Tensor};
use serde_json::json;

use super::checkpoint::{self, Saved};
use super::prompt::Prompts;
use super::settings::Settings;
use super::{CONTEXT, CoOpDetector, NAME, checked, refuse};
use crate::components::learned_prompts::{cross_entropy, normalise};
use crate::components::prompts::text_encoder;
use crate::settings::Checked;
use crate::training::{
    Batch, Learner, Losses, Record, Run, Sgd, TrainProgress, Trained, TrainingSample, fingerprint,
    run, shuffled_batches,
};
use crate::{DetectorError, InputSpec, Settings as _, TrainContext};

/// The optimiser's settings in CoOp's code, and images in a step.
pub(super) const LEARNING_RATE: f64 = 2e-3;
pub(super) const MOMENTUM: f64 = 0.9;
pub(super) const DECAY: f64 = 5e-4;
const BATCH: usize = 32;

/// The learning rate of the first epoch.
const WARM_UP: f64 = 1e-5;

/// Epochs, as AnomalyCLIP trains: CoOp's own 50 to 200 are for a few images of each class.
const EPOCHS: usize = 15;

/// Learns tokens.
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
    let text = text_encoder(NAME, encoder, None)?;
    let mut settings = Settings::defaults(encoder).replaced_by(context.settings)?;
    context.require_samples(true)?;
    let saved = context.start.map(Saved::open).transpose()?;
    if let Some(saved) = &saved {
        saved.set_sizes(&mut settings);
    }
    let names = samples.iter().map(|sample| sample.class.clone());
    settings.classes.extend(names);
    settings.classes.sort_unstable();
    settings.classes.dedup();
    let checked = checked(settings, &text)?;
    let Checked { settings, profile } = &checked;
    let prompts = Prompts::new(settings, text, options.seed)?;
    if let Some(saved) = &saved {
        saved.copy_into(&prompts)?;
    }
    let batch = options.batch.unwrap_or(BATCH).max(1);
    let epochs = options.epochs.unwrap_or(EPOCHS);
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Sgd::new(prompts.parameters(), rate, MOMENTUM)?.with_decay(DECAY);
    let learner = ImageLoss {
        settings,
        prompts: &prompts,
    };
    // Maps teach nothing.
    let input = InputSpec {
        request: FeatureRequest {
            layers: vec![],
            ..profile.input.request.clone()
        },
        ..profile.input.clone()
    };
    let identity = json!({
        "method": NAME,
        "config": settings,
        "start": context.start,
        "backbone": options.backbone,
        "batch": batch,
        "epochs": epochs,
        "learning_rate": rate,
        "seed": options.seed,
        "samples": fingerprint(samples),
    });
    let plan = Run {
        encoder,
        input: &input,
        record: Record {
            blocks: 0,
            patches: 0,
            width: 0,
            embedding: encoder.spec().embedding,
        },
        samples,
        mask_side: None,
        epochs,
        order: &|epoch| shuffled_batches(samples.len(), batch, options.seed, epoch),
        rate: Some(&|epoch| learning_rate(rate, epoch, epochs)),
        identity: identity.to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    if !log.epochs.is_empty() {
        checkpoint::write(&options.folder.join(CONTEXT), &prompts, log.epochs.len())?;
    }
    Ok(Trained {
        detector: Box::new(CoOpDetector::new(checked, &prompts)?),
        log,
    })
}

/// The learning rate in an epoch, which is counted from 1: after the first one a cosine that starts at its
/// beginning, and so ends two points before its end.
pub(super) fn learning_rate(highest: f64, epoch: usize, epochs: usize) -> f64 {
    match epoch.checked_sub(2) {
        None => WARM_UP,
        Some(after) => highest / 2.0 * (1.0 + (PI * after as f64 / epochs as f64).cos()),
    }
}

/// Learns tokens from the labels of images.
pub(super) struct ImageLoss<'a> {
    pub(super) settings: &'a Settings,
    pub(super) prompts: &'a Prompts,
}

impl Learner for ImageLoss<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        _: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let embedding = features.embedding.as_ref();
        let embedding = embedding.ok_or_else(|| refuse("the features lack the embedding"))?;
        let pairs = samples
            .iter()
            .map(|sample| self.settings.pair(&sample.class))
            .collect::<Result<Vec<usize>, _>>()?;
        let mut wanted = pairs.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let places = pairs
            .iter()
            .map(|pair| wanted.partition_point(|p| p < pair) as u32);
        let places = Tensor::new(places.collect::<Vec<u32>>(), &Device::Cpu)?;
        let texts = self.prompts.encode(&wanted)?.index_select(&places, 0)?;
        let logits = logits(embedding, &texts, self.settings.temperature())?;
        let truth = samples.iter().map(|sample| usize::from(sample.anomalous));
        let loss = cross_entropy(&logits, &truth.collect::<Vec<_>>())?;
        Ok(Losses {
            total: loss.clone(),
            parts: vec![("image", loss)],
        })
    }
}

/// The cosines of images `[batch, width]` with the texts of each, `[batch, labels, width]` or the same `[labels, width]`
/// for all, divided by the temperature: `[batch, labels]`.
pub(super) fn logits(
    images: &Tensor,
    texts: &Tensor,
    temperature: f64,
) -> candle_core::Result<Tensor> {
    let images = normalise(images)?;
    let texts = normalise(texts)?;
    let cosines = match texts.dims().len() {
        3 => texts.matmul(&images.unsqueeze(2)?)?.squeeze(2)?,
        _ => images.matmul(&texts.t()?)?,
    };
    cosines / temperature
}
