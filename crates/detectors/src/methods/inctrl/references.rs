//! What a detector keeps of its shots, so that none is encoded again: their patch tokens, and what
//! stands for the whole of each. Each can be taken out again by its name.

use std::collections::BTreeMap;

use anomalens_backbones::ImageFeatures;
use candle_core::{Device, Tensor};

use super::model::Model;
use super::residual::{self, Compared, Quarters};
use super::score_scale::{self, Residuals};
use super::settings::Settings;
use super::unusable;
use crate::DetectorError;
use crate::components::nearest::{UnitVectors, matrix};
use crate::detector::{Array, NormalRange};

/// Quantile of the shots' residuals beyond which patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// What the names of a shot's tensors start with, and what they end with.
const PREFIX: &str = "references/";
const WHOLE: &str = "whole";

/// One shot.
pub(super) struct Kept {
    /// `[views * patches, width]` of length 1 for each block, the upright view first.
    blocks: Vec<Tensor>,
    /// What stands for the whole: the adapted embedding, or the means of the upright tokens.
    whole: Vec<f32>,
}

impl Kept {
    /// From the features of all views, the upright one first.
    pub(super) fn new(
        forms: &[ImageFeatures],
        settings: &Settings,
        model: &Model,
    ) -> Result<Self, DetectorError> {
        let compared = forms
            .iter()
            .map(|form| Compared::of(form, settings))
            .collect::<Result<Vec<_>, _>>()?;
        let joined = (0..settings.blocks.len()).map(|block| {
            let forms: Vec<&Tensor> = compared.iter().map(|form| &form.patches[block]).collect();
            Tensor::cat(&forms, 0)
        });
        let whole = match (model, forms.first(), compared.first()) {
            (Model::Network(network), Some(upright), _) => network
                .adapt(&embedding(upright)?)?
                .flatten_all()?
                .to_vec1()?,
            (Model::PowerMean(_), _, Some(upright)) => upright.means.clone(),
            _ => vec![],
        };
        Ok(Self {
            blocks: joined.collect::<candle_core::Result<_>>()?,
            whole,
        })
    }
}

/// The image's embedding, `[1, width]`.
pub(super) fn embedding(features: &ImageFeatures) -> Result<Tensor, DetectorError> {
    let embedding = features.embedding.clone().unwrap_or_default();
    Ok(Tensor::new(embedding, &Device::Cpu)?.unsqueeze(0)?)
}

/// The shots by name, and what follows from all of them.
#[derive(Default)]
pub(super) struct References {
    by_name: BTreeMap<String, Kept>,
    /// The patches of all shots, for each block.
    pub(super) banks: Vec<UnitVectors>,
    /// The mean of what stands for the whole of each, `[1, width]`; none without shots.
    pub(super) mean: Option<Tensor>,
    /// What patches of one shot score beside the others.
    pub(super) range: NormalRange,
    /// What the shots differ among themselves.
    pub(super) unit: Residuals,
}

impl References {
    /// Of references in so many forms.
    pub(super) fn new(
        by_name: BTreeMap<String, Kept>,
        forms: usize,
    ) -> Result<Self, DetectorError> {
        if by_name.is_empty() {
            return Ok(Self::default());
        }
        let all: Vec<&Kept> = by_name.values().collect();
        let count = all.len() as f32;
        let mut mean = vec![0.0; all[0].whole.len()];
        for shot in &all {
            mean.iter_mut()
                .zip(&shot.whole)
                .for_each(|(sum, x)| *sum += x / count);
        }
        let Beside { range, unit } = Beside::measure(&all, forms)?;
        Ok(Self {
            banks: banks(&all)?,
            mean: Some(Tensor::new(mean, &Device::Cpu)?.unsqueeze(0)?),
            range,
            unit,
            by_name,
        })
    }

    /// The names of the shots.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// What stands for the whole of each shot.
    pub(super) fn wholes(&self) -> impl Iterator<Item = &[f32]> {
        self.by_name.values().map(|shot| shot.whole.as_slice())
    }

    /// The shots themselves, to make other references of.
    pub(super) fn into_kept(self) -> BTreeMap<String, Kept> {
        self.by_name
    }

    /// The tensors for a detector file.
    pub(super) fn arrays(&self, blocks: &[usize]) -> Vec<(String, Array)> {
        let shots = self.by_name.iter().flat_map(|(name, shot)| {
            let tokens = blocks.iter().zip(&shot.blocks).filter_map(|(block, rows)| {
                let values = rows.flatten_all().and_then(|flat| flat.to_vec1()).ok()?;
                let shape = rows.dims().to_vec();
                Some((tokens_name(name, *block), Array { shape, values }))
            });
            let whole = Array {
                shape: vec![shot.whole.len()],
                values: shot.whole.clone(),
            };
            tokens.chain([(format!("{PREFIX}{name}/{WHOLE}"), whole)])
        });
        shots.collect()
    }

    /// The shots among the tensors of a detector file.
    pub(super) fn load(
        tensors: &mut BTreeMap<String, Array>,
        settings: &Settings,
    ) -> Result<Self, DetectorError> {
        let suffix = format!("/{WHOLE}");
        let names: Vec<String> = tensors
            .keys()
            .filter_map(|name| name.strip_prefix(PREFIX)?.strip_suffix(&suffix))
            .map(str::to_owned)
            .collect();
        let (mut rows, mut width) = (None, None);
        let mut shots = BTreeMap::new();
        for name in names {
            let kept = format!("{PREFIX}{name}{suffix}");
            let whole = tensors
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
                        if shape.len() == 2
                            && shape[0].is_multiple_of(settings.forms())
                            && *rows.get_or_insert(shape.clone()) == shape =>
                    {
                        matrix(values, shape[1])
                    }
                    _ => Err(unusable(&kept)),
                }
            });
            let kept = Kept {
                blocks: tokens.collect::<Result<_, _>>()?,
                whole: whole.values,
            };
            shots.insert(name, kept);
        }
        Self::new(shots, settings.forms())
    }
}

fn tokens_name(shot: &str, block: usize) -> String {
    format!("{PREFIX}{shot}/block{block}")
}

/// The patches of `shots` for each block.
fn banks(shots: &[&Kept]) -> Result<Vec<UnitVectors>, DetectorError> {
    let blocks = shots.first().map_or(0, |shot| shot.blocks.len());
    let bank = |block: usize| {
        let parts: Vec<&Tensor> = shots.iter().map(|shot| &shot.blocks[block]).collect();
        residual::bank(&Tensor::cat(&parts, 0)?)
    };
    (0..blocks).map(bank).collect()
}

/// How shots look beside each other.
struct Beside {
    range: NormalRange,
    unit: Residuals,
}

impl Beside {
    /// Each shot, upright, beside the others; a single one beside its own other views, or its
    /// patches beside each other where there are none.
    fn measure(shots: &[&Kept], forms: usize) -> Result<Self, DetectorError> {
        let (mut all, mut units, mut uprights) = (vec![], vec![], vec![]);
        for (i, shot) in shots.iter().enumerate() {
            let rows = shot.blocks[0].dim(0)?;
            let patches = rows / forms;
            let upright = shot.blocks.iter().map(|rows| rows.narrow(0, 0, patches));
            let upright = upright.collect::<candle_core::Result<Vec<_>>>()?;
            let others: Vec<&Kept> = (0..shots.len())
                .filter(|j| *j != i)
                .map(|j| shots[j])
                .collect();
            let map = if !others.is_empty() {
                residual::map(&upright, &banks(&others)?)?
            } else if rows > patches {
                let others = shot.blocks.iter();
                let others = others
                    .map(|block| residual::bank(&block.narrow(0, patches, rows - patches)?));
                residual::map(&upright, &others.collect::<Result<Vec<_>, _>>()?)?
            } else {
                residual::within(&upright)?
            };
            let wholes = others.iter().map(|other| other.whole.as_slice());
            units.push(Residuals::new(
                &score_scale::row(&map)?,
                residual::own(&upright)?,
                &shot.whole,
                wholes,
                shot.blocks.len(),
            ));
            all.extend(map);
            uprights.push(upright);
        }
        Ok(Self {
            range: NormalRange::of(all, UPPER_QUANTILE),
            unit: Residuals::unit(&units, Quarters::of(&uprights)?),
        })
    }
}
