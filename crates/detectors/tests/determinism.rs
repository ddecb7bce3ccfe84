//! The same image, the same bits: whatever the number of threads, the size of batches, the order of
//! files, the company an image is in, and whether the detector was saved and loaded meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::dinov2::DinoV2;
use anomalens_backbones::weights::Store;
use anomalens_backbones::{
    Activation, Backbone, BackboneOptions, ImageEncoder, Kernels, Precision,
};
use anomalens_detectors::{
    BackboneRef, DefaultWeights, Detector, DetectorFile, FitContext, ImageSource, Method,
    MethodSettings, Need, Provenance, ReferenceImage, Scope, StreamOptions, methods, predict,
};
use anomalens_vision::{Image, Levels};
use serde_json::json;

const IMAGES: usize = 7;

/// Score and map of each image by its name, as bits.
type Results = BTreeMap<String, (u32, Vec<u32>)>;

/// How images are scored.
#[derive(Debug, Clone)]
struct Way {
    threads: usize,
    batch: usize,
    /// Which images, in which order.
    images: Vec<usize>,
}

#[test]
fn every_method_gives_the_same_bits_in_every_way() {
    let blocks = |precision| (network(precision), precision, false);
    let stages = |precision| (residual_network(precision), precision, true);
    for (encoder, precision, is_convolutional) in [
        blocks(Precision::F32),
        blocks(Precision::Int8),
        stages(Precision::F32),
        stages(Precision::Int8),
    ] {
        for method in methods() {
            let takes_it = method.info().weights == DefaultWeights::Convolutional;
            if is_convolutional && !takes_it {
                continue;
            }
            let encoder = match method.info().weights {
                DefaultWeights::Clip(_) => with_text(precision),
                _ => encoder.clone(),
            };
            let detector = fitted(*method, encoder.as_ref());
            let (all, reversed): (Vec<usize>, Vec<usize>) =
                ((0..IMAGES).collect(), (0..IMAGES).rev().collect());
            let way = |threads, batch, images: &[usize]| Way {
                threads,
                batch,
                images: images.to_vec(),
            };
            let expected = results(detector.as_ref(), encoder.as_ref(), &way(1, 8, &all));
            assert_eq!(expected.len(), IMAGES);
            let mut ways = vec![
                way(2, 8, &all),
                way(3, 1, &all),
                way(2, 3, &all),
                way(1, 2, &reversed),
                way(2, 4, &[3, 0, 6, 2, 5, 1, 4]),
            ];
            if detector.scope() == Scope::Single {
                ways.extend([way(2, 8, &[4]), way(1, 8, &[6, 2]), way(2, 1, &[0, 5, 3])]);
            }
            let loaded = saved_and_loaded(detector);
            for way in ways {
                let found = results(loaded.as_ref(), encoder.as_ref(), &way);
                assert_eq!(found.len(), way.images.len());
                for (name, found) in found {
                    let name_of = method.info().name;
                    assert_eq!(
                        f32::from_bits(found.0).to_bits(),
                        expected[&name].0,
                        "{name_of}, {precision}, {way:?}: score {} of {name}, not {}",
                        f32::from_bits(found.0),
                        f32::from_bits(expected[&name].0)
                    );
                    assert!(
                        found == expected[&name],
                        "{name_of}, {precision}, {way:?}: the map of {name}"
                    );
                }
            }
            // Fitted with other threads and references in the same order, the detector is the same.
            let again = pool(3).install(|| fitted(*method, encoder.as_ref()));
            assert!(
                again.state().tensors == loaded.state().tensors,
                "{}, {precision}: fitted with other threads",
                method.info().name
            );
        }
    }
}

/// A small CLIP with seeded weights.
fn with_text(precision: Precision) -> Arc<dyn ImageEncoder> {
    let architecture = Architecture {
        vision: VisionConfig {
            width: 64,
            blocks: 2,
            heads: 1,
            patch: 14,
            position_side: 8,
            embedding: 32,
        },
        text: TextConfig {
            width: 64,
            blocks: 1,
            heads: 1,
            context: 77,
            vocabulary: 49_408,
            embedding: 32,
        },
        activation: Activation::QuickGelu,
    };
    let checkpoint = Arc::new(Checkpoint::seeded(5, architecture.shapes()));
    let activation = Some(architecture.activation);
    let kernels = Kernels::from_env(precision).unwrap();
    Arc::new(ClipVision::new(checkpoint, activation, &kernels).unwrap())
}

/// A ResNet-18 with seeded weights.
fn residual_network(precision: Precision) -> Arc<dyn ImageEncoder> {
    let store = Store::from_env().unwrap();
    let options = BackboneOptions {
        precision: Some(precision),
        activation: None,
        ..BackboneOptions::default()
    };
    let backbone = Backbone::open("seeded:5:resnet18", options, &store, &|_| {});
    backbone.unwrap().encoder
}

/// A DINOv2 of width 64 with 12 blocks and seeded weights.
fn network(precision: Precision) -> Arc<dyn ImageEncoder> {
    const WIDTH: usize = 64;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![];
    let mut add = |name: &str, shape: &[usize]| shapes.push((name.to_owned(), shape.to_vec()));
    add("embeddings.cls_token", &[1, 1, WIDTH]);
    add("embeddings.position_embeddings", &[1, 257, WIDTH]);
    add(
        "embeddings.patch_embeddings.projection.weight",
        &[WIDTH, 3, 14, 14],
    );
    add("embeddings.patch_embeddings.projection.bias", &[WIDTH]);
    add("layernorm.weight", &[WIDTH]);
    add("layernorm.bias", &[WIDTH]);
    for block in 0..12 {
        let block = format!("encoder.layer.{block}");
        for (name, outputs, inputs) in [
            ("attention.attention.query", WIDTH, WIDTH),
            ("attention.attention.key", WIDTH, WIDTH),
            ("attention.attention.value", WIDTH, WIDTH),
            ("attention.output.dense", WIDTH, WIDTH),
            ("mlp.fc1", 2 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 2 * WIDTH),
        ] {
            add(&format!("{block}.{name}.weight"), &[outputs, inputs]);
            add(&format!("{block}.{name}.bias"), &[outputs]);
        }
        for name in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"] {
            add(&format!("{block}.{name}"), &[WIDTH]);
        }
        for i in 1..=2 {
            add(&format!("{block}.layer_scale{i}.lambda1"), &[WIDTH]);
        }
    }
    let checkpoint = Checkpoint::seeded(3, shapes);
    Arc::new(DinoV2::new(&checkpoint, &Kernels::from_env(precision).unwrap()).unwrap())
}

/// Image number `i`: stripes with a spot, of a shape and size of its own.
fn image(i: usize) -> Image {
    let (width, height): (usize, usize) = ([96, 80, 120][i % 3], [96, 64][i % 2]);
    let pixels = (0..width * height)
        .flat_map(|at| {
            let (x, y) = (at % width, at / width);
            let spot = x.abs_diff(20 + 5 * i) < 8 && y.abs_diff(30) < 6;
            let shade = 90 + (x / 8 % 2) * 40 + (y * 7 + x * i) % 11;
            match spot {
                true => [250, 30 * i as u8, 30],
                false => [shade as u8, shade as u8, 120],
            }
        })
        .collect();
    Image::new(width as u32, height as u32, pixels).unwrap()
}

fn fitted(method: &dyn Method, encoder: &dyn ImageEncoder) -> Box<dyn Detector> {
    let references: Vec<ReferenceImage> = (10..13)
        .map(|i| ReferenceImage::new(format!("{i}.png"), image(i)))
        .collect();
    let info = method.info();
    let mut settings = MethodSettings::new();
    settings.insert("image_size".to_owned(), json!(112));
    if info.name == "anomalyclip" {
        settings.insert("prompt".to_owned(), json!("embedding"));
    }
    let vocabulary = tempfile::NamedTempFile::new().unwrap();
    if info.name == "zoc" {
        std::fs::write(&vocabulary, "<s>\na\nphoto\nof\nstripes\nspot").unwrap();
        settings.insert("vocabulary".to_owned(), json!(vocabulary.path()));
        settings.insert("layers".to_owned(), json!(2));
        settings.insert("top".to_owned(), json!(2));
    }
    let context = FitContext::new(&settings, encoder).with_references(&references);
    match (info.requirements.training, method.trainer()) {
        (Need::Required, Some(trainer)) => {
            let untrained = trainer.untrained(&context, 5).unwrap();
            match info.requirements.references {
                Need::Required => {
                    let state = untrained.state();
                    method.update_references(state, &context, &[]).unwrap()
                }
                _ => untrained,
            }
        }
        _ => method.fit(&context).unwrap(),
    }
}

fn saved_and_loaded(detector: Box<dyn Detector>) -> Box<dyn Detector> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nut.detector");
    let file = DetectorFile {
        detector,
        backbone: BackboneRef {
            name: "seeded".to_owned(),
            sha256: "0".repeat(64),
            precision: Precision::F32,
            activation: None,
            companions: vec![],
        },
        provenance: Provenance {
            command: String::new(),
            data: String::new(),
            date: String::new(),
            version: String::new(),
            losses: vec![],
        },
        calibration: None,
        levels: Levels::default(),
    };
    file.save(&path).unwrap();
    DetectorFile::load(&path).unwrap().detector
}

fn pool(threads: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap()
}

fn results(detector: &dyn Detector, encoder: &dyn ImageEncoder, way: &Way) -> Results {
    let sources: Vec<ImageSource> = way
        .images
        .iter()
        .map(|&i| ImageSource::Memory {
            name: i.to_string(),
            image: Arc::new(image(i)),
        })
        .collect();
    let options = StreamOptions {
        batch: Some(way.batch),
        ..StreamOptions::default()
    };
    let mut results = Results::new();
    pool(way.threads).install(|| {
        predict(
            encoder,
            &[detector],
            &sources,
            &HashSet::new(),
            &options,
            &mut |outcome| {
                let prediction = outcome.result.unwrap();
                let map = prediction
                    .map
                    .values()
                    .iter()
                    .map(|x| x.to_bits())
                    .collect();
                let name = way.images[outcome.image].to_string();
                let double = results.insert(name, (prediction.score.to_bits(), map));
                assert_eq!(double, None);
                ControlFlow::Continue(())
            },
        )
        .unwrap();
    });
    results
}
