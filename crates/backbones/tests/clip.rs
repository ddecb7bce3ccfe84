//! CLIP against the original implementation: a tiny network and ViT-L/14@336 in full size, both
//! with weights made from a seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::{
    Activation, Dpam, Embedding, FeatureRequest, ImageEncoder, ImageFeatures, Kernels, Precision,
    SelfAttention, TokenStage,
};
use anomalens_vision::Preprocessed;
use candle_core::{Device, Tensor};
use common::{exact, fastest, lowest_cosine, tokens};

fn goldens(name: &str) -> HashMap<String, Tensor> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens");
    candle_core::safetensors::load(folder.join(name), &Device::Cpu).unwrap()
}

/// The small network of the goldens.
fn tiny() -> Checkpoint {
    let vision = VisionConfig {
        width: 128,
        blocks: 24,
        heads: 2,
        patch: 14,
        position_side: 4,
        embedding: 32,
    };
    let text = TextConfig {
        width: 128,
        blocks: 12,
        heads: 2,
        context: 77,
        vocabulary: 49_408,
        embedding: 32,
    };
    Checkpoint::seeded(
        7,
        Architecture {
            vision,
            text,
            activation: Activation::QuickGelu,
        }
        .shapes(),
    )
}

fn vision(checkpoint: Checkpoint, kernels: &Kernels) -> ClipVision {
    ClipVision::new(Arc::new(checkpoint), Some(Activation::QuickGelu), kernels).unwrap()
}

/// Largest difference, relative to the largest expected value.
fn difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let largest = |x: &Tensor| -> f32 {
        let x = x.abs().unwrap().flatten_all().unwrap();
        x.max(0).unwrap().to_scalar().unwrap()
    };
    largest(&(found - expected).unwrap()) / largest(expected)
}

fn close(name: &str, found: &Tensor, expected: &Tensor) {
    let difference = difference(found, expected);
    assert!(difference < 1e-4, "{name}: {difference}");
}

const BLOCKS: [usize; 4] = [6, 12, 18, 24];

fn dpam(first_block: usize) -> Option<Dpam> {
    Some(Dpam {
        first_block,
        attention: SelfAttention::Values,
        feed_forward: false,
    })
}

#[test]
fn tokens_and_embeddings_equal_the_original() {
    let goldens = goldens("anomalyclip_tiny.safetensors");
    for kernels in exact() {
        let case = format!("{kernels:?}");
        let network = vision(tiny(), &kernels);
        for (name, side, dpam, embedding) in [
            ("plain56", 56, None, Embedding::Direct),
            ("dpam56", 56, dpam(6), Embedding::Direct),
            ("dpam70", 70, dpam(6), Embedding::Direct),
        ] {
            let request = FeatureRequest {
                stage: TokenStage::Projected,
                attention: dpam,
                embedding: Some(embedding),
                ..FeatureRequest::blocks(BLOCKS)
            };
            let name = format!("{name} {case}");
            let images = common::inputs(&inputs(&goldens, side));
            let features = network.encode(&images, &request).unwrap();
            let name_of_golden = name.split(' ').next().unwrap();
            close(
                &name,
                &embeddings(&features),
                &goldens[&format!("{name_of_golden}.image")],
            );
            for (i, tokens) in all_tokens(&features).iter().enumerate() {
                let golden = &goldens[&format!("{name_of_golden}.patch.{i}")];
                close(&name, tokens, golden);
            }
        }
    }
}

/// Class and patch tokens of each block, `[batch, 1 + patches, width]`.
fn all_tokens(features: &[ImageFeatures]) -> Vec<Tensor> {
    let block = |i: usize| {
        let images = features.iter().map(|image| tokens(&image.maps[i]));
        Tensor::stack(&images.collect::<Vec<_>>(), 0).unwrap()
    };
    (0..features[0].maps.len()).map(block).collect()
}

/// `[batch, embedding]`
fn embeddings(features: &[ImageFeatures]) -> Tensor {
    let rows = features
        .iter()
        .map(|image| image.embedding.clone().unwrap());
    Tensor::new(rows.collect::<Vec<_>>(), &Device::Cpu).unwrap()
}

/// The goldens' three images, preprocessed to squares of `side` pixels.
fn inputs(goldens: &HashMap<String, Tensor>, side: usize) -> Tensor {
    let images = ["a", "b", "c"].map(|image| &goldens[&format!("preprocess.{image}.{side}")]);
    Tensor::stack(&images, 0).unwrap()
}

#[test]
fn texts_equal_the_original() {
    let goldens = goldens("anomalyclip_tiny.safetensors");
    let text = vision(tiny(), &fastest(Precision::Half))
        .text(None)
        .unwrap()
        .unwrap();
    let found = text.encode(&goldens["tokens"]).unwrap();
    // Of the three golden embeddings, the first and the last are of texts whose ids are stored.
    for row in [0, 2] {
        close(
            "clip.text",
            &found.get(row).unwrap(),
            &goldens["clip.text"].get(row).unwrap(),
        );
    }
}

/// ViT-L/14@336 with random (seeded) weights, for `precision`.
fn full_size(precision: Precision) -> ClipVision {
    let architecture = Architecture::named("clip-vit-l14-336").unwrap();
    let checkpoint = Checkpoint::seeded(7, architecture.shapes());
    vision(checkpoint, &fastest(precision))
}

/// An image of 518 x 518 pixels, and what AnomalyCLIP asks for.
fn full_size_input() -> (Preprocessed, FeatureRequest) {
    let pixels = anomalens_vision::Image::open(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/c.png"),
    )
    .unwrap();
    let input = anomalens_vision::Preprocess::clip_square(518)
        .apply(&pixels)
        .unwrap();
    let request = FeatureRequest {
        stage: TokenStage::Projected,
        attention: dpam(6),
        embedding: Some(Embedding::Direct),
        ..FeatureRequest::blocks(BLOCKS)
    };
    (input, request)
}

#[test]
fn the_full_size_equals_the_original() {
    let goldens = goldens("anomalyclip_vit_l14_336.safetensors");
    let network = full_size(Precision::F32);
    assert_eq!(network.spec().name, "CLIP ViT-L/14@336");
    let (input, request) = full_size_input();
    let features = network.encode(&[input], &request).unwrap();
    close("image", &embeddings(&features), &goldens["image"]);
    for (i, tokens) in all_tokens(&features).iter().enumerate() {
        let every: Vec<u32> = (0..1370).step_by(37).collect();
        let every = Tensor::new(every, &Device::Cpu).unwrap();
        let tokens = tokens.index_select(&every, 1).unwrap();
        close(
            &features[0].maps[i].layer.to_string(),
            &tokens,
            &goldens[&format!("patch.{i}.every37")],
        );
    }
}

#[test]
fn the_full_size_keeps_its_tokens_in_half() {
    let (input, request) = full_size_input();
    let inputs = [input];
    let encode = |precision| {
        let features = full_size(precision).encode(&inputs, &request).unwrap();
        let tokens = all_tokens(&features).into_iter();
        tokens.chain([embeddings(&features)]).collect::<Vec<_>>()
    };
    for (half, exact) in encode(Precision::Half).iter().zip(&encode(Precision::F32)) {
        let cosine = lowest_cosine(half, exact);
        assert!(cosine >= 0.999, "{cosine}");
    }
}
