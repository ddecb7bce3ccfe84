//! AnomalyDINO (Damm et al., WACV 2025, section 3): the anomaly score of a patch is the cosine
//! distance to the nearest patch of a few normal images; nothing is trained.
//!
//! Different from the paper, each chosen on auxiliary data (docs/research/few-shot.md): tokens
//! of two blocks in the middle of the network instead of the last, each token standardised; no
//! foreground mask; a small part of the image's score is the distance of its mean token, which
//! sees changes of the whole image; a patch's distance to the rest of its own image can join that to
//! the shots; scores are measured in units of what the shots score against each other, so that 1
//! means "as unlike as normal images are".

mod bank;
mod score_scale;
mod settings;

use anomalens_backbones::ImageFeatures;
use anomalens_vision::Map;

pub use settings::Settings;

use crate::components::self_similarity;
use crate::detector::{Detector, Profile, Scored, State};
use crate::settings::Checked;
use crate::{DetectorError, FitContext, Method, MethodInfo, Need, Requirements, Settings as _};
use bank::Bank;
use score_scale::ScoreScale;

/// The method's name.
pub const NAME: &str = "anomaly-dino";

/// The method.
pub struct AnomalyDino;

impl Method for AnomalyDino {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "few-shot: distance of each patch to the nearest patch of some normal images",
            paper: "Damm et al., AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection \
                    with DINOv2, WACV 2025",
            requirements: Requirements {
                references: Need::Required,
                training: Need::No,
                joint: false,
                class: false,
            },
            backbones: "any; DINOv2 in the paper",
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let references = context.require_references(NAME)?;
        let checked = Checked::new(Settings::default().replaced_by(context.settings)?)?;
        let Checked { settings, profile } = &checked;
        let references: Vec<Reference> = references
            .iter()
            .map(|reference| {
                let forms = settings.reference_augmentation.of(&reference.image);
                context.encode(&profile.input, settings.tta, &forms)
            })
            .collect::<Result<_, _>>()?;
        Ok(Box::new(AnomalyDinoDetector {
            banks: banks(&references.iter().collect::<Vec<_>>(), settings)?,
            scale: ScoreScale::measure(&references, settings)?,
            checked,
        }))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let banks = checked
            .settings
            .blocks
            .iter()
            .map(|&block| Bank::load(block, &mut state))
            .collect::<Result<_, _>>()?;
        Ok(Box::new(AnomalyDinoDetector {
            banks,
            scale: ScoreScale::load(&mut state)?,
            checked,
        }))
    }
}

/// A memory bank of normal patches, ready to score images.
struct AnomalyDinoDetector {
    checked: Checked<Settings>,
    banks: Vec<Bank>,
    scale: ScoreScale,
}

/// A reference image in all its forms, the upright one first.
type Reference = Vec<ImageFeatures>;

impl Detector for AnomalyDinoDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let banks = self.banks.iter().flat_map(Bank::arrays);
        self.checked.state(banks.chain([self.scale.array()]))
    }
}

impl AnomalyDinoDetector {
    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let width = self.banks.first().map_or(0, Bank::width);
        let Checked { settings, profile } = &self.checked;
        let grid = profile.check(image, width)?;
        let distances = Distances::measure(image, &self.banks, settings)?;
        let ScoreScale {
            patch,
            own,
            image_level: unit,
            range,
        } = self.scale;
        let map = distances.joined(own).map(|joined| joined / patch).collect();
        let map = Map::new(grid.rows, grid.columns, map)?;
        let image_level = match unit > 0.0 {
            true => settings.image_weight as f32 * distances.image_level / unit,
            false => 0.0,
        };
        let score = map.top_mean(settings.top_fraction) + image_level;
        Ok(Scored { score, map, range })
    }
}

/// How far an image is from a set of banks, one for each block; means over the blocks.
struct Distances {
    /// Cosine distance of each patch to the nearest in the bank.
    patches: Vec<f32>,
    /// Distance of each patch to the rest of its own image.
    own: Vec<f32>,
    /// Cosine distance of the mean token to that of the nearest reference.
    image_level: f32,
}

impl Distances {
    fn measure(
        image: &ImageFeatures,
        banks: &[Bank],
        settings: &Settings,
    ) -> Result<Self, DetectorError> {
        let mut patches = vec![0.0; image.grid().len()];
        let mut image_level = 0.0;
        for bank in banks {
            for (sum, distance) in patches.iter_mut().zip(bank.patch_distances(image)?) {
                *sum += distance / banks.len() as f32;
            }
            image_level += bank.image_distance(image)? / banks.len() as f32;
        }
        let own = match settings.own_weight > 0.0 {
            true => self_similarity::distances(image, &settings.blocks)?,
            false => vec![0.0; patches.len()],
        };
        Ok(Self {
            patches,
            own,
            image_level,
        })
    }

    /// Both distances of each patch in one number, those to its own image multiplied by `own`.
    fn joined(&self, own: f32) -> impl Iterator<Item = f32> {
        let both = self.patches.iter().zip(&self.own);
        both.map(move |(patch, to_own)| patch + own * to_own)
    }
}

/// A bank for each block.
fn banks(references: &[&Reference], settings: &Settings) -> Result<Vec<Bank>, DetectorError> {
    settings
        .blocks
        .iter()
        .map(|&block| Bank::new(block, references))
        .collect()
}
