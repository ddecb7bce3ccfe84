//! CLIP and CLIP-AC as AnomalyCLIP's tables have them (Zhou et al., ICLR 2024, section 4; Radford et
//! al., ICML 2021): an image is as anomalous as its embedding is nearer to prompts of anomalous things
//! than to prompts of normal ones, and so is each of its patches. Both differ in their prompts alone.
//!
//! Their code is not published. The two prompts of CLIP are those with which a row of the tables was
//! made again; CLIP-AC's templates are those of the CLIP repository (`prompts` names others).

#[cfg(test)]
pub(super) mod goldens;
mod settings;

use anomalens_backbones::ImageFeatures;
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;

pub use settings::Settings;

use crate::components::graph::{GraphScored, of_input};
use crate::components::prompts::{Ensemble, Texts};
use crate::components::text_scores::{self, TEXTS, score};
use crate::detector::{Detector, Profile, Scored, State};
use crate::settings::Checked;
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _,
};

/// CLIP, or with `AC` CLIP-AC.
pub struct Clip<const AC: bool>;

impl<const AC: bool> Method for Clip<AC> {
    fn info(&self) -> &'static MethodInfo {
        const INFO: MethodInfo = MethodInfo {
            name: Settings::<false>::METHOD,
            summary: "zero-shot: the embeddings of an image and its patches compared with a \
                      normal and an anomalous prompt",
            paper: "Radford et al., Learning Transferable Visual Models From Natural Language \
                    Supervision, ICML 2021; as in Zhou et al., AnomalyCLIP, ICLR 2024",
            requirements: Requirements {
                references: Need::No,
                training: Need::No,
                joint: false,
                class: true,
            },
            backbones: "CLIP",
            weights: DefaultWeights::Clip("clip-vit-l14-336"),
            several_networks: false,
        };
        match AC {
            false => &INFO,
            true => &MethodInfo {
                name: Settings::<true>::METHOD,
                summary: "zero-shot: as clip, with prompts in 80 templates",
                ..INFO
            },
        }
    }

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let defaults = Settings::<AC>::defaults(context.encoder);
        let mut settings = defaults.replaced_by(context.settings)?;
        if let Some(class) = context.open_class() {
            settings.class = class.to_owned();
        }
        let checked = Checked::new(settings)?;
        let Settings { prompts, class, .. } = &checked.settings;
        let method = Settings::<AC>::METHOD;
        let texts = Ensemble::texts_of(method, context.encoder, prompts, class)?;
        Ok(Box::new(ClipDetector { checked, texts }))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings<AC>> = Checked::load(&state)?;
        let method = Settings::<AC>::METHOD;
        let texts = Texts::from_array(&state.take(method, TEXTS)?);
        let texts = texts.ok_or_else(|| DetectorError::tensor(method, TEXTS))?;
        Ok(Box::new(ClipDetector { checked, texts }))
    }
}

/// The prompts' embeddings, ready to score images.
struct ClipDetector<const AC: bool> {
    checked: Checked<Settings<AC>>,
    texts: Texts,
}

impl<const AC: bool> Detector for ClipDetector<AC> {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let one = |image: &&ImageFeatures| score(&self.texts, profile, settings.temperature, image);
        images.iter().map(one).collect()
    }

    fn graph(&self, graph: &mut Graph, seen: &[Outputs]) -> Result<GraphScored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        text_scores::graph(
            graph,
            &self.texts,
            profile,
            settings.temperature,
            of_input(seen, 0)?,
        )
    }

    fn state(&self) -> State {
        self.checked.state([(TEXTS.to_owned(), self.texts.array())])
    }
}
