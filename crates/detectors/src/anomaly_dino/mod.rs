//! AnomalyDINO (Damm et al., WACV 2025, section 3): the anomaly score of a patch is the cosine
//! distance to the nearest patch of a few normal images; nothing is trained.
//!
//! Different from the paper, each chosen on auxiliary data (docs/benchmarks/few-shot.md): tokens
//! of two blocks in the middle of the network instead of the last, each token standardised; no
//! foreground mask; a small part of the image's score is the distance of its mean token, which
//! sees changes of the whole image; a patch's distance to the rest of its own image can join that to
//! the shots; scores are measured in units of what the shots score against each other, so that 1
//! means "as unlike as normal images are".

mod bank;
mod config;
mod units;

use std::collections::BTreeMap;

use anomalens_backbones::ImageFeatures;
use anomalens_vision::Map;
use serde_json::Value;

pub use config::Config;

use crate::detector::{Array, Detector, Scope, Scored, State};
use crate::own_image;
use crate::registry::{Shots, check_features, configure};
use crate::{DetectorError, Looks, Setup};
use bank::Bank;
use units::Units;

/// The method's name.
pub const NAME: &str = "anomaly-dino";

/// A memory bank of normal patches, ready to score images.
pub struct AnomalyDino {
    config: Config,
    setup: Setup,
    banks: Vec<Bank>,
    units: Units,
}

/// A normal image in all its views, the upright one first.
type Shot = Vec<ImageFeatures>;

/// Fits a detector on the normal images of `shots`.
pub(crate) fn fit(options: &Value, shots: &Shots) -> Result<Box<dyn Detector>, DetectorError> {
    let config: Config = configure(NAME, &Config::default(), options)?;
    let setup = config.setup()?;
    let shots: Vec<Shot> = shots
        .images
        .iter()
        .map(|shot| shots.encode(&setup, config.looks, &config.views.of(&shot.image)))
        .collect::<Result<_, _>>()?;
    let banks = banks(&shots.iter().collect::<Vec<_>>(), &config)?;
    let units = Units::measure(&shots, &config)?;
    Ok(Box::new(AnomalyDino {
        config,
        setup,
        banks,
        units,
    }))
}

/// Makes the detector again from what [`Detector::state`] gave.
pub(crate) fn load(mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
    let config: Config = configure(NAME, &Config::default(), &state.config)?;
    let setup = config.setup()?;
    let mut take = |name: &str| state.tensors.remove(name).ok_or_else(|| unusable(name));
    let banks = config
        .blocks
        .iter()
        .map(|&block| Bank::load(block, &mut take))
        .collect::<Result<_, _>>()?;
    let units = Units::load(&mut take)?;
    Ok(Box::new(AnomalyDino {
        config,
        setup,
        banks,
        units,
    }))
}

/// The error for a tensor of a detector file that is not as it must be.
fn unusable(name: &str) -> DetectorError {
    DetectorError::Config {
        method: NAME,
        reason: format!("the tensor `{name}` is missing or has an unusable shape"),
    }
}

impl Detector for AnomalyDino {
    fn method(&self) -> &'static str {
        NAME
    }

    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn looks(&self) -> Looks {
        self.config.looks
    }

    fn scope(&self) -> Scope {
        Scope::Image
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let mut tensors: BTreeMap<String, Array> = BTreeMap::new();
        for bank in &self.banks {
            tensors.extend(bank.arrays());
        }
        tensors.extend([self.units.array()]);
        let config = serde_json::to_value(&self.config).unwrap_or_default();
        State { config, tensors }
    }
}

impl AnomalyDino {
    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let width = self.banks.first().map_or(0, Bank::width);
        let grid = check_features(image, &self.setup, width)?;
        let distances = Distances::measure(image, &self.banks, &self.config)?;
        let Units {
            patch,
            own,
            whole: whole_unit,
            range,
        } = self.units;
        let map = distances.joined(own).map(|joined| joined / patch).collect();
        let map = Map::new(grid.rows, grid.columns, map)?;
        let whole = match whole_unit > 0.0 {
            true => self.config.image_weight as f32 * distances.whole / whole_unit,
            false => 0.0,
        };
        let score = map.top_mean(self.config.top_fraction) + whole;
        Ok(Scored { score, map, range })
    }
}

/// How far an image is from a set of banks, one for each block; means over the blocks.
struct Distances {
    /// Cosine distance of each patch to the nearest in the bank.
    patches: Vec<f32>,
    /// Distance of each patch to the rest of its own image.
    own: Vec<f32>,
    /// Cosine distance of the mean token to that of the nearest shot.
    whole: f32,
}

impl Distances {
    fn measure(
        image: &ImageFeatures,
        banks: &[Bank],
        config: &Config,
    ) -> Result<Self, DetectorError> {
        let mut patches = vec![0.0; image.grid().len()];
        let mut whole = 0.0;
        for bank in banks {
            for (sum, distance) in patches.iter_mut().zip(bank.patch_distances(image)?) {
                *sum += distance / banks.len() as f32;
            }
            whole += bank.whole_distance(image)? / banks.len() as f32;
        }
        let own = match config.own_weight > 0.0 {
            true => own_image::distances(image, &config.blocks)?,
            false => vec![0.0; patches.len()],
        };
        Ok(Self {
            patches,
            own,
            whole,
        })
    }

    /// Both distances of each patch in one number, those to its own image multiplied by `own`.
    fn joined(&self, own: f32) -> impl Iterator<Item = f32> {
        let both = self.patches.iter().zip(&self.own);
        both.map(move |(patch, to_own)| patch + own * to_own)
    }
}

/// A bank for each block.
fn banks(shots: &[&Shot], config: &Config) -> Result<Vec<Bank>, DetectorError> {
    config
        .blocks
        .iter()
        .map(|&block| Bank::new(block, shots))
        .collect()
}
