//! CLIP-AD (Liznerski et al., "Exposing Outlier Exposure: What Can Be Learned From Few, One, and Zero Outlier
//! Images", TMLR 2022): an image is as anomalous as its embedding is nearer to a general text than to the
//! texts of the normal classes. It has no map.
//!
//! ```text
//! settings.rs   settings
//! train.rs      outlier exposure
//! ```
//!
//! A checkpoint of the original holds the whole CLIP network, fine-tuned: it is a weight file here
//! (`--weights`), with which the detector needs no training.

#[cfg(test)]
mod goldens;
mod settings;
mod train;

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::{ImageEncoder, ImageFeatures};
use candle_core::{D, Device, Tensor};
use candle_nn::ops::softmax;

pub use settings::Settings;

use crate::components::prompts::{embeddings, text_encoder};
use crate::components::tokens::normalise;
use crate::detector::{Array, Detector, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::{Learned, TrainProgress, Trained};
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, MethodSettings, Need,
    Requirements, Settings as _, TrainContext, Trainer, Variant,
};
use train::SHIFT;

/// The method's name.
pub const NAME: &str = "clip-ad";

/// Name of the texts' embeddings in a detector file.
const TEXTS: &str = "text_features";

/// The method.
pub struct ClipAd;

impl Method for ClipAd {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "zero-shot, images only: the embedding of an image compared with the text of \
                      its class and with a general one",
            paper: "Liznerski et al., Exposing Outlier Exposure: What Can Be Learned From Few, One, \
                    and Zero Outlier Images, TMLR 2022",
            requirements: Requirements {
                references: Need::No,
                training: Need::Optional,
                joint: false,
                class: true,
            },
            backbones: "CLIP",
            weights: DefaultWeights::Clip("clip-vit-b32"),
            several_networks: false,
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let learned = context.trained.map(Learned::read).transpose()?;
        let (mut settings, text) = configured(context.settings, learned.as_ref(), context.encoder)?;
        if let Some(class) = context.open_class() {
            settings.class = class.to_owned();
        }
        let names_class = context.class.is_some() || context.settings.contains_key("class");
        if names_class && !context.settings.contains_key("classes") {
            // Those that it was trained with.
            settings.classes.clear();
        }
        let checked = Checked::new(settings)?;
        Ok(Box::new(ClipAdDetector::new(
            checked,
            &text,
            learned.as_ref(),
        )?))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let unusable = |name| DetectorError::tensor(NAME, name);
        let texts = state.take_tensor(TEXTS);
        let texts =
            texts.filter(|texts| matches!(*texts.dims(), [rows, width] if rows > 1 && width > 0));
        let texts = texts.ok_or_else(|| unusable(TEXTS))?;
        let width = texts.dim(1)?;
        let shift = match state.tensors.remove(SHIFT) {
            None => None,
            Some(shift) => {
                let shift = shift.tensor();
                let shift = shift.filter(|shift| shift.dims() == [width, width]);
                Some(shift.ok_or_else(|| unusable(SHIFT))?)
            }
        };
        Ok(Box::new(ClipAdDetector {
            checked,
            texts,
            shift,
        }))
    }

    fn trainer(&self) -> Option<&dyn Trainer> {
        Some(self)
    }
}

impl Trainer for ClipAd {
    fn train(
        &self,
        context: &TrainContext<'_>,
        progress: &mut TrainProgress<'_>,
    ) -> Result<Trained, DetectorError> {
        train::train(context, progress)
    }

    /// Nothing that is learned is random: it starts from what it is without training.
    fn untrained(
        &self,
        context: &FitContext<'_>,
        _: u32,
    ) -> Result<Box<dyn Detector>, DetectorError> {
        self.fit(context)
    }

    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        Err(refuse("it has no parts that could be left out"))
    }

    fn trains_on_all(&self) -> bool {
        true
    }
}

/// Settings, or a file that they name, are impossible.
fn refuse(reason: impl ToString) -> DetectorError {
    DetectorError::settings(NAME, reason)
}

/// The settings that were `learned` with, or the defaults for `encoder`, with those `given` in their place;
/// and the text encoder.
fn configured(
    given: &MethodSettings,
    learned: Option<&Learned<Settings>>,
    encoder: &dyn ImageEncoder,
) -> Result<(Settings, ClipText), DetectorError> {
    let settings = Learned::configure(learned, || Settings::defaults(encoder), given)?;
    settings.profile()?;
    let text = text_encoder(NAME, encoder, None)?;
    Ok((settings, text))
}

/// The texts' embeddings, ready to score images.
struct ClipAdDetector {
    checked: Checked<Settings>,
    /// `[texts, width]` of length 1: those of the normal classes, then the general one.
    texts: Tensor,
    /// What outlier exposure learned: an embedding times this, `[width, width]`, is added to it.
    shift: Option<Tensor>,
}

impl ClipAdDetector {
    fn new(
        checked: Checked<Settings>,
        text: &ClipText,
        learned: Option<&Learned<Settings>>,
    ) -> Result<Self, DetectorError> {
        let mut texts = embeddings(text, &checked.settings.texts())?;
        texts.iter_mut().for_each(|text| normalise(text));
        let width = text.config().embedding;
        let shift = match learned {
            None => None,
            Some(learned) => {
                let shift = learned.tensor(SHIFT);
                let shift = shift.filter(|shift| shift.dims() == [width, width]);
                Some(shift.ok_or_else(|| {
                    refuse(
                        "what was trained does not fit the backbone; a network that was \
                         fine-tuned is named with --weights",
                    )
                })?)
            }
        };
        Ok(Self {
            texts: Tensor::new(texts, &Device::Cpu)?,
            checked,
            shift,
        })
    }

    /// The probabilities of the texts, the general one last.
    fn probabilities(&self, embedding: &[f32]) -> Result<Vec<f32>, DetectorError> {
        let width = self.texts.dim(1)?;
        if embedding.len() != width {
            return Err(DetectorError::Width {
                expected: width,
                found: embedding.len(),
            });
        }
        let row = Tensor::from_slice(embedding, (1, width), &Device::Cpu)?;
        let row = match &self.shift {
            Some(shift) => (&row + row.matmul(shift)?)?,
            None => row,
        };
        let mut row: Vec<f32> = row.squeeze(0)?.to_vec1()?;
        normalise(&mut row);
        let row = Tensor::from_vec(row, (1, width), &Device::Cpu)?;
        let cosines = row.matmul(&self.texts.t()?)?;
        let logits = (cosines / self.checked.settings.temperature)?;
        Ok(softmax(&logits, D::Minus1)?.squeeze(0)?.to_vec1()?)
    }

    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let embedding = image.embedding.as_deref().unwrap_or_default();
        let probabilities = self.probabilities(embedding)?;
        Scored::without_map(probabilities.last().copied().unwrap_or(0.0))
    }
}

impl Detector for ClipAdDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let tensors = [(TEXTS, Some(&self.texts)), (SHIFT, self.shift.as_ref())];
        let arrays = tensors
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.to_owned(), Array::of(tensor?)?)));
        self.checked.state(arrays)
    }
}
