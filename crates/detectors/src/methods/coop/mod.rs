//! CoOp (Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022) as AnomalyCLIP's tables have it
//! (Zhou et al., ICLR 2024, section 4): the tokens in front of "normal NAME" and "anomalous NAME" are learned
//! once on auxiliary data; an image is as anomalous as it is nearer to the second prompt, and so is
//! each of its patches, as in `clip`.
//!
//! ```text
//! settings.rs    settings
//! prompt.rs      the learned tokens in their prompts
//! train.rs       the loss and the learning rate
//! checkpoint.rs  the original's checkpoint files
//! ```
//!
//! The code of the adaptation is not published; prompts, optimiser and schedule are those of CoOp's
//! (KaiyangZhou/CoOp at ff61507). The name of the thing is in the prompts: what was learned is applied to the names
//! of other things.

mod checkpoint;
#[cfg(test)]
mod goldens;
mod prompt;
mod settings;
mod train;

use std::path::{Path, PathBuf};

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::{ImageEncoder, ImageFeatures};
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;
use serde_json::json;

pub use settings::{Position, Settings};

use crate::components::graph::{GraphScored, of_input};
use crate::components::prompts::{Texts, text_encoder};
use crate::components::text_scores::{self, TEXTS, score};
use crate::detector::{Array, Detector, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::{TrainProgress, Trained};
use crate::{
    Choice, DefaultWeights, DetectorError, FitContext, Method, MethodInfo, MethodSettings, Need,
    Requirements, Settings as _, TrainContext, Trainer, Variant,
};
use checkpoint::Saved;
use prompt::Prompts;

/// The method's name.
pub const NAME: &str = "coop";

/// The file of learned tokens in the folder of a training run.
const CONTEXT: &str = "prompt_learner.pth.tar";

/// The method.
pub struct CoOp;

impl Method for CoOp {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "zero-shot: as clip, with prompts whose first tokens are trained once on \
                      auxiliary data",
            paper: "Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022; as in \
                    Zhou et al., AnomalyCLIP, ICLR 2024",
            requirements: Requirements {
                references: Need::No,
                training: Need::Required,
                joint: false,
                class: true,
            },
            backbones: "CLIP",
            weights: DefaultWeights::Clip("clip-vit-l14-336"),
            several_networks: false,
        }
    }

    /// A detector from a checkpoint.
    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let mut settings = Settings::defaults(context.encoder).replaced_by(context.settings)?;
        if let (Some(class), false) = (context.class, context.settings.contains_key("classes")) {
            settings.classes = vec![class.to_owned()];
        }
        settings.profile()?;
        let Some(path) = context.trained else {
            return Err(refuse(
                "it is learned from auxiliary data: train it, or name a checkpoint \
                 (`model.pth.tar-50`)",
            ));
        };
        let text = text_encoder(NAME, context.encoder, None)?;
        let saved = Saved::open(path)?;
        saved.set_sizes(&mut settings);
        let checked = checked(settings, &text)?;
        let prompts = Prompts::new(&checked.settings, text, 0)?;
        saved.copy_into(&prompts)?;
        Ok(Box::new(CoOpDetector::new(checked, &prompts)?))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let array = state.take(NAME, TEXTS)?;
        let unusable = || DetectorError::tensor(NAME, TEXTS);
        let rows = 2 * checked.settings.all_classes().len();
        let width = match *array.shape.as_slice() {
            [found, width] if found == rows && width > 0 => width,
            _ => return Err(unusable()),
        };
        if checked.settings.temperature.given().is_none() {
            return Err(refuse("the file leaves `temperature` open"));
        }
        let pair = |values: &[f32]| {
            let shape = vec![2, width];
            let values = values.to_vec();
            Texts::from_array(&Array { shape, values }).ok_or_else(unusable)
        };
        let texts = array.values.chunks_exact(2 * width).map(pair);
        Ok(Box::new(CoOpDetector {
            texts: texts.collect::<Result<_, _>>()?,
            checked,
        }))
    }

    fn trainer(&self) -> Option<&dyn Trainer> {
        Some(self)
    }
}

impl Trainer for CoOp {
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
        seed: u32,
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let settings = Settings::defaults(context.encoder).replaced_by(context.settings)?;
        let text = text_encoder(NAME, context.encoder, None)?;
        let checked = checked(settings, &text)?;
        let prompts = Prompts::new(&checked.settings, text, seed)?;
        Ok(Box::new(CoOpDetector::new(checked, &prompts)?))
    }

    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        let variants = [
            ("default", json!({})),
            ("position-middle", json!({ "position": "middle" })),
            ("position-front", json!({ "position": "front" })),
            ("class-specific", json!({ "class_specific": true })),
            ("context-4", json!({ "context_length": 4 })),
            ("temperature-model", json!({ "temperature": "auto" })),
        ];
        let variant = |(name, settings): (&str, serde_json::Value)| Variant {
            name: name.to_owned(),
            settings: settings.as_object().cloned().unwrap_or_default(),
        };
        Ok(variants.into_iter().map(variant).collect())
    }

    fn trains_on_all(&self) -> bool {
        false
    }

    fn class_settings(&self, mut settings: MethodSettings, classes: &[&str]) -> MethodSettings {
        settings.insert("classes".to_owned(), json!(classes));
        settings
    }

    fn start_file(&self, folder: &Path) -> Option<PathBuf> {
        Some(folder.join(CONTEXT))
    }
}

/// Settings, or a file that they name, are impossible.
fn refuse(reason: impl ToString) -> DetectorError {
    DetectorError::settings(NAME, reason)
}

/// The settings with what they leave to the model.
fn checked(mut settings: Settings, text: &ClipText) -> Result<Checked<Settings>, DetectorError> {
    if settings.temperature == Choice::Auto {
        let scale = text.logit_scale().ok_or_else(|| {
            refuse("the backbone has no `logit_scale`; `temperature` must be given")
        })?;
        settings.temperature = Choice::Given(f64::from(-scale).exp());
    }
    if let Some(words) = settings.words() {
        settings.context_length = words.len();
    }
    Checked::new(settings)
}

/// The prompts' embeddings, ready to score images.
struct CoOpDetector {
    checked: Checked<Settings>,
    /// For each class.
    texts: Vec<Texts>,
}

impl CoOpDetector {
    fn new(checked: Checked<Settings>, prompts: &Prompts) -> Result<Self, DetectorError> {
        Ok(Self {
            checked,
            texts: prompts.texts()?,
        })
    }
}

impl Detector for CoOpDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let [texts] = self.texts.as_slice() else {
            return Err(DetectorError::ClassNeeded(settings.classes.join(", ")));
        };
        let temperature = settings.temperature();
        let one = |image: &&ImageFeatures| score(texts, profile, temperature, image);
        images.iter().map(one).collect()
    }

    fn classes(&self) -> &[String] {
        match self.checked.settings.classes.as_slice() {
            [_] => &[],
            several => several,
        }
    }

    fn for_class(&self, class: &str) -> Result<Option<Box<dyn Detector>>, DetectorError> {
        let settings = &self.checked.settings;
        if settings.classes.len() < 2 {
            return Ok(None);
        }
        let texts = self.texts[settings.pair(class)?].clone();
        let settings = Settings {
            classes: vec![class.to_owned()],
            ..settings.clone()
        };
        Ok(Some(Box::new(Self {
            checked: Checked::new(settings)?,
            texts: vec![texts],
        })))
    }

    fn graph(&self, graph: &mut Graph, seen: &[Outputs]) -> Result<GraphScored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let [texts] = self.texts.as_slice() else {
            return Err(self.no_graph("it is made for each class by itself"));
        };
        text_scores::graph(
            graph,
            texts,
            profile,
            settings.temperature(),
            of_input(seen, 0)?,
        )
    }

    fn state(&self) -> State {
        let arrays = self.texts.iter().map(Texts::array);
        let values: Vec<f32> = arrays.flat_map(|array| array.values).collect();
        let rows = 2 * self.texts.len();
        let texts = Array {
            shape: vec![rows, values.len() / rows.max(1)],
            values,
        };
        self.checked.state([(TEXTS.to_owned(), texts)])
    }
}
