//! How far an image, and each of its patches, is nearer to an anomalous text than to a normal one: what
//! CLIP's zero-shot baselines have in common.

use anomalens_backbones::{Embedding, FeatureRequest, ImageFeatures, PositionResize, TokenStage};
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;
use anomalens_vision::Map;

use crate::components::graph::{GraphScored, as_map, probability, squeezed};
use crate::components::prompts::Texts;
use crate::detector::{Enlargement, NormalRange, Profile, Scored, Smoothing};
use crate::input::Normalisation;
use crate::{DetectorError, InputSpec};

/// Name of the texts' embeddings in a detector file.
pub(crate) const TEXTS: &str = "text_features";

/// AnomalyCLIP's size in pixels; other patch sizes use the multiple just below.
const IMAGE_SIZE: u32 = 518;

/// Probabilities: half is undecided.
const RANGE: NormalRange = NormalRange {
    median: 0.0,
    upper_quantile: 0.5,
};

/// The usual size of images for patches of so many pixels.
pub(crate) fn image_size(patch: usize) -> u32 {
    let patch = patch.max(1) as u32;
    (IMAGE_SIZE / patch * patch).max(patch)
}

/// What images go through: stretched to a square of `image_size` pixels, tokens of `block` in the space of texts, maps
/// smoothed by a Gaussian of deviation `sigma`, in pixels of `image_size`.
///
/// # Errors
/// [`DetectorError::Settings`] of `method` for a size of zero or an impossible `sigma`.
pub(crate) fn profile(
    method: &'static str,
    image_size: u32,
    block: usize,
    sigma: f64,
) -> Result<Profile, DetectorError> {
    let refuse = |reason: &str| Err(DetectorError::settings(method, reason));
    if image_size == 0 {
        return refuse("`image_size` must be above 0");
    }
    if !(sigma >= 0.0 && sigma.is_finite()) {
        return refuse("`sigma` must be at least 0");
    }
    let request = FeatureRequest {
        embedding: Some(Embedding::Normed),
        positions: Some(PositionResize::Bilinear),
        ..FeatureRequest::blocks([block]).at(TokenStage::Projected)
    };
    let input = InputSpec::new(Normalisation::Clip.square(image_size), request);
    Ok(Profile {
        enlargement: Enlargement {
            smoothing: Smoothing::OfSide(sigma / f64::from(image_size)),
            ..Enlargement::default()
        },
        ..Profile::new(method, input)
    })
}

/// Refuses what cosines cannot be divided by.
///
/// # Errors
/// [`DetectorError::Settings`] of `method`.
pub(crate) fn check_temperature(
    method: &'static str,
    temperature: f64,
) -> Result<(), DetectorError> {
    match temperature > 0.0 && temperature.is_finite() {
        true => Ok(()),
        false => Err(DetectorError::settings(
            method,
            "`temperature` must be above 0",
        )),
    }
}

/// [`score`] in a graph.
///
/// # Errors
/// [`DetectorError`] if its features are not those that `profile` asks for.
pub(crate) fn graph(
    graph: &mut Graph,
    texts: &Texts,
    profile: &Profile,
    temperature: f64,
    seen: &Outputs,
) -> Result<GraphScored, DetectorError> {
    let (width, temperature) = (texts.0[0].len(), temperature as f32);
    profile.check_graph(seen, width)?;
    let missing = DetectorError::Width {
        expected: width,
        found: 0,
    };
    let (Some(tokens), Some(embedding)) = (seen.maps.first(), &seen.embedding) else {
        return Err(missing);
    };
    let places = tokens.places(graph);
    let map = probability(graph, &texts.0, &places, temperature);
    let map = squeezed(graph, &map);
    let score = probability(graph, &texts.0, embedding, temperature);
    Ok(GraphScored {
        score: squeezed(graph, &score),
        map: as_map(graph, &map, tokens.grid),
        grid: tokens.grid,
    })
}

/// The probabilities that `image` and each of its patches are anomalous.
///
/// # Errors
/// [`DetectorError`] if its features are not those that `profile` asks for.
pub(crate) fn score(
    texts: &Texts,
    profile: &Profile,
    temperature: f64,
    image: &ImageFeatures,
) -> Result<Scored, DetectorError> {
    let (width, temperature) = (texts.0[0].len(), temperature as f32);
    profile.check(image, width)?;
    let layer = profile.input.request.layers.first();
    let map = layer.and_then(|&layer| image.map(layer));
    let (grid, tokens) = match map {
        Some(map) => (map.grid, &map.tokens[..]),
        None => (image.grid(), &[][..]),
    };
    let patches = tokens.chunks_exact(width);
    let map = patches.map(|patch| texts.probability(patch, temperature));
    let embedding = image.embedding.as_deref().ok_or(DetectorError::Width {
        expected: width,
        found: 0,
    })?;
    Ok(Scored {
        score: texts.probability(embedding, temperature),
        map: Map::new(grid.rows, grid.columns, map.collect())?,
        range: RANGE,
    })
}
