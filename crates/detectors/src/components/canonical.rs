//! Images in an order that follows from what they show, so that sums over a batch do not depend on
//! the order of its files.

use std::cmp::Ordering;

use anomalens_backbones::ImageFeatures;

use crate::DetectorError;

/// Scores `images` in their canonical order; the results come back in the order given.
pub(crate) fn in_canonical_order<T>(
    images: &[&ImageFeatures],
    score: impl FnOnce(&[&ImageFeatures]) -> Result<Vec<T>, DetectorError>,
) -> Result<Vec<T>, DetectorError> {
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.sort_by(|&a, &b| compare(images[a], images[b]));
    let ordered: Vec<&ImageFeatures> = order.iter().map(|&i| images[i]).collect();
    let mut results: Vec<(usize, T)> = order.into_iter().zip(score(&ordered)?).collect();
    results.sort_by_key(|(place, _)| *place);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// By their tokens, number by number; images that are equal there are equal for every method.
fn compare(a: &ImageFeatures, b: &ImageFeatures) -> Ordering {
    numbers(a).cmp(numbers(b))
}

fn numbers(image: &ImageFeatures) -> impl Iterator<Item = u32> + '_ {
    let tokens = image.maps.iter().flat_map(|map| &map.tokens);
    tokens.map(|x| x.to_bits())
}
