//! The program's own method. A patch is anomalous if nothing like it is found where it should be:
//! in the rest of its image, in a few normal images, or in the other images of a batch. It uses
//! whatever evidence there is. Nothing has to be trained; no text is used.
//!
//! ```text
//! settings.rs     settings
//! looks.rs        the networks and sizes that see each image, and their results joined
//! look.rs         one of them: its settings, and what images are compared with
//! choices.rs      what the references decide: size, turning, ground
//! foreground.rs   the object, and the ground around it
//! own_image.rs    evidence: the rest of the image itself
//! references.rs   evidence: a few normal images
//! batch/          evidence: the other images of a batch, unlabelled
//! residual.rs     how images are compared
//! score_scale.rs  the unit of scores: what normal images differ among themselves
//! power_mean.rs   residuals of several kinds joined to one score
//! graph.rs        how all of this scores, as operations of a graph
//! train.rs        the weights of the power mean, learned from auxiliary data
//! ```
//!
//! Scores are in units of what normal images score: 1 is as different as normal images are. How
//! each part was found: docs/research.

mod batch;
mod choices;
mod foreground;
mod graph;
mod look;
mod looks;
mod own_image;
mod power_mean;
mod references;
mod residual;
mod score_scale;
mod settings;
mod train;

use std::collections::BTreeMap;

use anomalens_backbones::{ImageEncoder, ImageFeatures};
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;

pub use settings::{Evidence, Settings};

use crate::components::graph::{GraphScored, of_input};
use crate::detector::{Array, Detector, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::{TrainProgress, Trained};
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, MethodSettings, Need, Note,
    Requirements, Settings as _, TrainContext, Trainer, Variant,
};
use look::Look;
use power_mean::PowerMean;

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
            weights: DefaultWeights::InProgram,
            several_networks: true,
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
        let (looks, notes) = looks::fit(context)?;
        Ok(Box::new(LensDetector::new(looks, notes)?))
    }

    fn load(&self, state: State) -> Result<Box<dyn Detector>, DetectorError> {
        Ok(Box::new(LensDetector::new(looks::load(state)?, vec![])?))
    }

    fn trainer(&self) -> Option<&dyn Trainer> {
        Some(self)
    }

    fn update_references(
        &self,
        state: State,
        context: &FitContext<'_>,
        remove: &[String],
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let looks = looks::load(state)?.into_iter();
        let changed = looks.map(|look| look.with(context, remove));
        let looks = changed.collect::<Result<Vec<_>, _>>()?;
        let notes = looks.first().map_or(vec![], |first| first.notes().to_vec());
        Ok(Box::new(LensDetector::new(looks, notes)?))
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
        let checked = Checked::new(settings.settled(context.encoder))?;
        let detector = LensDetector::without_references(checked, PowerMean::new()?)?;
        Ok(Box::new(detector))
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
    /// At least one.
    looks: Vec<Look>,
    profile: Profile,
    notes: Vec<Note>,
}

impl LensDetector {
    /// What training leaves: a detector for references, without any yet.
    fn without_references(
        checked: Checked<Settings>,
        head: PowerMean,
    ) -> Result<Self, DetectorError> {
        Self::new(vec![Look::without_references(checked, head)], vec![])
    }

    fn new(looks: Vec<Look>, notes: Vec<Note>) -> Result<Self, DetectorError> {
        let Some((first, further)) = looks.split_first() else {
            return Err(refuse("it looks at nothing"));
        };
        let profile = Profile {
            further: further.iter().map(Look::input).collect(),
            ..first.checked.profile.clone()
        };
        Ok(Self {
            looks,
            profile,
            notes,
        })
    }
}

impl Detector for LensDetector {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn notes(&self) -> &[Note] {
        &self.notes
    }

    fn references(&self) -> Vec<&str> {
        self.looks.first().map_or(vec![], Look::references)
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        let mut joined = vec![];
        for (place, look) in self.looks.iter().enumerate() {
            let seen = images.iter().map(|image| match place {
                0 => Some(*image),
                _ => image.further.get(place - 1),
            });
            let seen = seen.collect::<Option<Vec<_>>>();
            let seen = seen.ok_or_else(|| refuse("an image was not seen in every way"))?;
            joined.push(look.score(&seen)?);
        }
        looks::join(joined)
    }

    fn graph(&self, graph: &mut Graph, seen: &[Outputs]) -> Result<GraphScored, DetectorError> {
        let mut all = vec![];
        for (place, look) in self.looks.iter().enumerate() {
            all.push(look.in_graph(graph, of_input(seen, place)?)?);
        }
        graph::join(graph, all)
    }

    fn state(&self) -> State {
        looks::state(&self.looks)
    }
}

/// The error for settings that are impossible.
fn refuse(reason: impl ToString) -> DetectorError {
    DetectorError::settings(NAME, reason)
}

/// Tensors of a detector file by name.
type Tensors = BTreeMap<String, Array>;
