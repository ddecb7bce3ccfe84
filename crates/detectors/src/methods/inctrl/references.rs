//! What a detector keeps of its reference images, so that none is encoded again: their patch tokens and
//! adapted embeddings. Each can be taken out again by its name.

use std::collections::BTreeMap;

use anomalens_backbones::ImageFeatures;
use candle_core::{Device, Tensor};

use super::network::Network;
use super::residual;
use super::settings::Settings;
use super::unusable;
use crate::DetectorError;
use crate::components::nearest::{UnitVectors, matrix};
use crate::detector::{Array, NormalRange};

/// Quantile of the references' residuals beyond which patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// What the names of a reference's tensors start with, and the last part of one of them.
const PREFIX: &str = "references/";
const ADAPTED: &str = "adapted";

/// One reference image.
pub(super) struct Kept {
    /// `[patches, width]` of length 1 for each block.
    blocks: Vec<Tensor>,
    /// The adapted embedding.
    adapted: Vec<f32>,
}

impl Kept {
    pub(super) fn new(
        features: &ImageFeatures,
        settings: &Settings,
        network: &Network,
    ) -> Result<Self, DetectorError> {
        let adapted = network.adapt(&embedding(features)?)?;
        Ok(Self {
            blocks: residual::patches(features, settings)?,
            adapted: adapted.flatten_all()?.to_vec1()?,
        })
    }
}

/// The image's embedding, `[1, width]`.
pub(super) fn embedding(features: &ImageFeatures) -> Result<Tensor, DetectorError> {
    let embedding = features.embedding.clone().unwrap_or_default();
    Ok(Tensor::new(embedding, &Device::Cpu)?.unsqueeze(0)?)
}

/// The references by name, and what follows from all of them.
#[derive(Default)]
pub(super) struct References {
    by_name: BTreeMap<String, Kept>,
    /// The patches of all of them, for each block.
    pub(super) banks: Vec<UnitVectors>,
    /// The mean of their adapted embeddings, `[1, width]`; none without references.
    pub(super) mean: Option<Tensor>,
    /// What patches of one reference score against the others; for pictures only.
    pub(super) range: NormalRange,
}

impl References {
    pub(super) fn new(by_name: BTreeMap<String, Kept>) -> Result<Self, DetectorError> {
        let Some(first) = by_name.values().next() else {
            return Ok(Self::default());
        };
        let count = by_name.len() as f32;
        let mut mean = vec![0.0; first.adapted.len()];
        for reference in by_name.values() {
            let pairs = mean.iter_mut().zip(&reference.adapted);
            pairs.for_each(|(sum, x)| *sum += x / count);
        }
        let all: Vec<&[Tensor]> = by_name
            .values()
            .map(|kept| kept.blocks.as_slice())
            .collect();
        let rows = |blocks: &[Tensor]| blocks.first().map_or(Ok(0), |block| block.dim(0));
        let upright = all.iter().map(|blocks| Ok((*blocks, rows(blocks)?)));
        let upright = upright.collect::<candle_core::Result<Vec<_>>>()?;
        let among = residual::among(&upright, usize::MAX)?;
        let scores = among.into_iter().flat_map(|reference| reference.map);
        Ok(Self {
            banks: residual::banks(&all)?,
            mean: Some(Tensor::new(mean, &Device::Cpu)?.unsqueeze(0)?),
            range: NormalRange::of(scores.collect(), UPPER_QUANTILE),
            by_name,
        })
    }

    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// They themselves, to make other references of.
    pub(super) fn into_kept(self) -> BTreeMap<String, Kept> {
        self.by_name
    }

    /// The tensors for a detector file.
    pub(super) fn arrays(&self, blocks: &[usize]) -> Vec<(String, Array)> {
        let references = self.by_name.iter().flat_map(|(name, reference)| {
            let tokens = blocks
                .iter()
                .zip(&reference.blocks)
                .filter_map(|(block, rows)| Some((tokens_name(name, *block), Array::of(rows)?)));
            let adapted = Array::vector(reference.adapted.clone());
            tokens.chain([(format!("{PREFIX}{name}/{ADAPTED}"), adapted)])
        });
        references.collect()
    }

    /// The references among the tensors of a detector file.
    pub(super) fn load(
        tensors: &mut BTreeMap<String, Array>,
        settings: &Settings,
    ) -> Result<Self, DetectorError> {
        let suffix = format!("/{ADAPTED}");
        let names: Vec<String> = tensors
            .keys()
            .filter_map(|name| name.strip_prefix(PREFIX)?.strip_suffix(&suffix))
            .map(str::to_owned)
            .collect();
        let (mut rows, mut width) = (None, None);
        let mut references = BTreeMap::new();
        for name in names {
            let kept = format!("{PREFIX}{name}{suffix}");
            let adapted = tensors
                .remove(&kept)
                .filter(|array| {
                    !array.values.is_empty()
                        && *width.get_or_insert(array.values.len()) == array.values.len()
                })
                .ok_or_else(|| unusable(&kept))?;
            let tokens = settings.blocks.iter().map(|block| {
                let kept = tokens_name(&name, *block);
                match tensors.remove(&kept) {
                    Some(Array { shape, values })
                        if shape.len() == 2 && *rows.get_or_insert(shape.clone()) == shape =>
                    {
                        matrix(values, shape[1])
                    }
                    _ => Err(unusable(&kept)),
                }
            });
            let kept = Kept {
                blocks: tokens.collect::<Result<_, _>>()?,
                adapted: adapted.values,
            };
            references.insert(name, kept);
        }
        Self::new(references)
    }
}

fn tokens_name(reference: &str, block: usize) -> String {
    format!("{PREFIX}{reference}/block{block}")
}
