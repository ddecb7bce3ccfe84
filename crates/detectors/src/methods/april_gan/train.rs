//! Training (paper, section 3.2): the focal and the dice loss of each block's map.

use std::collections::BTreeMap;

use anomalens_backbones::clip::ClipText;
use anomalens_vision::{Alignment, MaskSource};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde_json::json;

use super::layers::LinearLayers;
use super::settings::Settings;
use super::{
    AprilGanDetector, CHECKPOINT, NAME, configured, direction, ensemble, learned_layers, refuse,
};
use crate::components::prompts::Ensemble;
use crate::settings::Checked;
use crate::training::map_loss::{Enlarged, Truth, Upsampling};
use crate::training::{
    Adam, Batch, Learned, Learner, Losses, Record, Run, TrainProgress, Trained, TrainingSample,
    fingerprint, run, shuffled_batches,
};
use crate::{DetectorError, TrainContext};

/// Adam's settings in the paper's code, and how long it trains on MVTec AD; on VisA 15 epochs.
pub(super) const LEARNING_RATE: f64 = 1e-3;
pub(super) const BETAS: [f64; 2] = [0.5, 0.999];
const EPOCHS: usize = 3;
const BATCH: usize = 8;

/// Learns the linear layers.
pub(super) fn train(
    context: &TrainContext<'_>,
    progress: &mut TrainProgress<'_>,
) -> Result<Trained, DetectorError> {
    let TrainContext {
        encoder, options, ..
    } = *context;
    // Masks teach alone.
    let samples = context.samples.iter();
    let samples: Vec<TrainingSample> = samples
        .filter(|sample| sample.mask != MaskSource::Unknown)
        .cloned()
        .collect();
    let samples = samples.as_slice();
    TrainContext {
        samples,
        ..*context
    }
    .require_samples(false)?;
    let start = context.start.map(Learned::read).transpose()?;
    let (settings, text) = configured(context.settings, start.as_ref(), encoder)?;
    let checked = Checked::new(settings)?;
    let Checked { settings, profile } = &checked;
    let mut input = profile.input.clone();
    // Only patches teach.
    input.request.embedding = None;
    let (width, embedding) = (context.width(&input)?, encoder.spec().embedding);
    let layers = match &start {
        Some(start) => learned_layers(start, settings, encoder)?,
        None => LinearLayers::random(settings.blocks.len(), width, embedding, options.seed)?,
    };
    let side = settings.image_size as usize;
    let patches = side / encoder.spec().multiple.max(1);
    if patches == 0 {
        return Err(refuse("`image_size` is less than a patch"));
    }
    let ensemble = ensemble(settings)?;
    let learner = MapLearner {
        layers: &layers,
        directions: directions(samples, &ensemble, &text, settings)?,
        upsampling: Upsampling::new(Enlarged::Margins, Alignment::Corners, patches, side),
    };
    let batch = options.batch.unwrap_or(BATCH).max(1);
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(layers.parameters(), rate, BETAS)?;
    let identity = json!({
        "method": NAME,
        "config": settings,
        "start": context.start,
        "backbone": options.backbone,
        "batch": batch,
        "learning_rate": rate,
        "seed": options.seed,
        "samples": fingerprint(samples),
    });
    let plan = Run {
        encoder,
        input: &input,
        record: Record {
            blocks: input.request.layers.len(),
            patches: patches * patches,
            width,
            embedding: 0,
        },
        samples,
        mask_side: Some(settings.image_size),
        epochs: options.epochs.unwrap_or(EPOCHS),
        order: &|epoch| shuffled_batches(samples.len(), batch, options.seed, epoch),
        rate: None,
        identity: identity.to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    if !log.epochs.is_empty() {
        layers.write(&options.folder.join(CHECKPOINT))?;
    }
    let texts = ensemble.texts(&text, &settings.class)?;
    let detector = Box::new(AprilGanDetector::new(checked, layers, texts)?);
    Ok(Trained { detector, log })
}

/// For each class of `samples` the anomalous less the normal text.
fn directions(
    samples: &[TrainingSample],
    ensemble: &Ensemble,
    text: &ClipText,
    settings: &Settings,
) -> Result<BTreeMap<String, Tensor>, DetectorError> {
    let mut found = BTreeMap::new();
    for TrainingSample { class, .. } in samples {
        if !found.contains_key(class) {
            let texts = ensemble.texts(text, class)?;
            found.insert(class.clone(), direction(&texts, settings)?);
        }
    }
    Ok(found)
}

/// Learns linear layers from maps.
pub(super) struct MapLearner<'a> {
    pub(super) layers: &'a LinearLayers,
    /// Of each class, `[embedding]`.
    pub(super) directions: BTreeMap<String, Tensor>,
    pub(super) upsampling: Upsampling,
}

impl Learner for MapLearner<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        masks: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let directions = samples.iter().map(|sample| {
            let found = self.directions.get(&sample.class);
            found.ok_or_else(|| refuse(format!("no prompts were made for `{}`", sample.class)))
        });
        let directions = Tensor::stack(&directions.collect::<Result<Vec<_>, _>>()?, 0)?;
        let truths: Vec<Truth> = masks
            .par_iter()
            .flatten()
            .map(|mask| self.upsampling.truth(mask))
            .collect();
        if truths.len() != samples.len() {
            return Err(refuse("an image has no mask"));
        }
        let mut total = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        let mut sums = [0.0; 2];
        for (block, tokens) in features.blocks.iter().enumerate() {
            let margins = self.layers.margins(block, tokens, &directions)?;
            let (loss, [focal, dice, _]) = self.upsampling.losses(&margins, &truths)?;
            total = (total + loss)?;
            sums[0] += focal;
            sums[1] += dice;
        }
        let parts = ["focal", "dice"].into_iter().zip(sums).map(|(name, sum)| {
            let sum = Tensor::new(sum as f32, &Device::Cpu)?;
            Ok((name, sum))
        });
        Ok(Losses {
            total,
            parts: parts.collect::<candle_core::Result<_>>()?,
        })
    }
}
