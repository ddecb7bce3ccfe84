//! Outlier exposure (paper, section 3): normal images are to be like the text of their class, outliers like
//! the general one.
//!
//! The original fine-tunes CLIP's image tower. Networks are frozen here, and what their features are
//! multiplied with is learned in its place: a square matrix behind the tower's projection, at first the one that changes nothing.

use candle_core::{D, Device, Tensor, Var};
use candle_nn::ops::log_softmax;
use serde_json::json;

use super::settings::Settings;
use super::{ClipAdDetector, NAME, configured, refuse};
use crate::settings::Checked;
use crate::training::{
    Batch, Learned, Learner, Losses, Record, Run, Sgd, TrainProgress, Trained, TrainingSample,
    fingerprint, run, shuffled_batches,
};
use crate::{DetectorError, TrainContext};

/// SGD's settings in the paper's code for MVTec AD, and how long it trains.
const LEARNING_RATE: f64 = 1e-4;
const MOMENTUM: f64 = 0.9;
const DECAY: f64 = 1e-3;
const EPOCHS: usize = 80;
const BATCH: usize = 128;

/// The rate is a tenth after each of these epochs.
const DROPS: [usize; 4] = [50, 60, 70, 75];

/// The name of the learned matrix.
pub(super) const SHIFT: &str = "shift";

/// Learns from normal images and outliers.
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
    let start = context.start.map(Learned::read).transpose()?;
    let (mut settings, text) = configured(context.settings, start.as_ref(), encoder)?;
    if settings.classes.is_empty() && !context.settings.contains_key("class") {
        let normal = samples.iter().filter(|sample| !sample.anomalous);
        settings.classes = normal.map(|sample| sample.class.clone()).collect();
        settings.classes.sort_unstable();
        settings.classes.dedup();
    }
    let checked = Checked::new(settings)?;
    let mut detector = ClipAdDetector::new(checked, &text, start.as_ref())?;
    let width = encoder.spec().embedding;
    let shift = match &detector.shift {
        Some(shift) => Var::from_tensor(shift)?,
        None => Var::zeros((width, width), candle_core::DType::F32, &Device::Cpu)?,
    };
    let batch = options.batch.unwrap_or(BATCH).max(1);
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let named = vec![(SHIFT.to_owned(), shift.clone())];
    let mut optimiser = Sgd::new(named, rate, MOMENTUM)?
        .with_decay(DECAY)
        .with_nesterov();
    let learner = OutlierExposure {
        settings: &detector.checked.settings,
        texts: detector.texts.clone(),
        shift: shift.clone(),
    };
    let identity = json!({
        "method": NAME,
        "config": detector.checked.settings,
        "start": context.start,
        "backbone": options.backbone,
        "batch": batch,
        "learning_rate": rate,
        "seed": options.seed,
        "samples": fingerprint(samples),
    });
    let plan = Run {
        encoder,
        input: &detector.checked.profile.input,
        record: Record {
            blocks: 0,
            patches: 0,
            width: 0,
            embedding: width,
        },
        samples,
        mask_side: None,
        epochs: options.epochs.unwrap_or(EPOCHS),
        order: &|epoch| shuffled_batches(samples.len(), batch, options.seed, epoch),
        rate: Some(&|epoch| {
            let drops = DROPS.iter().filter(|&&drop| epoch > drop).count();
            rate * 0.1_f64.powi(drops as i32)
        }),
        identity: identity.to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    detector.shift = Some(shift.as_tensor().detach());
    Ok(Trained {
        detector: Box::new(detector),
        log,
    })
}

/// Learns the matrix.
struct OutlierExposure<'a> {
    settings: &'a Settings,
    /// `[texts, width]` of length 1, the general one last.
    texts: Tensor,
    shift: Var,
}

impl Learner for OutlierExposure<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        _: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let embeddings = features.embedding.as_ref();
        let embeddings = embeddings.ok_or_else(|| refuse("the features lack the embedding"))?;
        let moved = (embeddings + embeddings.matmul(&self.shift)?)?;
        let outliers: Vec<bool> = samples.iter().map(|sample| sample.anomalous).collect();
        let total = exposure(&moved, &self.texts, &outliers, self.settings.temperature)?;
        let parts = vec![("exposure", total.clone())];
        Ok(Losses { total, parts })
    }
}

/// The mean over the images with `embeddings` `[images, width]` of the negative logarithm of a probability:
/// for outliers that of the last of `texts` `[texts, width]`, for others the largest of the rest.
pub(super) fn exposure(
    embeddings: &Tensor,
    texts: &Tensor,
    outliers: &[bool],
    temperature: f64,
) -> candle_core::Result<Tensor> {
    let lengths = embeddings.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    let cosines = embeddings.matmul(&texts.t()?)?.broadcast_div(&lengths)?;
    let logs = log_softmax(&(cosines / temperature)?, D::Minus1)?;
    let general = texts.dim(0)?.saturating_sub(1);
    let chosen = logs.to_vec2::<f32>()?.into_iter().zip(outliers);
    let chosen = chosen.map(|(logs, &is_outlier)| {
        let normal = (0..general).max_by(|&a, &b| logs[a].total_cmp(&logs[b]));
        let text = if is_outlier { None } else { normal };
        text.unwrap_or(general) as u32
    });
    let chosen = Tensor::new(chosen.collect::<Vec<u32>>(), &Device::Cpu)?;
    logs.gather(&chosen.unsqueeze(1)?, 1)?.mean_all()?.neg()
}
