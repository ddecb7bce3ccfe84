//! CLIP against the original implementation: a tiny network and ViT-L/14@336 in full size, both
//! with weights made from a seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::{
    Activation, Dpam, Embedding, FeatureRequest, ImageEncoder, SelfAttention, TokenStage,
};
use candle_core::{Device, Tensor};

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

fn vision(checkpoint: Checkpoint) -> ClipVision {
    ClipVision::new(
        Arc::new(checkpoint),
        Some(Activation::QuickGelu),
        &Device::Cpu,
    )
    .unwrap()
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
    })
}

#[test]
fn tokens_and_embeddings_equal_the_original() {
    let goldens = goldens("anomalyclip_tiny.safetensors");
    let inputs = goldens_of_preprocessing();
    let network = vision(tiny());
    for (name, side, dpam, embedding) in [
        ("plain56", 56, None, Embedding::Direct),
        ("dpam56", 56, dpam(6), Embedding::Direct),
        ("dpam70", 70, dpam(6), Embedding::Direct),
    ] {
        let images: Vec<&Tensor> = ["a", "b", "c"]
            .iter()
            .map(|image| &inputs[&format!("preprocess.{image}.{side}")])
            .collect();
        let request = FeatureRequest {
            stage: TokenStage::Projected,
            dpam,
            embedding: Some(embedding),
            ..FeatureRequest::blocks(BLOCKS)
        };
        let images = Tensor::stack(&images, 0).unwrap();
        let features = network.encode(&images, &request).unwrap();
        close(
            name,
            &features.embedding.unwrap(),
            &goldens[&format!("{name}.image")],
        );
        for (i, block) in features.blocks.iter().enumerate() {
            let class = block.class_token.unsqueeze(1).unwrap();
            let tokens = Tensor::cat(&[class, block.patch_tokens.clone()], 1).unwrap();
            close(name, &tokens, &goldens[&format!("{name}.patch.{i}")]);
        }
    }
}

fn goldens_of_preprocessing() -> HashMap<String, Tensor> {
    goldens("anomalyclip_tiny.safetensors")
}

#[test]
fn texts_equal_the_original() {
    let goldens = goldens("anomalyclip_tiny.safetensors");
    let text = vision(tiny()).text_encoder().unwrap().unwrap();
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

#[test]
fn the_full_size_equals_the_original() {
    let goldens = goldens("anomalyclip_vit_l14_336.safetensors");
    let architecture = Architecture::named("clip-vit-l14-336").unwrap();
    let network = vision(Checkpoint::seeded(7, architecture.shapes()));
    assert_eq!(network.name(), "CLIP ViT-L/14@336");
    let pixels = anomalens_vision::Image::open(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/c.png"),
        &anomalens_vision::Limits::default(),
    )
    .unwrap();
    let input = anomalens_vision::Preprocess::clip_square(518)
        .apply(&pixels)
        .unwrap();
    let images = Tensor::from_vec(input.values, (1, 3, 518, 518), &Device::Cpu).unwrap();
    let request = FeatureRequest {
        stage: TokenStage::Projected,
        dpam: dpam(6),
        embedding: Some(Embedding::Direct),
        ..FeatureRequest::blocks(BLOCKS)
    };
    let features = network.encode(&images, &request).unwrap();
    close("image", &features.embedding.unwrap(), &goldens["image"]);
    for (i, block) in features.blocks.iter().enumerate() {
        let class = block.class_token.unsqueeze(1).unwrap();
        let tokens = Tensor::cat(&[class, block.patch_tokens.clone()], 1).unwrap();
        let every: Vec<u32> = (0..1370).step_by(37).collect();
        let every = Tensor::new(every, &Device::Cpu).unwrap();
        let tokens = tokens.index_select(&every, 1).unwrap();
        close(
            &format!("block {}", block.block),
            &tokens,
            &goldens[&format!("patch.{i}.every37")],
        );
    }
}
