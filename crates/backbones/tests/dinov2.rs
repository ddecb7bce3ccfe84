//! DINOv2 against the original: real weights of ViT-S/14 (pulled once into the cache), and seeded
//! weights for the shapes and errors that need none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

use std::collections::HashMap;
use std::path::Path;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::dinov2::{DinoV2, PositionResize};
use anomalens_backbones::{BackboneError, FeatureRequest, Grid, ImageEncoder};
use candle_core::{Device, Tensor};

/// Only every eighth token is in the golden file.
const TOKEN_STEP: usize = 8;

fn goldens() -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/dinov2.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn every_eighth(tokens: &Tensor) -> Tensor {
    let rows: Vec<u32> = (0..tokens.dim(0).unwrap() as u32).step_by(TOKEN_STEP).collect();
    tokens.index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// Class and patch tokens of the first image, the class token first.
fn tokens(network: &DinoV2, images: &Tensor, request: &FeatureRequest) -> Tensor {
    let features = network.encode(images, request).unwrap();
    let block = &features.blocks[0];
    Tensor::cat(&[block.class_token.get(0).unwrap().unsqueeze(0).unwrap(), block.patch_tokens.get(0).unwrap()], 0).unwrap()
}

#[test]
fn real_weights_give_the_original_tokens() {
    let network = real_network();
    let goldens = goldens();
    let input = &goldens["input"];
    for block in [3, 6, 9, 12] {
        for (suffix, request, tolerance) in [
            ("", FeatureRequest::blocks([block]), 1e-4),
            // Normed tokens of early blocks reach 60: 1e-3 is 2e-5 of that.
            ("_norm", FeatureRequest::blocks([block]).with_final_norm(), if block == 12 { 1e-4 } else { 1e-3 }),
        ] {
            let name = format!("block{block}.tokens{suffix}");
            let found = every_eighth(&tokens(&network, input, &request));
            let difference = largest_difference(&found, &goldens[&name]);
            assert!(difference < tolerance, "{name}: {difference}");
        }
    }
}
