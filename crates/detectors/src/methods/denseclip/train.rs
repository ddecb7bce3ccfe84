//! Training: the pixel-wise cross-entropy of the score map over the temperature, which the original has as
//! its auxiliary loss (paper, section 3.4). The backbone, which the original tunes with a tenth of the
//! learning rate, stays as it is, there is no segmentation head after it, and no dropout.

use std::collections::BTreeMap;

use anomalens_backbones::clip::ClipText;
use candle_core::{D, Device, Tensor};
use candle_nn::ops::log_softmax;
use serde_json::json;

use super::head::{self, Head};
use super::settings::Settings;
use super::{DenseClipDetector, NAME, prompts, refuse};
use crate::components::prompts::text_encoder;
use crate::settings::Checked;
use crate::training::{
    Adam, Batch, Learner, Losses, Record, Run, TrainProgress, Trained, TrainingSample, fingerprint,
    run, shuffled_batches,
};
use crate::{DetectorError, Settings as _, TrainContext};

/// AdamW's settings in the published code, and the power of the polynomial by which the rate falls.
const LEARNING_RATE: f64 = 1e-4;
const BETAS: [f64; 2] = [0.9, 0.999];
const DECAY: f64 = 1e-4;
const POWER: f64 = 0.9;

/// Ours: the published 80,000 steps of 32 images are for 20,000 photos of scenes.
const EPOCHS: usize = 15;
const BATCH: usize = 8;

/// Learns contexts and decoder.
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
    context.require_samples(false)?;
    if context.start.is_some() {
        return Err(refuse("its training starts from random weights alone"));
    }
    let settings = Settings::defaults(encoder).replaced_by(context.settings)?;
    let checked = Checked::new(settings)?;
    let Checked { settings, profile } = &checked;
    let text = text_encoder(NAME, encoder, None)?;
    let embedding = encoder.spec().embedding;
    let head = Head::new(settings, text.config().width, embedding, options.seed)?;
    let mut names = BTreeMap::new();
    for sample in samples {
        if !names.contains_key(&sample.class) {
            let prompts = prompts(&settings.prompts, &sample.class)?;
            names.insert(sample.class.clone(), prompts);
        }
    }
    let side = settings.image_size as usize;
    let patches = side / encoder.spec().multiple.max(1);
    let learner = PixelLoss {
        settings,
        head: &head,
        text: &text,
        names,
        upsampling: upsampling(patches, side)?,
    };
    let batch = options.batch.unwrap_or(BATCH).max(1);
    let epochs = options.epochs.unwrap_or(EPOCHS);
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(head.parameters.all(), rate, BETAS)?.with_decay(DECAY);
    let plan = Run {
        encoder,
        input: &profile.input,
        record: Record {
            blocks: 1,
            patches: patches * patches,
            width: embedding,
            embedding,
        },
        samples,
        mask_side: Some(settings.image_size),
        epochs,
        order: &|epoch| shuffled_batches(samples.len(), batch, options.seed, epoch),
        rate: Some(&|epoch| rate * (1.0 - (epoch - 1) as f64 / epochs as f64).powf(POWER)),
        identity: json!({
            "method": NAME,
            "config": settings,
            "backbone": options.backbone,
            "batch": batch,
            "learning_rate": rate,
            "epochs": epochs,
            "seed": options.seed,
            "samples": fingerprint(samples),
        })
        .to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    if !log.epochs.is_empty() {
        super::write(&options.folder.join("denseclip.pth"), &head)?;
    }
    let detector = DenseClipDetector::trained(checked, head, &text)?;
    Ok(Trained {
        detector: Box::new(detector),
        log,
    })
}

/// The matrix `[pixels, patches]` that brings patches to pixels along an axis, bilinear with half-pixel
/// centres.
fn upsampling(patches: usize, pixels: usize) -> candle_core::Result<Tensor> {
    let mut weights = vec![0.0_f32; pixels * patches];
    for (pixel, row) in weights.chunks_exact_mut(patches.max(1)).enumerate() {
        let at = ((pixel as f64 + 0.5) * patches as f64 / pixels as f64 - 0.5).max(0.0);
        let first = (at as usize).min(patches - 1);
        let part = (at - first as f64) as f32;
        row[first] += 1.0 - part;
        row[(first + 1).min(patches - 1)] += part;
    }
    Tensor::from_vec(weights, (pixels, patches), &Device::Cpu)
}

/// Learns contexts and decoder.
pub(super) struct PixelLoss<'a> {
    pub(super) settings: &'a Settings,
    pub(super) head: &'a Head,
    pub(super) text: &'a ClipText,
    /// The normal and the anomalous prompt of each class.
    pub(super) names: BTreeMap<String, Vec<String>>,
    /// `[pixels, patches]` along an axis.
    pub(super) upsampling: Tensor,
}

impl Learner for PixelLoss<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        masks: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let (Some(global), Some(patches)) = (&features.embedding, features.blocks.first()) else {
            return Err(refuse("the features lack the embedding or the patches"));
        };
        // Only pixels whose label is known teach.
        let known: Vec<u32> = (0..)
            .zip(masks)
            .filter_map(|(i, mask)| mask.is_some().then_some(i))
            .collect();
        if known.is_empty() {
            let nothing = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
            let gamma = self.head.parameters.get("gamma")?;
            return Ok(Losses {
                total: (nothing + (gamma.sum_all()? * 0.0)?)?,
                parts: vec![],
            });
        }
        let index = Tensor::new(known.as_slice(), &Device::Cpu)?;
        let texts = self.texts(&known, samples)?;
        let global = global.index_select(&index, 0)?;
        let patches = patches.index_select(&index, 0)?;
        let texts = self.head.adapted(&texts, &global, &patches)?;
        let scores = head::cosines(&patches, &texts)?;
        let labels: Vec<u32> = masks
            .iter()
            .flatten()
            .flat_map(|mask| mask.iter().map(|&marked| u32::from(marked)))
            .collect();
        let loss = self.pixel_loss(&scores, &labels)?;
        Ok(Losses {
            parts: vec![("pixels", loss.clone())],
            total: loss,
        })
    }
}

impl PixelLoss<'_> {
    /// Both texts of each sample at `known`, `[batch, 2, embedding]`; those of a class are computed once.
    fn texts(&self, known: &[u32], samples: &[&TrainingSample]) -> Result<Tensor, DetectorError> {
        let mut of_class: BTreeMap<&str, Tensor> = BTreeMap::new();
        let mut texts = vec![];
        for &i in known {
            let class = samples[i as usize].class.as_str();
            if !of_class.contains_key(class) {
                let prompts = self.names.get(class).map_or(&[][..], Vec::as_slice);
                of_class.insert(class, self.head.texts(self.text, prompts)?);
            }
            texts.extend(of_class.get(class).cloned());
        }
        Ok(Tensor::stack(&texts, 0)?)
    }

    /// The mean over all pixels of the cross-entropy of the up-sampled `scores` `[batch, patches, texts]`
    /// over the temperature, with `labels` `batch * pixels`, each the number of a text.
    pub(super) fn pixel_loss(
        &self,
        scores: &Tensor,
        labels: &[u32],
    ) -> candle_core::Result<Tensor> {
        let (batch, _, texts) = scores.dims3()?;
        let (pixels, patches) = self.upsampling.dims2()?;
        // Along the rows, then along the columns: both axes are last once.
        let along = |x: &Tensor, from: usize| x.reshape(((), from))?.matmul(&self.upsampling.t()?);
        let maps = scores.transpose(1, 2)?.contiguous()?;
        let maps = along(&maps, patches)?.reshape((batch * texts, patches, pixels))?;
        let maps = along(&maps.transpose(1, 2)?.contiguous()?, patches)?;
        let maps = maps.reshape((batch, texts, pixels * pixels))?;
        let logits = (maps.transpose(1, 2)?.contiguous()? / self.settings.temperature)?;
        let logs = log_softmax(&logits, D::Minus1)?;
        // The maps are transposed, and so are the labels.
        let at = |image: usize, x: usize, y: usize| labels[(image * pixels + y) * pixels + x];
        let mut right = vec![0.0_f32; batch * pixels * pixels * texts];
        for image in 0..batch {
            for x in 0..pixels {
                for y in 0..pixels {
                    let place = (image * pixels + x) * pixels + y;
                    let label = at(image, x, y) as usize;
                    if label < texts {
                        right[place * texts + label] = 1.0;
                    }
                }
            }
        }
        let right = Tensor::from_vec(right, logs.shape(), &Device::Cpu)?;
        (logs * right)?.sum_all()?.neg()? / (batch * pixels * pixels) as f64
    }
}
