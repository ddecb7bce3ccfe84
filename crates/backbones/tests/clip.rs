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
    Activation, Compute, Dpam, Embedding, FeatureRequest, Features, ImageEncoder, Precision,
    SelfAttention, TokenStage,
};
use candle_core::{Device, Tensor};
use common::{exact, fastest, lowest_cosine};

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

fn vision(checkpoint: Checkpoint, compute: Compute) -> ClipVision {
    ClipVision::new(Arc::new(checkpoint), Some(Activation::QuickGelu), compute).unwrap()
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
    for compute in exact() {
        let case = format!("{compute:?}");
        let network = vision(tiny(), compute);
        for (name, side, dpam, embedding) in [
            ("plain56", 56, None, Embedding::Direct),
            ("dpam56", 56, dpam(6), Embedding::Direct),
            ("dpam70", 70, dpam(6), Embedding::Direct),
        ] {
            let request = FeatureRequest {
                stage: TokenStage::Projected,
                dpam,
                embedding: Some(embedding),
                ..FeatureRequest::blocks(BLOCKS)
            };
            let name = format!("{name} {case}");
            let features = network.encode(&inputs(&goldens, side), &request).unwrap();
            let name_of_golden = name.split(' ').next().unwrap();
            close(
                &name,
                features.embedding.as_ref().unwrap(),
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
fn all_tokens(features: &Features) -> Vec<Tensor> {
    let blocks = features.blocks.iter();
    blocks
        .map(|block| {
            let class = block.class_token.unsqueeze(1).unwrap();
            Tensor::cat(&[class, block.patch_tokens.clone()], 1).unwrap()
        })
        .collect()
}

/// The goldens' three images, preprocessed to squares of `side` pixels.
fn inputs(goldens: &HashMap<String, Tensor>, side: usize) -> Tensor {
    let images = ["a", "b", "c"].map(|image| &goldens[&format!("preprocess.{image}.{side}")]);
    Tensor::stack(&images, 0).unwrap()
}

/// Every kind of request, so that whatever is left out for it is not missed.
fn requests() -> Vec<FeatureRequest> {
    let local = |first_block, attention| {
        Some(Dpam {
            first_block,
            attention,
        })
    };
    let (values, queries, keys) = (
        SelfAttention::Values,
        SelfAttention::Queries,
        SelfAttention::Keys,
    );
    let (normed, direct) = (Some(Embedding::Normed), Some(Embedding::Direct));
    let cases: [(&[usize], _, _, _); 10] = [
        (&[1, 24], TokenStage::Block, None, None),
        (&[7], TokenStage::Normed, None, normed),
        (&[24], TokenStage::Projected, None, direct),
        (&[], TokenStage::Block, None, direct),
        (&[], TokenStage::Block, local(3, values), normed),
        (&[2, 9, 24], TokenStage::Block, local(1, values), direct),
        (&[5, 20], TokenStage::Normed, local(6, queries), None),
        (&[24], TokenStage::Projected, local(24, keys), None),
        (&[3], TokenStage::Block, local(12, values), direct),
        (&[13], TokenStage::Block, local(12, keys), direct),
    ];
    cases
        .into_iter()
        .map(|(blocks, stage, dpam, embedding)| FeatureRequest {
            stage,
            dpam,
            embedding,
            ..FeatureRequest::blocks(blocks.iter().copied())
        })
        .collect()
}

#[test]
fn kernels_answer_every_request_as_candle_does() {
    let images = inputs(&goldens("anomalyclip_tiny.safetensors"), 56);
    // Not square: two patches by three.
    let images = images.narrow(2, 0, 28).unwrap().narrow(3, 0, 42).unwrap();
    let reference = vision(tiny(), Compute::Candle(Device::Cpu));
    let networks = [Precision::F32, Precision::Half, Precision::Int8]
        .map(|precision| (precision, vision(tiny(), fastest(precision))));
    for request in requests() {
        let expected = reference.encode(&images, &request).unwrap();
        for (precision, network) in &networks {
            let name = format!("{precision} {request:?}");
            let found = network.encode(&images, &request).unwrap();
            let numbers = |features: &Features| -> Vec<Tensor> {
                let tokens = all_tokens(features);
                tokens
                    .into_iter()
                    .chain(features.embedding.clone())
                    .collect()
            };
            let (found, expected) = (numbers(&found), numbers(&expected));
            assert_eq!(found.len(), expected.len(), "{name}");
            for (found, expected) in found.iter().zip(&expected) {
                match precision {
                    Precision::F32 => close(&name, found, expected),
                    // Made-up weights have no outliers and no structure; real ones are tested
                    // with DINOv2.
                    Precision::Half | Precision::Int8 => {
                        let least = if *precision == Precision::Half {
                            0.999
                        } else {
                            0.98
                        };
                        let cosine = lowest_cosine(found, expected);
                        assert!(cosine >= least, "{name}: {cosine}");
                    }
                }
            }
        }
    }
}

#[test]
fn texts_equal_the_original() {
    let goldens = goldens("anomalyclip_tiny.safetensors");
    let text = vision(tiny(), fastest(Precision::Half))
        .text_encoder()
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

/// ViT-L/14@336 with made-up weights, for `precision`.
fn full_size(precision: Precision) -> ClipVision {
    let architecture = Architecture::named("clip-vit-l14-336").unwrap();
    let checkpoint = Checkpoint::seeded(7, architecture.shapes());
    vision(checkpoint, fastest(precision))
}

/// An image of 518 x 518 pixels, and what AnomalyCLIP asks for.
fn full_size_input() -> (Tensor, FeatureRequest) {
    let pixels = anomalens_vision::Image::open(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/c.png"),
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
    (images, request)
}

#[test]
fn the_full_size_equals_the_original() {
    let goldens = goldens("anomalyclip_vit_l14_336.safetensors");
    let network = full_size(Precision::F32);
    assert_eq!(network.name(), "CLIP ViT-L/14@336");
    let (images, request) = full_size_input();
    let features = network.encode(&images, &request).unwrap();
    close(
        "image",
        features.embedding.as_ref().unwrap(),
        &goldens["image"],
    );
    for (i, tokens) in all_tokens(&features).iter().enumerate() {
        let every: Vec<u32> = (0..1370).step_by(37).collect();
        let every = Tensor::new(every, &Device::Cpu).unwrap();
        let tokens = tokens.index_select(&every, 1).unwrap();
        close(
            &format!("block {}", features.blocks[i].block),
            &tokens,
            &goldens[&format!("patch.{i}.every37")],
        );
    }
}

#[test]
fn the_full_size_keeps_its_tokens_in_half() {
    let (images, request) = full_size_input();
    let encode = |precision| {
        let features = full_size(precision).encode(&images, &request).unwrap();
        let tokens = all_tokens(&features).into_iter();
        tokens.chain(features.embedding).collect::<Vec<_>>()
    };
    for (half, exact) in encode(Precision::Half).iter().zip(&encode(Precision::F32)) {
        let cosine = lowest_cosine(half, exact);
        assert!(cosine >= 0.999, "{cosine}");
    }
}
