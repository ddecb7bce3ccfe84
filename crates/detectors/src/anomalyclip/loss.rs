//! The "glocal" loss (paper, section 3.4): cross-entropy of the image, focal and dice loss of the
//! up-sampled maps.

use candle_core::{D, Device, Tensor};
use candle_nn::ops::{log_softmax, softmax};

use super::config::Config;
use super::prompt::{Prompts, normalise};
use crate::DetectorError;
use crate::training::{Batch, Learner, Losses, TrainingSample};

/// Smoothing of the labels in the focal loss, and its exponent.
const FOCAL_SMOOTH: f64 = 1e-5;
const FOCAL_GAMMA: i32 = 2;

/// Added above and below in the dice loss.
const DICE_SMOOTH: f64 = 1.0;

/// Learns prompts.
pub(super) struct GlocalLoss<'a> {
    pub(super) config: &'a Config,
    pub(super) prompts: &'a Prompts,
    /// From the patches of one axis to pixels, `[pixels, patches]`.
    pub(super) upsample: Tensor,
}

impl Learner for GlocalLoss<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        masks: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let texts = self.texts(samples)?;
        let mut total = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
        let mut parts = vec![];
        if let Some(embedding) = &features.embedding
            && self.config.global_weight > 0.0
        {
            let cosines = normalise(embedding)?.unsqueeze(1)?.matmul(&texts)?;
            let logits = (cosines.squeeze(1)? / self.config.temperature)?;
            let loss = cross_entropy(&logits, samples)?;
            total = (total + (&loss * self.config.global_weight)?)?;
            parts.push(("image", loss));
        }
        let known: Vec<u32> = (0..)
            .zip(masks)
            .filter_map(|(i, mask)| mask.is_some().then_some(i))
            .collect();
        if self.config.local_weight > 0.0 && !known.is_empty() {
            let side = self.upsample.dim(0)?;
            let truth: Vec<f32> = masks
                .iter()
                .flatten()
                .flatten()
                .map(|&anomalous| f32::from(u8::from(anomalous)))
                .collect();
            let truth = Tensor::from_vec(truth, (known.len(), side, side), &Device::Cpu)?;
            let known = Tensor::new(known, &Device::Cpu)?;
            let texts = texts.index_select(&known, 0)?;
            let mut sums: Option<[Tensor; 3]> = None;
            for tokens in &features.blocks {
                let tokens = tokens.index_select(&known, 0)?;
                let maps = self.maps(&tokens, &texts)?;
                let losses = map_losses(&maps, &truth)?;
                sums = Some(match sums {
                    None => losses,
                    Some([a, b, c]) => {
                        let [x, y, z] = losses;
                        [(a + x)?, (b + y)?, (c + z)?]
                    }
                });
            }
            if let Some([focal, anomalous, normal]) = sums {
                let local = ((&focal + &anomalous)? + &normal)?;
                total = (total + (local * self.config.local_weight)?)?;
                parts.push(("focal", focal));
                parts.push(("dice anomalous", anomalous));
                parts.push(("dice normal", normal));
            }
        }
        Ok(Losses { total, parts })
    }
}

impl GlocalLoss<'_> {
    /// The embeddings that each sample is compared with, `[batch, width, 2]`.
    fn texts(&self, samples: &[&TrainingSample]) -> Result<Tensor, DetectorError> {
        let pairs = samples
            .iter()
            .map(|sample| self.config.pair(&sample.class))
            .collect::<Result<Vec<usize>, _>>()?;
        let mut wanted = pairs.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let places = pairs
            .iter()
            .map(|pair| wanted.partition_point(|p| p < pair));
        let places: Vec<u32> = places.map(|place| place as u32).collect();
        let texts = self.prompts.features(&wanted)?;
        let texts = texts.index_select(&Tensor::new(places, &Device::Cpu)?, 0)?;
        Ok(texts.transpose(1, 2)?.contiguous()?)
    }

    /// Probabilities of normal and anomalous at every pixel, each `[batch, side, side]`, from
    /// `tokens` `[batch, patches, width]` and `texts` `[batch, width, 2]`.
    fn maps(&self, tokens: &Tensor, texts: &Tensor) -> candle_core::Result<[Tensor; 2]> {
        let cosines = normalise(tokens)?.matmul(texts)?;
        let probabilities = softmax(&(cosines / self.config.temperature)?, D::Minus1)?;
        let side = self.upsample.dim(1)?;
        let (batch, pixels) = (tokens.dim(0)?, self.upsample.dim(0)?);
        let map = |class: usize| {
            let patches = probabilities.narrow(2, class, 1)?.contiguous()?;
            let rows = self
                .upsample
                .broadcast_matmul(&patches.reshape((batch, side, side))?)?;
            rows.reshape((batch * pixels, side))?
                .matmul(&self.upsample.t()?)?
                .reshape((batch, pixels, pixels))
        };
        Ok([map(0)?, map(1)?])
    }
}

/// Mean over the batch, of logits `[batch, 2]`.
fn cross_entropy(logits: &Tensor, samples: &[&TrainingSample]) -> candle_core::Result<Tensor> {
    let truth: Vec<f32> = samples
        .iter()
        .flat_map(|sample| {
            if sample.anomalous {
                [0.0, 1.0]
            } else {
                [1.0, 0.0]
            }
        })
        .collect();
    let truth = Tensor::from_vec(truth, (samples.len(), 2), logits.device())?;
    (log_softmax(logits, D::Minus1)? * truth)?
        .sum(D::Minus1)?
        .mean_all()?
        .neg()
}

/// Focal loss, dice loss of the anomalous map, dice loss of the normal one; `truth` is 1 where
/// anomalous.
fn map_losses(
    [normal, anomalous]: &[Tensor; 2],
    truth: &Tensor,
) -> candle_core::Result<[Tensor; 3]> {
    let other = (1.0 - truth)?;
    let right = ((anomalous * truth)? + (normal * &other)?)?;
    let wrong = ((anomalous * &other)? + (normal * truth)?)?;
    let right = (((right * (1.0 - FOCAL_SMOOTH))? + (wrong * FOCAL_SMOOTH)?)? + FOCAL_SMOOTH)?;
    let focal = ((1.0 - &right)?.powf(f64::from(FOCAL_GAMMA))? * right.log()?)?
        .mean_all()?
        .neg()?;
    Ok([focal, dice(anomalous, truth)?, dice(normal, &other)?])
}

/// Of each image, then the mean.
fn dice(map: &Tensor, truth: &Tensor) -> candle_core::Result<Tensor> {
    let sum = |x: &Tensor| x.flatten_from(1)?.sum(1);
    let both = ((sum(&(map * truth)?)? * 2.0)? + DICE_SMOOTH)?;
    let either = ((sum(map)? + sum(truth)?)? + DICE_SMOOTH)?;
    1.0 - (both / either)?.mean_all()?
}

/// Bilinear with half-pixel centres, from `patches` to `pixels`: `[pixels, patches]`.
pub(super) fn upsample(patches: usize, pixels: usize) -> candle_core::Result<Tensor> {
    let mut weights = vec![0.0_f32; patches * pixels];
    for (i, row) in weights.chunks_exact_mut(patches).enumerate() {
        let source = ((i as f64 + 0.5) * patches as f64 / pixels as f64 - 0.5).max(0.0);
        let first = source.floor();
        let part = (source - first) as f32;
        row[first as usize] += 1.0 - part;
        row[(first as usize + 1).min(patches - 1)] += part;
    }
    Tensor::from_vec(weights, (pixels, patches), &Device::Cpu)
}
