//! The "glocal" loss (paper, section 3.4): cross-entropy of the image, focal and dice loss of the
//! up-sampled maps.

use candle_core::{D, Device, Tensor};
use candle_nn::ops::softmax;
use rayon::prelude::*;

use super::prompt::{Prompts, normalise};
use super::settings::Settings;
use crate::DetectorError;
use crate::components::learned_prompts::cross_entropy;
use crate::training::map_loss::{Truth, Upsampling};
use crate::training::{Batch, Learner, Losses, TrainingSample};

/// Learns prompts.
pub(super) struct GlocalLoss<'a> {
    pub(super) settings: &'a Settings,
    pub(super) prompts: &'a Prompts,
    pub(super) upsampling: Upsampling,
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
            && self.settings.global_weight > 0.0
        {
            let cosines = normalise(embedding)?.unsqueeze(1)?.matmul(&texts)?;
            let logits = (cosines.squeeze(1)? / self.settings.temperature)?;
            let truth = samples.iter().map(|sample| usize::from(sample.anomalous));
            let loss = cross_entropy(&logits, &truth.collect::<Vec<_>>())?;
            total = (total + (&loss * self.settings.global_weight)?)?;
            parts.push(("image", loss));
        }
        if self.settings.local_weight > 0.0 && masks.iter().any(Option::is_some) {
            let local = self.local(features, &texts, masks)?;
            total = (total + (local.total * self.settings.local_weight)?)?;
            parts.extend(local.parts);
        }
        Ok(Losses { total, parts })
    }
}

impl GlocalLoss<'_> {
    /// The embeddings that each sample is compared with, `[batch, width, 2]`.
    fn texts(&self, samples: &[&TrainingSample]) -> Result<Tensor, DetectorError> {
        let pairs = samples
            .iter()
            .map(|sample| self.settings.pair(&sample.class))
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

    /// The losses of the maps of all blocks whose masks are known: their sum, and each by name.
    fn local(
        &self,
        features: &Batch,
        texts: &Tensor,
        masks: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let known: Vec<u32> = (0..)
            .zip(masks)
            .filter_map(|(i, mask)| mask.is_some().then_some(i))
            .collect();
        let truths: Vec<Truth> = masks
            .par_iter()
            .flatten()
            .map(|mask| self.upsampling.truth(mask))
            .collect();
        let known = Tensor::new(known, &Device::Cpu)?;
        let texts = texts.index_select(&known, 0)?;
        let mut total = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
        let mut sums = [0.0; 3];
        for tokens in &features.blocks {
            let tokens = tokens.index_select(&known, 0)?;
            let cosines = normalise(&tokens)?.matmul(&texts)?;
            let probabilities = softmax(&(cosines / self.settings.temperature)?, D::Minus1)?;
            let anomalous = probabilities.narrow(2, 1, 1)?.squeeze(2)?;
            let (loss, means) = self.upsampling.losses(&anomalous, &truths)?;
            sums.iter_mut()
                .zip(means)
                .for_each(|(sum, mean)| *sum += mean);
            total = (total + loss)?;
        }
        let names = ["focal", "dice anomalous", "dice normal"];
        let parts = names.into_iter().zip(sums).map(|(name, sum)| {
            let sum = Tensor::new(sum as f32, &Device::Cpu)?;
            Ok((name, sum))
        });
        Ok(Losses {
            total,
            parts: parts.collect::<candle_core::Result<_>>()?,
        })
    }
}
