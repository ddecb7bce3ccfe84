//! `anomalens bench inctrl-speed`: what it saves to encode shots and prompts once.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anomalens::detectors::{
    Detector, FitContext, ImageSource, MethodSettings, StreamOptions, find as find_method,
    stream_features,
};
use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Common, median, rounded};
use crate::images;

/// The time of one image, its shots and prompts being encoded once or again for each.
pub(super) fn measure(
    common: &Common,
    weights: &str,
    shots: usize,
    paths: &[PathBuf],
) -> Result<Value> {
    let files = images::find(paths)?;
    if shots == 0 || shots >= files.len() {
        bail!(
            "{shots} shots of {} images leave nothing to measure: give more images, or fewer shots",
            files.len()
        );
    }
    let (normal, queries) = files.split_at(shots);
    let normal = images::shots(normal, &Default::default())?;
    let backbone = common.backbone.open_named(weights)?;
    let encoder = backbone.encoder.as_ref();
    // Encodes the prompts, then the shots.
    let make = || -> Result<Box<dyn Detector>> {
        let method = find_method("inctrl")?;
        let settings = MethodSettings::new();
        let context = FitContext::new(&settings, encoder).with_references(&normal);
        let state = method.require_trainer()?.untrained(&context, 0)?.state();
        Ok(method.update_references(state, &context, &[])?)
    };
    let detector = make()?;
    let input = detector.input();
    let sources: Vec<ImageSource> = queries.iter().map(|f| f.path.clone().into()).collect();
    let options = StreamOptions {
        batch: 1,
        ..StreamOptions::default()
    };
    let encode = || {
        let mut features = vec![];
        stream_features(encoder, input, &sources, &options, |_, encoded| {
            match encoded {
                Ok((encoded, _)) => features.push(encoded),
                Err(_) => return ControlFlow::Break(()),
            }
            ControlFlow::Continue(())
        })?;
        if features.len() < sources.len() {
            bail!("an image cannot be used: `anomalens detect` tells which");
        }
        Ok(features)
    };
    let features = encode()?;
    let count = features.len() as f64;
    let encoding = median(common.runs, || encode().map(|_| ()))? / count;
    let scoring = median(common.runs, || {
        for features in &features {
            detector.score(&[features])?;
        }
        Ok(())
    })? / count;
    // What the original does again for every image.
    let again = median(common.runs, || make().map(drop))?;
    Ok(json!({
        "arch": encoder.spec().name,
        "threads": rayon::current_num_threads(),
        "shots": shots,
        "images": queries.len(),
        "runs": common.runs,
        "encoding_seconds": rounded(encoding),
        "scoring_seconds": rounded(scoring),
        "scoring_to_encoding": rounded(scoring / encoding),
        "original_seconds": rounded(again + encoding + scoring),
        "original_to_ours": rounded((again + encoding + scoring) / (encoding + scoring)),
    }))
}
