//! What a detector keeps of its normal images: the maps of all their forms, from which the statistics
//! follow. Each image can be taken out again by its name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anomalens_backbones::Grid;
use candle_core::Tensor;

use super::augmentation::{FORMS, forms};
use super::network::{Network, STAGES, Sizes};
use super::settings::Settings;
use super::{NAME, seen};
use crate::DetectorError;
use crate::components::few_gaussian::{FewGaussians, Layers};
use crate::components::joined::Cells;
use crate::detector::{Array, NormalRange, State};

/// What the names of a reference's tensors start with, and the name of another one.
const PREFIX: &str = "references/";
const RANGE: &str = "range";

/// Normal images that are measured against the others.
const MEASURED: usize = 4;

/// Quantile of their distances from where on places are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// The references by name, and what follows from all of them.
#[derive(Default)]
pub(super) struct References {
    /// The maps of all forms of each.
    pub(super) by_name: BTreeMap<String, Vec<Layers>>,
    /// None without references.
    pub(super) statistics: Option<FewGaussians>,
    /// What places of one reference score against the others; for pictures only.
    pub(super) range: NormalRange,
}

/// The maps of all forms of an image, `[1, 3, side, side]`.
pub(super) fn maps(image: &Tensor, network: &Network) -> Result<Vec<Layers>, DetectorError> {
    let forms = forms(&image.squeeze(0)?)?;
    let maps = (0..FORMS).map(|form| Ok(Arc::new(seen(&forms.narrow(0, form, 1)?, network)?)));
    maps.collect()
}

impl References {
    /// The statistics of all forms of `by_name`, and what they say of some of these.
    pub(super) fn new(
        by_name: BTreeMap<String, Vec<Layers>>,
        settings: &Settings,
        sizes: Sizes,
    ) -> Result<Self, DetectorError> {
        let mut distances = vec![];
        let step = by_name.len().div_ceil(MEASURED).max(1);
        for (place, images) in by_name.values().enumerate().step_by(step) {
            let Some((upright, turned)) = images.split_first() else {
                continue;
            };
            let others = by_name.values().enumerate().filter(|(i, _)| *i != place);
            let mut others: Vec<Layers> = others.flat_map(|(_, maps)| maps).cloned().collect();
            // A single image is measured against its own forms.
            if others.is_empty() {
                others = turned.to_vec();
            }
            let squared = statistics(others, settings)?.squared_distances(upright);
            let squared = squared.into_iter().flatten();
            distances.extend(squared.map(|square| square.sqrt() as f32));
        }
        let range = NormalRange::of(distances, UPPER_QUANTILE);
        Self::with_range(by_name, range, settings, sizes)
    }

    fn with_range(
        by_name: BTreeMap<String, Vec<Layers>>,
        range: NormalRange,
        settings: &Settings,
        sizes: Sizes,
    ) -> Result<Self, DetectorError> {
        check_memory(by_name.len(), settings.max_memory, sizes)?;
        let all: Vec<Layers> = by_name.values().flatten().cloned().collect();
        let statistics = match by_name.is_empty() {
            true => None,
            false => Some(statistics(all, settings)?),
        };
        Ok(Self {
            by_name,
            statistics,
            range,
        })
    }

    /// The tensors for a detector file: `[forms, cells, channels]` of each stage, and the range.
    pub(super) fn arrays(&self) -> impl Iterator<Item = (String, Array)> {
        let range = (RANGE.to_owned(), self.range.array());
        let maps = self.by_name.iter().flat_map(|(name, images)| {
            (0..STAGES).map(move |stage| {
                let layers = images.iter().filter_map(|image| image.get(stage));
                let values: Vec<f32> = layers
                    .clone()
                    .flat_map(|l| l.tokens.iter().copied())
                    .collect();
                let width = layers.map(|layer| layer.width).next().unwrap_or(1);
                let cells = values.len() / images.len().max(1) / width.max(1);
                let shape = vec![images.len(), cells, width];
                (tensor_name(name, stage), Array { shape, values })
            })
        });
        maps.chain([range])
    }

    /// The references among the tensors of a detector file.
    pub(super) fn load(
        state: &mut State,
        settings: &Settings,
        sizes: Sizes,
    ) -> Result<Self, DetectorError> {
        let range = NormalRange::take(state, NAME, RANGE)?;
        let tensors = &mut state.tensors;
        let names = tensors.keys().filter_map(|name| {
            let name = name.strip_prefix(PREFIX)?.rsplit_once('/')?.0;
            Some(name.to_owned())
        });
        let names: BTreeSet<String> = names.collect();
        check_memory(names.len(), settings.max_memory, sizes)?;
        let mut by_name = BTreeMap::new();
        for name in names {
            let mut images: Vec<Vec<Cells<'static>>> = vec![];
            images.resize_with(FORMS, Vec::new);
            for stage in 0..STAGES {
                let kept = tensor_name(&name, stage);
                let (side, width) = (sizes.side(stage), sizes.channels(stage));
                let grid = Grid {
                    rows: side,
                    columns: side,
                };
                let array = tensors.remove(&kept);
                let array = array.filter(|array| array.shape == [FORMS, grid.len(), width]);
                let array = array.ok_or_else(|| DetectorError::tensor(NAME, &kept))?;
                let maps = array.values.chunks_exact((grid.len() * width).max(1));
                for (image, tokens) in images.iter_mut().zip(maps) {
                    image.push(Cells {
                        tokens: tokens.to_vec().into(),
                        grid,
                        width,
                    });
                }
            }
            by_name.insert(name, images.into_iter().map(Arc::new).collect());
        }
        Self::with_range(by_name, range, settings, sizes)
    }
}

/// The distributions of `images`.
fn statistics(images: Vec<Layers>, settings: &Settings) -> Result<FewGaussians, DetectorError> {
    let statistics = FewGaussians::new(images, settings.regularisation);
    statistics.ok_or_else(|| DetectorError::tensor(NAME, PREFIX))
}

/// Refuses statistics of so many references that take too much memory.
pub(super) fn check_memory(
    references: usize,
    megabytes: u32,
    sizes: Sizes,
) -> Result<(), DetectorError> {
    let (places, numbers) = sizes.places();
    let bytes = FewGaussians::bytes(references.saturating_mul(FORMS), numbers, places);
    let needed = bytes.div_ceil(1_000_000);
    match needed > megabytes as usize {
        false => Ok(()),
        true => Err(DetectorError::settings(
            NAME,
            format_args!(
                "statistics of {references} normal images need {needed} MB, and `max_memory` is \
                 {megabytes}; fewer images need less"
            ),
        )),
    }
}

fn tensor_name(reference: &str, stage: usize) -> String {
    format!("{PREFIX}{reference}/stage{}", stage + 1)
}
