//! Networks on ONNX Runtime against the same in float32 on the kernels.
//!
//! These tests need the library of ONNX Runtime, which `ANOMALENS_ORT` names or a Python package brings
//! (`pip install onnxruntime`); without it they pass unseen, unless `CI` is set. `ANOMALENS_TEST_DEVICE`
//! names another device than ONNX Runtime's own on the processor.
#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::str::FromStr;
use std::sync::Arc;

use anomalens_backbones::weights::Store;
use anomalens_backbones::{
    Activation, Backbone, BackboneOptions, Departures, Dpam, Embedding, FeatureRequest,
    ImageEncoder, ImageFeatures, LayerId, SelfAttention, TokenStage, test_inputs,
};
use anomalens_onnx::{Device, Devices, OnnxError, on_devices, smallest_cosine};
use anomalens_vision::Preprocessed;

const CLIP: &str = "seeded:7:clip-vit-b32";
const DINO: &str = "dinov2-s-focus-int8";
const CONVOLUTIONAL: &str = "efficientnet-lite0-int8";
const RESIDUAL: &str = "seeded:5:resnet18";

fn exact(weights: &str) -> Backbone {
    let options = BackboneOptions {
        exact: true,
        ..BackboneOptions::default()
    };
    let cache = tempfile::tempdir().unwrap();
    Backbone::open(weights, options, &Store::new(cache.path()), &|_| ()).unwrap()
}

fn device() -> Vec<Device> {
    let name = std::env::var("ANOMALENS_TEST_DEVICE");
    Devices::from_str(name.as_deref().unwrap_or("ort-cpu"))
        .unwrap()
        .resolve()
}

/// The network on the processor and on the device; none without ONNX Runtime.
fn both(weights: &str) -> Option<[Arc<dyn ImageEncoder>; 2]> {
    let exact = exact(weights);
    match on_devices(exact.clone(), &device(), None) {
        Ok(other) => Some([exact.encoder, other.encoder]),
        Err(error @ (OnnxError::NoLibrary { .. } | OnnxError::NoProvider { .. })) => {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn images(count: usize, (height, width): (usize, usize)) -> Vec<Preprocessed> {
    test_inputs(count, height, width)
}

/// The largest difference, as a part of the largest number.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    let most = b.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let pairs = a.iter().zip(b);
    pairs.fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / most
}

#[track_caller]
fn same(case: &str, found: &[ImageFeatures], expected: &[ImageFeatures]) {
    assert_eq!(found.len(), expected.len(), "{case}");
    for (found, expected) in found.iter().zip(expected) {
        let cosine = smallest_cosine(found, expected);
        assert!(cosine > 0.999_9, "{case}: cosine {cosine}");
        assert_eq!(found.maps.len(), expected.maps.len(), "{case}");
        for (a, b) in found.maps.iter().zip(&expected.maps) {
            assert_eq!((a.layer, a.grid, a.dim), (b.layer, b.grid, b.dim), "{case}");
            let error = difference(&a.tokens, &b.tokens);
            assert!(error < 1e-3, "{case}, {}: {error}", a.layer);
            assert_eq!(a.class_token.is_some(), b.class_token.is_some(), "{case}");
        }
        assert_eq!(
            found.embedding.is_some(),
            expected.embedding.is_some(),
            "{case}"
        );
    }
}

#[test]
fn networks_give_the_same_features() {
    let vv = Dpam {
        first_block: 6,
        attention: SelfAttention::Values,
        feed_forward: false,
    };
    let blocks = |blocks: &[usize]| FeatureRequest::blocks(blocks.iter().copied());
    let local = |attention, feed_forward| FeatureRequest {
        attention: Some(Dpam {
            attention,
            feed_forward,
            ..vv
        }),
        ..blocks(&[7, 12]).at(TokenStage::Projected)
    };
    let embedding = |rule| FeatureRequest {
        embedding: Some(rule),
        ..blocks(&[3])
    };
    let departures = Departures {
        activation: Some(Activation::Gelu),
        norm_epsilon: Some(6),
        class_twice: true,
    };
    let stages =
        |stages: &[usize]| FeatureRequest::layers(stages.iter().map(|&n| LayerId::Stage(n)));
    for (weights, cases) in [
        (
            CLIP,
            vec![
                ("two layers", blocks(&[3, 6]), (96, 96)),
                ("an oblong image", blocks(&[4]), (64, 160)),
                ("normed", blocks(&[2]).at(TokenStage::Normed), (96, 96)),
                ("keys", blocks(&[5]).at(TokenStage::Keys), (96, 96)),
                ("V-V", local(SelfAttention::Values, false), (96, 96)),
                ("Q-Q", local(SelfAttention::Queries, false), (96, 96)),
                ("K-K", local(SelfAttention::Keys, false), (96, 96)),
                (
                    "values alone, feed-forward",
                    local(SelfAttention::Alone, true),
                    (96, 96),
                ),
                ("embedding", embedding(Embedding::Normed), (96, 96)),
                (
                    "embedding, not normed",
                    embedding(Embedding::Direct),
                    (96, 96),
                ),
                (
                    "windows",
                    FeatureRequest::layers([LayerId::Block(2), LayerId::Window(2)]),
                    (96, 128),
                ),
                (
                    "departures",
                    FeatureRequest {
                        departures,
                        ..blocks(&[3])
                    },
                    (96, 96),
                ),
            ],
        ),
        (
            DINO,
            vec![
                ("DINOv2 at its size", blocks(&[4, 8]), (224, 224)),
                ("DINOv2 oblong", blocks(&[10]), (140, 196)),
            ],
        ),
        (
            CONVOLUTIONAL,
            vec![
                ("EfficientNet", stages(&[1, 3, 5]), (224, 224)),
                ("EfficientNet oblong", stages(&[4]), (160, 96)),
            ],
        ),
        (
            RESIDUAL,
            vec![
                ("ResNet", stages(&[2, 3]), (96, 128)),
                (
                    "ResNet's embedding",
                    FeatureRequest {
                        embedding: Some(Embedding::Normed),
                        ..stages(&[4])
                    },
                    (96, 96),
                ),
            ],
        ),
    ] {
        let Some([exact, other]) = both(weights) else {
            return;
        };
        for (case, request, size) in cases {
            let images = images(3, size);
            let expected = exact.encode(&images, &request).unwrap();
            let found = other.encode(&images, &request);
            let found = found.unwrap_or_else(|error| panic!("{case}: {error}"));
            same(case, &found, &expected);
        }
    }
}

#[test]
fn images_of_several_sizes_come_back_in_their_order() {
    let Some([exact, other]) = both(CLIP) else {
        return;
    };
    let mut mixed = images(70, (64, 64));
    mixed.insert(1, images(1, (64, 96)).swap_remove(0));
    let request = FeatureRequest::blocks([1]);
    let expected = exact.encode(&mixed, &request).unwrap();
    same("mixed", &other.encode(&mixed, &request).unwrap(), &expected);
    same(
        "one",
        &other.encode(&mixed[..1], &request).unwrap(),
        &expected[..1],
    );
    assert_eq!(other.encode(&[], &request).unwrap(), []);
}

#[test]
fn what_a_network_cannot_give_is_refused_alike() {
    let Some([exact, other]) = both(DINO) else {
        return;
    };
    for (case, images, request) in [
        (
            "a block not held",
            images(1, (28, 28)),
            FeatureRequest::blocks([12]),
        ),
        (
            "no such block",
            images(1, (28, 28)),
            FeatureRequest::blocks([13]),
        ),
        (
            "another network's layer",
            images(1, (28, 28)),
            FeatureRequest::layers([LayerId::Stage(1)]),
        ),
        (
            "sides that do not fit",
            images(1, (30, 28)),
            FeatureRequest::blocks([1]),
        ),
    ] {
        let expected = exact.encode(&images, &request).unwrap_err().to_string();
        let found = other.encode(&images, &request).unwrap_err().to_string();
        assert_eq!(found, expected, "{case}");
    }
}

#[test]
fn outcomes_of_the_comparison_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let open = || on_devices(exact(CLIP), &device(), Some(folder.path().to_owned()));
    let Ok(backbone) = open() else {
        assert!(std::env::var_os("CI").is_none());
        return;
    };
    let request = FeatureRequest::blocks([1]);
    backbone
        .encoder
        .encode(&images(1, (32, 32)), &request)
        .unwrap();
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    let [Ok(file)] = files.as_slice() else {
        panic!("{files:?}");
    };
    let text = std::fs::read_to_string(file.path()).unwrap();
    let mut outcome: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(outcome["cosine"].as_f64().unwrap() > 0.999);
    // A device that was found to compute something else is not used, and told so.
    outcome["cosine"] = 0.5.into();
    std::fs::write(file.path(), outcome.to_string()).unwrap();
    let again = open().unwrap();
    let error = again
        .encoder
        .encode(&images(1, (32, 32)), &request)
        .unwrap_err();
    assert!(error.to_string().contains("use --device cpu"), "{error}");
}

#[test]
fn a_device_that_the_library_lacks_comes_with_the_command_that_helps() {
    // Not built into any library for Linux.
    let device = Device::from_str("directml").unwrap();
    let Err(error) = on_devices(exact(DINO), std::slice::from_ref(&device), None) else {
        return;
    };
    let text = error.to_string();
    assert!(text.contains(&device.to_string()), "{text}");
    assert!(text.contains("pip install onnxruntime-directml"), "{text}");
}
