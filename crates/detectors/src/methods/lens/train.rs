//! The weights of the power mean, learned from auxiliary data: episodes of an image and a few normal
//! images of its class, and the focal loss of its score.

use anomalens_backbones::Grid;
use candle_core::{Device, Tensor};
use serde_json::json;

use super::power_mean::{PowerMean, parts};
use super::residual::{self, Compared, Quarters};
use super::score_scale::{PARTS, Residuals};
use super::settings::{Evidence, Settings};
use super::{LensDetector, NAME, refuse};
use crate::components::residual::{banks, map};
use crate::settings::Checked;
use crate::training::{
    Adam, Batch, Episodes, Learner, Losses, Record, Run, TrainProgress, Trained, TrainingSample,
    fingerprint, focal, run,
};
use crate::{DetectorError, Settings as _, TrainContext};

/// AdamW's settings, and how long it trains; as InCTRL's.
const LEARNING_RATE: f64 = 1e-3;
const BETAS: [f64; 2] = [0.9, 0.999];
const DECAY: f64 = 0.01;
const EPOCHS: usize = 10;
const BATCH: usize = 16;

/// Learns how much the image level and the own image count.
pub(super) fn train(
    context: &TrainContext<'_>,
    progress: &mut TrainProgress<'_>,
) -> Result<Trained, DetectorError> {
    let TrainContext {
        encoder,
        samples,
        options,
        ..
    } = *context;
    context.require_samples(true)?;
    if context.start.is_some() {
        return Err(refuse("its training starts from the same weights always"));
    }
    let settings = Settings {
        evidence: Evidence::References,
        ..Settings::defaults(encoder)?.replaced_by(context.settings)?
    };
    if settings.blocks.is_empty() {
        return Err(refuse(
            "its weights are learned with the blocks of a transformer; name one with --weights",
        ));
    }
    let checked = Checked::new(settings.settled(encoder))?;
    let Checked { settings, profile } = &checked;
    let (height, width) = profile.input.preprocess.output_size(1, 1)?;
    let grid = Grid {
        rows: height / encoder.spec().multiple.max(1),
        columns: width / encoder.spec().multiple.max(1),
    };
    let head = PowerMean::new()?;
    let batch = options.batch.unwrap_or(BATCH);
    let references = settings.episode_references;
    let episodes = Episodes::new(NAME, samples, batch / 2, references, options.seed)?;
    let rate = options.learning_rate.unwrap_or(LEARNING_RATE);
    let mut optimiser = Adam::new(head.variables(), rate, BETAS)?.with_decay(DECAY);
    let learner = FocalLoss {
        grid,
        settings,
        head: &head,
    };
    let plan = Run {
        encoder,
        input: &profile.input,
        record: Record {
            blocks: settings.blocks.len(),
            patches: grid.len(),
            width: context.width(&profile.input)?,
            embedding: 0,
        },
        samples,
        mask_side: None,
        epochs: options.epochs.unwrap_or(EPOCHS),
        order: &|epoch| episodes.of(epoch),
        rate: None,
        identity: json!({
            "method": NAME,
            "config": settings,
            "backbone": options.backbone,
            "batch": batch,
            "learning_rate": rate,
            "seed": options.seed,
            "samples": fingerprint(samples),
        })
        .to_string(),
    };
    let log = run(&plan, &learner, &mut optimiser, options, progress)?;
    Ok(Trained {
        detector: Box::new(LensDetector::without_references(checked, head)?),
        log,
    })
}

struct FocalLoss<'a> {
    grid: Grid,
    settings: &'a Settings,
    head: &'a PowerMean,
}

impl Learner for FocalLoss<'_> {
    fn loss(
        &self,
        features: &Batch,
        samples: &[&TrainingSample],
        _: &[Option<Vec<bool>>],
    ) -> Result<Losses, DetectorError> {
        let images = samples.len() / (1 + self.settings.episode_references);
        let truth = samples[..images]
            .iter()
            .map(|sample| f32::from(u8::from(sample.anomalous)));
        let truth = Tensor::new(truth.collect::<Vec<f32>>(), &Device::Cpu)?;
        let ratios = parts(&self.ratios(images, features)?, self.settings)?;
        let anomaly = focal(&self.head.logits(&ratios)?, &truth)?;
        Ok(Losses {
            total: anomaly.clone(),
            parts: vec![("anomaly", anomaly)],
        })
    }
}

impl FocalLoss<'_> {
    /// The residuals `[images, 3]` of the images of a step in units of what their references
    /// differ among themselves. The images come first, then the references of each.
    fn ratios(&self, images: usize, features: &Batch) -> Result<Tensor, DetectorError> {
        let all = compared(features)?;
        let references = self.settings.episode_references;
        let ratios = (0..images).map(|image| {
            let first = images + image * references;
            let references: Vec<&Compared> = all[first..first + references].iter().collect();
            let quarters = references.iter();
            let quarters = quarters.map(|r| residual::quarters(&r.patches, self.grid));
            let quarters = quarters.collect::<Result<Vec<_>, _>>()?;
            let quarters = Quarters::of(&quarters.iter().collect::<Vec<_>>());
            let among = (0..references.len()).map(|i| {
                let others = references.iter().enumerate().filter(|(j, _)| *j != i);
                let others: Vec<&Compared> = others.map(|(_, other)| *other).collect();
                self.residuals(references[i], &others)
            });
            let among = among.collect::<Result<Vec<_>, _>>()?;
            let unit = Residuals::unit(&among, quarters);
            Ok(self.residuals(&all[image], &references)?.ratios(unit))
        });
        let ratios = ratios.collect::<Result<Vec<[f32; PARTS]>, DetectorError>>()?;
        let ratios = ratios.iter().map(|ratios| ratios.as_slice());
        Ok(Tensor::new(ratios.collect::<Vec<_>>(), &Device::Cpu)?)
    }

    /// The residuals of an image against `references`.
    fn residuals(
        &self,
        image: &Compared,
        references: &[&Compared],
    ) -> Result<Residuals, DetectorError> {
        let patches: Vec<&[Tensor]> = references.iter().map(|r| r.patches.as_slice()).collect();
        let map = map(&image.patches, &banks(&patches)?)?;
        let means = references
            .iter()
            .map(|reference| reference.means.as_slice());
        let own = match self.settings.own_image {
            true => residual::own(&image.patches, self.grid)?,
            false => 0.0,
        };
        Ok(Residuals::new(
            &map,
            own,
            &image.means,
            means,
            image.patches.len(),
        ))
    }
}

/// The images of a step, then their references, as they are compared.
fn compared(features: &Batch) -> Result<Vec<Compared>, DetectorError> {
    let count = features
        .blocks
        .first()
        .map_or(Ok(0), |block| block.dim(0))?;
    let one = |place: usize| {
        let blocks = features.blocks.iter().map(|tokens| {
            let tokens = tokens.get(place)?;
            Ok((tokens.flatten_all()?.to_vec1()?, tokens.dim(1)?))
        });
        Compared::new(blocks.collect::<candle_core::Result<Vec<_>>>()?)
    };
    (0..count).map(one).collect()
}
