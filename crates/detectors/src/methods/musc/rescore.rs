//! MuSc, section 3.3 (constrained image-level neighbourhood): an image's score is averaged with
//! those of the images whose class tokens are most similar, weighted by that similarity.

/// The scores, each averaged over its `k` nearest images (itself among them) for every `k` of
/// `neighbours`, and then over these.
pub(super) fn by_neighbours(
    scores: &[f32],
    class_tokens: &[&[f32]],
    neighbours: &[usize],
) -> Vec<f32> {
    let norm = |token: &[f32]| token.iter().map(|x| x * x).sum::<f32>().sqrt();
    let similarity = |a: &[f32], b: &[f32]| {
        let product: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        let scale = norm(a) * norm(b);
        if scale > 0.0 {
            (product / scale).max(0.0)
        } else {
            0.0
        }
    };
    (0..scores.len())
        .map(|i| {
            // An image is its own nearest neighbour, also where it has a twin.
            let mut similar = vec![(1.0, scores[i])];
            let others = (0..scores.len()).filter(|&j| j != i);
            similar
                .extend(others.map(|j| (similarity(class_tokens[i], class_tokens[j]), scores[j])));
            similar[1..].sort_by(|a, b| b.0.total_cmp(&a.0));
            let averages = neighbours.iter().map(|&k| {
                let nearest = &similar[..k.min(similar.len())];
                let weight: f32 = nearest.iter().map(|(weight, _)| weight).sum();
                let sum: f32 = nearest.iter().map(|(weight, score)| weight * score).sum();
                sum / weight
            });
            averages.sum::<f32>() / neighbours.len() as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_move_towards_similar_images() {
        let tokens: [&[f32]; 3] = [&[1.0, 0.0], &[1.0, 0.0], &[0.0, 1.0]];
        let scores = [1.0, 3.0, 10.0];
        let cases: [(&str, &[usize], [f32; 3]); 3] = [
            ("itself only", &[1], [1.0, 3.0, 10.0]),
            ("its twin", &[2], [2.0, 2.0, 10.0]),
            ("both", &[1, 2], [1.5, 2.5, 10.0]),
        ];
        for (name, neighbours, expected) in cases {
            let found = by_neighbours(&scores, &tokens, neighbours);
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{name}: {found} {expected}"
                );
            }
        }
    }
}
