//! Against the original's modules on a tiny network with seeded weights: scores of three texts, both
//! refinements, and the enlarged map, from the features that `backbones` proves.

use anomalens_backbones::{FeatureMap, Grid, LayerId};
use anomalens_vision::{Alignment, Map};
use candle_core::Tensor;

use super::{cosines, refine};
use crate::testing::{Goldens, flat, near};

/// Rows of one map `[channels, rows, columns]`: a row for each channel.
fn channels(map: &Tensor) -> Vec<Vec<f32>> {
    map.flatten_from(1).unwrap().to_vec2().unwrap()
}

fn patches(map: &Tensor) -> FeatureMap {
    let (dim, rows, columns) = map.dims3().unwrap();
    FeatureMap {
        layer: LayerId::Block(3),
        grid: Grid { rows, columns },
        dim,
        tokens: flat(&map.permute((1, 2, 0)).unwrap().contiguous().unwrap()),
        class_token: None,
    }
}

#[test]
fn scores_and_refinements_are_the_originals() {
    let goldens = Goldens::load("denseclip_tiny.safetensors");
    let texts: Vec<Vec<f32>> = goldens.get("mask.text_embeddings").to_vec2().unwrap();
    for image in 0..2 {
        let of = |name: &str| goldens.get(name).get(image).unwrap();
        let scores = cosines(&patches(&of("mask.feat")), &texts);
        near("score", &scores.concat(), &flat(&of("mask.score")), 5e-5);
        let mut denoised = scores.clone();
        refine::denoise(&mut denoised, 0.5);
        near(
            "denoised",
            &denoised.concat(),
            &flat(&of("mask.score_pd0.5")),
            5e-5,
        );
        // A threshold that no text reaches switches all off.
        refine::denoise(&mut denoised, 1.1);
        assert!(denoised.concat().iter().all(|&score| score == -100.0));
        let smooth = refine::smooth(&scores, &flat(&of("mask.k")), 1.0);
        near(
            "smoothed",
            &smooth.concat(),
            &flat(&of("mask.score_ks1.0")),
            5e-5,
        );
        let up = channels(&of("mask.up"));
        for (scores, up) in scores.iter().zip(up) {
            let map = Map::new(4, 4, scores.clone()).unwrap();
            let large = map.resize(64, 64, Alignment::Edges).unwrap();
            near("up", large.values(), &up, 5e-5);
        }
    }
}
