//! Every stage against an independent implementation (`tests/goldens/musc.py`): on random tokens, and as
//! one with the real weights of DINOv2-S.

use std::sync::LazyLock;

use anomalens_backbones::{LayerId, Precision};
use anomalens_vision::Image;
use candle_core::Tensor;

use super::*;
use crate::testing::{Goldens, close, dinov2_s, flat};
use crate::{MethodSettings, Tta};

static GOLDENS: LazyLock<Goldens> = LazyLock::new(|| Goldens::load("musc.safetensors"));

/// The random tokens: images, each with one map for each layer.
fn seeded() -> Vec<ImageFeatures> {
    let tokens = GOLDENS.get("seeded.tokens");
    let [layers, images, rows, columns, dim] = *tokens.dims() else {
        panic!("{:?}", tokens.dims());
    };
    let classes: Vec<Vec<f32>> = GOLDENS.get("seeded.classes").to_vec2().unwrap();
    let of_image = |image: usize| ImageFeatures {
        maps: (0..layers)
            .map(|layer| FeatureMap {
                layer: LayerId::Block(layer + 1),
                grid: Grid { rows, columns },
                dim,
                tokens: flat(&tokens.get(layer).unwrap().get(image).unwrap()),
                class_token: None,
            })
            .collect(),
        embedding: Some(classes[image].clone()),
        further: vec![],
    };
    (0..images).map(of_image).collect()
}

fn detector(settings: serde_json::Value) -> Box<dyn Detector> {
    let settings: MethodSettings = serde_json::from_value(settings).unwrap();
    let context = FitContext::new(&settings, dinov2_s());
    Musc.fit(&context).unwrap()
}

/// A detector for the random tokens.
fn for_seeded() -> Box<dyn Detector> {
    detector(serde_json::json!({"blocks": [1, 2], "image_size": 23}))
}

#[test]
fn the_stages_are_the_definition() {
    let images = seeded();
    for layer in 0..2 {
        let tokens = images.iter().map(|image| standardise(&image.maps[layer]));
        let tokens: Vec<Vec<f32>> = tokens.collect();
        let FeatureMap { grid, dim, .. } = images[0].maps[layer];
        for degree in [1, 3, 5] {
            let sets = tokens
                .iter()
                .map(|t| neighbourhood::average(t, grid, dim, degree));
            let sets: Vec<Vec<f32>> = sets.collect();
            let name = format!("seeded.aggregated.{degree}.{layer}");
            close(&name, &sets.concat(), &GOLDENS.values(&name), 1e-5);
            let name = format!("seeded.mutual.{degree}.{layer}");
            let found = mutual_scoring::score(sets, dim, 0.3, Precision::F32).unwrap();
            close(&name, &found.concat(), &GOLDENS.values(&name), 1e-5);
        }
    }
    let largest = GOLDENS.values("seeded.largest");
    let classes: Vec<Vec<f32>> = GOLDENS.get("seeded.classes").to_vec2().unwrap();
    let found = rescore::rescore(&largest, &classes, &[1, 2, 3]);
    close("rescored", &found, &GOLDENS.values("seeded.scores"), 1e-5);
}

fn check(prefix: &str, scored: &[Scored], tolerance: f32) {
    let maps: Vec<f32> = scored
        .iter()
        .flat_map(|s| s.map.values())
        .copied()
        .collect();
    let expected = GOLDENS.values(&format!("{prefix}maps"));
    close(&format!("{prefix}maps"), &maps, &expected, tolerance);
    let scores: Vec<f32> = scored.iter().map(|s| s.score).collect();
    let expected = GOLDENS.values(&format!("{prefix}scores"));
    close(&format!("{prefix}scores"), &scores, &expected, tolerance);
}

#[test]
fn the_stages_together_are_the_definition() {
    let images = seeded();
    let scored = for_seeded()
        .score(&images.iter().collect::<Vec<_>>())
        .unwrap();
    check("seeded.", &scored, 1e-5);
    let large = scored
        .iter()
        .map(|s| s.map.resize(23, 23, Alignment::Corners).unwrap());
    let large: Vec<f32> = large.flat_map(Map::into_values).collect();
    close("large", &large, &GOLDENS.values("seeded.large"), 1e-5);
}

#[test]
fn the_order_of_the_images_changes_no_bit() {
    let images = seeded();
    let mut order: Vec<usize> = (0..images.len()).collect();
    let expected = for_seeded()
        .score(&images.iter().collect::<Vec<_>>())
        .unwrap();
    for turn in 0..images.len() {
        order.rotate_left(1);
        order.swap(turn, 3);
        let shuffled: Vec<&ImageFeatures> = order.iter().map(|&i| &images[i]).collect();
        let found = for_seeded().score(&shuffled).unwrap();
        for (found, &image) in found.iter().zip(&order) {
            assert_eq!(*found, expected[image], "{order:?}");
        }
    }
}

#[test]
fn real_weights_give_the_results_of_the_definition() {
    let pixels = GOLDENS.get("pixels");
    let image = |i: usize| {
        let pixels: Tensor = pixels.get(i).unwrap();
        let (height, width, _) = pixels.dims3().unwrap();
        let bytes = pixels.flatten_all().unwrap().to_vec1().unwrap();
        Image::new(width as u32, height as u32, bytes).unwrap()
    };
    let images: Vec<Image> = (0..pixels.dims()[0]).map(image).collect();
    let detector = detector(serde_json::json!({"image_size": 224}));
    let settings = MethodSettings::new();
    let context = FitContext::new(&settings, dinov2_s());
    let features = context
        .encode(detector.input(), Tta::default(), &images)
        .unwrap();
    let classes: Vec<f32> = features
        .iter()
        .flat_map(|f| f.embedding.clone().unwrap())
        .collect();
    close("classes", &classes, &GOLDENS.values("classes"), 1e-4);
    let scored = detector
        .score(&features.iter().collect::<Vec<_>>())
        .unwrap();
    // Scores are a range of 0.1 stretched to 1.
    check("", &scored, 1e-3);
}
