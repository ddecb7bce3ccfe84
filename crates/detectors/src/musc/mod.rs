//! MuSc (Li et al., ICLR 2024): unlabelled images score each other. A normal patch has a similar
//! patch in most other images, an anomalous one has not.
//!
//! Section 3.1 (neighbourhood aggregation): `aggregate.rs`; section 3.2 (mutual scoring):
//! `mutual.rs`; section 3.3 (re-scoring by image neighbours): `rescore.rs`. Not in the paper:
//! tokens are first shortened to their principal components (`reduce.rs`), which makes the
//! quadratic part four times as fast; a patch's distance to the rest of its own image joins its
//! score, so that anomalies that confirm each other are still found; and a part of an image's score
//! is how unlike the others it is as a whole (`whole.rs`).

mod aggregate;
mod config;
mod mutual;
mod reduce;
mod rescore;
mod whole;

use std::collections::BTreeMap;

use anomalens_backbones::{ImageFeatures, LayerId};
use anomalens_vision::Map;
use serde_json::Value;

pub use config::Config;

use crate::detector::{Detector, NormalRange, Scope, Scored, State};
use crate::registry::{Shots, check_features, configure};
use crate::tokens::standardised;
use crate::{DetectorError, Looks, Setup, own_image};

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

    fn looks(&self) -> Looks {
        self.config.looks
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
        let width = first.maps.first().map_or(0, |map| map.dim);
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
            .map(|image| vec![0.0; image.grid().len()])
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
                    .map(|(tokens, image)| aggregate::average(tokens, image.grid(), length, side))
                    .collect();
                let scores = mutual::score(sets, length, self.config.lowest_fraction)?;
                for (map, scores) in maps.iter_mut().zip(scores) {
                    map.iter_mut()
                        .zip(scores)
                        .for_each(|(sum, score)| *sum += score / parts);
                }
            }
        }
        self.add_own(&mut maps, images)?;
        let range = NormalRange::of(maps.concat(), EXTREME_QUANTILE);
        let maps: Vec<Map> = maps
            .into_iter()
            .zip(images)
            .map(|(map, image)| Map::new(image.grid().rows, image.grid().columns, map))
            .collect::<Result<_, _>>()?;
        let mut scores: Vec<f32> = maps
            .iter()
            .map(|map| map.top_mean(self.config.top_fraction))
            .collect();
        self.add_whole(&mut scores, &maps, images)?;
        if !self.config.rescore.is_empty() {
            let last = blocks.iter().max().copied().unwrap_or(0);
            let class_tokens: Vec<&[f32]> = images
                .iter()
                .map(|image| {
                    let class_token = image.block(last).and_then(|map| map.class_token.as_deref());
                    class_token.ok_or(DetectorError::NoClassToken(LayerId::Block(last)))
                })
                .collect::<Result<_, _>>()?;
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

impl Musc {
    /// Adds to each patch's score its distance to the rest of its own image.
    fn add_own(
        &self,
        maps: &mut [Vec<f32>],
        images: &[&ImageFeatures],
    ) -> Result<(), DetectorError> {
        let Config {
            own_weight, blocks, ..
        } = &self.config;
        if *own_weight == 0.0 {
            return Ok(());
        }
        let own: Vec<Vec<f32>> = images
            .iter()
            .map(|image| own_image::distances(image, blocks))
            .collect::<Result<_, _>>()?;
        let factor =
            *own_weight as f32 * own_image::factor(maps.iter().flatten(), own.iter().flatten());
        for (score, own) in maps.iter_mut().flatten().zip(own.iter().flatten()) {
            *score += factor * own;
        }
        Ok(())
    }

    /// Adds to each image's score how unlike the others it is as a whole, in units of how far the
    /// scores of the group are above its typical patch.
    fn add_whole(
        &self,
        scores: &mut [f32],
        maps: &[Map],
        images: &[&ImageFeatures],
    ) -> Result<(), DetectorError> {
        let Config {
            image_weight,
            blocks,
            lowest_fraction,
            ..
        } = &self.config;
        if *image_weight == 0.0 {
            return Ok(());
        }
        let whole = whole::distances(images, blocks, *lowest_fraction)?;
        let mean = |values: &mut dyn Iterator<Item = f32>, count: usize| {
            values.sum::<f32>() / count.max(1) as f32
        };
        let patches = maps.iter().map(|map| map.values().len()).sum();
        let typical = mean(&mut maps.iter().flat_map(Map::values).copied(), patches);
        let height = mean(
            &mut scores.iter().map(|score| score - typical),
            images.len(),
        );
        let unit = mean(&mut whole.iter().copied(), images.len());
        if unit > 0.0 {
            for (score, whole) in scores.iter_mut().zip(whole) {
                *score += *image_weight as f32 * height * whole / unit;
            }
        }
        Ok(())
    }
}
