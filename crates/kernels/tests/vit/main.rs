//! Whole networks under every instruction set and precision against the same network in plain
//! float64 loops.
#![allow(clippy::unwrap_used, clippy::panic)] // test code

mod allocations;
mod network;
mod saved;

use anomalens_kernels::{
    AttentionKind, Engine, HeadWeights, Images, LocalStream, Precision, StemWeights, Vit,
    VitEmbedding, VitRequest, VitStage, VitTokens,
};
use network::{
    BLOCKS, EMBEDDING, Network, Rows, SIZE, WIDTH, compare, config, images_of, norm, numbers,
};

/// Class and patch tokens of one image.
fn of_image(tokens: &VitTokens, image: usize, batch: usize) -> Vec<f32> {
    let part = |all: &[f32]| {
        let size = all.len() / batch;
        all[image * size..][..size].to_vec()
    };
    [part(&tokens.class_token), part(&tokens.patch_tokens)].concat()
}

#[test]
fn networks_agree_with_plain_loops() {
    let network = Network::new();
    let pixels = 3 * SIZE.0 * SIZE.1;
    let batch = 5;
    let images = numbers(batch * pixels, 92, 1.0);
    let local = |from, kind| Some(LocalStream { from, kind });
    let (normed, direct) = (Some(VitEmbedding::Normed), Some(VitEmbedding::Direct));
    // Every request leaves out other work.
    type Case = (
        Vec<usize>,
        Option<LocalStream>,
        VitStage,
        Option<VitEmbedding>,
    );
    let cases: [Case; 9] = [
        (vec![1, 2, BLOCKS], None, VitStage::Block, None),
        (vec![2], None, VitStage::Normed, None),
        (vec![3], None, VitStage::Projected, normed),
        (vec![], None, VitStage::Block, direct),
        (
            vec![1, 2, BLOCKS],
            local(2, AttentionKind::Vv),
            VitStage::Block,
            direct,
        ),
        (
            vec![2, 3],
            local(1, AttentionKind::Kk),
            VitStage::Projected,
            None,
        ),
        (
            vec![BLOCKS],
            local(BLOCKS, AttentionKind::Qq),
            VitStage::Normed,
            None,
        ),
        (
            vec![3],
            local(2, AttentionKind::Vv),
            VitStage::Block,
            normed,
        ),
        (
            vec![1],
            local(2, AttentionKind::Vv),
            VitStage::Block,
            direct,
        ),
    ];
    for (blocks, local, stage, embedding) in cases {
        let expected: Vec<_> = images
            .chunks(pixels)
            .map(|pixels| network.plain(pixels, local))
            .collect();
        let request = VitRequest {
            blocks,
            local,
            stage,
            embedding,
        };
        for engine in Engine::all() {
            for (precision, least) in [
                (Precision::F32, 1.0 - 1e-9),
                (Precision::Half, 0.999),
                (Precision::Int8, 0.995),
            ] {
                let name = format!("{engine:?} {precision:?} {request:?}");
                let vit = network.packed(engine, precision);
                let check = |what: &str, found: &[f32], expected: &Rows| {
                    let (cosine, difference) = compare(found, expected);
                    assert!(cosine >= least, "{name} {what}: {cosine}");
                    assert!(precision != Precision::F32 || difference < 1e-4, "{name}");
                };
                let encode = |pixels| {
                    let images = images_of(pixels);
                    vit.encode(images, &network.positions, &request).unwrap()
                };
                let found = encode(&images);
                for (image, expected) in expected.iter().enumerate() {
                    let alone = encode(&images[image * pixels..][..pixels]);
                    for (found, alone) in found.blocks.iter().zip(&alone.blocks) {
                        let (own, local) = &expected[found.block - 1];
                        let local_runs = request.local.is_some_and(|l| found.block >= l.from);
                        let tokens = if local_runs { local } else { own };
                        let expected = match stage {
                            VitStage::Block => tokens.clone(),
                            VitStage::Normed => norm(tokens, network.first.norm(1)),
                            VitStage::Projected => {
                                network.projected(&norm(tokens, network.first.norm(1)))
                            }
                        };
                        let found = of_image(found, image, batch);
                        check("tokens", &found, &expected);
                        assert_eq!(found, of_image(alone, 0, 1), "{name}");
                    }
                    if let Some(found) = &found.embedding {
                        let found = &found[image * EMBEDDING..][..EMBEDDING];
                        let class = vec![expected[BLOCKS - 1].0[0].clone()];
                        let expected = network.projected(&match embedding {
                            Some(VitEmbedding::Normed) => norm(&class, network.first.norm(1)),
                            _ => class,
                        });
                        check("embedding", found, &expected);
                        assert_eq!(alone.embedding.as_deref(), Some(found), "{name}");
                    }
                }
                assert_eq!(found.embedding.is_some(), embedding.is_some());
                assert_eq!(found.blocks.len(), request.blocks.len());
            }
        }
    }
}

#[test]
fn fitted_weights_compute_the_same_and_8_bits_do_so_more_exactly() {
    let mut network = Network::new();
    for block in &mut network.blocks {
        // As real networks have them: a channel far larger than the others, and not around zero.
        block.norms[0][7] *= 30.0;
        block.norms[3][11] += 40.0;
        for layer in [0, 2] {
            for row in block.layers[layer].0.chunks_mut(WIDTH) {
                row[7] /= 30.0;
                row[11] /= 30.0;
            }
        }
    }
    let pixels = 3 * SIZE.0 * SIZE.1;
    let (image, others) = (numbers(pixels, 92, 1.0), numbers(3 * pixels, 93, 1.0));
    let (expected, _) = &network.plain(&image, None)[BLOCKS - 1];
    let request = VitRequest {
        blocks: vec![BLOCKS],
        ..VitRequest::default()
    };
    for engine in Engine::all() {
        for precision in Precision::ALL {
            let error = |vit: Vit| {
                let found = vit.encode(images_of(&image), &network.positions, &request);
                compare(&of_image(&found.unwrap().blocks[0], 0, 1), expected).1
            };
            let plain = error(network.packed(engine, precision));
            let fitted = error(network.fitted(engine, precision, Some(&others)));
            let most = match precision {
                Precision::F32 => 1e-4,
                Precision::Half => 0.03,
                Precision::Int8 if engine.has_int8() => 0.5 * plain,
                Precision::Int8 => 1e-4,
            };
            let name = format!("{engine:?} {precision}");
            assert!(fitted < most, "{name}: {plain} became {fitted}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let network = Network::new();
    let vit = network.packed(Engine::detect(), Precision::F32);
    let pixels = numbers(3 * SIZE.0 * SIZE.1, 92, 1.0);
    let encode = |pixels: &[f32], height, positions: &[f32], blocks: &[usize]| {
        let images = Images {
            height,
            ..images_of(pixels)
        };
        let request = VitRequest {
            blocks: blocks.to_vec(),
            ..VitRequest::default()
        };
        vit.encode(images, positions, &request)
            .map_err(|error| error.what)
    };
    let positions = &network.positions[..];
    assert!(encode(&pixels, SIZE.0, positions, &[]).is_ok());
    let cases = [
        (
            encode(&pixels, SIZE.0 + 1, positions, &[]),
            "image's height",
        ),
        (
            encode(&pixels[1..], SIZE.0, positions, &[]),
            "batch of images",
        ),
        (
            encode(&pixels, SIZE.0, &positions[1..], &[]),
            "position embedding",
        ),
        (
            encode(&pixels, SIZE.0, positions, &[BLOCKS + 1]),
            "list of wanted blocks",
        ),
    ];
    for (found, what) in cases {
        assert_eq!(found.err(), Some(what));
    }
    // Blocks that are there already were not fitted.
    assert!(vit.calibration(images_of(&pixels), positions).is_err());
    let mut short = Network::new();
    short.class_token.pop();
    let stem = StemWeights {
        patch: short.first.layer(0),
        class_token: &short.class_token,
        norm: None,
    };
    let head = HeadWeights {
        norm: short.first.norm(1),
        projection: None,
    };
    assert!(Vit::new(Engine::detect(), Precision::F32, config(), &stem, &head).is_err());
}
