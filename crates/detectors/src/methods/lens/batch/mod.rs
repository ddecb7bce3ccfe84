//! Evidence: the other images of a batch, unlabelled. A normal patch has a similar patch in most
//! other images, an anomalous one has not.
//!
//! The scoring is MuSc's (Li et al., ICLR 2024, sections 3.1 and 3.2; `components/`). Ours: tokens
//! are first shortened to their principal components (`components/principal_components.rs`), which makes the quadratic part
//! four times as fast; a patch's distance to the rest of its own image joins its score, so that
//! anomalies that confirm each other are still found; and a part of an image's score is how
//! different its mean token is from the others (`image_level.rs`). Each was chosen on auxiliary
//! data (docs/research/few-shot.md).

mod image_level;

use anomalens_backbones::{ImageFeatures, Precision};
use anomalens_vision::Map;

use super::{NAME, Settings};
use crate::DetectorError;
use crate::components::canonical::in_canonical_order;
use crate::components::tokens::standardised;
use crate::components::{mutual_scoring, neighbourhood, principal_components, self_similarity};
use crate::detector::{NormalRange, Scored};
use crate::settings::Checked;

/// Quantile of a batch's patch scores from where on they are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.98;

/// Sides of the square neighbourhoods over which tokens are averaged.
const NEIGHBOURHOODS: [usize; 3] = [1, 3, 5];

/// Length to which tokens are shortened before they are compared.
const DIMENSIONS: usize = 96;

/// Part of the other images, the most similar ones, that score a patch.
const LOWEST_FRACTION: f32 = 0.3;

/// Weight of a patch's distance to the rest of its own image; both are brought to the same spread.
const OWN_WEIGHT: f32 = 0.5;

/// Weight of the mean token in the image's score.
const IMAGE_WEIGHT: f32 = 0.25;

/// The fewest images that can score each other.
const NEEDED: usize = 2;

/// The results of images that score each other; their order changes nothing.
pub(super) fn score(
    images: &[&ImageFeatures],
    checked: &Checked<Settings>,
) -> Result<Vec<Scored>, DetectorError> {
    in_canonical_order(images, |images| score_in_order(images, checked))
}

fn score_in_order(
    images: &[&ImageFeatures],
    checked: &Checked<Settings>,
) -> Result<Vec<Scored>, DetectorError> {
    let [first, _, ..] = images else {
        return Err(DetectorError::GroupTooSmall {
            method: NAME,
            needed: NEEDED,
            found: images.len(),
        });
    };
    let Checked { settings, profile } = checked;
    let width = first.maps.first().map_or(0, |map| map.dim);
    for image in images {
        profile.check(image, width)?;
    }
    let mut maps = mutual_maps(images, settings.compared(), width)?;
    if settings.own_image {
        add_own(&mut maps, images, settings.compared())?;
    }
    let range = NormalRange::of(maps.concat(), UPPER_QUANTILE);
    let maps: Vec<Map> = maps
        .into_iter()
        .zip(images)
        .map(|(map, image)| Map::new(image.grid().rows, image.grid().columns, map))
        .collect::<Result<_, _>>()?;
    // The highest patch alone.
    let mut scores: Vec<f32> = maps.iter().map(|map| map.top_mean(0.0)).collect();
    if settings.image_level {
        add_image_level(&mut scores, &maps, images, settings.compared())?;
    }
    let scored = scores.into_iter().zip(maps);
    Ok(scored
        .map(|(score, map)| Scored { score, map, range })
        .collect())
}

/// The scores that the patches of each image get from the others, the mean over blocks and
/// neighbourhoods.
fn mutual_maps(
    images: &[&ImageFeatures],
    blocks: &[usize],
    width: usize,
) -> Result<Vec<Vec<f32>>, DetectorError> {
    let zeros = images.iter().map(|image| vec![0.0; image.grid().len()]);
    let mut maps: Vec<Vec<f32>> = zeros.collect();
    let parts = (blocks.len() * NEIGHBOURHOODS.len()) as f32;
    for &block in blocks {
        let tokens = images
            .iter()
            .map(|image| Ok(standardised(image, block)?.0))
            .collect::<Result<_, DetectorError>>()?;
        let (tokens, length) = principal_components::shorten(tokens, width, DIMENSIONS)?;
        for side in NEIGHBOURHOODS {
            let sets = tokens
                .iter()
                .zip(images)
                .map(|(tokens, image)| neighbourhood::average(tokens, image.grid(), length, side))
                .collect();
            let scores = mutual_scoring::score(sets, length, LOWEST_FRACTION, Precision::Half)?;
            for (map, scores) in maps.iter_mut().zip(scores) {
                map.iter_mut()
                    .zip(scores)
                    .for_each(|(sum, score)| *sum += score / parts);
            }
        }
    }
    Ok(maps)
}

/// Adds to each patch's score its distance to the rest of its own image.
fn add_own(
    maps: &mut [Vec<f32>],
    images: &[&ImageFeatures],
    blocks: &[usize],
) -> Result<(), DetectorError> {
    let own: Vec<Vec<f32>> = images
        .iter()
        .map(|image| self_similarity::distances(image, blocks))
        .collect::<Result<_, _>>()?;
    let factor = self_similarity::factor(maps.iter().flatten(), own.iter().flatten());
    for (score, own) in maps.iter_mut().flatten().zip(own.iter().flatten()) {
        *score += OWN_WEIGHT * factor * own;
    }
    Ok(())
}

/// Adds to each image's score how different its mean token is from the others, in units of how far
/// the scores of the batch are above its mean patch.
fn add_image_level(
    scores: &mut [f32],
    maps: &[Map],
    images: &[&ImageFeatures],
    blocks: &[usize],
) -> Result<(), DetectorError> {
    let distances = image_level::distances(images, blocks, LOWEST_FRACTION)?;
    let patch = mean(maps.iter().flat_map(Map::values).copied());
    let height = mean(scores.iter().map(|score| score - patch));
    let unit = mean(distances.iter().copied());
    if unit > 0.0 {
        for (score, distance) in scores.iter_mut().zip(distances) {
            *score += IMAGE_WEIGHT * height * distance / unit;
        }
    }
    Ok(())
}

fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| {
        (sum + f64::from(value), count + 1.0)
    });
    (sum / f64::max(count, 1.0)) as f32
}
