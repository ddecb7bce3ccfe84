//! The refinements of score maps (paper, section 3.3). Scores are cosines, a row of patches for each text.

/// What cosines are multiplied by before a softmax over the texts.
const SCALE: f32 = 100.0;

/// The score of a text that counts nowhere.
const NOWHERE: f32 = -100.0;

/// Prompt denoising: texts that no patch has with a probability of `threshold` count nowhere.
pub(super) fn denoise(scores: &mut [Vec<f32>], threshold: f32) {
    let probabilities = softmax(scores);
    for (scores, probabilities) in scores.iter_mut().zip(probabilities) {
        if probabilities.into_iter().fold(0.0, f32::max) < threshold {
            scores.fill(NOWHERE);
        }
    }
}

/// Key smoothing: probabilities, of which patches less certain than `threshold` take over the sum of those of
/// all patches, each times the product of both `keys` `[patches, width]`. As in the published code, each
/// number of the keys is divided by its length over the patches, not each key by its own, and nothing brings
/// the sums back to 1.
pub(super) fn smooth(scores: &[Vec<f32>], keys: &[f32], threshold: f32) -> Vec<Vec<f32>> {
    let mut probabilities = softmax(scores);
    let patches = probabilities.first().map_or(0, Vec::len);
    let width = keys.len() / patches.max(1);
    let mut lengths = vec![0.0_f32; width];
    for key in keys.chunks_exact(width.max(1)) {
        let both = lengths.iter_mut().zip(key);
        both.for_each(|(sum, x)| *sum += x * x);
    }
    let keys: Vec<f32> = keys
        .chunks_exact(width.max(1))
        .flat_map(|key| key.iter().zip(&lengths))
        .map(|(x, length)| x / length.sqrt().max(1e-12))
        .collect();
    // The sum over all patches of key and probability comes first: patches by patches are many.
    let sums = probabilities.iter().map(|probabilities| {
        let mut sum = vec![0.0_f32; width];
        for (key, p) in keys.chunks_exact(width.max(1)).zip(probabilities) {
            let both = sum.iter_mut().zip(key);
            both.for_each(|(sum, x)| *sum += x * p);
        }
        sum
    });
    let sums: Vec<Vec<f32>> = sums.collect();
    let most = |patch: usize| {
        let of = probabilities.iter().map(|p| p[patch]);
        of.fold(0.0, f32::max)
    };
    let uncertain: Vec<bool> = (0..patches).map(|patch| most(patch) < threshold).collect();
    for (probabilities, sum) in probabilities.iter_mut().zip(&sums) {
        let places = probabilities
            .iter_mut()
            .zip(keys.chunks_exact(width.max(1)));
        for ((p, key), uncertain) in places.zip(&uncertain) {
            if *uncertain {
                *p = key.iter().zip(sum).map(|(key, sum)| key * sum).sum();
            }
        }
    }
    probabilities
}

/// The softmax over the texts at each patch.
fn softmax(scores: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut found = scores.to_vec();
    for patch in 0..scores.first().map_or(0, Vec::len) {
        let all = scores.iter().map(|scores| scores[patch]);
        let highest = all.fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for (found, scores) in found.iter_mut().zip(scores) {
            found[patch] = (SCALE * (scores[patch] - highest)).exp();
            sum += found[patch];
        }
        found.iter_mut().for_each(|found| found[patch] /= sum);
    }
    found
}
