//! RsCIN (MuSc, section 3.3): an image's score is averaged with those of the images whose class tokens
//! are most similar, weighted by that similarity.

use crate::components::tokens::dot;

/// `scores` brought to 0..1 and then averaged: over the `k` images whose class tokens have the
/// largest inner product with the image's own (usually itself among them) for every `k` of
/// `neighbours`, and then over these.
pub(super) fn rescore(scores: &[f32], class_tokens: &[Vec<f32>], neighbours: &[usize]) -> Vec<f32> {
    let scores = scaled(scores);
    let of_image = |i: usize, token: &Vec<f32>| {
        let others = class_tokens.iter().zip(&scores).enumerate();
        let mut similar: Vec<(f32, bool, f32)> = others
            .map(|(j, (other, &score))| (dot(token, other), i == j, score))
            .collect();
        // Of equally similar images itself comes first.
        similar.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        let averages = neighbours.iter().map(|&k| {
            let nearest = similar.iter().take(k);
            let (weights, sum) = nearest.fold((0.0, 0.0), |(weights, sum), (weight, _, score)| {
                (weights + weight, sum + weight * score)
            });
            sum / weights
        });
        averages.sum::<f32>() / neighbours.len() as f32
    };
    let tokens = class_tokens.iter().enumerate();
    tokens.map(|(i, token)| of_image(i, token)).collect()
}

/// Brought to 0..1; all 0 if they do not differ.
fn scaled(scores: &[f32]) -> Vec<f32> {
    let lowest = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = highest - lowest;
    let scaled = |&score: &f32| match range > 0.0 {
        true => (score - lowest) / range,
        false => 0.0,
    };
    scores.iter().map(scaled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_move_towards_similar_images() {
        let tokens = [vec![1.0, 0.0], vec![1.0, 0.0], vec![0.0, 1.0]];
        let scores = [1.0, 3.0, 11.0];
        let cases: [(&str, &[usize], [f32; 3]); 4] = [
            ("itself only", &[1], [0.0, 0.2, 1.0]),
            ("its twin", &[2], [0.1, 0.1, 1.0]),
            ("both", &[1, 2], [0.05, 0.15, 1.0]),
            ("more than there are", &[9], [0.1, 0.1, 1.0]),
        ];
        for (name, neighbours, expected) in cases {
            let found = rescore(&scores, &tokens, neighbours);
            for (found, expected) in found.iter().zip(expected) {
                let close = (found - expected).abs() < 1e-6;
                assert!(close, "{name}: {found} {expected}");
            }
        }
        assert_eq!(rescore(&[2.0; 3], &tokens, &[1]), [0.0; 3], "all equal");
    }
}
