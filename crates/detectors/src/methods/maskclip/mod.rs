//! MaskCLIP (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022): the values of the last
//! block, which no attention mixes, are compared with texts patch by patch; nothing is trained.
//!
//! The paper segments classes of objects. Here the classes are two states of one object, and its scores
//! become an anomaly map as those of CLIP do in AnomalyCLIP's tables: softmax of both, smoothed. The
//! image's score, which the paper does not have, is the highest patch. Surprising in the published code
//! (chongzhou96/MaskCLIP at 245d31f) and kept: exact GELU and an epsilon of 1e-6 on weights trained
//! otherwise, and residual and feed-forward layer, which the paper's figure leaves out.

#[cfg(test)]
mod goldens;
mod refine;
mod settings;

use anomalens_backbones::{FeatureMap, ImageFeatures, LayerId};
use anomalens_vision::Map;

pub use settings::Settings;

use crate::components::prompts::{Ensemble, Texts};
use crate::components::tokens::{dot, normalise_rows};
use crate::detector::{Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _,
};

/// The method's name.
pub const NAME: &str = "maskclip";

/// Name of the prompts' embeddings in a detector file.
const TEXTS: &str = "text_features";

/// Probabilities: half is undecided.
const RANGE: NormalRange = NormalRange {
    median: 0.0,
    upper_quantile: 0.5,
};

/// The method.
pub struct MaskClip;

impl Method for MaskClip {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "zero-shot: the values of CLIP's last block compared with prompts, patch by \
                      patch",
            paper: "Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022",
            requirements: Requirements {
                references: Need::No,
                training: Need::No,
                joint: false,
                class: true,
            },
            backbones: "CLIP",
            weights: DefaultWeights::Clip("clip-vit-b16"),
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
        let Settings { prompts, class, .. } = &checked.settings;
        let texts = Ensemble::texts_of(NAME, context.encoder, prompts, class)?;
        Ok(Box::new(MaskClipDetector { checked, texts }))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let texts = Texts::from_array(&state.take(NAME, TEXTS)?);
        let texts = texts.ok_or_else(|| DetectorError::tensor(NAME, TEXTS))?;
        Ok(Box::new(MaskClipDetector { checked, texts }))
    }
}

/// The prompts' embeddings, ready to score images.
struct MaskClipDetector {
    checked: Checked<Settings>,
    texts: Texts,
}

/// The cosine of each patch with each of `texts`, a row for each text.
fn cosines(patches: &FeatureMap, texts: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut tokens = patches.tokens.clone();
    normalise_rows(&mut tokens, patches.dim);
    let with = |text: &Vec<f32>| {
        let rows = tokens.chunks_exact(patches.dim.max(1));
        rows.map(|patch| dot(patch, text)).collect()
    };
    texts.iter().map(with).collect()
}

impl MaskClipDetector {
    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let grid = profile.check(image, self.texts.0[0].len())?;
        let layer = LayerId::Block(settings.block);
        let missing = DetectorError::MissingLayer;
        let patches = image.map(layer).ok_or(missing(layer))?;
        let mut scores = cosines(patches, &self.texts.0);
        if settings.prompt_denoising > 0.0 {
            refine::denoise(&mut scores, settings.prompt_denoising as f32);
        }
        let anomalous: Vec<f32> = match settings.key_smoothing > 0.0 {
            false => {
                let temperature = settings.temperature as f32;
                let both = scores[0].iter().zip(&scores[1]);
                both.map(|(normal, anomalous)| (anomalous - normal) / temperature)
                    .map(|margin| 1.0 / (1.0 + (-margin).exp()))
                    .collect()
            }
            true => {
                let keys = image.further.first().and_then(|image| image.map(layer));
                let keys = keys.ok_or(missing(layer))?;
                if keys.grid != grid {
                    return Err(missing(layer));
                }
                let threshold = settings.key_smoothing as f32;
                let both = refine::smooth(&scores, &keys.tokens, threshold);
                let both = both[0].iter().zip(&both[1]);
                // Sums that may be of any sign: what is anomalous beyond what is normal.
                both.map(|(normal, anomalous)| anomalous - normal).collect()
            }
        };
        Ok(Scored {
            score: anomalous.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            map: Map::new(grid.rows, grid.columns, anomalous)?,
            range: RANGE,
        })
    }
}

impl Detector for MaskClipDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        self.checked.state([(TEXTS.to_owned(), self.texts.array())])
    }
}
