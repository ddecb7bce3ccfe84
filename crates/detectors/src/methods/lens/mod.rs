//! The program's own method. A patch is anomalous if nothing like it is found where it should be:
//! in the rest of its image, in a few normal images, or in the other images of a batch. It uses
//! whatever evidence there is. Nothing has to be trained; no text is used.
//!
//! ```text
//! settings.rs     settings
//! choices.rs      what the references decide: size, turning, ground
//! foreground.rs   the object, and the ground around it
//! own_image.rs    evidence: the rest of the image itself
//! references.rs   evidence: a few normal images
//! batch/          evidence: the other images of a batch, unlabelled
//! residual.rs     how images are compared
//! score_scale.rs  the unit of scores: what normal images differ among themselves
//! power_mean.rs   residuals of several kinds joined to one score
//! train.rs        the weights of the power mean, learned from auxiliary data
//! ```
//!
//! Scores are in units of what normal images score: 1 is as different as normal images are. How
//! each part was found: docs/research.

mod batch;
mod choices;
mod foreground;
mod own_image;
mod power_mean;
mod references;
mod residual;
mod score_scale;
mod settings;
mod train;

use std::collections::BTreeMap;

use anomalens_backbones::{ImageEncoder, ImageFeatures};

pub use settings::{Evidence, Settings};

use crate::detector::{Array, Detector, Profile, Scored, State};
use crate::file::format::Content;
use crate::settings::Checked;
use crate::training::{TrainProgress, Trained};
use crate::{
    DetectorError, FitContext, Method, MethodInfo, MethodSettings, Need, Note, Requirements,
    Settings as _, TrainContext, Trainer, Variant,
};
use own_image::OwnImage;
use power_mean::PowerMean;
use references::References;

/// The method's name.
pub const NAME: &str = "lens";

/// The method.
pub struct Lens;

impl Method for Lens {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "patches compared with the rest of their image, with a few normal images, \
                      or with the other images of a batch, whichever there are",
            paper: "Anomalens, docs/methods.md",
            requirements: Requirements {
                references: Need::Optional,
                training: Need::Optional,
                joint: false,
                class: false,
            },
            backbones: "any",
            last_blocks: false,
        }
    }

    fn requirements(&self, settings: &MethodSettings) -> Requirements {
        let evidence = settings.get("evidence").cloned();
        let evidence = evidence.and_then(|value| serde_json::from_value(value).ok());
        Requirements {
            references: match evidence {
                Some(Evidence::References) => Need::Required,
                Some(Evidence::Batch) => Need::No,
                // Normal images give an image's own residual its unit.
                Some(Evidence::OwnImage | Evidence::Auto) | None => Need::Optional,
            },
            joint: evidence == Some(Evidence::Batch),
            ..self.info().requirements
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let (defaults, head) = match context.trained {
            Some(path) => read_trained(path)?,
            None => (Settings::defaults(context.encoder)?, PowerMean::learned()?),
        };
        let mut settings = defaults.replaced_by(context.settings)?;
        if settings.evidence == Evidence::Auto {
            settings.evidence = match context.references {
                [] => Evidence::OwnImage,
                _ => Evidence::References,
            };
        }
        let (settings, chosen) = match settings.evidence {
            Evidence::References => choices::choose(context, settings)?,
            _ => (settings.settled(context.encoder), vec![]),
        };
        let checked = Checked::new(settings)?;
        let source = match checked.settings.evidence {
            Evidence::Batch => Source::Batch,
            Evidence::References => {
                context.require_references(NAME)?;
                let references = References::default().with(context, &[], &checked)?;
                Source::References(references.with_notes(chosen))
            }
            Evidence::Auto | Evidence::OwnImage => {
                Source::OwnImage(OwnImage::fit(context, &checked)?)
            }
        };
        Ok(Box::new(LensDetector {
            checked,
            head,
            source,
        }))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        Ok(Box::new(LensDetector {
            head: PowerMean::load(&mut state)?,
            source: match checked.settings.evidence {
                Evidence::Batch => Source::Batch,
                Evidence::References => {
                    Source::References(References::load(&mut state, &checked.settings)?)
                }
                Evidence::Auto | Evidence::OwnImage => {
                    Source::OwnImage(OwnImage::load(&mut state)?)
                }
            },
            checked,
        }))
    }

    fn trainer(&self) -> Option<&dyn Trainer> {
        Some(self)
    }

    fn update_references(
        &self,
        mut state: State,
        context: &FitContext<'_>,
        remove: &[String],
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        if checked.settings.evidence != Evidence::References {
            return Err(DetectorError::FixedReferences(NAME));
        }
        let head = PowerMean::load(&mut state)?;
        let references = References::load(&mut state, &checked.settings)?;
        let source = Source::References(references.with(context, remove, &checked)?);
        Ok(Box::new(LensDetector {
            checked,
            head,
            source,
        }))
    }
}

impl Trainer for Lens {
    fn train(
        &self,
        context: &TrainContext<'_>,
        progress: &mut TrainProgress<'_>,
    ) -> Result<Trained, DetectorError> {
        train::train(context, progress)
    }

    fn untrained(
        &self,
        context: &FitContext<'_>,
        _seed: u32,
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let settings = Settings {
            evidence: Evidence::References,
            ..Settings::defaults(context.encoder)?.replaced_by(context.settings)?
        };
        Ok(Box::new(LensDetector::without_references(
            Checked::new(settings.settled(context.encoder))?,
            PowerMean::new()?,
        )))
    }

    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        Err(refuse(
            "its parts are switched off when it is measured, by the settings `own_image` and \
             `image_level`",
        ))
    }

    fn trains_on_all(&self) -> bool {
        true
    }
}

/// Ready to score images.
struct LensDetector {
    checked: Checked<Settings>,
    head: PowerMean,
    source: Source,
}

/// What images are compared with, made ready.
enum Source {
    OwnImage(OwnImage),
    References(References),
    Batch,
}

impl LensDetector {
    /// What training leaves: a detector for references, without any yet.
    fn without_references(checked: Checked<Settings>, head: PowerMean) -> Self {
        Self {
            checked,
            head,
            source: Source::References(References::default()),
        }
    }
}

impl Detector for LensDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn notes(&self) -> &[Note] {
        match &self.source {
            Source::References(references) => references.notes(),
            Source::OwnImage(_) | Source::Batch => &[],
        }
    }

    fn references(&self) -> Vec<&str> {
        match &self.source {
            Source::References(references) => references.names().collect(),
            Source::OwnImage(_) | Source::Batch => vec![],
        }
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        let each = |score: &dyn Fn(&ImageFeatures) -> Result<Scored, DetectorError>| {
            images.iter().map(|image| score(image)).collect()
        };
        match &self.source {
            Source::OwnImage(own) => each(&|image| own.score(image, &self.checked)),
            Source::References(references) => {
                each(&|image| references.score(image, &self.checked, &self.head))
            }
            Source::Batch => batch::score(images, &self.checked),
        }
    }

    fn state(&self) -> State {
        let mut tensors = self.head.arrays();
        match &self.source {
            Source::OwnImage(own) => tensors.push(own.array()),
            Source::References(references) => {
                tensors.extend(references.arrays(&self.checked.settings.blocks));
            }
            Source::Batch => {}
        }
        self.checked.state(tensors)
    }
}

/// The settings and weights in a file that training wrote.
fn read_trained(path: &std::path::Path) -> Result<(Settings, PowerMean), DetectorError> {
    let content = Content::read(path)?;
    if content.header.method != NAME {
        return Err(refuse(format!(
            "{} is a detector of {}, not of {NAME}",
            path.display(),
            content.header.method
        )));
    }
    let mut state = content.into_state();
    let settings = Checked::<Settings>::load(&state)?.settings;
    Ok((settings, PowerMean::load(&mut state)?))
}

/// The error for settings that are impossible.
fn refuse(reason: impl ToString) -> DetectorError {
    DetectorError::settings(NAME, reason)
}

/// Tensors of a detector file by name.
type Tensors = BTreeMap<String, Array>;
