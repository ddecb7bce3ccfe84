//! WinCLIP and WinCLIP+ (Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and
//! Segmentation", CVPR 2023): prompts of normal and of damaged things score the image and windows of
//! its patches, each of which goes through the network by itself; normal images of the target, where
//! there are any, add how far its windows and patches are from theirs.
//!
//! ```text
//! settings.rs    settings
//! windows.rs     from scores of windows to scores of patches
//! references.rs  normal windows and patches
//! ```
//!
//! There is no official code. The defaults are those of zqhang/WinCLIP-pytorch (6b070ff), whose map is
//! twice as large where there are references; `patch_tokens = "normed"` are anomalib's (b723368).

#[cfg(test)]
mod goldens;
mod references;
mod settings;
mod windows;

use anomalens_backbones::{Grid, ImageFeatures, LayerId};
use anomalens_vision::Map;

pub use settings::{PatchTokens, Settings};

use crate::components::prompts::{Ensemble, Texts};
use crate::components::residual::residual;
use crate::detector::{Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _,
};
use references::References;

/// The method's name.
pub const NAME: &str = "winclip";

/// Names of tensors in a detector file.
const TEXTS: &str = "text_features";
const RANGE: &str = "range";

/// Quantile of the references' maps from where on patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// The method.
pub struct WinClip;

impl Method for WinClip {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "zero-shot: windows of an image compared with prompts of normal and damaged \
                      things; few-shot: with those of some normal images too",
            paper: "Jeong et al., WinCLIP: Zero-/Few-Shot Anomaly Classification and \
                    Segmentation, CVPR 2023",
            requirements: Requirements {
                references: Need::Optional,
                training: Need::No,
                joint: false,
                class: true,
            },
            backbones: "CLIP",
            weights: DefaultWeights::Clip("clip-vit-b16-plus-240"),
            several_networks: false,
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let defaults = Settings::defaults(context.encoder);
        let mut settings = defaults.replaced_by(context.settings)?;
        if let Some(class) = context.open_class() {
            settings.class = class.to_owned();
        }
        let checked = Checked::new(settings)?;
        let texts = Ensemble::texts_of(
            NAME,
            context.encoder,
            &checked.settings.prompts,
            &checked.settings.class,
        )?;
        let mut images = vec![];
        let input = &checked.profile.input;
        context.each_reference(input, context.references, |image| {
            images.push(image);
            Ok(())
        })?;
        let mut detector = WinClipDetector {
            checked,
            texts,
            references: None,
            range: ZERO_SHOT,
        };
        if !images.is_empty() {
            let images: Vec<&ImageFeatures> = images.iter().collect();
            detector.range = detector.range_of(&images)?;
            let settings = &detector.checked.settings;
            detector.references = Some(References::of(&images, settings)?);
        }
        Ok(Box::new(detector))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let texts = Texts::from_array(&state.take(NAME, TEXTS)?);
        Ok(Box::new(WinClipDetector {
            texts: texts.ok_or_else(|| DetectorError::tensor(NAME, TEXTS))?,
            references: References::load(&mut state, &checked.settings)?,
            range: NormalRange::take(&mut state, NAME, RANGE)?,
            checked,
        }))
    }
}

/// Probabilities: half is undecided.
const ZERO_SHOT: NormalRange = NormalRange {
    median: 0.0,
    upper_quantile: 0.5,
};

/// Prompts, and references if there are any, ready to score images.
struct WinClipDetector {
    checked: Checked<Settings>,
    texts: Texts,
    references: Option<References>,
    /// For pictures only.
    range: NormalRange,
}

impl Detector for WinClipDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let own = [
            (TEXTS.to_owned(), self.texts.array()),
            (RANGE.to_owned(), self.range.array()),
        ];
        let references = self.references.iter().flat_map(References::arrays);
        self.checked.state(references.chain(own))
    }
}

impl WinClipDetector {
    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let (grid, score, map) = self.zero_shot(image)?;
        let (score, map) = match &self.references {
            None => (score, map),
            Some(references) => joined(score, &map, &references.map(image, grid)?),
        };
        Ok(Scored {
            score,
            map: Map::new(grid.rows, grid.columns, map)?,
            range: self.range,
        })
    }

    /// The grid of an image's patches, and what its prompts say: of all of it, and of each patch.
    fn zero_shot(&self, image: &ImageFeatures) -> Result<(Grid, f32, Vec<f32>), DetectorError> {
        let Settings {
            windows,
            temperature,
            block,
            ..
        } = &self.checked.settings;
        let (width, temperature) = (self.texts.0[0].len(), *temperature as f32);
        let layer = |layer: LayerId| image.map(layer).ok_or(DetectorError::MissingLayer(layer));
        let check = |found: usize| match found == width {
            true => Ok(()),
            false => Err(DetectorError::Width {
                expected: width,
                found,
            }),
        };
        let grid = layer(LayerId::Block(*block))?.grid;
        let embedding = image.embedding.as_deref().unwrap_or_default();
        check(embedding.len())?;
        let score = self.texts.probability(embedding, temperature);
        let mut maps = vec![];
        for &side in windows {
            let map = layer(LayerId::Window(side))?;
            check(map.dim)?;
            let scores = map.tokens.chunks_exact(width);
            let scores = scores.map(|window| self.texts.probability(window, temperature));
            maps.push(windows::cover(&scores.collect::<Vec<_>>(), side, grid));
        }
        Ok((grid, score, windows::harmonic(&maps, score)))
    }

    /// The maps of references: each against the others, a single one's patches against each other.
    fn range_of(&self, images: &[&ImageFeatures]) -> Result<NormalRange, DetectorError> {
        let settings = &self.checked.settings;
        let mut all = vec![];
        for (i, image) in images.iter().enumerate() {
            let (grid, score, map) = self.zero_shot(image)?;
            let others = images.iter().enumerate().filter(|(other, _)| *other != i);
            let others: Vec<&ImageFeatures> = others.map(|(_, other)| *other).collect();
            let far = match others.as_slice() {
                [] => within(image, settings.block)?,
                others => References::of(others, settings)?.map(image, grid)?,
            };
            all.extend(joined(score, &map, &far).1);
        }
        Ok(NormalRange::of(all, UPPER_QUANTILE))
    }
}

/// Score and map of prompts and of references together.
fn joined(score: f32, prompts: &[f32], references: &[f32]) -> (f32, Vec<f32>) {
    let farthest = references.iter().copied().fold(0.0, f32::max);
    let both = prompts.iter().zip(references);
    (
        0.5 * (score + farthest),
        both.map(|(a, b)| 0.5 * (a + b)).collect(),
    )
}

/// Half the cosine distance of each patch to the nearest other one of its image.
fn within(image: &ImageFeatures, block: usize) -> Result<Vec<f32>, DetectorError> {
    let (tokens, width) = references::unit(image, LayerId::Block(block))?;
    let rows = || tokens.chunks_exact(width.max(1)).enumerate();
    let nearest = rows().map(|(i, row)| {
        let others = rows().filter(|(other, _)| *other != i);
        let cosines = others.map(|(_, other)| crate::components::tokens::dot(row, other));
        residual(cosines.fold(-1.0, f32::max))
    });
    Ok(nearest.collect())
}
