//! The results of lens against what was recorded when its parts were still settings of several
//! methods, on an encoder that computes the same on every machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock, OnceLock};

use anomalens_backbones::{
    BackboneError, EncoderSpec, FeatureMap, FeatureRequest, Grid, ImageEncoder, ImageFeatures,
    LayerId, LayerInfo, Normalisation, Precision,
};
use anomalens_detectors::{
    Detector, FitContext, ImageSource, MethodSettings, Prediction, ReferenceImage, StreamOptions,
    find, predict,
};
use anomalens_vision::{Image, Preprocessed};
use candle_core::{Device, Tensor};
use serde_json::json;

const PATCH: usize = 14;
const WIDTH: usize = 128;

/// Encodes a patch as a random projection of its pixels, another one after each block.
struct Projection;

impl Projection {
    fn weights(block: usize) -> Tensor {
        static WEIGHTS: OnceLock<Vec<Tensor>> = OnceLock::new();
        let all = WEIGHTS.get_or_init(|| {
            let one = |block: u64| {
                let mut random = Random(block);
                let values = (0..3 * PATCH * PATCH * WIDTH).map(|_| random.next() - 0.5);
                let values: Vec<f32> = values.collect();
                Tensor::from_vec(values, (3 * PATCH * PATCH, WIDTH), &Device::Cpu).unwrap()
            };
            (0..=12).map(one).collect()
        });
        all[block].clone()
    }
}

static SPEC: LazyLock<EncoderSpec> = LazyLock::new(|| {
    let layer = |number| LayerInfo {
        id: LayerId::Block(number),
        dim: WIDTH,
        stride: PATCH,
    };
    EncoderSpec {
        name: "projection".to_owned(),
        layers: (1..=12).map(layer).collect(),
        embedding: WIDTH,
        multiple: PATCH,
        normalisation: Normalisation::IMAGENET,
        precision: Precision::F32,
    }
});

/// Two networks that see the same images; they are alike.
struct Two(Vec<Arc<dyn ImageEncoder>>);

impl Two {
    fn new() -> Self {
        Self(vec![Arc::new(Projection)])
    }
}

impl ImageEncoder for Two {
    fn spec(&self) -> &EncoderSpec {
        &SPEC
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        Projection.encode(images, request)
    }

    fn companions(&self) -> &[Arc<dyn ImageEncoder>] {
        &self.0
    }
}

impl ImageEncoder for Projection {
    fn spec(&self) -> &EncoderSpec {
        &SPEC
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        let one = |image: &Preprocessed| features(image, request).unwrap();
        Ok(images.iter().map(one).collect())
    }
}

fn features(image: &Preprocessed, request: &FeatureRequest) -> candle_core::Result<ImageFeatures> {
    let grid = Grid {
        rows: image.height / PATCH,
        columns: image.width / PATCH,
    };
    let shape = [3, grid.rows, PATCH, grid.columns, PATCH];
    let patches = Tensor::from_slice(&image.values, &shape[..], &Device::Cpu)?
        .permute([1, 3, 0, 2, 4])?
        .reshape((grid.len(), 3 * PATCH * PATCH))?;
    let map = |&layer: &LayerId| {
        let number = layer.number();
        let tokens = (patches.matmul(&Projection::weights(number))? * 0.1)?.tanh()?;
        Ok(FeatureMap {
            layer,
            grid,
            dim: WIDTH,
            tokens: tokens.flatten_all()?.to_vec1()?,
            class_token: None,
        })
    };
    Ok(ImageFeatures {
        maps: request
            .layers
            .iter()
            .map(map)
            .collect::<candle_core::Result<_>>()?,
        embedding: None,
        further: vec![],
    })
}

/// A linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }
}

/// A woven texture with noise; with a blot if it is anomalous.
fn texture(seed: u64, anomalous: bool) -> Image {
    texture_of(96, seed, anomalous)
}

/// The same of so many pixels in width and height.
fn texture_of(side: usize, seed: u64, anomalous: bool) -> Image {
    let mut random = Random(seed);
    let (phase, light) = (6.0 * random.next(), 20.0 * random.next());
    let (x0, y0) = (20 + seed as usize % 50, 30 + 3 * seed as usize % 40);
    let pixels = (0..side * side).flat_map(|i| {
        let (y, x) = ((i / side) as f32, (i % side) as f32);
        let weave = 40.0 * ((0.5 * x + phase).sin() * (0.3 * y).cos());
        let distance = (x - x0 as f32).hypot(y - y0 as f32);
        let blot = if anomalous && distance < 7.0 {
            -70.0
        } else {
            0.0
        };
        let value = 120.0 + light + weave + blot + 16.0 * random.next();
        [value, 0.9 * value, 0.8 * value + 10.0].map(|x| x as u8)
    });
    let pixels = pixels.collect::<Vec<u8>>();
    Image::new(side as u32, side as u32, pixels).unwrap()
}

/// Scores, and the sum of each map, of six images.
fn results(settings: serde_json::Value, references: u64) -> Vec<f32> {
    // What references decide now was fixed when the results were recorded.
    let fixed = json!({
        "image_size": 224,
        "input_size": [224, 224],
        "reference_augmentation": "flips",
        "foreground": false,
    });
    let mut all: MethodSettings = fixed.as_object().unwrap().clone();
    all.extend(settings.as_object().unwrap().clone());
    let settings = all;
    let references: Vec<ReferenceImage> = (0..references)
        .map(|i| ReferenceImage::new(format!("{i}.png"), texture(100 + i, false)))
        .collect();
    let context = FitContext::new(&settings, &Projection).with_references(&references);
    let detector = find("lens").unwrap().fit(&context).unwrap();
    let sources: Vec<ImageSource> = (0..6)
        .map(|i| ImageSource::Memory {
            name: i.to_string(),
            image: Arc::new(texture(i, i % 3 == 1)),
        })
        .collect();
    let found = predictions(&Projection, detector.as_ref(), &sources);
    let numbers = found.into_iter().flat_map(|prediction| {
        let range = prediction.range;
        let map = prediction.map.values().iter().sum::<f32>();
        [prediction.score, map, range.median, range.upper_quantile]
    });
    numbers.collect()
}

fn predictions(
    encoder: &dyn ImageEncoder,
    detector: &dyn Detector,
    sources: &[ImageSource],
) -> Vec<Prediction> {
    let mut found: Vec<Option<Prediction>> = sources.iter().map(|_| None).collect();
    let skip = HashSet::new();
    let options = StreamOptions::default();
    predict(
        encoder,
        &[detector],
        sources,
        &skip,
        &options,
        &mut |outcome| {
            found[outcome.image] = Some(outcome.result.unwrap());
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    found.into_iter().flatten().collect()
}

#[test]
fn results_are_those_of_the_methods_that_it_replaces() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/lens.json");
    let golden: BTreeMap<String, Vec<f32>> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (name, settings, references) in cases() {
        let found = results(settings, references);
        assert_eq!(found.len(), golden[name].len(), "{name}");
        for (found, expected) in found.iter().zip(&golden[name]) {
            let difference = (found - expected).abs() / expected.abs().max(1e-3);
            assert!(difference < 1e-4, "{name}: {found} {expected}");
        }
    }
}

/// Name, settings and number of references; the methods that it was recorded with are
/// `inctrl` without text encoder, `self-similarity`, and `musc`, each as it was before.
fn cases() -> Vec<(&'static str, serde_json::Value, u64)> {
    vec![
        ("one reference", json!({}), 1),
        ("two references", json!({}), 2),
        ("four references, two views", json!({ "tta": 2 }), 4),
        ("references, no own image", json!({ "own_image": false }), 2),
        (
            "references, no image level",
            json!({ "image_level": false }),
            2,
        ),
        (
            "one upright reference",
            json!({ "reference_augmentation": "upright" }),
            1,
        ),
        ("own image", json!({}), 0),
        ("own image, two views", json!({ "tta": 2 }), 0),
        (
            "own image, scaled by references",
            json!({ "evidence": "own-image" }),
            3,
        ),
        ("batch", json!({ "evidence": "batch" }), 0),
        (
            "batch, two views",
            json!({ "evidence": "batch", "tta": 2 }),
            0,
        ),
        (
            "batch in groups",
            json!({ "evidence": "batch", "group": 3 }),
            0,
        ),
        (
            "batch, no own image",
            json!({ "evidence": "batch", "own_image": false }),
            0,
        ),
        (
            "batch, no image level",
            json!({ "evidence": "batch", "image_level": false }),
            0,
        ),
    ]
}

/// What `max_memory` allows is kept of every reference, or it is refused.
#[test]
fn memory_is_kept_or_refused() {
    let fit = |references: u64, max_memory: Option<u32>| {
        let mut settings = MethodSettings::new();
        if let Some(megabytes) = max_memory {
            settings.insert("max_memory".to_owned(), json!(megabytes));
        }
        let references: Vec<ReferenceImage> = (0..references)
            .map(|i| ReferenceImage::new(format!("{i}.png"), texture(100 + i, false)))
            .collect();
        let context = FitContext::new(&settings, &Projection).with_references(&references);
        let detector = find("lens").unwrap().fit(&context)?;
        let tensors = detector.state().tensors.into_iter();
        let patches = tensors.filter(|(name, _)| name.contains("/block"));
        let numbers: usize = patches.map(|(_, array)| array.values.len()).sum();
        // As many as are kept in memory, with ten bytes each.
        Ok::<_, anomalens_detectors::DetectorError>(10 * numbers)
    };
    let all = fit(2, None).unwrap();
    let half = fit(2, Some(1)).unwrap();
    assert!(all > 1 << 20, "{all}");
    assert!(half <= 1 << 20 && half > 1 << 19, "{half}");
    let error = fit(14, Some(1)).err().map(|error| error.to_string());
    let expected = "14 normal images need 2 MB, 32 patches of each; `max_memory` is 1";
    assert!(
        error.as_ref().is_some_and(|e| e.contains(expected)),
        "{error:?}"
    );
}

/// Networks that are alike give what one of them gives, in a file too.
#[test]
fn several_networks_and_sizes_are_joined() {
    let lens = find("lens").unwrap();
    let (one, two) = (Projection, Two::new());
    // (name, side of the images, settings, looks or why there are none)
    for (name, side, settings, expected) in [
        ("small images", 96, json!({}), Ok(1)),
        ("large images of a surface", 448, json!({}), Ok(1)),
        (
            "large images of an object",
            448,
            json!({ "foreground": true }),
            Ok(2),
        ),
        ("both, as given", 96, json!({ "networks": 2 }), Ok(2)),
        ("one, as given", 448, json!({ "networks": 1 }), Ok(1)),
        (
            "tiles and whole",
            448,
            json!({ "tiles": 280, "overview": true, "networks": 2 }),
            Ok(4),
        ),
        (
            "blocks of the first",
            448,
            json!({ "blocks": [5, 6], "networks": 2 }),
            Ok(2),
        ),
        (
            "no such network",
            448,
            json!({ "networks": 3 }),
            Err("there are 2"),
        ),
        (
            "no network",
            448,
            json!({ "networks": 0 }),
            Err("there are 2"),
        ),
        (
            "whole and whole",
            448,
            json!({ "overview": true }),
            Err("these are seen whole"),
        ),
    ] {
        let settings = settings.as_object().unwrap().clone();
        let references = |range: std::ops::Range<u64>| -> Vec<ReferenceImage> {
            let one = |i| ReferenceImage::new(format!("{i}.png"), texture_of(side, i, false));
            range.map(one).collect()
        };
        let (few, more) = (references(100..102), references(102..103));
        let fit = |encoder: &dyn ImageEncoder, settings: &MethodSettings| {
            lens.fit(&FitContext::new(settings, encoder).with_references(&few))
        };
        let detector = match (fit(&two, &settings), expected) {
            (Ok(detector), Ok(looks)) => {
                assert_eq!(detector.profile().further.len() + 1, looks, "{name}");
                detector
            }
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{name}: {error}");
                continue;
            }
            (found, expected) => panic!("{name}: {:?} {expected:?}", found.err()),
        };
        let sources = [7, 8].map(|seed| ImageSource::Memory {
            name: seed.to_string(),
            image: Arc::new(texture_of(side, seed, seed == 7)),
        });
        let found = predictions(&two, detector.as_ref(), &sources);
        assert!(found[0].score > found[1].score, "{name}");
        let loaded = lens.load(detector.state()).unwrap();
        assert_eq!(
            predictions(&two, loaded.as_ref(), &sources),
            found,
            "{name}"
        );

        // Networks that are alike see alike.
        if !settings.contains_key("blocks") && !settings.contains_key("overview") {
            let mut alone = settings.clone();
            alone.remove("networks");
            let alone = fit(&one, &alone).unwrap();
            let alone = predictions(&one, alone.as_ref(), &sources);
            for (found, alone) in found.iter().zip(alone) {
                let difference = (found.score - alone.score).abs();
                assert!(difference < 1e-5, "{name}: {} {}", found.score, alone.score);
            }
        }

        let none = MethodSettings::new();
        let context = FitContext::new(&none, &two).with_references(&more);
        let changed = lens.update_references(detector.state(), &context, &["100.png".to_owned()]);
        let changed = changed.unwrap();
        assert_eq!(changed.references(), ["101.png", "102.png"], "{name}");
        assert_eq!(changed.profile(), detector.profile(), "{name}");
    }
}
