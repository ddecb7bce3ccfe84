//! `anomalens models compare`: how alike the patch tokens of two backbones are.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anomalens::backbones::{
    BackboneOptions, Embedded, FeatureRequest, ImageFeatures, LayerId, Precision,
};
use anomalens::detectors::{ImageSource, InputSpec, SourceError, StreamOptions, stream_features};
use anomalens::vision::Preprocess;
use anyhow::{Result, bail};
use serde_json::json;

use super::{backbone, images, print_json, print_line, table};

/// Images whose features are in memory at once.
const COMPARED_TOGETHER: usize = 8;

/// The part of all tokens that lies below the quantile shown.
const QUANTILE: f64 = 0.001;

/// Prints the lowest cosine between patch tokens after each of `blocks` (of a
/// convolutional network stages), that which one token in a
/// thousand is below, and the mean. The second backbone computes in `precision`, the first in
/// float32, unless they leave no choice.
pub(super) fn run(
    weights: &[String],
    precision: Precision,
    paths: &[PathBuf],
    blocks: &[usize],
    size: u32,
    json: bool,
) -> Result<()> {
    let files = images::find(paths)?;
    let sources: Vec<ImageSource> = files.into_iter().map(|file| file.path.into()).collect();
    let backbones = weights
        .iter()
        .zip([Precision::F32, precision])
        .map(|(name, precision)| match Embedded::find(name) {
            Some(_) => backbone::open(name, BackboneOptions::default()),
            None => backbone::open(name, precision),
        })
        .collect::<Result<Vec<_>>>()?;
    let [first, _] = backbones.as_slice() else {
        bail!("name two backbones");
    };
    let spec = first.encoder.spec();
    let layer = |number| match spec.blocks() {
        0 => LayerId::Stage(number),
        _ => LayerId::Block(number),
    };
    let preprocess = Preprocess {
        mean: spec.normalisation.mean,
        std: spec.normalisation.std,
        ..Preprocess::imagenet_square(size)
    };
    let request = FeatureRequest::layers(blocks.iter().copied().map(layer));
    let input = InputSpec::new(preprocess, request);
    let mut cosines = vec![Vec::new(); blocks.len()];
    // A few images at a time, so that the features of all need not be kept.
    for sources in sources.chunks(COMPARED_TOGETHER) {
        let encoded = backbones
            .iter()
            .map(|backbone| encode(backbone, &input, sources))
            .collect::<Result<Vec<_>>>()?;
        let [first, second] = encoded.as_slice() else {
            bail!("name two backbones");
        };
        for (first, second) in first.iter().zip(second) {
            for (&block, cosines) in blocks.iter().zip(&mut cosines) {
                add(first, second, layer(block), cosines)?;
            }
        }
    }
    let mut rows = Vec::new();
    for (block, mut cosines) in blocks.iter().zip(cosines) {
        cosines.sort_by(f64::total_cmp);
        let (count, Some(&lowest)) = (cosines.len(), cosines.first()) else {
            bail!("the images have no patches");
        };
        let quantile = cosines[(QUANTILE * count as f64) as usize];
        let mean = cosines.iter().sum::<f64>() / count as f64;
        if json {
            print_json(json!({
                "block": block,
                "lowest": lowest,
                "quantile_0.001": quantile,
                "mean": mean,
                "tokens": count,
            }))?;
        }
        let cosine = |x: f64| format!("{x:.4}");
        rows.push(vec![
            block.to_string(),
            cosine(lowest),
            cosine(quantile),
            cosine(mean),
            count.to_string(),
        ]);
    }
    if !json {
        print_line(table::align(
            &["block", "lowest cosine", "0.1 % below", "mean", "patches"],
            rows,
        ))?;
    }
    Ok(())
}

fn encode(
    backbone: &anomalens::backbones::Backbone,
    input: &InputSpec,
    sources: &[ImageSource],
) -> Result<Vec<ImageFeatures>> {
    let mut features = Vec::new();
    let mut failed: Option<SourceError> = None;
    let options = StreamOptions::default();
    stream_features(
        backbone.encoder.as_ref(),
        input,
        sources,
        &options,
        |_, encoded| {
            match encoded {
                Ok((image, _)) => features.push(image),
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        },
    )?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(features),
    }
}

/// Adds the cosines between the patch tokens of two encodings of an image.
fn add(
    first: &ImageFeatures,
    second: &ImageFeatures,
    layer: LayerId,
    cosines: &mut Vec<f64>,
) -> Result<()> {
    let (Some(first), Some(second)) = (first.map(layer), second.map(layer)) else {
        bail!("{layer} is missing");
    };
    let width = first.dim;
    if width != second.dim || first.tokens.len() != second.tokens.len() {
        bail!("the tokens of the two backbones differ in number or length");
    }
    let pairs = first
        .tokens
        .chunks_exact(width)
        .zip(second.tokens.chunks_exact(width));
    for (a, b) in pairs {
        let dot = |a: &[f32], b: &[f32]| {
            let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
            products.sum::<f64>()
        };
        cosines.push(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
    }
    Ok(())
}
