//! Convolutional networks against the original implementations: ResNets with random (seeded)
//! weights, EfficientNet-Lite0 with the real ones, which the test pulls into the cache if they are
//! not there (19 MB).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use anomalens_backbones::checkpoint::seeded_tensor;
use anomalens_backbones::weights::{Registry, Store};
use anomalens_backbones::{
    BackboneError, Departures, Dpam, Embedding, Engine, FeatureRequest, ImageEncoder,
    ImageFeatures, LayerId, LayerInfo, Normalisation, Precision, SelfAttention, SharedBytes,
    describe, load_encoder, open_packed, write_packed,
};
use anomalens_vision::{Image, Preprocess, Preprocessed};
use candle_core::{DType, Device, Tensor};

type Tensors = HashMap<String, Tensor>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

fn goldens(name: &str) -> Tensors {
    candle_core::safetensors::load(folder().join(name), &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}

fn stages(count: usize) -> FeatureRequest {
    FeatureRequest {
        embedding: Some(Embedding::Normed),
        ..FeatureRequest::layers((1..=count).map(LayerId::Stage))
    }
}

/// Every `step`-th token of a stage.
fn every(features: &ImageFeatures, stage: usize, step: usize) -> Vec<f32> {
    let map = features.map(LayerId::Stage(stage)).unwrap();
    assert_eq!(map.tokens.len(), map.grid.len() * map.dim);
    let tokens = map.tokens.chunks_exact(map.dim).step_by(step);
    tokens.flatten().copied().collect()
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The lowest cosine between tokens of two maps.
fn lowest_cosine(a: &ImageFeatures, b: &ImageFeatures, layer: LayerId) -> f64 {
    let (a, b) = (a.map(layer).unwrap(), b.map(layer).unwrap());
    let rows = a
        .tokens
        .chunks_exact(a.dim)
        .zip(b.tokens.chunks_exact(b.dim));
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum()
    };
    let cosines = rows.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
    cosines.fold(1.0, f64::min)
}

/// Names and shapes of a residual network in torchvision.
fn resnet_shapes(bottleneck: bool, depths: &[usize], width: usize) -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![];
    let mut layer = |weight: String, norm: String, shape: [usize; 4]| {
        shapes.push((format!("{weight}.weight"), shape.to_vec()));
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.push((format!("{norm}.{part}"), vec![shape[0]]));
        }
    };
    layer("conv1".into(), "bn1".into(), [64, 3, 7, 7]);
    let mut inputs = 64;
    for (stage, &depth) in depths.iter().enumerate() {
        let width = width << stage;
        let outputs = if bottleneck { 256 << stage } else { width };
        for block in 0..depth {
            let name = format!("layer{}.{block}", stage + 1);
            let sides = if bottleneck {
                vec![1, 3, 1]
            } else {
                vec![3, 3]
            };
            let mut from = inputs;
            for (i, &side) in (1..).zip(&sides) {
                let to = if i == sides.len() { outputs } else { width };
                let (weight, norm) = (format!("{name}.conv{i}"), format!("{name}.bn{i}"));
                layer(weight, norm, [to, from, side, side]);
                from = to;
            }
            if block == 0 && (stage > 0 || inputs != outputs) {
                let (weight, norm) = (
                    format!("{name}.downsample.0"),
                    format!("{name}.downsample.1"),
                );
                layer(weight, norm, [outputs, inputs, 1, 1]);
            }
            inputs = outputs;
        }
    }
    shapes.push(("fc.weight".into(), vec![1000, inputs]));
    shapes.push(("fc.bias".into(), vec![1000]));
    shapes.push(("bn1.num_batches_tracked".into(), vec![]));
    shapes
}

fn seeded(seed: u64, shapes: Vec<(String, Vec<usize>)>) -> Tensors {
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let tensor = seeded_tensor(seed, &name, &shape).unwrap();
        (name, tensor)
    });
    tensors.collect()
}

/// A safetensors file of `tensors`.
fn saved(tensors: &Tensors) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    candle_core::safetensors::save(tensors, &path).unwrap();
    (folder, path)
}

fn encode(encoder: &dyn ImageEncoder, image: &Preprocessed, count: usize) -> ImageFeatures {
    let image = std::slice::from_ref(image);
    encoder.encode(image, &stages(count)).unwrap().remove(0)
}

#[test]
fn residual_networks_give_the_original_features() {
    let goldens = goldens("resnet.safetensors");
    let image = Preprocessed {
        height: 64,
        width: 64,
        values: numbers(&goldens["input"]),
    };
    let networks = [
        (
            "resnet18",
            "ResNet-18",
            false,
            [2, 2, 2, 2],
            64,
            [64, 128, 256, 512],
            4,
        ),
        (
            "wide_resnet50_2",
            "Wide ResNet-50-2",
            true,
            [3, 4, 6, 3],
            128,
            [256, 512, 1024, 2048],
            3,
        ),
    ];
    for (golden, name, bottleneck, depths, width, dims, known) in networks {
        let (_folder, path) = saved(&seeded(61, resnet_shapes(bottleneck, &depths, width)));
        let encoder = load_encoder(&path, Precision::F32).unwrap();
        let spec = encoder.spec();
        assert_eq!(spec.name, name);
        assert_eq!(spec.normalisation, Normalisation::IMAGENET);
        assert_eq!((spec.embedding, spec.multiple), (dims[3], 32));
        let layers = [0, 1, 2, 3].map(|i| LayerInfo {
            id: LayerId::Stage(i + 1),
            dim: dims[i],
            stride: 4 << i,
        });
        assert_eq!(spec.layers, layers);
        let shown = describe(&path, None).unwrap();
        assert_eq!(
            (shown.name, shown.stages),
            (spec.name.clone(), spec.layers.clone())
        );
        let found = encode(encoder.as_ref(), &image, 4);
        for stage in 1..=known {
            let found = every(&found, stage, if stage < 3 { 4 } else { 1 });
            let expected = numbers(&goldens[&format!("{golden}.stage{stage}")]);
            let difference = largest_difference(&found, &expected);
            assert!(difference < 5e-5, "{name} stage {stage}: {difference}");
        }
        let expected = numbers(&goldens[&format!("{golden}.pooled")]);
        let difference = largest_difference(found.embedding.as_ref().unwrap(), &expected);
        assert!(difference < 5e-5, "{name}: {difference}");
        for (precision, least) in [(Precision::Half, 0.999), (Precision::Int8, 0.995)] {
            let narrow = load_encoder(&path, precision).unwrap();
            let narrow = encode(narrow.as_ref(), &image, 4);
            for layer in [1, 2, 3, 4].map(LayerId::Stage) {
                let cosine = lowest_cosine(&narrow, &found, layer);
                assert!(cosine >= least, "{name} {precision} {layer}: {cosine}");
            }
        }
    }
}

static LITE0: LazyLock<PathBuf> = LazyLock::new(|| {
    let entry = Registry::builtin().find("efficientnet-lite0").unwrap();
    Store::from_env()
        .unwrap()
        .pull(entry, &|_| {})
        .unwrap()
        .path
});

fn lite0(precision: Precision) -> Arc<dyn ImageEncoder> {
    load_encoder(&LITE0, precision).unwrap()
}

/// `c.png`, stretched to a square.
fn picture(spec: Normalisation, side: u32) -> Preprocessed {
    let image = Image::open(folder().join("c.png")).unwrap();
    let preprocess = Preprocess {
        mean: spec.mean,
        std: spec.std,
        ..Preprocess::imagenet_square(side)
    };
    preprocess.apply(&image).unwrap()
}

#[test]
fn efficientnet_lite0_gives_the_original_features() {
    let goldens = goldens("efficientnet_lite0.safetensors");
    let encoder = lite0(Precision::F32);
    let spec = encoder.spec();
    assert_eq!(
        (spec.name.as_str(), spec.embedding),
        ("EfficientNet-Lite0", 1280)
    );
    let dims = [16, 24, 40, 80, 112, 192, 320];
    let strides = [2, 4, 8, 16, 16, 32, 32];
    let layers = [0, 1, 2, 3, 4, 5, 6].map(|i| LayerInfo {
        id: LayerId::Stage(i + 1),
        dim: dims[i],
        stride: strides[i],
    });
    assert_eq!(spec.layers, layers);
    let image = picture(spec.normalisation, 224);
    let found = encode(encoder.as_ref(), &image, 7);
    for stage in 1..=7 {
        let golden = &goldens[&format!("stage{stage}")];
        let expected = numbers(golden);
        let tolerance = if stage == 7 { 2e-4 } else { 1e-3 };
        let found = every(&found, stage, if stage < 6 { 8 } else { 1 });
        for (found, expected) in found.iter().zip(&expected) {
            let rounding = match golden.dtype() {
                DType::F16 => 1e-3 * expected.abs(),
                _ => 0.0,
            };
            let difference = (found - expected).abs();
            assert!(
                difference < tolerance + rounding,
                "stage {stage}: {difference}"
            );
        }
        assert_eq!(found.len(), expected.len());
    }
    let pooled = found.embedding.as_ref().unwrap();
    let difference = largest_difference(pooled, &numbers(&goldens["pooled"]));
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn narrow_numbers_give_nearly_the_same_features() {
    for side in [224, 352] {
        let image = picture(Normalisation::LEVELS, side);
        let exact = encode(lite0(Precision::F32).as_ref(), &image, 7);
        for (precision, least) in [(Precision::Half, 0.999), (Precision::Int8, 0.995)] {
            let narrow = encode(lite0(precision).as_ref(), &image, 7);
            for layer in (1..=7).map(LayerId::Stage) {
                let cosine = lowest_cosine(&narrow, &exact, layer);
                assert!(cosine >= least, "{side} {precision} {layer}: {cosine}");
            }
        }
    }
}

/// Without any file of weights on the machine.
#[cfg(feature = "embedded")]
#[test]
fn the_stages_in_the_program_give_nearly_the_original_features() {
    use anomalens_backbones::{Backbone, BackboneOptions, DEFAULT_COMPANION};

    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    let options = BackboneOptions::default();
    let backbone = Backbone::open(DEFAULT_COMPANION, options, &store, &|_| {}).unwrap();
    let encoder = backbone.encoder.as_ref();
    let image = picture(encoder.spec().normalisation, 224);
    let layers = [3, 5].map(LayerId::Stage);
    let features = |encoder: &dyn ImageEncoder| {
        let image = std::slice::from_ref(&image);
        encoder
            .encode(image, &FeatureRequest::layers(layers))
            .unwrap()
            .remove(0)
    };
    let (exact, found) = (features(lite0(Precision::F32).as_ref()), features(encoder));
    for layer in layers {
        let cosine = lowest_cosine(&found, &exact, layer);
        assert!(cosine >= 0.995, "{layer}: {cosine}");
    }
    let error = encoder.encode(&[image], &stages(6)).unwrap_err();
    let expected = BackboneError::StageNotHeld {
        stage: 7,
        encoder: "EfficientNet-Lite0".to_owned(),
        held: 5,
    };
    assert_eq!(error.to_string(), expected.to_string());
}

#[test]
fn images_need_not_be_square_nor_of_one_size() {
    let encoder = lite0(Precision::F32);
    let image = |height: usize, width: usize| Preprocessed {
        height,
        width,
        values: (0..3 * height * width)
            .map(|i| (i as f32 * 0.37).sin())
            .collect(),
    };
    let images = [image(64, 96), image(32, 32), image(64, 96), image(96, 64)];
    let together = encoder.encode(&images, &stages(7)).unwrap();
    for (image, found) in images.iter().zip(&together) {
        assert_eq!(found, &encode(encoder.as_ref(), image, 7));
        let grids = found
            .maps
            .iter()
            .map(|map| (map.grid.rows, map.grid.columns));
        let strides = [2, 4, 8, 16, 16, 32, 32];
        let expected = strides.map(|stride| (image.height / stride, image.width / stride));
        assert!(grids.eq(expected));
        assert!(found.maps.iter().all(|map| map.class_token.is_none()));
    }
    let odd = encoder.encode(&[image(64, 100)], &stages(7)).unwrap_err();
    assert!(
        matches!(odd, BackboneError::InputSize { multiple: 32, .. }),
        "{odd}"
    );
}

#[test]
fn what_only_transformers_have_is_refused() {
    let encoder = lite0(Precision::F32);
    let image = [picture(Normalisation::LEVELS, 32)];
    let attention = FeatureRequest {
        attention: Some(Dpam {
            first_block: 1,
            attention: SelfAttention::Values,
            feed_forward: false,
        }),
        ..stages(7)
    };
    let departures = FeatureRequest {
        departures: Departures {
            norm_epsilon: Some(6),
            ..Departures::default()
        },
        ..stages(7)
    };
    for (request, expected) in [
        (
            FeatureRequest::blocks([6]),
            "EfficientNet-Lite0 has no block 6",
        ),
        (
            stages(8),
            "EfficientNet-Lite0 has no stage 8; its last layer is stage 7",
        ),
        (attention, "EfficientNet-Lite0 has no block 1"),
        (
            departures,
            "EfficientNet-Lite0 is computed as it was trained only",
        ),
        (
            FeatureRequest::layers([LayerId::Window(2)]),
            "EfficientNet-Lite0 has no windows of 2x2 patches",
        ),
    ] {
        let error = encoder.encode(&image, &request).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(encoder.text(None).unwrap().is_none());
}

/// The tensors of EfficientNet-Lite0 under timm's names.
fn timm_names(tensors: Tensors) -> Tensors {
    const STAGES: [usize; 7] = [1, 2, 2, 3, 3, 4, 1];
    let renamed = tensors.into_iter().map(|(name, tensor)| {
        let mut parts = name.split('.');
        let name = match parts.next().unwrap() {
            "_conv_stem" => name.replace("_conv_stem", "conv_stem"),
            "_bn0" => name.replace("_bn0", "bn1"),
            "_conv_head" => name.replace("_conv_head", "conv_head"),
            "_bn1" => name.replace("_bn1", "bn2"),
            "_fc" => name.replace("_fc", "classifier"),
            _ => {
                let mut number: usize = parts.next().unwrap().parse().unwrap();
                let (layer, tail) = (parts.next().unwrap(), parts.next().unwrap());
                let mut stage = 0;
                while number >= STAGES[stage] {
                    number -= STAGES[stage];
                    stage += 1;
                }
                let layer = match (layer, stage) {
                    ("_depthwise_conv", _) => "conv_dw",
                    ("_expand_conv", _) | ("_project_conv", 0) => "conv_pw",
                    ("_project_conv", _) => "conv_pwl",
                    ("_bn0", _) | ("_bn1", 0) => "bn1",
                    ("_bn1", _) | ("_bn2", 0) => "bn2",
                    _ => "bn3",
                };
                format!("blocks.{stage}.{number}.{layer}.{tail}")
            }
        };
        (name, tensor)
    });
    renamed.collect()
}

fn lite0_tensors() -> Tensors {
    let tensors = anomalens_backbones::checkpoint::read_torch(&LITE0).unwrap();
    tensors.into_iter().collect()
}

#[test]
fn both_ways_to_name_the_tensors_give_the_same_features() {
    let (_folder, path) = saved(&timm_names(lite0_tensors()));
    let image = picture(Normalisation::LEVELS, 64);
    let renamed = load_encoder(&path, Precision::F32).unwrap();
    assert_eq!(renamed.spec(), lite0(Precision::F32).spec());
    let expected = encode(lite0(Precision::F32).as_ref(), &image, 7);
    assert_eq!(encode(renamed.as_ref(), &image, 7), expected);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    type Case<'a> = (&'a str, bool, &'a str, Option<&'a [usize]>, &'a str);
    let conv = "layer2.0.conv2.weight";
    let project = "_blocks.5._project_conv.weight";
    let cases: [Case; 8] = [
        (
            "missing",
            true,
            conv,
            None,
            "lack the tensor `layer2.0.conv2.weight`",
        ),
        (
            "grouped",
            true,
            conv,
            Some(&[128, 4, 3, 3]),
            "has the shape [128, 4, 3, 3]",
        ),
        ("no norm", true, "bn1.running_var", None, "bn1.running_var"),
        (
            "squeeze and excite",
            true,
            "layer1.0.se.fc1.weight",
            Some(&[4, 64]),
            "no tensor `layer1.0.se",
        ),
        (
            "a stage of other channels",
            false,
            project,
            Some(&[88, 240, 1, 1]),
            "none of",
        ),
        ("no project", false, project, None, "none of"),
        (
            "missing expansion",
            false,
            "_blocks.5._expand_conv.weight",
            None,
            "`_blocks.5._bn0.",
        ),
        (
            "squeeze and excite",
            false,
            "_blocks.3._se_reduce.weight",
            Some(&[6, 144, 1, 1]),
            "no tensor `_blocks.3._se_reduce.weight`",
        ),
    ];
    for (case, resnet, name, shape, expected) in cases {
        let mut tensors = match resnet {
            true => seeded(1, resnet_shapes(false, &[2, 2, 2, 2], 64)),
            false => lite0_tensors(),
        };
        match shape {
            Some(shape) => tensors.insert(name.to_owned(), zeros(shape)),
            None => tensors.remove(name),
        };
        let (_folder, path) = saved(&tensors);
        let error = load_encoder(&path, Precision::F32).err().expect(case);
        let message = error.to_string();
        assert!(message.contains(expected), "{case}: {message}");
    }
}

#[test]
fn packed_networks_give_the_features_of_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("packed");
    let image = picture(Normalisation::LEVELS, 64);
    let open = || {
        let bytes = std::fs::read(&packed).unwrap();
        open_packed(SharedBytes::read(&bytes[..], bytes.len()).unwrap())
    };
    for precision in Precision::ALL {
        let original = lite0(precision);
        let expected = encode(original.as_ref(), &image, 7);
        write_packed(&LITE0, precision, None, &packed).unwrap();
        let whole = open().unwrap();
        assert_eq!(whole.precision, precision);
        assert_eq!(whole.encoder.spec(), original.spec());
        assert_eq!(encode(whole.encoder.as_ref(), &image, 7), expected);

        write_packed(&LITE0, precision, Some(5), &packed).unwrap();
        let part = open().unwrap().encoder;
        assert_eq!(
            part.spec(),
            original.spec(),
            "what the network has, not what is held"
        );
        let request = FeatureRequest::layers([3, 5].map(LayerId::Stage));
        let found = part.encode(std::slice::from_ref(&image), &request).unwrap();
        for map in &found[0].maps {
            assert_eq!(Some(map), expected.map(map.layer));
        }
        let embedding = FeatureRequest {
            layers: vec![],
            ..stages(1)
        };
        for request in [FeatureRequest::layers([LayerId::Stage(6)]), embedding] {
            let error = part
                .encode(std::slice::from_ref(&image), &request)
                .unwrap_err();
            assert!(
                matches!(error, BackboneError::StageNotHeld { held: 5, .. }),
                "{error}"
            );
        }
    }
    if Engine::detect().has_int8() {
        write_packed(&LITE0, Precision::Int8, None, &packed).unwrap();
        let bytes = std::fs::read(&packed).unwrap();
        let mut broken = bytes.clone();
        *broken.last_mut().unwrap() ^= 1;
        std::fs::write(&packed, &broken).unwrap();
        let message = open().err().unwrap().to_string();
        assert!(message.contains("SHA-256"), "{message}");
    }
}
