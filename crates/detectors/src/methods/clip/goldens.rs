//! Against the original's modules on a tiny network with seeded weights: prompts, scores and maps of
//! three images with five sets of prompts.

use std::sync::Arc;

use anomalens_backbones::ImageEncoder;
use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::ClipVision;
use anomalens_backbones::clip::tokenizer::{Tokenizer, TooLong};
use serde_json::json;

use super::{Clip, Ensemble};
use crate::testing::{Goldens, close, exact, flat, inputs, tiny_clip};
use crate::{FitContext, Method};

/// The side of the images.
const SIDE: usize = 70;

/// The network of this and other goldens.
pub(in crate::methods) fn network() -> ClipVision {
    let architecture = tiny_clip();
    let checkpoint = Checkpoint::seeded(71, architecture.shapes());
    let activation = Some(architecture.activation);
    ClipVision::new(Arc::new(checkpoint), activation, &exact()).unwrap()
}

#[test]
fn prompts_scores_and_maps_are_the_originals() {
    let goldens = Goldens::load("clip_ac_tiny.safetensors");
    let network = network();
    let images = inputs(goldens.get("images"));
    for (name, prompts) in [
        ("clip", "clip"),
        ("clip_ac80", "clip-ac"),
        ("clip_ac7", "clip-ac-7"),
        ("clip_ac35", "clip-ac-35"),
        ("clip_ac_winclip", "clip-ac-winclip"),
    ] {
        let part = |part: &str| format!("{name}.{part}");
        let ensemble = Ensemble::open(prompts).unwrap();
        for (side, prompts) in ensemble.prompts("metal_nut").iter().enumerate() {
            let Some(expected) = goldens.0.get(&part(&format!("token_ids.{side}"))) else {
                continue;
            };
            let tokenizer = Tokenizer::new();
            let ids = prompts.iter().flat_map(|prompt| {
                let ids = tokenizer.tokenize(prompt, 77, TooLong::Truncate).unwrap();
                ids[..24].to_vec()
            });
            let expected = expected.to_dtype(candle_core::DType::U32).unwrap();
            let expected: Vec<u32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(ids.collect::<Vec<_>>(), expected, "{name}");
        }
        let settings = json!({ "prompts": prompts, "image_size": SIDE });
        let settings = settings.as_object().unwrap().clone();
        let context = FitContext {
            class: Some("metal_nut"),
            ..FitContext::new(&settings, &network)
        };
        let detector = Clip::<true>.fit(&context).unwrap();
        let texts = &detector.state().tensors["text_features"].values;
        let expected = goldens.values(&part("text_features"));
        close(&part("text_features"), texts, &expected, 2e-5);

        let features = network.encode(&images, &detector.input().request).unwrap();
        let features: Vec<_> = features.iter().collect();
        let scored = detector.score(&features).unwrap();
        let scores: Vec<f32> = scored.iter().map(|scored| scored.score).collect();
        close(
            &part("score"),
            &scores,
            &goldens.values(&part("score")),
            2e-5,
        );
        for (image, scored) in scored.iter().enumerate() {
            let expected = |part: &str| {
                let all = goldens.get(&format!("{name}.{part}"));
                flat(&all.get(image).unwrap())
            };
            close(
                &part("patch_prob"),
                scored.map.values(),
                &expected("patch_prob"),
                2e-5,
            );
            let enlargement = detector.profile().enlargement;
            let map = enlargement.apply(&scored.map, SIDE, SIDE, 1.0).unwrap();
            close(&part("map"), map.values(), &expected("map"), 2e-5);
        }
    }
}
