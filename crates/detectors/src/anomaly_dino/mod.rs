//! AnomalyDINO (Damm et al., WACV 2025, section 3): the anomaly score of a patch is the cosine
//! distance to the nearest patch of a few normal images; nothing is trained.
//!
//! Different from the paper: tokens are taken from blocks in the middle of the network and the
//! distances of several blocks are averaged; no foreground mask.

mod config;

use std::collections::BTreeMap;

use anomalens_backbones::ImageFeatures;
use anomalens_vision::{Image, Map};
use candle_core::Tensor;
use rayon::prelude::*;
use serde_json::Value;

pub use config::Config;

use crate::detector::{Array, Detector, NormalRange, Scope, Scored, State};
use crate::nearest::{highest_similarity, matrix, normalise_rows};
use crate::registry::{Shots, check_features, configure};
use crate::{DetectorError, Setup};

/// The method's name.
pub const NAME: &str = "anomaly-dino";

/// Quantile of the normal images' patch distances that counts as their end.
const EXTREME_QUANTILE: f64 = 0.995;

/// A memory bank of normal patches, ready to score images.
pub struct AnomalyDino {
    config: Config,
    setup: Setup,
    banks: Vec<Bank>,
    range: NormalRange,
}

/// The normal patches after one block.
struct Bank {
    block: usize,
    /// `[patches, width]`, rows of length 1.
    tokens: Tensor,
}

/// Fits a detector on the normal images of `shots`.
pub(crate) fn fit(options: &Value, shots: &Shots) -> Result<Box<dyn Detector>, DetectorError> {
    let config: Config = configure(NAME, &Config::default(), options)?;
    let setup = config.setup()?;
    // Each shot in all its rotations, the upright one first.
    let versions: Vec<Vec<ImageFeatures>> = shots
        .images
        .iter()
        .map(|image| shots.encode(&setup, &rotations(image, config.rotations)))
        .collect::<Result<_, _>>()?;
    let banks = config
        .blocks
        .iter()
        .map(|&block| {
            Ok(Bank { block, tokens: unit_tokens(versions.iter().flatten(), block)? })
        })
        .collect::<Result<_, DetectorError>>()?;
    let range = normal_range(&versions, &config)?;
    Ok(Box::new(AnomalyDino { config, setup, banks, range }))
}

/// Makes the detector again from what [`Detector::state`] gave.
pub(crate) fn load(mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
    let config: Config = configure(NAME, &Config::default(), &state.config)?;
    let setup = config.setup()?;
    let lacks = |name: &str| DetectorError::Config {
        method: NAME,
        reason: format!("the tensor `{name}` is missing or has an unusable shape"),
    };
    let mut take = |name: &str| state.tensors.remove(name).ok_or_else(|| lacks(name));
    let banks = config
        .blocks
        .iter()
        .map(|&block| {
            let name = bank_name(block);
            match take(&name)? {
                Array { shape, values } if shape.len() == 2 && shape[1] > 0 && shape[0] > 0 => {
                    Ok(Bank { block, tokens: matrix(values, shape[1])? })
                }
                _ => Err(lacks(&name)),
            }
        })
        .collect::<Result<_, DetectorError>>()?;
    let &[typical, extreme] = take(RANGE)?.values.as_slice() else { return Err(lacks(RANGE)) };
    Ok(Box::new(AnomalyDino { config, setup, banks, range: NormalRange { typical, extreme } }))
}

/// Name of the tensor with the normal range: `[typical, extreme]`.
const RANGE: &str = "normal_range";

/// Name of the tensor with a block's memory bank.
fn bank_name(block: usize) -> String {
    format!("bank.block{block}")
}

impl Detector for AnomalyDino {
    fn method(&self) -> &'static str {
        NAME
    }

    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn scope(&self) -> Scope {
        Scope::Image
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let mut tensors: BTreeMap<String, Array> = self
            .banks
            .iter()
            .filter_map(|bank| {
                let values = bank.tokens.flatten_all().and_then(|t| t.to_vec1()).ok()?;
                Some((bank_name(bank.block), Array { shape: bank.tokens.dims().to_vec(), values }))
            })
            .collect();
        let NormalRange { typical, extreme } = self.range;
        tensors.insert(RANGE.to_owned(), Array { shape: vec![2], values: vec![typical, extreme] });
        let config = serde_json::to_value(&self.config).unwrap_or_default();
        State { config, tensors }
    }
}

impl AnomalyDino {
    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let width = self.banks.first().map_or(Ok(0), |bank| bank.tokens.dim(1))?;
        let grid = check_features(image, &self.setup, width)?;
        let mut distances = vec![0.0; grid.len()];
        for bank in &self.banks {
            let queries = unit_tokens([image], bank.block)?;
            add_distances(&mut distances, &queries, &bank.tokens, self.banks.len())?;
        }
        let map = Map::new(grid.rows, grid.columns, distances)?;
        Ok(Scored { score: map.top_mean(self.config.top_fraction), map, range: self.range })
    }
}

/// Adds to each of `distances` a query's cosine distance to its nearest neighbour in `bank`,
/// divided by `parts`.
fn add_distances(
    distances: &mut [f32],
    queries: &Tensor,
    bank: &Tensor,
    parts: usize,
) -> Result<(), DetectorError> {
    let similarities = highest_similarity(queries, bank)?;
    for (distance, similarity) in distances.iter_mut().zip(similarities) {
        *distance += (1.0 - similarity).max(0.0) / parts as f32;
    }
    Ok(())
}

/// The distances that patches of normal images have to the other shots: what a normal image
/// looks like to the detector. A single shot is compared with its own rotations, or else with
/// the bank's other patches, which is all that there is.
fn normal_range(
    versions: &[Vec<ImageFeatures>],
    config: &Config,
) -> Result<NormalRange, DetectorError> {
    let mut all = Vec::new();
    for (i, shot) in versions.iter().enumerate() {
        let mut distances = vec![0.0; shot[0].grid.len()];
        for &block in &config.blocks {
            let queries = unit_tokens([&shot[0]], block)?;
            let others: Vec<&ImageFeatures> = if versions.len() > 1 {
                let others = versions.iter().enumerate().filter(|(j, _)| *j != i);
                others.flat_map(|(_, shot)| shot).collect()
            } else {
                shot.iter().skip(1).collect()
            };
            if others.is_empty() {
                let similarities = second_highest_similarity(&queries)?;
                for (distance, similarity) in distances.iter_mut().zip(similarities) {
                    *distance += (1.0 - similarity).max(0.0) / config.blocks.len() as f32;
                }
            } else {
                let bank = unit_tokens(others, block)?;
                add_distances(&mut distances, &queries, &bank, config.blocks.len())?;
            }
        }
        all.extend(distances);
    }
    Ok(NormalRange::of(all, EXTREME_QUANTILE))
}

/// For each row the highest cosine similarity to any other row.
fn second_highest_similarity(rows: &Tensor) -> Result<Vec<f32>, DetectorError> {
    let similarities = rows.matmul(&rows.t()?)?.to_vec2::<f32>()?;
    let best_other = |(i, row): (usize, &Vec<f32>)| {
        let others = row.iter().enumerate().filter(|(j, _)| *j != i);
        others.map(|(_, &similarity)| similarity).fold(-1.0, f32::max)
    };
    Ok(similarities.iter().enumerate().map(best_other).collect())
}

/// The patch tokens of some images after `block`, `[patches, width]`, scaled to length 1.
fn unit_tokens<'a>(
    images: impl IntoIterator<Item = &'a ImageFeatures>,
    block: usize,
) -> Result<Tensor, DetectorError> {
    let mut values = Vec::new();
    let mut width = 0;
    for image in images {
        let tokens = image.block(block).ok_or(DetectorError::MissingBlock(block))?;
        width = tokens.class_token.len();
        values.extend_from_slice(&tokens.patch_tokens);
    }
    normalise_rows(&mut values, width);
    matrix(values, width)
}

/// The image turned by `count` equal steps of a full turn, the upright one first.
fn rotations(image: &Image, count: usize) -> Vec<Image> {
    (0..count)
        .into_par_iter()
        .map(|i| match i {
            0 => image.clone(),
            i => image.rotate(360.0 * i as f64 / count as f64),
        })
        .collect()
}
