//! Against the original implementation on a tiny network with seeded weights: tokens, prompts, linear layers,
//! maps and scores without and with normal images, with both activations; three steps of training.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anomalens_backbones::checkpoint::{Checkpoint, read_torch, seeded_tensor};
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::{Activation, ImageEncoder, ImageFeatures};
use anomalens_vision::{Alignment, Map, MaskSource};
use candle_core::Tensor;
use serde_json::json;

use super::detector::scores;
use super::memory::{Kept, Memory};
use super::train::{BETAS, LEARNING_RATE, MapLearner};
use super::*;
use crate::components::nearest::matrix;
use crate::components::residual;
use crate::testing::{Goldens, exact, flat, inputs, near};
use crate::training::map_loss::{Enlarged, Upsampling, sigmoid};
use crate::training::{Adam, Batch, Learner, Optimiser, TrainingSample};

const SEED: u64 = 41;

/// The side of the images, in pixels and in patches.
const SIDE: usize = 70;
const PATCHES: usize = 5;

const BLOCKS: [usize; 4] = [6, 12, 18, 24];

/// Both classes, and the images of each.
const CLASSES: [(&str, &str, &[usize]); 2] = [
    ("metal nut", "metal_nut", &[0, 1]),
    ("transistor", "transistor", &[2]),
];

/// What the tensors of each activation start with.
const ACTIVATIONS: [(&str, Activation); 2] = [
    ("", Activation::Gelu),
    ("quickgelu.", Activation::QuickGelu),
];

fn network() -> ClipVision {
    let architecture = Architecture {
        vision: VisionConfig {
            width: 128,
            blocks: 24,
            heads: 2,
            patch: 14,
            position_side: 4,
            embedding: 32,
        },
        text: TextConfig {
            width: 128,
            blocks: 3,
            heads: 2,
            context: 77,
            vocabulary: 49_408,
            embedding: 32,
        },
        activation: Activation::QuickGelu,
    };
    let checkpoint = Checkpoint::seeded(SEED, architecture.shapes());
    let activation = Some(architecture.activation);
    ClipVision::new(Arc::new(checkpoint), activation, &exact()).unwrap()
}

/// The linear layers that the original started from.
fn seeded() -> LinearLayers {
    let layers = LinearLayers::random(4, 128, 32, 0).unwrap();
    for (name, var) in layers.parameters() {
        let values = seeded_tensor(SEED, &format!("linear.{name}"), var.dims()).unwrap();
        var.set(&values).unwrap();
    }
    layers
}

fn config(class: &str, activation: Activation) -> Settings {
    let settings = json!({ "class": class, "activation": activation, "image_size": SIDE });
    let defaults = Settings::defaults(&network());
    assert_eq!(defaults.blocks, BLOCKS);
    defaults.replaced_by(settings.as_object().unwrap()).unwrap()
}

/// A detector of `class` without normal images.
fn detector(network: &ClipVision, class: &str, activation: Activation) -> AprilGanDetector {
    let checked = Checked::new(config(class, activation)).unwrap();
    let text = network.text(Some(activation)).unwrap().unwrap();
    let texts = ensemble(&checked.settings).unwrap();
    let texts = texts.texts(&text, class).unwrap();
    AprilGanDetector::new(checked, seeded(), texts).unwrap()
}

/// Columns normal, anomalous of a golden as rows.
fn columns(tensor: &Tensor) -> Vec<f32> {
    flat(&tensor.t().unwrap().contiguous().unwrap())
}

/// A memory of these images.
fn memory(detector: &AprilGanDetector, images: &[ImageFeatures]) -> Memory {
    let kept = images.iter().enumerate().map(|(i, image)| {
        let kept = Kept {
            blocks: detector.unit(image).unwrap(),
            text: vec![0.0; PATCHES * PATCHES],
        };
        (i.to_string(), kept)
    });
    Memory::new(kept.collect()).unwrap()
}

#[test]
fn every_stage_is_the_originals_without_and_with_normal_images() {
    let goldens = Goldens::load("aprilgan_tiny.safetensors");
    let network = network();
    let queries = inputs(goldens.get("images"));
    let references = inputs(goldens.get("references"));
    for (prefix, activation) in ACTIVATIONS {
        let named = |name: &str| format!("{prefix}{name}");
        let part = |name: &str, image: usize| {
            let all = goldens.get(&named(name));
            flat(&all.get(image).unwrap())
        };
        let request = &config("object", activation)
            .profile()
            .unwrap()
            .input
            .request;
        let [queries, references] =
            [&queries, &references].map(|images| network.encode(images, request).unwrap());
        let mut parts = vec![];
        for (class, name, images) in CLASSES {
            let mut detector = detector(&network, class, activation);
            let expected = goldens.get(&named(&format!("text.{name}")));
            near(
                name,
                &detector.texts.array().values,
                &columns(expected),
                1e-5,
            );
            let mut zero_shot = vec![];
            for &image in images {
                let features = &queries[image];
                let embedding = features.embedding.as_ref().unwrap();
                near("embedding", embedding, &part("image_features", image), 2e-4);
                let seen = detector.see(features).unwrap();
                near(
                    "text_probs",
                    &[seen.text],
                    &part("text_probs", image)[1..],
                    5e-5,
                );
                // The original adds the maps of the blocks up.
                let sum = |map: &Map| map.values().iter().map(|x| x * 4.0).collect::<Vec<f32>>();
                let map = part("anomaly_map", image);
                near("anomaly_map", &sum(&seen.map), &map, 5e-5);
                let scored = detector.score(&[features]).unwrap().remove(0);
                assert_eq!((scored.score, &scored.map), (seen.text, &seen.map));
                zero_shot.push(map);
            }
            detector.memory = memory(&detector, &references);
            for (&image, zero_shot) in images.iter().zip(zero_shot) {
                let features = &queries[image];
                let distances = detector.memory.distances(&detector.unit(features).unwrap());
                let map = Map::new(PATCHES, PATCHES, distances.unwrap()).unwrap();
                let map = map.resize(SIDE, SIDE, Alignment::Corners).unwrap();
                let map: Vec<f32> = map.values().iter().map(|x| x * 4.0).collect();
                near("few_map", &map, &part("few_map", image), 1e-5);
                let seen = detector.see(features).unwrap();
                let both = zero_shot.iter().zip(part("few_map", image));
                let combined: Vec<f32> = match prefix {
                    "" => part("combined", image),
                    _ => both.map(|(text, few)| text + few).collect(),
                };
                let found: Vec<f32> = seen.map.values().iter().map(|x| x * 4.0).collect();
                near("combined", &found, &combined, 5e-5);
                let highest = seen.map.range().unwrap().1;
                let scored = detector.score(&[features]).unwrap().remove(0);
                assert_eq!(scored.score, (seen.text + highest) / 2.0);
                parts.push((seen.text, highest));
            }
        }
        let expected = goldens.values(&named("few_image_score"));
        let found = scores(&parts, ImageScore::MinMax);
        near("few_image_score", &found, &expected, 5e-5);
    }
}

#[test]
fn every_block_is_the_originals() {
    let goldens = Goldens::load("aprilgan_tiny.safetensors");
    let network = network();
    let mut detectors = CLASSES.map(|(class, ..)| detector(&network, class, Activation::Gelu));
    let request = &detectors[0].checked.profile.input.request;
    let [queries, references] = ["images", "references"]
        .map(|name| network.encode(&inputs(goldens.get(name)), request).unwrap());
    for detector in &mut detectors {
        detector.memory = memory(detector, &references);
    }
    for (i, block) in BLOCKS.into_iter().enumerate() {
        let expected = |name: &str| goldens.get(&format!("{name}.{i}"));
        let kept = references
            .iter()
            .flat_map(|image| &image.layer(block).unwrap().tokens);
        let kept: Vec<f32> = kept.copied().collect();
        near("memory", &kept, &flat(expected("memory")), 2e-4);
        for (image, features) in queries.iter().enumerate() {
            let expected = |name: &str| flat(&expected(name).get(image).unwrap());
            let detector = &detectors[usize::from(image == 2)];
            let tokens = features.layer(block).unwrap();
            let class_token = tokens.class_token.clone().unwrap();
            let all = [class_token.as_slice(), &tokens.tokens].concat();
            near("tokens", &all, &expected("tokens"), 2e-4);
            let rows = matrix(tokens.tokens.clone(), tokens.dim).unwrap();
            let projected = detector.layers.project(i, &rows).unwrap();
            near("linear", &flat(&projected), &expected("linear"), 2e-4);
            let margins = detector.margins(i, tokens).unwrap();
            let map = Map::new(PATCHES, PATCHES, margins).unwrap();
            let map = map.resize(SIDE, SIDE, Alignment::Corners).unwrap();
            let map: Vec<f32> = map.values().iter().map(|&x| sigmoid(x)).collect();
            near("map", &map, &expected("map"), 5e-5);
            let unit = detector.unit(features).unwrap();
            let residuals = residual::residuals(&unit[i], &detector.memory.banks[i]);
            let distances: Vec<f32> = residuals.unwrap().iter().map(|x| 2.0 * x).collect();
            near("few_grid", &distances, &expected("few_grid"), 1e-5);
        }
    }
}

#[test]
fn three_steps_of_training_are_the_originals() {
    let goldens = Goldens::load("aprilgan_tiny.safetensors");
    let layers = seeded();
    let network = network();
    let directions = CLASSES.map(|(class, ..)| {
        let detector = detector(&network, class, Activation::Gelu);
        (class.to_owned(), detector.direction.squeeze(0).unwrap())
    });
    let learner = MapLearner {
        layers: &layers,
        directions: BTreeMap::from(directions),
        upsampling: Upsampling::new(Enlarged::Margins, Alignment::Corners, PATCHES, SIDE),
    };
    let features = Batch {
        embedding: None,
        blocks: (0..4)
            .map(|i| {
                let tokens = goldens.get(&format!("tokens.{i}"));
                tokens
                    .narrow(1, 1, PATCHES * PATCHES)
                    .unwrap()
                    .contiguous()
                    .unwrap()
            })
            .collect(),
    };
    let truth = goldens.values("train.gt");
    let masks: Vec<Option<Vec<bool>>> = truth
        .chunks_exact(SIDE * SIDE)
        .map(|mask| Some(mask.iter().map(|&x| x > 0.5).collect()))
        .collect();
    let samples = ["metal nut", "metal nut", "transistor"].map(|class| TrainingSample {
        source: PathBuf::new().into(),
        class: class.to_owned(),
        anomalous: true,
        mask: MaskSource::Unknown,
    });
    let samples: Vec<&TrainingSample> = samples.iter().collect();
    let mut optimiser = Adam::new(layers.parameters(), LEARNING_RATE, BETAS).unwrap();
    let mut first: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for step in 0..3 {
        let losses = learner.loss(&features, &samples, &masks).unwrap();
        let total = losses.total.to_scalar::<f32>().unwrap();
        near(
            "loss",
            &[total],
            &goldens.values(&format!("train.{step}.loss")),
            1e-4,
        );
        let expected = goldens.values(&format!("train.{step}.losses"));
        let expected = expected
            .chunks_exact(4)
            .map(|blocks| blocks.iter().sum::<f32>());
        let parts = losses
            .parts
            .iter()
            .map(|(_, part)| part.to_scalar::<f32>().unwrap());
        let (found, expected): (Vec<f32>, Vec<f32>) = parts.zip(expected).unzip();
        near("losses", &found, &expected, 1e-4);
        if step == 0 {
            // Of each block by itself.
            let all = goldens.values("train.0.losses");
            for block in 0..4 {
                let tokens = &features.blocks[block];
                let directions = samples
                    .iter()
                    .map(|sample| &learner.directions[&sample.class]);
                let directions = Tensor::stack(&directions.collect::<Vec<_>>(), 0).unwrap();
                let margins = layers.margins(block, tokens, &directions).unwrap();
                let truths = masks.iter().flatten();
                let truths: Vec<_> = truths.map(|mask| learner.upsampling.truth(mask)).collect();
                let (_, [focal, dice, _]) = learner.upsampling.losses(&margins, &truths).unwrap();
                let found = [focal as f32, dice as f32];
                near(
                    "losses of a block",
                    &found,
                    &[all[block], all[4 + block]],
                    1e-4,
                );
            }
        }
        let gradients = losses.total.backward().unwrap();
        if step == 0 {
            for (name, var) in layers.parameters() {
                let expected = goldens.values(&format!("train.grad0.{name}"));
                let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                let found = flat(gradients.get(&var).unwrap());
                near(&name, &found, &expected, 1e-4 * largest);
                first.insert(name, expected);
            }
        }
        optimiser.step(&gradients).unwrap();
        if step == 1 {
            continue;
        }
        for (name, var) in layers.parameters() {
            // Where a gradient is rounding noise, it decides the direction of a whole step.
            let steady = |values: Vec<f32>| -> Vec<f32> {
                let both = values.into_iter().zip(&first[&name]);
                both.filter(|(_, slope)| slope.abs() >= 1e-6)
                    .map(|(x, _)| x)
                    .collect()
            };
            let expected = goldens.values(&format!("train.{step}.param.{name}"));
            near(&name, &steady(flat(&var)), &steady(expected), 2e-5);
        }
    }
}

#[test]
fn a_published_checkpoint_survives_writing_and_reading() {
    let (network, folder) = (network(), tempfile::tempdir().unwrap());
    let path = folder.path().join("mvtec_pretrained.pth");
    seeded().write(&path).unwrap();
    let state = read_torch(&path).unwrap();
    let found: Vec<(&str, &[usize])> = state.iter().map(|(n, t)| (n.as_str(), t.dims())).collect();
    assert_eq!(found.len(), 8);
    assert_eq!(found[0], ("fc.0.weight", &[32, 128][..]));
    assert_eq!(found[7], ("fc.3.bias", &[32][..]));

    let fit = |more: serde_json::Value| {
        let mut settings = json!({ "image_size": SIDE });
        settings
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        AprilGan.fit(&FitContext {
            class: Some("transistor"),
            trained: Some(&path),
            ..FitContext::new(settings.as_object().unwrap(), &network)
        })
    };
    let fitted = fit(json!({})).unwrap();
    let expected = detector(&network, "transistor", Activation::Gelu);
    assert_eq!(fitted.state(), expected.state());
    for (settings, expected) in [
        (json!({ "blocks": [6, 12, 24] }), "more than the 3 blocks"),
        (
            json!({ "blocks": [2, 6, 12, 18, 24] }),
            "`fc.4.weight` is missing",
        ),
        (
            json!({ "prompts": "none.json" }),
            "neither a file nor one of",
        ),
    ] {
        let message = fit(settings).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let narrow = LinearLayers::random(4, 64, 32, 0).unwrap();
    narrow.write(&path).unwrap();
    let message = fit(json!({})).err().unwrap().to_string();
    assert!(message.contains("from 64 to 32 numbers"), "{message}");
}

#[test]
fn images_are_scored_against_each_other_by_the_published_rule() {
    let goldens = Goldens::load("aprilgan_tiny.safetensors");
    let network = network();
    let mut detector = detector(&network, "metal nut", Activation::Gelu);
    detector.checked.settings.image_score = crate::Choice::Given(ImageScore::MinMax);
    let request = &detector.checked.profile.input.request;
    let images = network
        .encode(&inputs(goldens.get("images")), request)
        .unwrap();
    let images: Vec<&ImageFeatures> = images.iter().collect();
    let found = detector.score(&images).unwrap();
    let highest = found.iter().map(|scored| scored.map.range().unwrap().1);
    let lower = highest.clone().fold(f32::INFINITY, f32::min);
    let upper = highest.clone().fold(0.0, f32::max);
    for ((scored, highest), image) in found.iter().zip(highest).zip(&images) {
        let text = detector.see(image).unwrap().text;
        let expected = (text + (highest - lower) / (upper - lower)) / 2.0;
        assert_eq!(scored.score, expected);
    }
    let alone = detector.score(&images[..1]);
    assert!(matches!(
        alone,
        Err(DetectorError::GroupTooSmall { found: 1, .. })
    ));
    // Equal maps say nothing.
    let same = detector.score(&[images[0], images[0]]).unwrap();
    assert_eq!(same[0].score, detector.see(images[0]).unwrap().text / 2.0);
}
