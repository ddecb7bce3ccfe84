//! Whole networks under every instruction set and precision against the same network in plain
//! float64 loops.
#![allow(clippy::unwrap_used, clippy::panic)] // test code

mod allocations;
mod network;
mod saved;

use anomalens_kernels::{
    Dpam, Embedding, Engine, FeatureMap, FeatureRequest, HeadWeights, Images, LayerId, Precision,
    SelfAttention, StemWeights, TokenStage, Vit,
};
use network::{BLOCKS, Network, Rows, SIZE, WIDTH, compare, config, images_of, norm, numbers};

/// Class and patch tokens.
fn tokens(map: &FeatureMap) -> Vec<f32> {
    let class = map.class_token.as_deref().unwrap();
    [class, &map.tokens].concat()
}

#[test]
fn networks_agree_with_plain_loops() {
    let network = Network::new();
    let pixels = 3 * SIZE.0 * SIZE.1;
    let batch = 5;
    let images = numbers(batch * pixels, 92, 1.0);
    let local = |first_block, attention| {
        Some(Dpam {
            first_block,
            attention,
            feed_forward: false,
        })
    };
    let (values, keys, queries) = (
        SelfAttention::Values,
        SelfAttention::Keys,
        SelfAttention::Queries,
    );
    let (normed, direct) = (Some(Embedding::Normed), Some(Embedding::Direct));
    // Every request leaves out other work.
    type Case = (Vec<usize>, Option<Dpam>, TokenStage, Option<Embedding>);
    let cases: [Case; 10] = [
        (vec![1, 2, BLOCKS], None, TokenStage::Block, None),
        (vec![BLOCKS, 1, 1], None, TokenStage::Block, None),
        (vec![2], None, TokenStage::Normed, None),
        (vec![3], None, TokenStage::Projected, normed),
        (vec![], None, TokenStage::Block, direct),
        (
            vec![1, 2, BLOCKS],
            local(2, values),
            TokenStage::Block,
            direct,
        ),
        (vec![2, 3], local(1, keys), TokenStage::Projected, None),
        (
            vec![BLOCKS],
            local(BLOCKS, queries),
            TokenStage::Normed,
            None,
        ),
        (vec![3], local(2, values), TokenStage::Block, normed),
        (vec![1], local(2, values), TokenStage::Block, direct),
    ];
    for (blocks, local, stage, embedding) in cases {
        let expected: Vec<_> = images
            .chunks(pixels)
            .map(|pixels| network.plain(pixels, local))
            .collect();
        let request = FeatureRequest {
            layers: blocks.into_iter().map(LayerId::Block).collect(),
            attention: local,
            stage,
            embedding,
            ..FeatureRequest::default()
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
                    vit.encode(&images, &network.positions, &request).unwrap()
                };
                let found = encode(&images);
                assert_eq!(found.len(), batch);
                for ((found, expected), pixels) in
                    found.iter().zip(&expected).zip(images.chunks(pixels))
                {
                    let alone = encode(pixels);
                    assert_eq!(alone, std::slice::from_ref(found), "{name}: alone");
                    let layers: Vec<LayerId> = found.maps.iter().map(|map| map.layer).collect();
                    assert_eq!(layers, request.layers);
                    for map in &found.maps {
                        let LayerId::Block(block) = map.layer else {
                            panic!("{name}")
                        };
                        let (own, local) = &expected[block - 1];
                        let runs = request.attention.is_some_and(|l| block >= l.first_block);
                        let expected = if runs { local } else { own };
                        let expected = match stage {
                            TokenStage::Block | TokenStage::Keys => expected.clone(),
                            TokenStage::Normed => norm(expected, network.first.norm(1)),
                            TokenStage::Projected => {
                                network.projected(&norm(expected, network.first.norm(1)))
                            }
                        };
                        check("tokens", &tokens(map), &expected);
                    }
                    assert_eq!(found.embedding.is_some(), embedding.is_some());
                    if let Some(found) = &found.embedding {
                        let class = vec![expected[BLOCKS - 1].0[0].clone()];
                        let expected = network.projected(&match embedding {
                            Some(Embedding::Normed) => norm(&class, network.first.norm(1)),
                            _ => class,
                        });
                        check("embedding", found, &expected);
                    }
                }
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
    let request = FeatureRequest::blocks([BLOCKS]);
    for engine in Engine::all() {
        for precision in Precision::ALL {
            let error = |vit: Vit| {
                let found = vit.encode(&images_of(&image), &network.positions, &request);
                compare(&tokens(&found.unwrap()[0].maps[0]), expected).1
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
    let encode = |pixels: &[f32], height, positions: &[f32], layers: &[LayerId]| {
        let images = Images {
            pixels: vec![pixels],
            height,
            width: SIZE.1,
        };
        let request = FeatureRequest::layers(layers.iter().copied());
        vit.encode(&images, positions, &request)
            .map_err(|error| error.what)
    };
    let positions = &network.positions[..];
    assert!(encode(&pixels, SIZE.0, positions, &[]).is_ok());
    let cases = [
        (
            encode(&pixels, SIZE.0 + 1, positions, &[]),
            "image's height",
        ),
        (encode(&pixels[1..], SIZE.0, positions, &[]), "image"),
        (
            encode(&pixels, SIZE.0, &positions[1..], &[]),
            "position embedding",
        ),
        (
            encode(&pixels, SIZE.0, positions, &[LayerId::Block(BLOCKS + 1)]),
            "list of wanted layers",
        ),
        (
            encode(&pixels, SIZE.0, positions, &[LayerId::Block(0)]),
            "list of wanted layers",
        ),
        (
            encode(&pixels, SIZE.0, positions, &[LayerId::Stage(1)]),
            "list of wanted layers",
        ),
    ];
    for (found, what) in cases {
        assert_eq!(found.err(), Some(what));
    }
    // Blocks that are there already were not fitted.
    assert!(vit.calibration(&images_of(&pixels), positions).is_err());
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
