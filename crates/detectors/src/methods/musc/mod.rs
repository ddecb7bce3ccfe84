//! MuSc (Li et al., ICLR 2024): unlabelled images score each other. A normal patch has a similar
//! patch in most other images, an anomalous one has not.
//!
//! Section 3.1 (neighbourhood aggregation): `neighbourhood.rs`; section 3.2 (mutual scoring):
//! `mutual_scoring.rs`; section 3.3 (re-scoring by image neighbours): `rescore.rs`. Not in the paper:
//! tokens are first shortened to their principal components (`principal_components.rs`), which makes the
//! quadratic part four times as fast; a patch's distance to the rest of its own image joins its
//! score, so that anomalies that confirm each other are still found; and a part of an image's score
//! is how different its mean token is from the others (`image_level.rs`).

mod image_level;
mod rescore;
mod settings;

use anomalens_backbones::{ImageFeatures, LayerId};
use anomalens_vision::Map;

pub use settings::Settings;

use crate::components::canonical::in_canonical_order;
use crate::components::tokens::standardised;
use crate::components::{mutual_scoring, neighbourhood, principal_components, self_similarity};
use crate::detector::{Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::{DetectorError, FitContext, Method, MethodInfo, Need, Requirements, Settings as _};

/// The method's name.
pub const NAME: &str = "musc";

/// Quantile of a group's patch scores from where on they are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.98;

/// The method.
pub struct Musc;

impl Method for Musc {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "batch zero-shot: unlabelled images score each other, no normal image needed",
            paper: "Li et al., MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation \
                    with Mutual Scoring of the Unlabeled Images, ICLR 2024",
            requirements: Requirements {
                references: Need::No,
                training: Need::No,
                joint: true,
                class: false,
            },
            backbones: "any",
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let settings = Settings::default().replaced_by(context.settings)?;
        Ok(Box::new(MuscDetector(Checked::new(settings)?)))
    }

    fn load(&self, state: State) -> Result<Box<dyn Detector>, DetectorError> {
        Ok(Box::new(MuscDetector(Checked::load(&state)?)))
    }
}

/// A ready detector: settings alone, for nothing is learned.
struct MuscDetector(Checked<Settings>);

impl Detector for MuscDetector {
    fn profile(&self) -> &Profile {
        &self.0.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        in_canonical_order(images, |images| self.score_in_order(images))
    }

    fn state(&self) -> State {
        self.0.state([])
    }
}

impl MuscDetector {
    fn score_in_order(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        const NEEDED: usize = 2;
        let [first, _, ..] = images else {
            return Err(DetectorError::GroupTooSmall {
                method: NAME,
                needed: NEEDED,
                found: images.len(),
            });
        };
        let width = first.maps.first().map_or(0, |map| map.dim);
        let Checked { settings, profile } = &self.0;
        for image in images {
            profile.check(image, width)?;
        }
        let Settings {
            blocks,
            neighbourhoods,
            ..
        } = settings;
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
            let (tokens, length) =
                principal_components::shorten(tokens, width, settings.dimensions)?;
            for &side in neighbourhoods {
                let sets = tokens
                    .iter()
                    .zip(images)
                    .map(|(tokens, image)| {
                        neighbourhood::average(tokens, image.grid(), length, side)
                    })
                    .collect();
                let scores = mutual_scoring::score(sets, length, settings.lowest_fraction)?;
                for (map, scores) in maps.iter_mut().zip(scores) {
                    map.iter_mut()
                        .zip(scores)
                        .for_each(|(sum, score)| *sum += score / parts);
                }
            }
        }
        self.add_own(&mut maps, images)?;
        let range = NormalRange::of(maps.concat(), UPPER_QUANTILE);
        let maps: Vec<Map> = maps
            .into_iter()
            .zip(images)
            .map(|(map, image)| Map::new(image.grid().rows, image.grid().columns, map))
            .collect::<Result<_, _>>()?;
        let mut scores: Vec<f32> = maps
            .iter()
            .map(|map| map.top_mean(settings.top_fraction))
            .collect();
        self.add_image_level(&mut scores, &maps, images)?;
        if !settings.rescore.is_empty() {
            let last = blocks.iter().max().copied().unwrap_or(0);
            let class_tokens: Vec<&[f32]> = images
                .iter()
                .map(|image| {
                    let class_token = image.block(last).and_then(|map| map.class_token.as_deref());
                    class_token.ok_or(DetectorError::NoClassToken(LayerId::Block(last)))
                })
                .collect::<Result<_, _>>()?;
            scores = rescore::by_neighbours(&scores, &class_tokens, &settings.rescore);
        }
        Ok(scores
            .into_iter()
            .zip(maps)
            .map(|(score, map)| Scored { score, map, range })
            .collect())
    }

    /// Adds to each patch's score its distance to the rest of its own image.
    fn add_own(
        &self,
        maps: &mut [Vec<f32>],
        images: &[&ImageFeatures],
    ) -> Result<(), DetectorError> {
        let Settings {
            own_weight, blocks, ..
        } = &self.0.settings;
        if *own_weight == 0.0 {
            return Ok(());
        }
        let own: Vec<Vec<f32>> = images
            .iter()
            .map(|image| self_similarity::distances(image, blocks))
            .collect::<Result<_, _>>()?;
        let factor = *own_weight as f32
            * self_similarity::factor(maps.iter().flatten(), own.iter().flatten());
        for (score, own) in maps.iter_mut().flatten().zip(own.iter().flatten()) {
            *score += factor * own;
        }
        Ok(())
    }

    /// Adds to each image's score how different its mean token is from the others, in units of how far the
    /// scores of the group are above its median patch.
    fn add_image_level(
        &self,
        scores: &mut [f32],
        maps: &[Map],
        images: &[&ImageFeatures],
    ) -> Result<(), DetectorError> {
        let Settings {
            image_weight,
            blocks,
            lowest_fraction,
            ..
        } = &self.0.settings;
        if *image_weight == 0.0 {
            return Ok(());
        }
        let distances = image_level::distances(images, blocks, *lowest_fraction)?;
        let mean = |values: &mut dyn Iterator<Item = f32>, count: usize| {
            values.sum::<f32>() / count.max(1) as f32
        };
        let patches = maps.iter().map(|map| map.values().len()).sum();
        let median = mean(&mut maps.iter().flat_map(Map::values).copied(), patches);
        let height = mean(&mut scores.iter().map(|score| score - median), images.len());
        let unit = mean(&mut distances.iter().copied(), images.len());
        if unit > 0.0 {
            for (score, distance) in scores.iter_mut().zip(distances) {
                *score += *image_weight as f32 * height * distance / unit;
            }
        }
        Ok(())
    }
}
