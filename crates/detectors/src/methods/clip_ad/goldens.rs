//! Against the original's modules on a tiny network with seeded weights: texts, embeddings, scores with one
//! normal class and with several, the loss of outlier exposure and its gradient.

use std::sync::Arc;

use anomalens_backbones::checkpoint::{Checkpoint, write_torch};
use anomalens_backbones::clip::{Architecture, ClipVision};
use anomalens_backbones::{Activation, Kernels};
use candle_core::Var;
use serde_json::json;

use super::*;
use crate::testing::{Goldens, exact, flat, inputs, near, tiny_clip};

fn architecture() -> Architecture {
    tiny_clip()
}

fn network(checkpoint: Checkpoint, kernels: &Kernels) -> ClipVision {
    ClipVision::new(Arc::new(checkpoint), Some(Activation::QuickGelu), kernels).unwrap()
}

fn seeded() -> ClipVision {
    network(Checkpoint::seeded(71, architecture().shapes()), &exact())
}

fn fitted(network: &ClipVision, settings: serde_json::Value) -> Box<dyn Detector> {
    let mut settings = settings.as_object().unwrap().clone();
    settings.insert("image_size".to_owned(), json!(56));
    ClipAd.fit(&FitContext::new(&settings, network)).unwrap()
}

#[test]
fn texts_scores_losses_and_gradients_are_the_originals() {
    let goldens = Goldens::load("clip_ad_tiny.safetensors");
    let network = seeded();
    let labels: Vec<i32> = goldens.get("labels").to_vec1().unwrap();
    let outliers: Vec<bool> = labels.into_iter().map(|label| label == 1).collect();
    for (name, settings) in [
        ("one_vs_rest", json!({ "class": "bird" })),
        (
            "leave_one_out",
            json!({ "classes": ["airplane", "automobile", "cat"] }),
        ),
        ("one_vs_rest_mvtec", json!({ "class": "metal nut" })),
    ] {
        let expected = |part: &str| goldens.values(&format!("{name}.{part}"));
        let detector = fitted(&network, settings);
        let texts = detector.state().tensors[TEXTS].clone();
        near(
            "text_features",
            &texts.values,
            &expected("text_features"),
            1e-5,
        );
        let images = inputs(goldens.get("images"));
        let features = network.encode(&images, &detector.input().request).unwrap();
        let found = features
            .iter()
            .flat_map(|image| image.embedding.clone().unwrap());
        let found: Vec<f32> = found.collect();
        near(
            "image_features",
            &found,
            &goldens.values("image_features"),
            1e-5,
        );
        let features: Vec<&ImageFeatures> = features.iter().collect();
        let scored = detector.score(&features).unwrap();
        let scores: Vec<f32> = scored.iter().map(|scored| scored.score).collect();
        near("scores", &scores, &expected("scores"), 1e-5);
        assert_eq!(scored[0].map.values(), [scores[0]]);

        let embeddings = Var::from_tensor(goldens.get("image_features")).unwrap();
        let texts = Tensor::from_vec(texts.values, texts.shape, &Device::Cpu).unwrap();
        let loss = train::exposure(&embeddings, &texts, &outliers, 0.01).unwrap();
        near(
            "loss",
            &[loss.to_scalar().unwrap()],
            &expected("loss"),
            5e-5,
        );
        let gradients = loss.backward().unwrap();
        let found = flat(gradients.get(&embeddings).unwrap());
        near("gradient", &found, &expected("grad_image_features"), 2e-5);
    }
}

#[test]
fn the_general_text_may_name_the_class() {
    let general = |general: &str| {
        let settings = json!({ "class": "bird", "general": general });
        fitted(&seeded(), settings).state().tensors[TEXTS].clone()
    };
    assert_eq!(general("no {}"), general("no bird"));
    assert_ne!(general("no {}"), general("no cat"));
}

#[test]
fn a_checkpoint_of_the_original_is_a_weight_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot.pt");
    let seeded_weights = Checkpoint::seeded(71, architecture().shapes());
    let shapes = architecture().shapes();
    let state = shapes.into_iter().map(|(name, shape)| {
        let tensor = seeded_weights.tensor(&name, &shape, &Device::Cpu).unwrap();
        (name, tensor)
    });
    write_torch(&path, Some("net"), &state.collect::<Vec<_>>()).unwrap();
    let tuned = network(Checkpoint::open(&path).unwrap(), &exact());
    let settings = json!({ "class": "bird" });
    assert_eq!(
        fitted(&tuned, settings.clone()).state(),
        fitted(&seeded(), settings).state()
    );
}

#[test]
fn outlier_exposure_moves_embeddings_and_is_kept() {
    let goldens = Goldens::load("clip_ad_tiny.safetensors");
    let network = seeded();
    let plain = fitted(&network, json!({ "class": "bird" }));
    let mut state = plain.state();
    // Turns every embedding around: the scores change, and the detector still loads.
    let turned = (0..32 * 32).map(|i| if i % 33 == 0 { -2.0 } else { 0.0 });
    let shift = Array {
        shape: vec![32, 32],
        values: turned.collect(),
    };
    state.tensors.insert(SHIFT.to_owned(), shift);
    let moved = ClipAd.load(state.clone()).unwrap();
    assert_eq!(moved.state(), state);
    let row = |i: usize| flat(&goldens.get("image_features").get(i).unwrap());
    let score = |detector: &dyn Detector, sign: f32| {
        let image = ImageFeatures {
            embedding: Some(row(0).iter().map(|x| sign * x).collect()),
            ..ImageFeatures::default()
        };
        detector.score(&[&image]).unwrap()[0].score
    };
    assert_eq!(score(moved.as_ref(), 1.0), score(plain.as_ref(), -1.0));
    assert_ne!(score(moved.as_ref(), 1.0), score(plain.as_ref(), 1.0));
    state.tensors.get_mut(SHIFT).unwrap().shape = vec![16, 64];
    assert!(ClipAd.load(state).is_err());
}
