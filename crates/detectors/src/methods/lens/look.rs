//! One way of seeing images: a network with its settings, and what images are compared with.

use anomalens_backbones::ImageFeatures;

use super::batch;
use super::choices;
use super::own_image::OwnImage;
use super::power_mean::PowerMean;
use super::references::References;
use super::settings::Settings;
use super::{Evidence, NAME, refuse};
use crate::detector::{Array, Scored, State};
use crate::file::format::Content;
use crate::settings::Checked;
use crate::{DetectorError, FitContext, InputSpec, MethodSettings, Note, Settings as _};

pub(super) struct Look {
    /// The number of its network among those of the detector.
    pub(super) network: usize,
    pub(super) checked: Checked<Settings>,
    pub(super) head: PowerMean,
    pub(super) source: Source,
}

/// What images are compared with, made ready.
pub(super) enum Source {
    OwnImage(OwnImage),
    References(References),
    Batch,
}

/// `context` as it is for one of its networks alone.
fn alone<'a>(context: &FitContext<'a>, network: usize) -> Result<FitContext<'a>, DetectorError> {
    Ok(FitContext {
        encoder: context.encoder.network(network)?,
        ..*context
    })
}

impl Look {
    /// Of the network with this number, with `settings` instead of those of `context`.
    pub(super) fn fit(
        context: &FitContext<'_>,
        network: usize,
        settings: &MethodSettings,
    ) -> Result<Self, DetectorError> {
        let context = &FitContext {
            settings,
            ..alone(context, network)?
        };
        let (defaults, head) = match context.trained {
            Some(path) if network == 0 => read_trained(path)?,
            _ => (Settings::defaults(context.encoder)?, PowerMean::learned()?),
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
        Ok(Self {
            network,
            checked,
            head,
            source,
        })
    }

    /// One for references, without any yet.
    pub(super) fn without_references(checked: Checked<Settings>, head: PowerMean) -> Self {
        Self {
            network: 0,
            checked,
            head,
            source: Source::References(References::default()),
        }
    }

    /// The same with the references of `context` too, and without those named in `remove`.
    pub(super) fn with(
        self,
        context: &FitContext<'_>,
        remove: &[String],
    ) -> Result<Self, DetectorError> {
        let Source::References(references) = self.source else {
            return Err(DetectorError::FixedReferences(NAME));
        };
        let context = &alone(context, self.network)?;
        let references = references.with(context, remove, &self.checked)?;
        Ok(Self {
            source: Source::References(references),
            ..self
        })
    }

    /// What images go through before they are compared.
    pub(super) fn input(&self) -> InputSpec {
        InputSpec {
            network: self.network,
            ..self.checked.profile.input.clone()
        }
    }

    pub(super) fn notes(&self) -> &[Note] {
        match &self.source {
            Source::References(references) => references.notes(),
            Source::OwnImage(_) | Source::Batch => &[],
        }
    }

    pub(super) fn references(&self) -> Vec<&str> {
        match &self.source {
            Source::References(references) => references.names().collect(),
            Source::OwnImage(_) | Source::Batch => vec![],
        }
    }

    /// The results of `images` as it sees them.
    pub(super) fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
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

    /// Its tensors for a detector file.
    pub(super) fn arrays(&self) -> Vec<(String, Array)> {
        let mut tensors = self.head.arrays();
        match &self.source {
            Source::OwnImage(own) => tensors.push(own.array()),
            Source::References(references) => {
                tensors.extend(references.arrays(self.checked.settings.compared()));
            }
            Source::Batch => {}
        }
        tensors
    }

    /// That of the network with this number, from its settings and tensors.
    pub(super) fn load(mut state: State, network: usize) -> Result<Self, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        Ok(Self {
            network,
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
        })
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
