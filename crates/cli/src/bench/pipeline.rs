//! `anomalens bench pipeline`: from image files to scores and maps, and what each stage takes.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anomalens::backbones::{ImageEncoder, ImageFeatures};
use anomalens::detectors::{
    Detector, FitContext, ImageSource, Need, Scored, StreamOptions, find as find_method, predict,
};
use anomalens::vision::DecodeOptions;
use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Common, median, medians, peak_memory, rounded};
use crate::{images, settings};

/// The pipeline with `method` over the images in `paths`, and its stages one by one.
pub(super) fn measure(
    common: &Common,
    method: &str,
    settings: &settings::Args,
    paths: &[PathBuf],
) -> Result<Value> {
    let (method, options) = (find_method(method)?, settings.options()?);
    let files = images::find(paths)?;
    let backbone = common.backbone.open_for_methods([method])?;
    let encoder = backbone.encoder.as_ref();
    let requirements = method.requirements(&options);
    let uses_references = requirements.references != Need::No;
    let shots = match (uses_references, files.as_slice()) {
        (true, [first, second, ..]) => vec![first.clone(), second.clone()],
        (true, _) => bail!("at least two images are needed"),
        (false, _) => vec![],
    };
    let shots = images::shots(&shots, &DecodeOptions::default())?;
    let context = FitContext::new(&options, encoder).with_references(&shots);
    let trainer = method.trainer();
    let detector = match trainer.filter(|_| requirements.training == Need::Required) {
        Some(trainer) => {
            let untrained = trainer.untrained(&context, 0)?;
            match uses_references {
                true => method.update_references(untrained.state(), &context, &[])?,
                false => untrained,
            }
        }
        None => method.fit(&context)?,
    };
    let detector = detector.as_ref();
    let sources: Vec<ImageSource> = files.into_iter().map(|file| file.path.into()).collect();
    let stages = medians(common.runs, || stages(encoder, detector, &sources))?;
    let (skip, options) = (Default::default(), StreamOptions::default());
    let seconds = median(common.runs, || {
        predict(
            encoder,
            &[detector],
            &sources,
            &skip,
            &options,
            &mut |outcome| {
                // A file that cannot be used would make the rest look fast.
                if outcome.result.is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(())
    })?;
    let count = sources.len() as f64;
    let whole: f64 = stages.iter().sum();
    let stages = STAGES.iter().zip(stages).map(|(name, seconds)| {
        let stage = json!({
            "seconds": rounded(seconds / count),
            "share": rounded(seconds / whole),
        });
        ((*name).to_owned(), stage)
    });
    Ok(json!({
        "method": method.info().name,
        "arch": encoder.spec().name,
        "preprocess": detector.input().preprocess,
        "threads": rayon::current_num_threads(),
        "images": sources.len(),
        "runs": common.runs,
        "seconds": rounded(seconds / count),
        "images_per_second": rounded(count / seconds),
        "stages_one_after_another": stages.collect::<serde_json::Map<_, _>>(),
        "peak_rss_mb": peak_memory()?,
    }))
}

/// What an image goes through.
const STAGES: [&str; 4] = ["decode and preprocess", "encode", "score", "smooth the map"];

/// The time of each of [`STAGES`] over all images, one image and one stage after another.
fn stages(
    encoder: &dyn ImageEncoder,
    detector: &dyn Detector,
    sources: &[ImageSource],
) -> Result<[f64; STAGES.len()]> {
    let mut times = [0.0; STAGES.len()];
    let profile = detector.profile();
    let mut views: Vec<Vec<ImageFeatures>> = (0..profile.tta.count()).map(|_| vec![]).collect();
    let mut sizes = vec![];
    for source in sources {
        let start = Instant::now();
        let image = source.open(&DecodeOptions::default())?;
        sizes.push((image.height() as usize, image.width() as usize));
        let mut inputs = vec![];
        for spec in std::iter::once(&profile.input).chain(&profile.further) {
            let input = spec.preprocess.apply(&image)?;
            let multiple = encoder.network(spec.network)?.spec().multiple;
            inputs.push((spec, profile.tta.views(input, multiple)));
        }
        times[0] += start.elapsed().as_secs_f64();
        let start = Instant::now();
        for (place, (spec, inputs)) in inputs.into_iter().enumerate() {
            for (view, input) in views.iter_mut().zip(inputs) {
                let features = spec.encode(encoder, &[input])?;
                match (place, view.last_mut()) {
                    (1.., Some(image)) => image.further.extend(features),
                    _ => view.extend(features),
                }
            }
        }
        times[1] += start.elapsed().as_secs_f64();
    }
    let start = Instant::now();
    let mut scored = vec![];
    for view in views.iter().rev() {
        scored = detector.score(&view.iter().collect::<Vec<_>>())?;
    }
    times[2] += start.elapsed().as_secs_f64();
    let start = Instant::now();
    for (Scored { map, .. }, (rows, columns)) in scored.into_iter().zip(sizes) {
        profile.enlargement.apply(&map, rows, columns, 1.0)?;
    }
    times[3] += start.elapsed().as_secs_f64();
    Ok(times)
}
