//! Against the original implementation on a tiny network with seeded weights: prompts, scores,
//! maps, and three steps of training.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anomalens_backbones::checkpoint::{Checkpoint, seeded_tensor};
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::{Activation, BlockTokens, Grid, ImageEncoder, ImageFeatures};
use candle_core::{Device, Tensor};
use serde_json::json;

use super::loss::{GlocalLoss, upsample};
use super::prompt::Prompts;
use super::{AnomalyClip, BETAS, Config, LEARNING_RATE, checkpoint, fit};
use crate::Detector;
use crate::registry::Shots;
use crate::training::{Adam, Batch, Learner};

struct Goldens(HashMap<String, Tensor>);

impl Goldens {
    fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens/anomalyclip_tiny.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.0[name]
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.get(name).flatten_all().unwrap().to_vec1().unwrap()
    }
}

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
            blocks: 12,
            heads: 2,
            context: 77,
            vocabulary: 49_408,
            embedding: 32,
        },
        activation: Activation::QuickGelu,
    };
    let checkpoint = Checkpoint::seeded(7, architecture.shapes());
    let activation = Some(architecture.activation);
    ClipVision::new(Arc::new(checkpoint), activation, &Device::Cpu).unwrap()
}

fn config(network: &ClipVision) -> Config {
    Config {
        image_size: 70,
        blocks: vec![6, 12, 18, 24],
        ..Config::defaults(network, true)
    }
}

/// The prompts that the original started from: seeded, with a deviation of 0.3 in place of the
/// one that follows from their shape. (`prompt_state.*` is what they were after three steps.)
fn prompts(network: &ClipVision) -> Prompts {
    let text = network.text_encoder().unwrap();
    let prompts = Prompts::new(&config(network), text, 32, 0).unwrap();
    for (name, var) in prompts.parameters() {
        let values = seeded_tensor(7, &format!("prompt_learner.{name}"), var.dims()).unwrap();
        let fan_in: usize = var.dims()[1..].iter().product();
        let values = values.affine(0.3 * (fan_in as f64).sqrt(), 0.0).unwrap();
        var.set(&values).unwrap();
    }
    prompts
}

/// Largest difference, relative to the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / largest
}

#[track_caller]
fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let difference = difference(found, expected);
    assert!(difference < tolerance, "{name}: {difference}");
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn prompts_and_scores() {
    let goldens = Goldens::load();
    let network = network();
    let prompts = prompts(&network);
    let Prompts::Text(text) = &prompts else {
        unreachable!("a text encoder is there")
    };
    let ids = [
        goldens.get("prompt_state.tokenized_prompts_pos"),
        goldens.get("prompt_state.tokenized_prompts_neg"),
    ]
    .map(|ids| ids.flatten_all().unwrap().to_vec1::<i32>().unwrap());
    let found: Vec<u32> = text.ids.flatten_all().unwrap().to_vec1().unwrap();
    let found: Vec<i32> = found.into_iter().map(|id| id as i32).collect();
    assert_eq!(found, ids.concat());

    let features = prompts.features().unwrap();
    close(
        "text_features",
        &flat(&features),
        &goldens.values("text_features"),
        1e-4,
    );

    let config = config(&network);
    let setup = config.setup().unwrap();
    let detector = AnomalyClip::new(config, setup, &prompts).unwrap();
    let tokens: Vec<Vec<Vec<Vec<f32>>>> = (0..4)
        .map(|i| {
            let tokens = goldens.get(&format!("dpam70.patch.{i}"));
            tokens.to_vec3().unwrap()
        })
        .collect();
    let embeddings: Vec<Vec<f32>> = goldens.get("dpam70.image").to_vec2().unwrap();
    let mut scores = vec![];
    for (image, embedding) in embeddings.into_iter().enumerate() {
        let blocks = [6, 12, 18, 24].into_iter().zip(&tokens);
        let features = ImageFeatures {
            grid: Grid {
                rows: 5,
                columns: 5,
            },
            blocks: blocks
                .map(|(block, tokens)| BlockTokens {
                    block,
                    class_token: tokens[image][0].clone(),
                    patch_tokens: tokens[image][1..].concat(),
                })
                .collect(),
            embedding: Some(embedding),
        };
        let scored = detector.score(&[&features]).unwrap().remove(0);
        scores.push(scored.score);
        // The original adds the maps of the blocks up; here they are averaged.
        let raw: Vec<f32> = flat(&goldens.get("anomaly_map.raw").get(image).unwrap());
        let raw: Vec<f32> = raw.iter().map(|x| x / 4.0).collect();
        let map = scored
            .map
            .resize(70, 70, anomalens_vision::Alignment::Edges)
            .unwrap();
        close("anomaly_map.raw", map.values(), &raw, 1e-4);
        let smooth = flat(&goldens.get("anomaly_map.smoothed").get(image).unwrap());
        let smooth: Vec<f32> = smooth.iter().map(|x| x / 4.0).collect();
        let map = map.smooth(detector.smoothing() * 70.0).unwrap();
        close("anomaly_map.smoothed", map.values(), &smooth, 1e-4);
    }
    close("image_score", &scores, &goldens.values("image_score"), 1e-4);
}

#[test]
fn three_steps_of_training() {
    let goldens = Goldens::load();
    let network = network();
    let prompts = prompts(&network);
    let config = config(&network);
    let learner = GlocalLoss {
        config: &config,
        prompts: &prompts,
        upsample: upsample(5, 70).unwrap(),
    };
    let features = Batch {
        embedding: Some(goldens.get("dpam70.image").clone()),
        blocks: (0..4)
            .map(|i| {
                let tokens = goldens.get(&format!("dpam70.patch.{i}"));
                tokens.narrow(1, 1, 25).unwrap().contiguous().unwrap()
            })
            .collect(),
    };
    let truth = goldens.values("train.gt");
    let masks: Vec<Option<Vec<bool>>> = truth
        .chunks_exact(70 * 70)
        .map(|mask| Some(mask.iter().map(|&x| x > 0.5).collect()))
        .collect();
    let labels: Vec<i32> = goldens.get("train.label").to_vec1().unwrap();
    let labels: Vec<bool> = labels.into_iter().map(|label| label == 1).collect();
    let mut optimiser = Adam::new(prompts.parameters(), LEARNING_RATE, BETAS).unwrap();
    for step in 0..3 {
        let losses = learner.loss(&features, &labels, &masks).unwrap();
        let mut found: Vec<f32> = losses
            .parts
            .iter()
            .map(|(_, part)| part.to_scalar().unwrap())
            .collect();
        found.push(losses.total.to_scalar().unwrap());
        for (found, expected) in found
            .iter()
            .zip(goldens.values(&format!("train.{step}.losses")))
        {
            let difference = (found - expected).abs() / expected;
            assert!(difference < 1e-3, "loss {step}: {found} {expected}");
        }
        let gradients = losses.total.backward().unwrap();
        if step == 0 {
            for (name, var) in prompts.parameters() {
                close(
                    &name,
                    &flat(gradients.get(&var).unwrap()),
                    &goldens.values(&format!("train.grad0.{name}")),
                    1e-3,
                );
            }
        }
        optimiser.step(&gradients).unwrap();
        for (name, var) in prompts.parameters() {
            close(
                &format!("{name} after step {step}"),
                &flat(var.as_tensor()),
                &goldens.values(&format!("train.{step}.param.{name}")),
                1e-3,
            );
        }
    }
}

#[test]
fn a_prompt_checkpoint_survives_writing_and_reading() {
    let goldens = Goldens::load();
    let network = network();
    let prompts = prompts(&network);
    for (name, var) in prompts.parameters() {
        let state = goldens.get(&format!("prompt_state.{name}"));
        var.set(state).unwrap();
    }
    let Prompts::Text(text) = &prompts else {
        unreachable!("a text encoder is there")
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("epoch_15.pth");
    text.write(&path).unwrap();
    let tensors = checkpoint::read(&path).unwrap();
    assert_eq!(checkpoint::sizes(&tensors), Some([12, 9, 4]));
    assert_eq!(tensors.len(), 32);
    for (name, tensor) in &tensors {
        let Some(expected) = goldens.0.get(&format!("prompt_state.{name}")) else {
            assert!(name.starts_with("compound_prompt_projections"), "{name}");
            continue;
        };
        assert_eq!(tensor.dims(), expected.dims(), "{name}");
        assert_eq!(tensor.dtype(), expected.dtype(), "{name}");
        if tensor.dtype() == candle_core::DType::F32 {
            assert_eq!(flat(tensor), flat(expected), "{name}");
        }
    }
    let settings = json!({ "prompts": path, "image_size": 70 });
    let shots = Shots {
        encoder: &network,
        images: &[],
    };
    let detector = fit(&settings, &shots).unwrap();
    let found = &detector.state().tensors["text_features"].values;
    assert_eq!(*found, flat(&prompts.features().unwrap()));

    let other = json!({ "prompts": folder.path().join("none.pth") });
    assert!(fit(&other, &shots).is_err());
    assert!(fit(&json!({}), &shots).is_err());
}
