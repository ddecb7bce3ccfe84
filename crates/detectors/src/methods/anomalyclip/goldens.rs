//! Against the original implementation on a tiny network with seeded weights: prompts, scores,
//! maps, and three steps of training.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anomalens_backbones::checkpoint::{Checkpoint, seeded_tensor};
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::{Activation, FeatureMap, Grid, ImageEncoder, ImageFeatures, LayerId};
use candle_core::Tensor;
use serde_json::{Value, json};

use super::checkpoint::Saved;
use super::loss::GlocalLoss;
use super::prompt::Prompts;
use super::{AnomalyClip, AnomalyClipDetector, BETAS, Checked, LEARNING_RATE, Settings};
use crate::testing::{Goldens, close, exact, flat};
use crate::training::map_loss::{Enlarged, Upsampling};
use crate::training::{Adam, Batch, Learner, Optimiser, TrainingSample};
use crate::{Detector, DetectorError, FitContext, Method};

fn architecture() -> Architecture {
    Architecture {
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
    }
}

fn network() -> ClipVision {
    let architecture = architecture();
    let checkpoint = Checkpoint::seeded(7, architecture.shapes());
    let activation = Some(architecture.activation);
    ClipVision::new(Arc::new(checkpoint), activation, &exact()).unwrap()
}

fn config(network: &ClipVision) -> Settings {
    Settings {
        image_size: 70,
        blocks: vec![6, 12, 18, 24],
        ..Settings::defaults(network, true)
    }
}

/// The prompts that the original started from: seeded, with a deviation of 0.3 in place of the
/// one that follows from their shape. (`prompt_state.*` is what they were after three steps.)
fn prompts(network: &ClipVision) -> Prompts {
    let text = network.text(None).unwrap();
    let prompts = Prompts::new(&config(network), text, 32, 0).unwrap();
    for (name, var) in prompts.parameters() {
        let values = seeded_tensor(7, &format!("prompt_learner.{name}"), var.dims()).unwrap();
        let fan_in: usize = var.dims()[1..].iter().product();
        let values = values.affine(0.3 * (fan_in as f64).sqrt(), 0.0).unwrap();
        var.set(&values).unwrap();
    }
    prompts
}

fn upsampling() -> Upsampling {
    Upsampling::new(
        Enlarged::Probabilities,
        anomalens_vision::Alignment::Edges,
        5,
        70,
    )
}

/// A sample of which the label alone matters.
fn sample(label: i32) -> TrainingSample {
    TrainingSample {
        source: PathBuf::new().into(),
        class: "nut".to_owned(),
        anomalous: label == 1,
        mask: anomalens_vision::MaskSource::Unknown,
    }
}

#[test]
fn prompts_and_scores() {
    let goldens = Goldens::load("anomalyclip_tiny.safetensors");
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
    let found: Vec<u32> = text.frozen[0].ids.flatten_all().unwrap().to_vec1().unwrap();
    let found: Vec<i32> = found.into_iter().map(|id| id as i32).collect();
    assert_eq!(found, ids.concat());

    let features = prompts.features(&[0]).unwrap();
    close(
        "text_features",
        &flat(&features),
        &goldens.values("text_features"),
        1e-4,
    );

    let config = config(&network);
    let checked = Checked::new(config).unwrap();
    let detector = AnomalyClipDetector::new(checked, &prompts).unwrap();
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
            maps: blocks
                .map(|(block, tokens)| FeatureMap {
                    layer: LayerId::Block(block),
                    grid: Grid {
                        rows: 5,
                        columns: 5,
                    },
                    dim: tokens[image][0].len(),
                    tokens: tokens[image][1..].concat(),
                    class_token: Some(tokens[image][0].clone()),
                })
                .collect(),
            embedding: Some(embedding),
            further: vec![],
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
        let enlargement = detector.profile().enlargement;
        let map = enlargement.apply(&scored.map, 70, 70, 1.0).unwrap();
        close("anomaly_map.smoothed", map.values(), &smooth, 1e-4);
    }
    close("image_score", &scores, &goldens.values("image_score"), 1e-4);
}

#[test]
fn three_steps_of_training() {
    let goldens = Goldens::load("anomalyclip_tiny.safetensors");
    let network = network();
    let prompts = prompts(&network);
    let config = config(&network);
    let learner = GlocalLoss {
        settings: &config,
        prompts: &prompts,
        upsampling: upsampling(),
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
    let samples: Vec<TrainingSample> = labels.into_iter().map(sample).collect();
    let samples: Vec<&TrainingSample> = samples.iter().collect();
    let mut optimiser = Adam::new(prompts.parameters(), LEARNING_RATE, BETAS).unwrap();
    for step in 0..3 {
        let losses = learner.loss(&features, &samples, &masks).unwrap();
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
    let goldens = Goldens::load("anomalyclip_tiny.safetensors");
    let network = network();
    let prompts = prompts(&network);
    for (name, var) in prompts.parameters() {
        let state = goldens.get(&format!("prompt_state.{name}"));
        var.set(state).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("epoch_15.pth");
    prompts.write(&path).unwrap();
    let saved = Saved::open(&path).unwrap();
    assert_eq!(saved.sizes(), Some([12, 9, 4]));
    assert_eq!(saved.tensors.len(), 32);
    for (name, tensor) in &saved.tensors {
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
    let settings = json!({ "image_size": 70 });
    let detector = fit(&network, Some(&path), &settings).unwrap();
    let found = &detector.state().tensors["text_features"].values;
    assert_eq!(*found, flat(&prompts.features(&[0]).unwrap()));

    let other = folder.path().join("none.pth");
    assert!(fit(&network, Some(&other), &settings).is_err());
    assert!(fit(&network, None, &settings).is_err());
}

/// A detector from a checkpoint.
fn fit(
    network: &ClipVision,
    trained: Option<&Path>,
    settings: &Value,
) -> Result<Box<dyn Detector>, DetectorError> {
    AnomalyClip.fit(&FitContext {
        trained,
        ..FitContext::new(settings.as_object().unwrap(), network)
    })
}

/// Settings for a network that is used as it is, with prompts of `classes`.
fn object_aware(network: &ClipVision) -> Settings {
    Settings {
        object_aware: true,
        classes: vec!["nut".to_owned(), "metal_bolt".to_owned()],
        ..config(network)
    }
}

fn made(network: &ClipVision, config: Settings) -> (Prompts, AnomalyClipDetector) {
    let text = network.text(None).unwrap();
    let prompts = Prompts::new(&config, text, 32, 3).unwrap();
    let checked = Checked::new(config).unwrap();
    let detector = AnomalyClipDetector::new(checked, &prompts).unwrap();
    (prompts, detector)
}

#[test]
fn each_class_has_its_own_prompts_where_they_name_it() {
    let network = network();
    let (prompts, detector) = made(&network, object_aware(&network));
    let word = |word: &str| Settings {
        class_word: word.to_owned(),
        ..config(&network)
    };
    assert_eq!(detector.classes(), ["nut", "metal_bolt"]);
    for (class, text) in [("nut", "nut"), ("metal_bolt", "metal bolt")] {
        let (_, alone) = made(&network, word(text));
        let chosen = detector.for_class(class).unwrap().unwrap();
        let values = |detector: &dyn Detector| detector.state().tensors["text_features"].clone();
        close(
            class,
            &values(chosen.as_ref()).values,
            &values(&alone).values,
            1e-5,
        );
        // A detector of one class that is saved is the same detector.
        let again = AnomalyClip.load(chosen.state()).unwrap();
        assert_eq!(again.state(), chosen.state());
        assert!(again.for_class("pen").is_err());
    }
    let image = ImageFeatures::default();
    let message = detector.score(&[&image]).unwrap_err().to_string();
    assert!(message.contains("nut, metal_bolt"), "{message}");
    let message = detector.for_class("nuts").err().unwrap().to_string();
    assert!(message.contains("did you mean `nut`?"), "{message}");
    let (_, agnostic) = made(&network, config(&network));
    assert!(agnostic.for_class("nut").unwrap().is_none());
    assert!(agnostic.classes().is_empty());

    // Samples are compared with the prompts of their own class, whatever else is in the batch.
    let learner = |config: &Settings, prompts: &Prompts, samples: &[&TrainingSample]| {
        let learner = GlocalLoss {
            settings: config,
            prompts,
            upsampling: upsampling(),
        };
        let embedding = Goldens::load("anomalyclip_tiny.safetensors")
            .get("dpam70.image")
            .narrow(0, 0, 2);
        let features = Batch {
            embedding: embedding.ok(),
            blocks: vec![],
        };
        let losses = learner.loss(&features, samples, &[None, None]).unwrap();
        losses.total.to_scalar::<f32>().unwrap()
    };
    let of = |class: &str| TrainingSample {
        class: class.to_owned(),
        ..sample(1)
    };
    let (nut, bolt) = (of("nut"), of("metal_bolt"));
    let aware = object_aware(&network);
    let loss = |pair: [&TrainingSample; 2]| learner(&aware, &prompts, &pair);
    let mixed = loss([&nut, &bolt]) + loss([&bolt, &nut]);
    let alone = loss([&nut, &nut]) + loss([&bolt, &bolt]);
    assert!((mixed - alone).abs() < 1e-5, "{mixed} {alone}");
    assert!((loss([&nut, &nut]) - loss([&bolt, &bolt])).abs() > 1e-6);
}

#[test]
fn the_embeddings_of_several_templates_are_averaged() {
    let network = network();
    let templates = |normal: &[&str], anomalous: &[&str]| Settings {
        normal_templates: normal.iter().map(|&text| text.to_owned()).collect(),
        anomalous_templates: anomalous.iter().map(|&text| text.to_owned()).collect(),
        ..config(&network)
    };
    // The same prompt twice, with the same learned tokens, is that prompt.
    let (twice, _) = made(&network, templates(&["{}.", "{}."], &["damaged {}."]));
    let (once, _) = made(&network, config(&network));
    let learned = |prompts: &Prompts, name: &str| {
        let parameters = prompts.parameters();
        let (_, var) = parameters.into_iter().find(|(n, _)| n == name).unwrap();
        var
    };
    let context = learned(&once, "ctx_pos");
    learned(&twice, "ctx_pos")
        .set(&Tensor::cat(&[context.as_tensor(), context.as_tensor()], 1).unwrap())
        .unwrap();
    for (name, var) in once.parameters().iter().skip(1) {
        learned(&twice, name).set(var).unwrap();
    }
    let features = |prompts: &Prompts| flat(&prompts.features(&[0]).unwrap());
    close("twice", &features(&twice), &features(&once), 1e-5);
    // Written and read with its own templates.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompts.pth");
    twice.write(&path).unwrap();
    let fit = |settings: &Value| fit(&network, Some(&path), settings);
    let mut settings = json!({ "image_size": 70 });
    let message = fit(&settings).err().unwrap().to_string();
    assert!(message.contains("learned with others"), "{message}");
    settings["normal_templates"] = json!(["{}.", "{}."]);
    let found = &fit(&settings).unwrap().state().tensors["text_features"].values;
    assert_eq!(*found, features(&twice));
    for bad in [json!([]), json!(["damaged"])] {
        settings["normal_templates"] = bad;
        assert!(fit(&settings).is_err());
    }
}

#[test]
fn a_detector_needs_no_text_encoder() {
    let (network, folder) = (network(), tempfile::tempdir().unwrap());
    let (_, detector) = made(&network, config(&network));
    let mut shapes = architecture().shapes();
    shapes.retain(|(name, _)| name.starts_with("visual."));
    let checkpoint = Arc::new(Checkpoint::seeded(7, shapes));
    let blind = ClipVision::new(checkpoint, Some(Activation::QuickGelu), &exact()).unwrap();
    assert!(blind.text(None).is_err());
    let path = folder.path().join("image.png");
    let pixels = (0..70 * 70 * 3).map(|i| (i * 31 % 251) as u8).collect();
    let image = anomalens_vision::Image::new(70, 70, pixels).unwrap();
    image.save_png(&path).unwrap();
    let scores = |network: &ClipVision| {
        let mut found = vec![];
        crate::predict(
            network,
            &[&detector],
            &[path.clone().into()],
            &Default::default(),
            &Default::default(),
            &mut |outcome| {
                found.push(outcome.result.unwrap());
                std::ops::ControlFlow::Continue(())
            },
        )
        .unwrap();
        found
    };
    let with_text = scores(&network);
    assert_eq!(scores(&blind), with_text);
    assert!((0.0..=1.0).contains(&with_text[0].score));
}
