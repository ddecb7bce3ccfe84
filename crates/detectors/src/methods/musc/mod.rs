//! MuSc (Li et al., ICLR 2024): unlabelled images score each other. A normal patch has a similar
//! patch in most other images, an anomalous one has not.
//!
//! ```text
//! components/neighbourhood.rs    section 3.1, LNAMD: neighbourhood aggregation
//! components/mutual_scoring.rs   section 3.2, MSM: mutual scoring
//! rescore.rs                     section 3.3, RsCIN: re-scoring by similar images
//! ```
//!
//! The settings are those of the published code (xrli-U/MuSc at b76b93d) with the difference between
//! CLIP and DINOv2 that it makes; every step is compared with an independent implementation in
//! `goldens.rs`. The result does not depend on the order of the images.

#[cfg(test)]
mod goldens;
mod rescore;
mod settings;

use anomalens_backbones::{FeatureMap, Grid, ImageFeatures};
use anomalens_vision::{Alignment, Map};

pub use settings::{Family, Settings};

use crate::components::canonical::in_canonical_order;
use crate::components::tokens::{after, normalise};
use crate::components::{mutual_scoring, neighbourhood};
use crate::detector::{Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _,
};

/// The method's name.
pub const NAME: &str = "musc";

/// Quantile of the patch scores of all images from where on they are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.98;

/// Epsilon of the standardisation: PyTorch's layer norm.
const EPSILON: f64 = 1e-5;

/// Fewer images cannot score each other.
const NEEDED: usize = 2;

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
            backbones: "any; CLIP ViT-L/14-336 in the paper",
            weights: DefaultWeights::AllBlocks,
            several_networks: false,
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let defaults = Settings::defaults(context.encoder)?;
        let settings = defaults.replaced_by(context.settings)?;
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
        let Checked { settings, profile } = &self.0;
        let first = images.first().and_then(|image| image.maps.first());
        let (Some(first), NEEDED..) = (first, images.len()) else {
            return Err(DetectorError::GroupTooSmall {
                method: NAME,
                needed: NEEDED,
                found: images.len(),
            });
        };
        for image in images {
            profile.check(image, first.dim)?;
        }
        let maps = self.maps(images)?;
        let range = NormalRange::of(patches(&maps), UPPER_QUANTILE);
        let side = settings.image_size as usize;
        let highest = maps.iter().map(|map| {
            let range = map.resize(side, side, Alignment::Corners)?.range();
            Ok(range.map_or(f32::NAN, |(_, highest)| highest))
        });
        let mut scores: Vec<f32> = highest.collect::<Result<_, DetectorError>>()?;
        if !settings.rescore.is_empty() {
            let class_tokens: Vec<Vec<f32>> =
                images.iter().map(|image| self.class_token(image)).collect();
            scores = rescore::rescore(&scores, &class_tokens, &settings.rescore);
        }
        let scored = scores.into_iter().zip(maps);
        Ok(scored
            .map(|(score, map)| Scored { score, map, range })
            .collect())
    }

    /// The mean over the blocks and the degrees of aggregation of each patch's mutual score.
    fn maps(&self, images: &[&ImageFeatures]) -> Result<Vec<Map>, DetectorError> {
        let settings = &self.0.settings;
        let mut sums: Vec<Vec<f64>> = vec![vec![]; images.len()];
        let mut grids: Vec<Grid> = vec![];
        for &block in &settings.blocks {
            let layer = images.iter().map(|image| after(image, block));
            let layer: Vec<&FeatureMap> = layer.collect::<Result<_, _>>()?;
            let width = layer.first().map_or(0, |map| map.dim);
            let tokens: Vec<Vec<f32>> = layer.iter().map(|m| standardise(m)).collect();
            grids = layer.iter().map(|map| map.grid).collect();
            for &degree in &settings.degrees {
                let sets = tokens.iter().zip(&grids);
                let sets = sets
                    .map(|(tokens, grid)| neighbourhood::average(tokens, *grid, width, degree))
                    .collect();
                let scores =
                    mutual_scoring::score(sets, width, settings.lowest_fraction, settings.search)?;
                for (sums, scores) in sums.iter_mut().zip(scores) {
                    sums.resize(scores.len(), 0.0);
                    let pairs = sums.iter_mut().zip(scores);
                    pairs.for_each(|(sum, score)| *sum += f64::from(score));
                }
            }
        }
        let parts = (settings.blocks.len() * settings.degrees.len()) as f64;
        let maps = sums.into_iter().zip(grids).map(|(sums, grid)| {
            let values = sums.into_iter().map(|sum| (sum / parts) as f32);
            Ok(Map::new(grid.rows, grid.columns, values.collect())?)
        });
        maps.collect()
    }

    /// What images are compared by when scores are averaged.
    fn class_token(&self, image: &ImageFeatures) -> Vec<f32> {
        let mut token = image.embedding.clone().unwrap_or_default();
        if self.0.settings.family == Family::Clip {
            normalise(&mut token);
        }
        token
    }
}

fn patches(maps: &[Map]) -> Vec<f32> {
    maps.iter().flat_map(Map::values).copied().collect()
}

/// The tokens of an image, all values together brought to mean 0 and variance 1.
fn standardise(map: &FeatureMap) -> Vec<f32> {
    let count = map.tokens.len() as f64;
    let values = map.tokens.iter().copied().map(f64::from);
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let scale = (variance + EPSILON).sqrt().recip();
    let values = map.tokens.iter();
    values
        .map(|&x| ((f64::from(x) - mean) * scale) as f32)
        .collect()
}
