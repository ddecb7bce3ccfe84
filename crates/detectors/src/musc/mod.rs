//! MuSc (Li et al., ICLR 2024): unlabelled images score each other. A normal patch has a similar
//! patch in most other images, an anomalous one has not.
//!
//! Section 3.1 (neighbourhood aggregation): `aggregate.rs`; section 3.2 (mutual scoring):
//! `mutual.rs`; section 3.3 (re-scoring by image neighbours): `rescore.rs`. Not in the paper:
//! tokens are first shortened to their principal components (`reduce.rs`), which makes the
//! quadratic part four times as fast.

mod aggregate;
mod config;
mod mutual;
mod reduce;
mod rescore;

use std::collections::BTreeMap;

use anomalens_backbones::ImageFeatures;
use anomalens_vision::Map;
use serde_json::Value;

pub use config::Config;

use crate::detector::{Detector, NormalRange, Scope, Scored, State};
use crate::registry::{Shots, check_features, configure};
use crate::tokens::standardised;
use crate::{DetectorError, Setup};

/// The method's name.
pub const NAME: &str = "musc";

/// Quantile of a group's patch scores from where on they are drawn as anomalous.
const EXTREME_QUANTILE: f64 = 0.98;

/// A ready MuSc detector: settings alone, for nothing is learned.
pub struct Musc {
    config: Config,
    setup: Setup,
}

/// Makes a detector; MuSc needs no normal image.
pub(crate) fn fit(options: &Value, _: &Shots) -> Result<Box<dyn Detector>, DetectorError> {
    let config: Config = configure(NAME, &Config::default(), options)?;
    Ok(Box::new(Musc {
        setup: config.setup()?,
        config,
    }))
}

/// Makes the detector again from what [`Detector::state`] gave.
pub(crate) fn load(state: State) -> Result<Box<dyn Detector>, DetectorError> {
    let config: Config = configure(NAME, &Config::default(), &state.config)?;
    Ok(Box::new(Musc {
        setup: config.setup()?,
        config,
    }))
}

impl Detector for Musc {
    fn method(&self) -> &'static str {
        NAME
    }

    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn scope(&self) -> Scope {
        Scope::Group(self.config.group)
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        const NEEDED: usize = 2;
        let [first, _, ..] = images else {
            return Err(DetectorError::GroupTooSmall {
                method: NAME,
                needed: NEEDED,
                found: images.len(),
            });
        };
        let width = first
            .blocks
            .first()
            .map_or(0, |block| block.class_token.len());
        for image in images {
            check_features(image, &self.setup, width)?;
        }
        let Config {
            blocks,
            neighbourhoods,
            ..
        } = &self.config;
        let mut maps: Vec<Vec<f32>> = images
            .iter()
            .map(|image| vec![0.0; image.grid.len()])
            .collect();
        let parts = (blocks.len() * neighbourhoods.len()) as f32;
        for &block in blocks {
            let tokens = images
                .iter()
                .map(|image| Ok(standardised(image, block)?.0))
                .collect::<Result<_, DetectorError>>()?;
            let (tokens, length) = reduce::shorten(tokens, width, self.config.dimensions)?;
            for &side in neighbourhoods {
                let sets = tokens
                    .iter()
                    .zip(images)
                    .map(|(tokens, image)| aggregate::average(tokens, image.grid, length, side))
                    .collect();
                let scores = mutual::score(sets, length, self.config.lowest_fraction)?;
                for (map, scores) in maps.iter_mut().zip(scores) {
                    map.iter_mut()
                        .zip(scores)
                        .for_each(|(sum, score)| *sum += score / parts);
                }
            }
        }
        let range = NormalRange::of(maps.concat(), EXTREME_QUANTILE);
        let maps: Vec<Map> = maps
            .into_iter()
            .zip(images)
            .map(|(map, image)| Map::new(image.grid.rows, image.grid.columns, map))
            .collect::<Result<_, _>>()?;
        let mut scores: Vec<f32> = maps
            .iter()
            .map(|map| map.top_mean(self.config.top_fraction))
            .collect();
        if !self.config.rescore.is_empty() {
            let last = blocks.iter().max().copied().unwrap_or(0);
            let class_tokens: Vec<&[f32]> = images
                .iter()
                .filter_map(|image| Some(image.block(last)?.class_token.as_slice()))
                .collect();
            scores = rescore::by_neighbours(&scores, &class_tokens, &self.config.rescore);
        }
        Ok(scores
            .into_iter()
            .zip(maps)
            .map(|(score, map)| Scored { score, map, range })
            .collect())
    }

    fn state(&self) -> State {
        let config = serde_json::to_value(&self.config).unwrap_or_default();
        State {
            config,
            tensors: BTreeMap::new(),
        }
    }
}
