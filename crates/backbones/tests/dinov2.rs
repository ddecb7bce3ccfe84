//! DINOv2 against the original implementation with real weights of ViT-S/14, which the test pulls
//! into the cache if they are not there, and against itself with random (seeded) weights of other shapes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::dinov2::DinoV2;
use anomalens_backbones::weights::{Registry, Store};
use anomalens_backbones::{
    BackboneError, Embedding, FeatureRequest, Grid, ImageEncoder, Kernels, LayerId, PositionResize,
    Precision, TokenStage,
};
use anomalens_vision::Preprocessed;
use candle_core::{DType, Device, Tensor};
use common::{exact, fastest, inputs, lowest_cosine};

/// Only every eighth token is in the golden file.
const TOKEN_STEP: usize = 8;

static GOLDENS: LazyLock<HashMap<String, Tensor>> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/dinov2.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
});

fn golden(name: &str) -> &'static Tensor {
    &GOLDENS[name]
}

/// The network with the real weights; the first run on a machine downloads them (97 MB).
fn real_network(kernels: &Kernels) -> DinoV2 {
    static CHECKPOINT: LazyLock<Checkpoint> = LazyLock::new(|| {
        let entry = Registry::builtin().find("dinov2-s-focus").unwrap();
        let located = Store::from_env().unwrap().pull(entry, &|_| {}).unwrap();
        Checkpoint::open(&located.path).unwrap()
    });
    DinoV2::new(&CHECKPOINT, kernels).unwrap()
}

/// 8-bit pixels `[height, width, 3]` to a normalised batch of one.
fn input(pixels: &Tensor) -> Tensor {
    let constants = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap();
    let pixels = (pixels.to_dtype(DType::F32).unwrap() / 255.0).unwrap();
    let pixels = pixels
        .broadcast_sub(&constants([0.485, 0.456, 0.406]))
        .unwrap();
    let pixels = pixels
        .broadcast_div(&constants([0.229, 0.224, 0.225]))
        .unwrap();
    pixels
        .permute((2, 0, 1))
        .unwrap()
        .unsqueeze(0)
        .unwrap()
        .contiguous()
        .unwrap()
}

/// Class token and patch tokens of one block of the first image, in this order.
fn tokens(network: &dyn ImageEncoder, images: &Tensor, request: &FeatureRequest) -> Tensor {
    let features = network.encode(&inputs(images), request).unwrap();
    common::tokens(&features[0].maps[0])
}

fn every_eighth(rows: &Tensor) -> Tensor {
    let kept: Vec<u32> = (0..rows.dim(0).unwrap() as u32)
        .step_by(TOKEN_STEP)
        .collect();
    rows.index_select(&Tensor::new(kept, &Device::Cpu).unwrap(), 0)
        .unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn real_weights_give_the_original_tokens() {
    let image = input(golden("pixels"));
    for kernels in exact() {
        let case = format!("{kernels:?}");
        let network = real_network(&kernels);
        assert_eq!(network.spec().name, "DINOv2 ViT-S/14");
        for block in [3, 6, 9, 12] {
            let plain = FeatureRequest::blocks([block]);
            // Normed tokens of the early blocks reach 60: 1e-3 is 2e-5 of that.
            let normed_tolerance = if block == 12 { 1e-4 } else { 1e-3 };
            for (name, request, tolerance) in [
                (format!("block{block}.tokens"), plain.clone(), 1e-4),
                (
                    format!("block{block}.tokens_norm"),
                    plain.at(TokenStage::Normed),
                    normed_tolerance,
                ),
            ] {
                let found = every_eighth(&tokens(&network, &image, &request));
                let difference = largest_difference(&found, golden(&name));
                assert!(difference < tolerance, "{case} {name}: {difference}");
            }
        }
    }
}

#[test]
fn real_weights_take_images_that_are_not_square() {
    let request = FeatureRequest::blocks([12]).at(TokenStage::Normed);
    for kernels in exact() {
        let case = format!("{kernels:?}");
        let network = real_network(&kernels);
        let found = every_eighth(&tokens(&network, &input(golden("rect.pixels")), &request));
        let difference = largest_difference(&found, golden("rect.block12.tokens_norm"));
        assert!(difference < 1e-4, "{case}: {difference}");
    }
}

/// Drawn surfaces of kinds that 8 bits find hard: flat, dark and fine ones. (Not flat in the mean
/// colour of normalisation, which are zeros: nearly nothing tells their patches apart.)
fn surfaces() -> [(&'static str, Tensor); 5] {
    const SIDE: usize = 224;
    let draw = |shade: fn(f32, f32) -> f32| {
        let pixel = |i: usize| shade((i / 3 % SIDE) as f32, (i / 3 / SIDE) as f32);
        let pixels: Vec<f32> = (0..3 * SIDE * SIDE).map(pixel).collect();
        Tensor::from_vec(pixels, (SIDE, SIDE, 3), &Device::Cpu).unwrap()
    };
    [
        ("flat", draw(|_, _| 90.0)),
        ("dark with a bright disc", {
            draw(|x, y| {
                if (x - 80.0).hypot(y - 120.0) < 50.0 {
                    220.0
                } else {
                    4.0
                }
            })
        }),
        (
            "weave",
            draw(|x, y| 128.0 + 60.0 * (x * 0.9).sin() * (y * 0.7).cos()),
        ),
        ("cell with fingers", {
            draw(|x, y| {
                if x % 75.0 < 4.0 || y % 5.0 < 1.0 {
                    30.0
                } else {
                    90.0 + x / 4.0
                }
            })
        }),
        (
            "grain",
            draw(|x, y| 90.0 + 30.0 * (x * x * 0.37 + y * y * 0.73 + x * y).sin()),
        ),
    ]
}

#[test]
fn narrow_numbers_give_nearly_the_same_tokens() {
    let request = FeatureRequest::blocks(1..=12);
    let networks = Precision::ALL.map(|precision| real_network(&fastest(precision)));
    let picture = ("picture", golden("pixels").clone());
    for (name, pixels) in surfaces().into_iter().chain([picture]) {
        let image = inputs(&input(&pixels));
        let [exact, half, int8] = networks
            .each_ref()
            .map(|network| network.encode(&image, &request).unwrap().remove(0).maps);
        for (precision, narrow, least) in [("half", half, 0.999), ("int8", int8, 0.995)] {
            for (found, exact) in narrow.iter().zip(&exact) {
                let cosine = lowest_cosine(&common::tokens(found), &common::tokens(exact));
                let case = format!("{name} {precision} {}", exact.layer);
                assert!(cosine >= least, "{case}: {cosine}");
            }
        }
    }
}

/// Without any file of weights on the machine.
#[cfg(feature = "embedded")]
#[test]
fn the_weights_in_the_program_give_nearly_the_original_tokens() {
    use anomalens_backbones::{Backbone, BackboneOptions, DEFAULT_WEIGHTS, Engine, OpenError};

    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path());
    // Never another precision than the one that was asked for.
    for precision in [Precision::F32, Precision::Half] {
        let error = Backbone::open(DEFAULT_WEIGHTS, precision, &store, &|_| {}).err();
        let fixed = OpenError::FixedPrecision {
            name: DEFAULT_WEIGHTS.to_owned(),
            has: Precision::Int8,
            wanted: precision,
        };
        assert_eq!(error.unwrap().to_string(), fixed.to_string());
    }
    let options = BackboneOptions::default();
    let backbone = Backbone::open(DEFAULT_WEIGHTS, options, &store, &|_| {}).unwrap();
    assert_eq!(backbone.precision, Precision::Int8);
    let engine = Engine::from_env().unwrap();
    assert_eq!(backbone.runs_as.precision, engine.runs(Precision::Int8));
    let (network, image) = (backbone.encoder.as_ref(), input(golden("pixels")));
    for block in [3, 6, 9] {
        let found = tokens(network, &image, &FeatureRequest::blocks([block]));
        let expected = golden(&format!("block{block}.tokens"));
        let cosine = lowest_cosine(&every_eighth(&found), expected);
        assert!(cosine >= 0.995, "block {block}: {cosine}");
    }
    let last = FeatureRequest::blocks([10]);
    let image = inputs(&image);
    assert!(network.encode(&image, &last).is_ok());
    let error = network
        .encode(&image, &FeatureRequest::blocks([11]))
        .unwrap_err();
    assert!(
        matches!(error, BackboneError::BlockNotHeld { .. }),
        "{error}"
    );
}

#[test]
fn position_embeddings_follow_either_rule() {
    let network = real_network(&fastest(Precision::F32));
    let position = |rule, rows, columns| {
        let grid = Grid { rows, columns };
        let found = network.position_embedding(grid, rule).unwrap();
        found.squeeze(0).unwrap()
    };
    // The golden of the padded rule starts at the first patch and has four rows.
    let patches = position(Some(PositionResize::BicubicPadded), 16, 16);
    let patches = patches.narrow(0, 1, 32).unwrap();
    for (name, found) in [
        (
            "position_embedding_16x16",
            every_eighth(&position(None, 16, 16)),
        ),
        (
            "rect.position_embedding",
            every_eighth(&position(None, 10, 14)),
        ),
        (
            "facebook_rule.position_embedding_16x16",
            every_eighth(&patches),
        ),
    ] {
        let difference = largest_difference(&found, golden(name));
        assert!(difference < 1e-5, "{name}: {difference}");
    }
}

/// A small network with random (seeded) weights; `swiglu` as in ViT-g.
fn small_checkpoint(swiglu: bool) -> HashMap<String, Tensor> {
    const WIDTH: usize = 64;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.cls_token".into(), vec![1, 1, WIDTH]),
        ("embeddings.position_embeddings".into(), vec![1, 10, WIDTH]),
        (
            "embeddings.patch_embeddings.projection.weight".into(),
            vec![WIDTH, 3, 14, 14],
        ),
        (
            "embeddings.patch_embeddings.projection.bias".into(),
            vec![WIDTH],
        ),
        ("layernorm.weight".into(), vec![WIDTH]),
        ("layernorm.bias".into(), vec![WIDTH]),
    ];
    let (up, down) = if swiglu {
        (("weights_in", 2 * 96), ("weights_out", 96))
    } else {
        (("fc1", 96), ("fc2", 96))
    };
    for block in 0..2 {
        let mut layer = |name: &str, out: usize, inputs: usize| {
            let name = format!("encoder.layer.{block}.{name}");
            shapes.push((format!("{name}.weight"), vec![out, inputs]));
            shapes.push((format!("{name}.bias"), vec![out]));
        };
        for name in ["query", "key", "value"] {
            layer(&format!("attention.attention.{name}"), WIDTH, WIDTH);
        }
        layer("attention.output.dense", WIDTH, WIDTH);
        layer(&format!("mlp.{}", up.0), up.1, WIDTH);
        layer(&format!("mlp.{}", down.0), WIDTH, down.1);
        for name in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"] {
            shapes.push((format!("encoder.layer.{block}.{name}"), vec![WIDTH]));
        }
        for i in 1..=2 {
            shapes.push((
                format!("encoder.layer.{block}.layer_scale{i}.lambda1"),
                vec![WIDTH],
            ));
        }
    }
    shapes
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count)
                .map(|j| ((i * 31 + j) as f32 * 0.7).sin() * 0.2)
                .collect();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect()
}

fn network(tensors: HashMap<String, Tensor>, kernels: &Kernels) -> Result<DinoV2, BackboneError> {
    DinoV2::new(&Checkpoint::from_tensors("random", tensors), kernels)
}

fn image(height: usize, width: usize, seed: f32) -> Preprocessed {
    let numbers = 0..3 * height * width;
    Preprocessed {
        height,
        width,
        values: numbers.map(|i| (i as f32 * 0.37 + seed).cos()).collect(),
    }
}

#[test]
fn an_image_has_the_same_features_alone_and_among_images_of_any_size() {
    let sizes = [(28, 56), (14, 14), (28, 56), (56, 28), (28, 56)];
    let images: Vec<Preprocessed> = (0_u8..)
        .zip(sizes)
        .map(|(i, (height, width))| image(height, width, f32::from(i)))
        .collect();
    let request = FeatureRequest {
        embedding: Some(Embedding::Normed),
        ..FeatureRequest::blocks([2, 1, 2])
    };
    for swiglu in [false, true] {
        for kernels in exact() {
            let network = network(small_checkpoint(swiglu), &kernels).unwrap();
            let together = network.encode(&images, &request).unwrap();
            assert_eq!(together.len(), images.len());
            for (found, image) in together.iter().zip(&images) {
                let alone = network.encode(std::slice::from_ref(image), &request);
                assert_eq!(std::slice::from_ref(found), alone.unwrap(), "{kernels:?}");
                let maps: Vec<_> = found.maps.iter().map(|map| (map.layer, map.grid)).collect();
                let grid = Grid {
                    rows: image.height / 14,
                    columns: image.width / 14,
                };
                assert_eq!(maps, [1, 2].map(|block| (LayerId::Block(block), grid)));
            }
        }
    }
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let fc1 = "encoder.layer.1.mlp.fc1.weight";
    // Case, tensor, its new shape or none to remove it, what the message says.
    type Case<'a> = (&'a str, &'a str, Option<&'a [usize]>, &'a [&'a str]);
    let cases: [Case; 5] = [
        ("missing", fc1, None, &[fc1, "[96, 64]"]),
        (
            "misshapen",
            fc1,
            Some(&[95, 64]),
            &[fc1, "[95, 64]", "[96, 64]"],
        ),
        (
            "no square grid",
            "embeddings.position_embeddings",
            Some(&[1, 9, 64]),
            &["9 positions"],
        ),
        (
            "no position",
            "embeddings.position_embeddings",
            None,
            &["position_embeddings"],
        ),
        (
            "odd width",
            "embeddings.patch_embeddings.projection.weight",
            Some(&[65, 3, 14, 14]),
            &["65"],
        ),
    ];
    for (case, name, shape, expected) in cases {
        let mut tensors = small_checkpoint(false);
        match shape {
            Some(shape) => tensors.insert(name.to_owned(), zeros(shape)),
            None => tensors.remove(name),
        };
        let Err(error) = network(tensors, &fastest(Precision::Half)) else {
            panic!("{case}: no error")
        };
        let message = error.to_string();
        assert!(
            expected.iter().all(|part| message.contains(part)),
            "{case}: {message}"
        );
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let network = network(small_checkpoint(false), &fastest(Precision::Half)).unwrap();
    let size = |error: BackboneError| matches!(error, BackboneError::InputSize { .. });
    let layer = |error: BackboneError| matches!(error, BackboneError::NoSuchLayer { .. });
    let short = Preprocessed {
        values: vec![0.0; 100],
        ..image(28, 28, 0.0)
    };
    let block = LayerId::Block;
    type Case = (
        &'static str,
        Preprocessed,
        LayerId,
        fn(BackboneError) -> bool,
    );
    let cases: [Case; 6] = [
        ("not a multiple", image(28, 30, 0.0), block(1), size),
        ("no pixel", image(0, 28, 0.0), block(1), size),
        ("too few numbers", short, block(1), size),
        ("block 0", image(28, 28, 0.0), block(0), layer),
        ("too late a block", image(28, 28, 0.0), block(3), layer),
        ("a stage", image(28, 28, 0.0), LayerId::Stage(1), layer),
    ];
    for (case, images, wanted, expected) in cases {
        let error = network
            .encode(&[images], &FeatureRequest::layers([wanted]))
            .unwrap_err();
        assert!(expected(error), "{case}");
    }
}

#[test]
fn files_that_are_no_checkpoint_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.safetensors");
    candle_core::safetensors::save(&small_checkpoint(true), &whole).unwrap();
    let bytes = std::fs::read(&whole).unwrap();
    let cases: [(&str, &[u8], &str); 4] = [
        ("empty", b"", "no graph"),
        ("text", b"these are no weights, sorry", "ONNX"),
        ("cut off", &bytes[..bytes.len() / 2], "safetensors"),
        ("header only", &bytes[..64], "safetensors"),
    ];
    for (case, content, expected) in cases {
        let path = folder.path().join(case);
        std::fs::write(&path, content).unwrap();
        let message = anomalens_backbones::load_encoder(&path, Precision::F32)
            .err()
            .expect(case)
            .to_string();
        assert!(
            message.contains(expected) && message.contains(case),
            "{case}: {message}"
        );
    }
    let loaded = anomalens_backbones::load_encoder(&whole, Precision::F32).unwrap();
    let spec = loaded.spec();
    assert_eq!(
        (spec.layers[1].dim, spec.blocks(), spec.multiple),
        (64, 2, 14)
    );
    let missing = anomalens_backbones::load_encoder(&folder.path().join("none"), Precision::F32)
        .err()
        .unwrap();
    assert!(matches!(missing, BackboneError::Read { .. }));
}
