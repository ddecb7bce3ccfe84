//! Against anomalib's WinCLIP on a tiny network with seeded weights: prompts, embeddings of windows, every
//! map on the way, and the scores of three images without and with two references.

use std::sync::Arc;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::tokenizer::{Tokenizer, TooLong};
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::{Activation, Grid, ImageEncoder, ImageFeatures, LayerId};
use serde_json::json;

use super::references::References;
use super::*;
use crate::testing::{Goldens, exact, inputs, near};

const SIDE: usize = 80;

const GRID: Grid = Grid {
    rows: 5,
    columns: 5,
};

fn network() -> ClipVision {
    let architecture = Architecture {
        vision: VisionConfig {
            width: 128,
            blocks: 4,
            heads: 2,
            patch: 16,
            position_side: 5,
            embedding: 64,
        },
        text: TextConfig {
            width: 128,
            blocks: 3,
            heads: 2,
            context: 77,
            vocabulary: 49_408,
            embedding: 64,
        },
        activation: Activation::Gelu,
    };
    let checkpoint = Checkpoint::seeded(31, architecture.shapes());
    ClipVision::new(Arc::new(checkpoint), Some(Activation::Gelu), &exact()).unwrap()
}

fn settings(class: &str, patch_tokens: &str) -> Settings {
    let settings = json!({
        "class": class, "image_size": SIDE, "patch_tokens": patch_tokens
    });
    let settings = settings.as_object().unwrap();
    Settings::defaults(&network())
        .replaced_by(settings)
        .unwrap()
}

/// A detector without references.
fn detector(settings: Settings) -> WinClipDetector {
    let (prompts, class) = (settings.prompts.clone(), settings.class.clone());
    WinClipDetector {
        texts: Ensemble::texts_of(NAME, &network(), &prompts, &class).unwrap(),
        checked: Checked::new(settings).unwrap(),
        references: None,
        range: ZERO_SHOT,
    }
}

/// Score and enlarged map of each image, one after the other.
fn results(detector: &WinClipDetector, images: &[ImageFeatures]) -> (Vec<f32>, Vec<f32>) {
    let scored = detector.score(&images.iter().collect::<Vec<_>>()).unwrap();
    let enlargement = detector.profile().enlargement;
    let large = scored.iter().flat_map(|scored| {
        let large = enlargement.apply(&scored.map, SIDE, SIDE, 1.0).unwrap();
        large.values().to_vec()
    });
    let large = large.collect();
    (scored.iter().map(|scored| scored.score).collect(), large)
}

/// `rows`, each of length 1.
fn unit(rows: &[f32], width: usize) -> Vec<f32> {
    let mut rows = rows.to_vec();
    crate::components::tokens::normalise_rows(&mut rows, width);
    rows
}

#[test]
fn every_stage_is_the_originals() {
    let goldens = Goldens::load("winclip_tiny.safetensors");
    let network = network();
    let images = inputs(goldens.get("images"));
    let encode = |images: &[_], tokens: &str| {
        let request = settings("metal nut", tokens)
            .profile()
            .unwrap()
            .input
            .request;
        network.encode(images, &request).unwrap()
    };
    let features = encode(&images, "normed");
    let tokens = |features: &[ImageFeatures], layer: LayerId| -> Vec<f32> {
        let maps = features.iter().map(|image| image.map(layer).unwrap());
        maps.flat_map(|map| map.tokens.clone()).collect()
    };
    let embeddings = features.iter().flat_map(|image| image.embedding.clone());
    let embeddings: Vec<f32> = embeddings.flatten().collect();
    let golden = |name: &str| goldens.values(name);
    near(
        "image_embeddings",
        &embeddings,
        &golden("image_embeddings"),
        3e-5,
    );
    let references = encode(&inputs(goldens.get("references")), "normed");
    for (prefix, features) in [("", &features), ("ref.", &references)] {
        for (name, layer) in [
            ("patch_embeddings", LayerId::Block(4)),
            ("window_embeddings.s2", LayerId::Window(2)),
            ("window_embeddings.s3", LayerId::Window(3)),
        ] {
            let name = format!("{prefix}{name}");
            near(&name, &tokens(features, layer), &golden(&name), 3e-5);
        }
    }

    // Which patches the windows cover.
    for side in [2, 3] {
        let masks = goldens.get(&format!("masks.s{side}")).t().unwrap();
        let masks: Vec<Vec<f32>> = masks
            .to_dtype(candle_core::DType::F32)
            .unwrap()
            .to_vec2()
            .unwrap();
        for (window, patches) in masks.iter().enumerate() {
            let mut scores = vec![f32::INFINITY; masks.len()];
            scores[window] = 0.5;
            let covered = windows::cover(&scores, side, GRID).into_iter().enumerate();
            let covered = covered.filter(|(_, score)| *score > 0.0);
            let covered: Vec<f32> = covered.map(|(patch, _)| patch as f32).collect();
            assert_eq!(&covered, patches, "window {window} of side {side}");
        }
    }

    for class in ["metal nut", "transistor"] {
        let name = |part: &str| format!("{}.{part}", class.replace(' ', "_"));
        let mut detector = detector(settings(class, "normed"));
        let texts = detector.texts.0.concat();
        let expected = golden(&name("text_embeddings"));
        near("text_embeddings", &texts, &unit(&expected, 64), 3e-5);
        let (mut scores, mut maps) = (vec![], vec![]);
        let mut windows_of = [vec![], vec![]];
        let mut covers = [vec![], vec![]];
        for image in &features {
            let (grid, score, map) = detector.zero_shot(image).unwrap();
            assert_eq!(grid, GRID);
            scores.push(score);
            maps.extend(map);
            for (i, side) in [2, 3].into_iter().enumerate() {
                let windows = &image.map(LayerId::Window(side)).unwrap().tokens;
                let windows = windows.chunks_exact(64);
                let of = windows.map(|window| detector.texts.probability(window, 0.07));
                let of: Vec<f32> = of.collect();
                covers[i].extend(windows::cover(&of, side, GRID));
                windows_of[i].extend(of);
            }
        }
        near(class, &scores, &golden(&name("zero.image_score")), 1e-5);
        near(class, &maps, &golden(&name("zero.map")), 1e-5);
        for (i, side) in [2, 3].into_iter().enumerate() {
            let expected = golden(&name(&format!("zero.window_scores.s{side}")));
            near(class, &windows_of[i], &expected, 1e-5);
            let expected = golden(&name(&format!("zero.map.s{side}")));
            near(class, &covers[i], &expected, 1e-5);
        }
        let (scores, maps) = results(&detector, &features);
        near(class, &scores, &golden(&name("k0.pred_score")), 1e-5);
        near(class, &maps, &golden(&name("k0.anomaly_map")), 1e-5);

        let references: Vec<_> = references.iter().collect();
        let kept = References::of(&references, &detector.checked.settings).unwrap();
        let mut few = [vec![], vec![], vec![], vec![]];
        for image in &features {
            let each = kept.maps(image, GRID).unwrap();
            few[3].extend(windows::mean(&each));
            for (all, one) in few.iter_mut().zip(each) {
                all.extend(one);
            }
        }
        for (name, found) in ["few.map.s2", "few.map.s3", "few.map.patch", "few.map"]
            .iter()
            .zip(&few)
        {
            near(name, found, &golden(name), 1e-5);
        }
        detector.references = Some(kept);
        let (scores, maps) = results(&detector, &features);
        near(class, &scores, &golden(&name("k2.pred_score")), 1e-5);
        near(class, &maps, &golden(&name("k2.anomaly_map")), 1e-5);
    }
}

#[test]
fn variants_are_the_originals() {
    let goldens = Goldens::load("winclip_tiny.safetensors");
    let network = network();
    let before = settings("metal nut", "block");
    let request = before.profile().unwrap().input.request;
    let encode = |name: &str| {
        network
            .encode(&inputs(goldens.get(name)), &request)
            .unwrap()
    };
    let (features, references) = (encode("images"), encode("references"));
    let patches = features.iter().map(|image| image.maps[0].tokens.clone());
    let expected = goldens.values("alt_no_ln_post.patch_embeddings");
    near(
        "patches",
        &patches.collect::<Vec<_>>().concat(),
        &expected,
        3e-5,
    );
    let mut detector = detector(before);
    let references: Vec<_> = references.iter().collect();
    detector.references = Some(References::of(&references, &detector.checked.settings).unwrap());
    let (scores, maps) = results(&detector, &features);
    let golden = |part: &str| goldens.values(&format!("alt_no_ln_post.metal_nut.k2.{part}"));
    near("score", &scores, &golden("pred_score"), 1e-5);
    near("map", &maps, &golden("anomaly_map"), 1e-5);

    let embeddings = features
        .iter()
        .map(|image| image.embedding.clone().unwrap());
    let embeddings: Vec<Vec<f32>> = embeddings.collect();
    let score = |texts: &Texts, temperature: f32| -> Vec<f32> {
        let each = embeddings.iter();
        each.map(|x| texts.probability(x, temperature)).collect()
    };
    let ensemble = Ensemble::open("winclip").unwrap();
    let text = network.text(None).unwrap().unwrap();
    let [normal, damaged] = ensemble.prompts("metal nut");
    let unit_first = Texts::of(&text, [&normal, &damaged], true).unwrap();
    let golden = goldens.values("alt_normalised_prompts.metal_nut.text_embeddings");
    near("texts", &unit_first.0.concat(), &unit(&golden, 64), 3e-5);
    let golden = goldens.values("alt_normalised_prompts.metal_nut.zero.image_score");
    near(
        "normalised prompts",
        &score(&unit_first, 0.07),
        &golden,
        1e-5,
    );
    let golden = goldens.values("alt_temperature_0.01.metal_nut.zero.image_score");
    near("temperature", &score(&unit_first, 0.01), &golden, 1e-5);

    // The original goes through templates first; the order does not change a mean.
    let tokenizer = Tokenizer::new();
    let sorted = |mut ids: Vec<Vec<u32>>| {
        ids.sort_unstable();
        ids
    };
    let ids = |prompts: &[String]| {
        let ids = prompts.iter();
        let ids = ids.map(|prompt| tokenizer.tokenize(prompt, 77, TooLong::Truncate).unwrap());
        sorted(ids.collect())
    };
    let expected = goldens.get("tokens.metal_nut");
    let expected = expected.to_dtype(candle_core::DType::U32).unwrap();
    let expected: Vec<Vec<u32>> = expected.to_vec2().unwrap();
    let (first, second) = expected.split_at(normal.len());
    assert!(ids(&normal) == sorted(first.to_vec()), "normal");
    assert!(ids(&damaged) == sorted(second.to_vec()), "damaged");
}
