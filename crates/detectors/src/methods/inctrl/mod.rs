//! InCTRL (Zhu and Pang, "Toward Generalist Anomaly Detection via In-context Residual Learning
//! with Few-shot Sample Prompts", CVPR 2024): residuals between an image and a few normal images,
//! of its patches and of its embedding, and a prior from prompts, weighted by heads that are
//! learned once on auxiliary data.
//!
//! ```text
//! settings.rs    settings
//! residual.rs    patch-level residuals
//! text.rs        the text prior
//! network.rs     what is learned: adapter and heads
//! references.rs  what a detector keeps of its references
//! train.rs       episodes and loss; layout.rs: the reference's mixed-up batches
//! checkpoint.rs  what was trained, from our files and the original's
//! ```
//!
//! The original encodes references and prompts again for every image; here that is done once, when
//! the detector is made.

mod checkpoint;
#[cfg(test)]
mod goldens;
mod layout;
mod network;
mod references;
mod residual;
mod settings;
mod text;
mod train;

use std::collections::BTreeMap;

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::{ImageEncoder, ImageFeatures};
use anomalens_vision::Map;
use candle_core::{Device, Tensor};

pub use layout::BatchLayout;
pub use settings::Settings;

use crate::components::by_name;
use crate::components::convnet::Phase;
use crate::components::prompts::Texts;
use crate::detector::{Detector, Profile, Scored, State};
use crate::settings::Checked;
use crate::training::{Learned, TrainProgress, Trained};
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _, TrainContext, Trainer, Tta, Variant,
};
use network::{Evidence, Network, Sizes};
use references::{Kept, References};

/// The method's name.
pub const NAME: &str = "inctrl";

/// The name of the prompts' embeddings in a detector file.
const TEXTS: &str = "text_features";

/// The method.
pub struct InCtrl;

impl Method for InCtrl {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "few-shot: residuals between an image and some normal images, weighted by \
                      heads trained once on auxiliary data",
            paper: "Zhu and Pang, Toward Generalist Anomaly Detection via In-context Residual \
                    Learning with Few-shot Sample Prompts, CVPR 2024",
            requirements: Requirements {
                references: Need::Required,
                training: Need::Required,
                joint: false,
                class: true,
            },
            backbones: "CLIP; others without the text prior",
            weights: DefaultWeights::AllBlocks,
            several_networks: false,
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        context.require_references(NAME)?;
        let encoder = context.encoder;
        let text = encoder.text(None)?;
        let learned = context.trained.map(Learned::<Settings>::read).transpose()?;
        let defaults = || Settings::defaults(encoder, text.is_some());
        let mut settings = Learned::configure(learned.as_ref(), defaults, context.settings)?;
        if let Some(class) = context.open_class() {
            settings.class = class.to_owned();
        }
        let learned = learned.ok_or_else(|| {
            refuse(
                "it is learned from auxiliary data first: train it, or name a published \
                 checkpoint; `lens` needs neither",
            )
        })?;
        let network = checkpoint::network(&mut |name| learned.tensor(name))?;
        let detector = InCtrlDetector::new(settings, network, text, encoder)?;
        Ok(Box::new(detector.with(context, &[])?))
    }

    fn load(&self, state: State) -> Result<Box<dyn Detector>, DetectorError> {
        Ok(Box::new(InCtrlDetector::load(state)?))
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
        Ok(Box::new(
            InCtrlDetector::load(state)?.with(context, remove)?,
        ))
    }
}

impl Trainer for InCtrl {
    fn train(
        &self,
        context: &TrainContext<'_>,
        progress: &mut TrainProgress<'_>,
    ) -> Result<Trained, DetectorError> {
        train::train(context, progress)
    }

    /// A detector that has learned nothing and has no references yet, but its prompts.
    fn untrained(
        &self,
        context: &FitContext<'_>,
        seed: u32,
    ) -> Result<Box<dyn Detector>, DetectorError> {
        let encoder = context.encoder;
        let text = encoder.text(None)?;
        let defaults = Settings::defaults(encoder, text.is_some());
        let settings = defaults.replaced_by(context.settings)?;
        let network = Network::new(settings.sizes(encoder), seed)?;
        Ok(Box::new(InCtrlDetector::new(
            settings, network, text, encoder,
        )?))
    }

    /// Parts are switched off where references are at hand, not in training.
    fn variants(&self, _: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
        Err(refuse(
            "its parts are switched off when it is measured, by the settings `text_prior`, \
             `image_residual`, `patch_residual` and `max_term`",
        ))
    }

    fn trains_on_all(&self) -> bool {
        true
    }
}

/// The learned parts, and the references and prompts that images are compared with.
struct InCtrlDetector {
    settings: Settings,
    profile: Profile,
    network: Network,
    /// Normal, anomalous; each of length 1. None without the text prior.
    texts: Option<Texts>,
    references: References,
}

/// The error for settings that cannot be.
fn refuse(reason: impl Into<String>) -> DetectorError {
    DetectorError::Settings {
        method: NAME,
        reason: reason.into(),
    }
}

/// The error for a tensor of a file that is not as it must be.
fn unusable(name: &str) -> DetectorError {
    refuse(format!(
        "the tensor `{name}` is missing or has an unusable shape"
    ))
}

/// Refuses a model that was trained with another network or another size of images.
fn check_fit(
    settings: &Settings,
    network: &Network,
    encoder: &dyn ImageEncoder,
) -> Result<(), DetectorError> {
    let sizes = network.sizes();
    let Sizes {
        embedding: width,
        patches,
        ..
    } = settings.sizes(encoder);
    if sizes.embedding != width {
        return Err(refuse(format!(
            "it was trained on embeddings of {} numbers, but those of {} have {width}: use the \
             backbone that it was trained with",
            sizes.embedding,
            encoder.spec().name
        )));
    }
    if sizes.patches != patches {
        return Err(refuse(format!(
            "it was trained on images of {} patches, but an image of {} pixels has {patches}: \
             leave `image_size` as it was in training",
            sizes.patches, settings.image_size
        )));
    }
    Ok(())
}

impl InCtrlDetector {
    fn new(
        mut settings: Settings,
        network: Network,
        text: Option<ClipText>,
        encoder: &dyn ImageEncoder,
    ) -> Result<Self, DetectorError> {
        check_fit(&settings, &network, encoder)?;
        settings.adapter_width = network.sizes().middle;
        let texts = match (settings.text_prior, text) {
            (false, _) => None,
            (true, Some(text)) => Some(text::embeddings(&text, &settings.class)?),
            (true, None) => {
                return Err(refuse(
                    "`text_prior` needs a backbone with a text encoder; this one has none",
                ));
            }
        };
        Ok(Self {
            profile: settings.profile()?,
            settings,
            network,
            texts,
            references: References::default(),
        })
    }

    fn load(mut state: State) -> Result<Self, DetectorError> {
        let Checked { settings, profile } = Checked::<Settings>::load(&state)?;
        let network = checkpoint::network(&mut |name| state.take_tensor(name))?;
        let texts = match (settings.text_prior, state.tensors.remove(TEXTS)) {
            // What `train` leaves behind has no class yet.
            (false, _) | (true, None) => None,
            (true, Some(texts)) => Some(Texts::from_array(&texts).ok_or_else(|| unusable(TEXTS))?),
        };
        Ok(Self {
            profile,
            references: References::load(&mut state.tensors, &settings)?,
            network,
            texts,
            settings,
        })
    }

    fn with(self, context: &FitContext<'_>, remove: &[String]) -> Result<Self, DetectorError> {
        let mut kept = self.references.into_kept();
        by_name::remove(NAME, &mut kept, remove)?;
        for reference in context.references {
            let (name, image) = (&reference.name, reference.open()?);
            by_name::check_new(NAME, &kept, name)?;
            let features = context.encode(&self.profile.input, Tta::default(), [&*image])?;
            let new = Kept::new(&features[0], &self.settings, &self.network)?;
            kept.insert(name.clone(), new);
        }
        if kept.is_empty() {
            return Err(DetectorError::NoReferences(NAME));
        }
        Ok(Self {
            references: References::new(kept)?,
            ..self
        })
    }

    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let References {
            mean: Some(mean),
            banks,
            ..
        } = &self.references
        else {
            return Err(DetectorError::NoReferences(NAME));
        };
        let grid = self.profile.check(image, banks[0].width())?;
        let patches = residual::patches(image, &self.settings)?;
        let map = residual::map(&patches, banks)?;
        let evidence = self.evidence(image, &map, mean)?;
        let scores = (self.network).scores(&evidence, &self.settings, Phase::Scoring)?;
        Ok(Scored {
            score: scores.anomaly.get(0)?.to_scalar()?,
            map: Map::new(grid.rows, grid.columns, map)?,
            range: self.references.range,
        })
    }

    /// What the networks say of one image with patch residuals `map`.
    fn evidence(
        &self,
        image: &ImageFeatures,
        map: &[f32],
        references: &Tensor,
    ) -> Result<Evidence, DetectorError> {
        let embedding = image.embedding.as_deref().unwrap_or_default();
        let text = self.texts.as_ref();
        let text = text.map_or(0.0, |texts| texts.probability(embedding, text::TEMPERATURE));
        Ok(Evidence {
            text: Tensor::new(&[text], &Device::Cpu)?,
            map: Tensor::new(map, &Device::Cpu)?.unsqueeze(0)?,
            embedding: references::embedding(image)?,
            references: references.clone(),
        })
    }
}

impl Detector for InCtrlDetector {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn references(&self) -> Vec<&str> {
        self.references.names().collect()
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn state(&self) -> State {
        let mut tensors = BTreeMap::new();
        tensors.extend(checkpoint::arrays(&self.network));
        tensors.extend(self.references.arrays(&self.settings.blocks));
        if let Some(texts) = &self.texts {
            tensors.insert(TEXTS.to_owned(), texts.array());
        }
        State {
            config: self.settings.to_json().into(),
            tensors,
        }
    }
}
