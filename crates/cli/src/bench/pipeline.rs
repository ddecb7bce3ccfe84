//! `anomalens bench pipeline`: from image files to scores and maps, and what each stage takes.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anomalens::backbones::ImageEncoder;
use anomalens::detectors::{
    Detector, ImageSource, Needs, Scored, StreamOptions, find as find_method, predict,
};
use anomalens::vision::{Alignment, DecodeOptions};
use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Common, median, medians, peak_memory, rounded};
use crate::{images, settings};

/// The whole pipeline with `method` over the images in `paths`, and its stages one by one.
pub(super) fn measure(
    common: &Common,
    method: &str,
    settings: &settings::Args,
    paths: &[PathBuf],
) -> Result<Value> {
    let (method, options) = (find_method(method)?, settings.options()?);
    let files = images::find(paths)?;
    let backbone = common.backbone.open()?;
    let encoder = backbone.encoder.as_ref();
    let shots = match (method.needs, files.as_slice()) {
        (Needs::NormalImages, [first, second, ..]) => vec![first.clone(), second.clone()],
        (Needs::NormalImages, _) => bail!("at least two images are needed"),
        _ => vec![],
    };
    let shots = images::shots(&shots)?;
    let detector = match (method.is_trained(), method.needs) {
        (true, Needs::NormalImages) => {
            let state = method.untrained(&options, encoder, 0)?.state();
            method.revise(state, encoder, &shots, &[])?
        }
        (true, _) => method.untrained(&options, encoder, 0)?,
        (false, _) => method.fit(&options, encoder, &shots)?,
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
        "method": method.name,
        "arch": encoder.spec().name,
        "preprocess": detector.setup().preprocess,
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
    let setup = detector.setup();
    let (mut looks, mut sizes) = ([vec![], vec![]], vec![]);
    for source in sources {
        let start = Instant::now();
        let image = source.open(&DecodeOptions::default())?;
        sizes.push((image.height() as usize, image.width() as usize));
        let first = setup.preprocess.apply(&image)?;
        let second = detector.looks().second(&first, encoder.spec().multiple);
        times[0] += start.elapsed().as_secs_f64();
        let start = Instant::now();
        for (look, input) in looks.iter_mut().zip([Some(first), second]) {
            let Some(input) = input else { continue };
            look.extend(encoder.encode(&[input], &setup.request)?);
        }
        times[1] += start.elapsed().as_secs_f64();
    }
    let start = Instant::now();
    let [firsts, seconds] = looks.each_ref().map(|look| look.iter().collect::<Vec<_>>());
    let scored = detector.score(&firsts)?;
    if !seconds.is_empty() {
        detector.score(&seconds)?;
    }
    times[2] += start.elapsed().as_secs_f64();
    let start = Instant::now();
    for (Scored { map, .. }, (rows, columns)) in scored.into_iter().zip(sizes) {
        let side = (rows as f64 * columns as f64).sqrt();
        map.resize(rows, columns, Alignment::Edges)?
            .smooth(detector.smoothing() * side)?;
    }
    times[3] += start.elapsed().as_secs_f64();
    Ok(times)
}
