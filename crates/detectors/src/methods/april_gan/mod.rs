//! APRIL-GAN, also called VAND (Chen et al., "APRIL-GAN: A Zero-/Few-Shot Anomaly Classification and
//! Segmentation Method for CVPR 2023 VAND Workshop Challenge Tracks 1&2: 1st Place on Zero-shot AD and 4th
//! Place on Few-shot AD", arXiv 2305.17382): patch tokens of four blocks, brought to CLIP's space by linear
//! layers that are learned once on auxiliary data, are compared with prompts. With normal images, patches
//! are compared with theirs, too.
//!
//! ```text
//! settings.rs   settings
//! detector.rs   the detector
//! layers.rs     the linear layers, and the original's files of them
//! train.rs      how they are learned
//! memory.rs     patches of normal images
//! ```
//!
//! The logits are enlarged before the softmax, so that a map cannot be enlarged after it: a detector's map
//! has the size of what the network saw. Of the two logits only the difference is enlarged, which gives the
//! same. Where the original adds the maps of the blocks up, they are averaged here.

mod detector;
#[cfg(test)]
mod goldens;
mod layers;
mod memory;
mod settings;
mod train;

use std::path::{Path, PathBuf};

use anomalens_backbones::ImageEncoder;
use anomalens_backbones::clip::ClipText;
use candle_core::{Device, Tensor};
use serde_json::json;

pub use settings::{ImageScore, Settings};

use crate::components::prompts::{Ensemble, Texts, text_encoder};
use crate::detector::{Detector, State};
use crate::settings::Checked;
use crate::training::{Learned, TrainProgress, Trained};
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, MethodSettings, Need,
    Requirements, Settings as _, TrainContext, Trainer, Variant,
};
use detector::AprilGanDetector;
use layers::LinearLayers;

/// The method's name.
pub const NAME: &str = "april-gan";

/// Images that are scored against each other must be so many.
const NEEDED: usize = 2;

/// The file of linear layers in the folder of a training run.
const CHECKPOINT: &str = "linear_layers.pth";

/// The method.
pub struct AprilGan;

impl Method for AprilGan {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "zero- or few-shot: patches compared with prompts through linear layers \
                      trained once on auxiliary data, and with those of normal images",
            paper: "Chen et al., APRIL-GAN: A Zero-/Few-Shot Anomaly Classification and \
                    Segmentation Method for CVPR 2023 VAND Workshop Challenge Tracks 1&2, 2023",
            requirements: Requirements {
                references: Need::Optional,
                training: Need::Required,
                joint: false,
                class: true,
            },
            backbones: "CLIP",
            weights: DefaultWeights::Clip("clip-vit-l14-336"),
            several_networks: false,
        }
    }

    fn requirements(&self, settings: &MethodSettings) -> Requirements {
        Requirements {
            joint: settings.get("image_score") == Some(&json!(ImageScore::MinMax)),
            ..self.info().requirements
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let learned = context.trained.map(Learned::read).transpose()?;
        let (mut settings, text) = configured(context.settings, learned.as_ref(), context.encoder)?;
        if let Some(class) = context.open_class() {
            settings.class = class.to_owned();
        }
        let checked = Checked::new(settings)?;
        let learned = learned.ok_or_else(|| {
            refuse(
                "its linear layers are learned from auxiliary data first: train them, or name a \
                 published checkpoint (`mvtec_pretrained.pth`, `visa_pretrained.pth`)",
            )
        })?;
        let layers = learned_layers(&learned, &checked.settings, context.encoder)?;
        let texts = ensemble(&checked.settings)?.texts(&text, &checked.settings.class)?;
        let detector = AprilGanDetector::new(checked, layers, texts)?;
        Ok(Box::new(detector.with(context, &[])?))
    }

    fn load(&self, state: State) -> Result<Box<dyn Detector>, DetectorError> {
        Ok(Box::new(AprilGanDetector::load(state)?))
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
        let detector = AprilGanDetector::load(state)?;
        Ok(Box::new(detector.with(context, remove)?))
    }
}

impl Trainer for AprilGan {
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
        let encoder = context.encoder;
        let (settings, text) = configured(context.settings, None, encoder)?;
        let checked = Checked::new(settings)?;
        let [width, embedding] = widths(&checked.settings, encoder)?;
        let layers = LinearLayers::random(checked.settings.blocks.len(), width, embedding, seed)?;
        let texts = ensemble(&checked.settings)?.texts(&text, &checked.settings.class)?;
        let detector = AprilGanDetector::new(checked, layers, texts)?;
        Ok(Box::new(detector.with(context, &[])?))
    }

    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        let own = MethodSettings::from_iter([("activation".to_owned(), json!("quick-gelu"))]);
        let variants = [("default", MethodSettings::new()), ("quick-gelu", own)];
        let variants = variants.map(|(name, settings)| Variant {
            name: name.to_owned(),
            settings,
        });
        Ok(variants.to_vec())
    }

    fn trains_on_all(&self) -> bool {
        false
    }

    /// Masks are all that it learns from.
    fn mask_settings(&self, settings: &MethodSettings) -> Option<MethodSettings> {
        Some(settings.clone())
    }

    fn start_file(&self, folder: &Path) -> Option<PathBuf> {
        Some(folder.join(CHECKPOINT))
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
    let text = text_encoder(NAME, encoder, Some(settings.activation))?;
    Ok((settings, text))
}

/// The prompts that the settings name.
fn ensemble(settings: &Settings) -> Result<Ensemble, DetectorError> {
    let found = Ensemble::open(&settings.prompts);
    found.map_err(|reason| refuse(format!("`prompts`: {reason}")))
}

/// The anomalous less the normal text, in units of the temperature: `[embedding]`.
fn direction(texts: &Texts, settings: &Settings) -> Result<Tensor, DetectorError> {
    let Texts([normal, anomalous]) = texts;
    let both = anomalous.iter().zip(normal);
    let values = both.map(|(a, n)| (a - n) / settings.temperature as f32);
    Ok(Tensor::new(values.collect::<Vec<_>>(), &Device::Cpu)?)
}

/// Lengths of the tokens of the blocks in `settings`, and of embeddings.
fn widths(settings: &Settings, encoder: &dyn ImageEncoder) -> Result<[usize; 2], DetectorError> {
    let layers = &settings.profile()?.input.request.layers;
    let width = layers
        .iter()
        .map(|layer| Ok(encoder.spec().layer(*layer)?.dim));
    let width = width.collect::<Result<Vec<_>, DetectorError>>()?;
    Ok([
        width.first().copied().unwrap_or(0),
        encoder.spec().embedding,
    ])
}

/// The linear layers that were learned, which must fit `encoder`.
fn learned_layers(
    learned: &Learned<Settings>,
    settings: &Settings,
    encoder: &dyn ImageEncoder,
) -> Result<LinearLayers, DetectorError> {
    let layers = LinearLayers::take(settings.blocks.len(), |name| learned.tensor(name))?;
    let (found, expected) = (layers.widths(), widths(settings, encoder)?);
    match found == expected {
        true => Ok(layers),
        false => Err(refuse(format!(
            "its linear layers go from {} to {} numbers, but with {} they would go from {} to {}: \
             use the backbone that it was trained with",
            found[0],
            found[1],
            encoder.spec().name,
            expected[0],
            expected[1]
        ))),
    }
}
