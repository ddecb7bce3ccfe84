//! How different an image is from the others as one: its mean token. Defects that change all of a surface have no patch
//! that stands out; the mean token moves.

use anomalens_backbones::ImageFeatures;

use crate::DetectorError;
use crate::components::mutual_scoring::kept;
use crate::components::tokens::unit_mean;

/// For each image the mean cosine distance of its mean token to those of the most similar others,
/// the part `lowest_fraction` of them; the mean over `blocks`.
pub(super) fn distances(
    images: &[&ImageFeatures],
    blocks: &[usize],
    lowest_fraction: f32,
) -> Result<Vec<f32>, DetectorError> {
    let kept = kept(images.len(), lowest_fraction);
    let mut sums = vec![0.0; images.len()];
    for &block in blocks {
        let means: Vec<Vec<f32>> = images
            .iter()
            .map(|image| unit_mean(image, block))
            .collect::<Result<_, _>>()?;
        for (i, sum) in sums.iter_mut().enumerate() {
            let others = means.iter().enumerate().filter(|(j, _)| *j != i);
            let mut distances: Vec<f32> = others
                .map(|(_, mean)| {
                    let similarity: f32 = mean.iter().zip(&means[i]).map(|(a, b)| a * b).sum();
                    (1.0 - similarity).max(0.0)
                })
                .collect();
            distances.sort_by(f32::total_cmp);
            let nearest = distances.iter().take(kept).sum::<f32>() / kept as f32;
            *sum += nearest / blocks.len() as f32;
        }
    }
    Ok(sums)
}
