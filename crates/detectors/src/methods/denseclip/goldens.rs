//! Against the original's modules on a tiny network with seeded weights: tokens of the towers, texts before
//! and after the decoder, score maps at two sizes, the auxiliary loss and its gradients.

use std::collections::BTreeMap;
use std::sync::Arc;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::{Activation, FeatureRequest, ImageEncoder, ImageFeatures};
use candle_core::{Device, Tensor};
use serde_json::json;

use super::head::{Head, cosines};
use super::train::PixelLoss;
use super::*;
use crate::testing::{Goldens, close, exact, flat, inputs, near};

const SEED: u64 = 95;

/// Both towers under the original's names.
fn network() -> ClipVision {
    let architecture = Architecture {
        vision: VisionConfig {
            width: 64,
            blocks: 4,
            heads: 1,
            patch: 16,
            position_side: 4,
            embedding: 32,
        },
        text: TextConfig {
            width: 64,
            blocks: 2,
            heads: 1,
            context: 13,
            vocabulary: 49_408,
            embedding: 32,
        },
        activation: Activation::QuickGelu,
    };
    let shapes = architecture
        .shapes()
        .into_iter()
        .filter_map(|(name, shape)| {
            let name = match name.strip_prefix("visual.") {
                Some(name) => format!("backbone.{name}"),
                None if name == "logit_scale" => return None,
                None => format!("text_encoder.{name}"),
            };
            Some((name, shape))
        });
    let checkpoint = Checkpoint::seeded(SEED, shapes.collect::<Vec<_>>());
    ClipVision::new(Arc::new(checkpoint), None, &exact()).unwrap()
}

fn settings() -> Settings {
    let settings = json!({ "image_size": 64, "decoder_width": 32, "decoder_layers": 2 });
    let settings = settings.as_object().unwrap();
    Settings::defaults(&network())
        .replaced_by(settings)
        .unwrap()
}

fn head(goldens: &Goldens) -> Head {
    let head = Head::new(&settings(), 64, 32, 0).unwrap();
    for (name, var) in head.parameters.all() {
        let value = match name.as_str() {
            "contexts" | "gamma" => goldens.get(&format!("dense.{name}")).clone(),
            name => anomalens_backbones::checkpoint::seeded_tensor(SEED, name, var.dims()).unwrap(),
        };
        var.set(&value).unwrap();
    }
    head
}

/// Embeddings `[batch, width]` and patches `[batch, patches, width]`.
fn tensors(features: &[ImageFeatures]) -> (Tensor, Tensor) {
    let global = features
        .iter()
        .map(|image| image.embedding.clone().unwrap());
    let global: Vec<f32> = global.flatten().collect();
    let patches: Vec<f32> = features
        .iter()
        .flat_map(|image| image.maps.last().unwrap().tokens.clone())
        .collect();
    let count = features[0].grid().len();
    let cpu = &Device::Cpu;
    (
        Tensor::from_vec(global, (features.len(), 32), cpu).unwrap(),
        Tensor::from_vec(patches, (features.len(), count, 32), cpu).unwrap(),
    )
}

/// `[batch, channels, rows, columns]` as `[batch, places, channels]`.
fn places(map: &Tensor) -> Vec<f32> {
    let map = map.flatten_from(2).unwrap().transpose(1, 2).unwrap();
    flat(&map.contiguous().unwrap())
}

#[test]
fn scores_loss_and_gradients_are_the_originals() {
    let goldens = Goldens::load("denseclip_tiny.safetensors");
    let network = network();
    let (settings, head) = (settings(), head(&goldens));
    let request = settings.profile().unwrap().input.request;

    let images = inputs(goldens.get("dense.images"));
    let departures = request.departures;
    let blocks = FeatureRequest {
        departures,
        ..FeatureRequest::blocks(1..=4)
    };
    let stages = network.encode(&images, &blocks).unwrap();
    for block in 1..=4 {
        let tokens = stages
            .iter()
            .flat_map(|image| &image.maps[block - 1].tokens);
        let tokens: Vec<f32> = tokens.copied().collect();
        let expected = places(goldens.get(&format!("dense.feature{block}")));
        near("feature", &tokens, &expected, 5e-5);
    }

    let text = network.text(None).unwrap().unwrap();
    let ids = goldens
        .get("dense.ids")
        .to_dtype(candle_core::DType::U32)
        .unwrap();
    let texts = head.texts_of_ids(&text, &ids).unwrap();
    near(
        "text",
        &flat(&texts),
        &goldens.values("dense.text_before"),
        5e-5,
    );

    let mut scores = vec![];
    for (prefix, images) in [
        ("dense", images),
        ("dense80", inputs(goldens.get("dense.image_80x64"))),
    ] {
        let golden = |name: &str| goldens.get(&format!("{prefix}.{name}"));
        let features = network.encode(&images, &request).unwrap();
        let (global, patches) = tensors(&features);
        near("global", &flat(&global), &flat(golden("global")), 5e-5);
        near("visual", &flat(&patches), &places(golden("visual")), 5e-5);
        let texts = texts.unsqueeze(0).unwrap();
        let texts = texts.broadcast_as((images.len(), 3, 32)).unwrap();
        let texts = texts.contiguous().unwrap();
        let decoded = head.decode(&texts, &global, &patches).unwrap();
        near("decoded", &flat(&decoded), &flat(golden("text_diff")), 5e-5);
        let adapted = head.adapted(&texts, &global, &patches).unwrap();
        near("after", &flat(&adapted), &flat(golden("text_after")), 5e-5);
        let found = cosines(&patches, &adapted).unwrap();
        near("scores", &flat(&found), &places(golden("score_map")), 5e-5);
        let logits = (&found / 0.07).unwrap();
        near("logits", &flat(&logits), &places(golden("logits")), 1e-4);
        scores.push(found);
    }

    // Labels of every cell, so that nothing is enlarged.
    let learner = PixelLoss {
        settings: &settings,
        head: &head,
        text: &text,
        names: BTreeMap::new(),
        upsampling: Tensor::eye(4, candle_core::DType::F32, &Device::Cpu).unwrap(),
    };
    let labels = goldens.indices("dense.label");
    let labels: Vec<u32> = labels.into_iter().map(|label| label as u32).collect();
    let loss = learner.pixel_loss(&scores[0], &labels).unwrap();
    let found = [loss.to_scalar().unwrap()];
    near("loss", &found, &goldens.values("dense.aux_loss"), 5e-5);
    let gradients = loss.backward().unwrap();
    for name in ["contexts", "gamma"] {
        let gradient = gradients.get(head.parameters.get(name).unwrap()).unwrap();
        let expected = goldens.values(&format!("dense.grad.{name}"));
        near(name, &flat(gradient), &expected, 2e-5);
    }
}

#[test]
fn checkpoints_hold_what_was_learned() {
    let goldens = Goldens::load("denseclip_tiny.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("denseclip.pth");
    let head = head(&goldens);
    write(&path, &head).unwrap();
    let network = network();
    let settings = json!({ "image_size": 64 });
    let settings = settings.as_object().unwrap().clone();
    let context = FitContext {
        trained: Some(&path),
        class: Some("nut"),
        ..FitContext::new(&settings, &network)
    };
    let detector = DenseClip.fit(&context).unwrap();
    let state = detector.state();
    assert_eq!(state.config["decoder_layers"], 2);
    for (name, var) in head.parameters.all() {
        assert_eq!(state.tensors[&name].values, flat(&var), "{name}");
    }
    let again = DenseClip.load(state.clone()).unwrap().state();
    assert_eq!(again, state);
    let features = network
        .encode(
            &inputs(goldens.get("dense.images")),
            &detector.input().request,
        )
        .unwrap();
    let scored = detector
        .score(&features.iter().collect::<Vec<_>>())
        .unwrap();
    // What the decoder says of this image, with the texts of the class.
    let (global, patches) = tensors(&features);
    let text = network.text(None).unwrap().unwrap();
    let names = prompts("denseclip", "nut").unwrap();
    let texts = head.texts(&text, &names).unwrap().unsqueeze(0).unwrap();
    let texts = texts
        .broadcast_as((2, 2, 32))
        .unwrap()
        .contiguous()
        .unwrap();
    let adapted = head.adapted(&texts, &global, &patches).unwrap();
    let cosines: Vec<Vec<f32>> = cosines(&patches, &adapted)
        .unwrap()
        .get(1)
        .unwrap()
        .to_vec2()
        .unwrap();
    let expected = cosines
        .iter()
        .map(|c| 1.0 / (1.0 + ((c[0] - c[1]) / 0.07).exp()));
    close(
        "map",
        scored[1].map.values(),
        &expected.collect::<Vec<_>>(),
        1e-4,
    );
}
