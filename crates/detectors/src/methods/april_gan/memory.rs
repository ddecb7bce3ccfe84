//! What a detector keeps of normal images: their patch tokens, with which those of new images are compared
//! (paper, section 3.3). Each image can be taken out again by its name.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::NAME;
use crate::DetectorError;
use crate::components::nearest::{UnitVectors, matrix};
use crate::components::residual;
use crate::detector::{Array, NormalRange};

/// Quantile of what normal patches score beyond which patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// What the names of an image's tensors start with, and the last part of one of them.
const PREFIX: &str = "references/";
const TEXT: &str = "text";

/// One normal image.
pub(super) struct Kept {
    /// `[patches, width]` of length 1 for each block.
    pub(super) blocks: Vec<Tensor>,
    /// The probability of each patch to be anomalous, from the text.
    pub(super) text: Vec<f32>,
}

/// Normal images by name, and what follows from all of them.
#[derive(Default)]
pub(super) struct Memory {
    by_name: BTreeMap<String, Kept>,
    /// The patches of all of them, for each block.
    pub(super) banks: Vec<UnitVectors>,
    /// What patches of one of them score against the others; for pictures only.
    pub(super) range: NormalRange,
}

impl Memory {
    pub(super) fn new(by_name: BTreeMap<String, Kept>) -> Result<Self, DetectorError> {
        if by_name.is_empty() {
            return Ok(Self::default());
        }
        let all: Vec<&[Tensor]> = by_name
            .values()
            .map(|kept| kept.blocks.as_slice())
            .collect();
        let rows = by_name.values().map(|kept| kept.text.len());
        let upright: Vec<(&[Tensor], usize)> = all.iter().copied().zip(rows).collect();
        let texts: Vec<&[f32]> = by_name.values().map(|kept| kept.text.as_slice()).collect();
        let among = residual::among(&upright, usize::MAX)?;
        let scores = among.iter().flat_map(|reference| {
            let text = texts.get(reference.index).copied().unwrap_or_default();
            let both = reference.map.iter().zip(text);
            both.map(|(residual, text)| 2.0 * residual + text)
        });
        Ok(Self {
            range: NormalRange::of(scores.collect(), UPPER_QUANTILE),
            banks: residual::banks(&all)?,
            by_name,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The mean over the blocks of the cosine distance of each of `patches`, `[patches, width]` of length
    /// 1 for each block, from the nearest one that is kept.
    pub(super) fn distances(&self, patches: &[Tensor]) -> Result<Vec<f32>, DetectorError> {
        // Residuals are half of it.
        let residuals = residual::map(patches, &self.banks)?.into_iter();
        Ok(residuals.map(|residual| 2.0 * residual).collect())
    }

    /// The names of the images.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The images themselves, to make another memory of.
    pub(super) fn into_kept(self) -> BTreeMap<String, Kept> {
        self.by_name
    }

    /// The tensors for a detector file.
    pub(super) fn arrays(&self, blocks: &[usize]) -> Vec<(String, Array)> {
        let images = self.by_name.iter().flat_map(|(name, kept)| {
            let tokens = blocks.iter().zip(&kept.blocks);
            let tokens = tokens
                .filter_map(|(block, rows)| Some((tokens_name(name, *block), Array::of(rows)?)));
            let text = Array::vector(kept.text.clone());
            tokens.chain([(format!("{PREFIX}{name}/{TEXT}"), text)])
        });
        images.collect()
    }

    /// The memory among the tensors of a detector file, of tokens of length `width`.
    pub(super) fn load(
        tensors: &mut BTreeMap<String, Array>,
        blocks: &[usize],
        width: usize,
    ) -> Result<Self, DetectorError> {
        let suffix = format!("/{TEXT}");
        let names: Vec<String> = tensors
            .keys()
            .filter_map(|name| name.strip_prefix(PREFIX)?.strip_suffix(&suffix))
            .map(str::to_owned)
            .collect();
        let mut by_name = BTreeMap::new();
        for name in names {
            let text = tensors.remove(&format!("{PREFIX}{name}{suffix}"));
            let text = text.map(|array| array.values).unwrap_or_default();
            let tokens = blocks.iter().map(|block| {
                let kept = tokens_name(&name, *block);
                match tensors.remove(&kept) {
                    Some(Array { shape, values })
                        if !text.is_empty() && shape == [text.len(), width] =>
                    {
                        matrix(values, width)
                    }
                    _ => Err(DetectorError::tensor(NAME, &kept)),
                }
            });
            let blocks = tokens.collect::<Result<_, _>>()?;
            by_name.insert(name, Kept { blocks, text });
        }
        Self::new(by_name)
    }
}

fn tokens_name(image: &str, block: usize) -> String {
    format!("{PREFIX}{image}/block{block}")
}
