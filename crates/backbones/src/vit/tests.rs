//! The kernels against the reference, for every kind of network and of request.
#![allow(clippy::unwrap_used)] // test code

use anomalens_kernels::{
    Activation, Departures, Dpam, Embedding, Engine, FeatureRequest, ImageFeatures, LayerId,
    Precision, SelfAttention, TokenStage,
};
use anomalens_vision::Preprocessed;
use candle_core::Tensor;

use super::parts::{BlockParts, FeedForward, Head, Layer, Shape, Stem, Weights};
use super::reference::Reference;
use super::{Kernels, VisionTransformer};
use crate::checkpoint::seeded_tensor;
use crate::{BackboneError, ImageEncoder, PositionResize};

const WIDTH: usize = 128;
const MIDDLE: usize = 192;
const PATCH: usize = 14;
const SIDE: usize = 4;
const BLOCKS: usize = 24;

/// A small network with random (seeded) weights.
struct Network {
    shape: Shape,
    /// Whether it is made like CLIP's (layer norm at the start, projection at the end) or like
    /// DINOv2's (LayerScale).
    clip: bool,
}

impl Network {
    fn new(clip: bool, feed_forward: FeedForward) -> Self {
        let shape = Shape {
            name: "small".to_owned(),
            width: WIDTH,
            blocks: BLOCKS,
            heads: 2,
            patch: PATCH,
            position_side: SIDE,
            position_resize: match clip {
                true => PositionResize::Bilinear,
                false => PositionResize::Bicubic,
            },
            epsilon: 1e-5,
            feed_forward,
            embedding: if clip { 32 } else { WIDTH },
        };
        Self { shape, clip }
    }

    fn kernels(&self, engine: Engine, precision: Precision) -> VisionTransformer {
        let kernels = Kernels::new(engine, precision);
        VisionTransformer::new(self.shape.clone(), self, &kernels).unwrap()
    }
}

fn tensor(name: &str, shape: &[usize]) -> Result<Tensor, BackboneError> {
    Ok(seeded_tensor(7, name, shape)?)
}

fn layer(name: &str, outputs: usize, inputs: usize) -> Result<Layer, BackboneError> {
    Ok(Layer {
        weight: tensor(&format!("{name}.weight"), &[outputs, inputs])?,
        bias: tensor(&format!("{name}.bias"), &[outputs])?,
    })
}

fn norm(name: &str) -> Result<Layer, BackboneError> {
    Ok(Layer {
        weight: tensor(&format!("{name}.weight"), &[WIDTH])?,
        bias: tensor(&format!("{name}.bias"), &[WIDTH])?,
    })
}

impl Weights for Network {
    fn positions(&self) -> Result<Tensor, BackboneError> {
        tensor("positional_embedding", &[1 + SIDE * SIDE, WIDTH])
    }

    fn stem(&self) -> Result<Stem, BackboneError> {
        Ok(Stem {
            projection: layer("conv1", WIDTH, 3 * PATCH * PATCH)?,
            class_token: tensor("class_embedding", &[WIDTH])?,
            norm: self.clip.then(|| norm("ln_pre")).transpose()?,
        })
    }

    fn block(&self, i: usize) -> Result<BlockParts, BackboneError> {
        let name = |part: &str| format!("{i}.{part}");
        let scale = |part: &str| match self.clip {
            true => Ok(None),
            false => tensor(&name(part), &[WIDTH]).map(Some),
        };
        let up = match self.shape.feed_forward {
            FeedForward::Plain(_) => MIDDLE,
            FeedForward::SwiGlu => 2 * MIDDLE,
        };
        Ok(BlockParts {
            norm1: norm(&name("ln_1"))?,
            qkv: layer(&name("qkv"), 3 * WIDTH, WIDTH)?,
            output: layer(&name("output"), WIDTH, WIDTH)?,
            scale1: scale("scale1.weight")?,
            norm2: norm(&name("ln_2"))?,
            up: layer(&name("up"), up, WIDTH)?,
            down: layer(&name("down"), WIDTH, MIDDLE)?,
            scale2: scale("scale2.weight")?,
        })
    }

    fn head(&self) -> Result<Head, BackboneError> {
        let projection = || tensor("proj", &[WIDTH, self.shape.embedding]);
        Ok(Head {
            norm: norm("ln_post")?,
            projection: self.clip.then(projection).transpose()?,
        })
    }
}

/// Every kind of request, so that whatever is left out for it is not missed.
fn requests() -> Vec<FeatureRequest> {
    let local = |first_block, attention| {
        Some(Dpam {
            first_block,
            attention,
            feed_forward: false,
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
    let cases = cases
        .into_iter()
        .map(|(blocks, stage, attention, embedding)| FeatureRequest {
            stage,
            attention,
            embedding,
            ..FeatureRequest::blocks(blocks.iter().copied())
        });
    let values_of = |first_block, feed_forward| {
        Some(Dpam {
            first_block,
            attention: SelfAttention::Alone,
            feed_forward,
        })
    };
    let windows = [LayerId::Window(1), LayerId::Block(24)];
    cases
        .chain([
            FeatureRequest {
                attention: values_of(24, true),
                ..FeatureRequest::blocks([24]).at(TokenStage::Projected)
            },
            FeatureRequest {
                attention: values_of(5, false),
                embedding: normed,
                ..FeatureRequest::blocks([5, 24])
            },
            FeatureRequest {
                embedding: normed,
                ..FeatureRequest::layers(windows)
            },
            FeatureRequest::blocks([1, 24]).at(TokenStage::Keys),
        ])
        .collect()
}

/// The same computed otherwise than a network was trained.
fn departures() -> [Departures; 4] {
    let none = Departures::default();
    [
        none,
        Departures {
            activation: Some(Activation::Gelu),
            ..none
        },
        Departures {
            activation: Some(Activation::QuickGelu),
            norm_epsilon: Some(2),
            ..none
        },
        Departures {
            class_twice: true,
            ..none
        },
    ]
}

/// Every vector of the features.
fn vectors(features: &ImageFeatures) -> Vec<&[f32]> {
    let maps = features.maps.iter().flat_map(|map| {
        let class = map.class_token.as_deref();
        class.into_iter().chain(map.tokens.chunks_exact(map.dim))
    });
    maps.chain(features.embedding.as_deref()).collect()
}

#[test]
fn kernels_answer_every_request_as_the_reference_does() {
    // Not square, and two sizes: two patches by three, and three by one.
    let images = [(2, 3), (3, 1), (2, 3)].map(|(rows, columns)| {
        let count = 3 * rows * columns * PATCH * PATCH;
        Preprocessed {
            height: rows * PATCH,
            width: columns * PATCH,
            values: (0..count)
                .map(|i| (i as f32 * 0.37 + columns as f32).cos())
                .collect(),
        }
    });
    for (name, clip, feed_forward) in [
        (
            "CLIP of OpenAI",
            true,
            FeedForward::Plain(Activation::QuickGelu),
        ),
        ("OpenCLIP", true, FeedForward::Plain(Activation::Gelu)),
        ("DINOv2", false, FeedForward::Plain(Activation::Gelu)),
        ("DINOv2 ViT-g", false, FeedForward::SwiGlu),
    ] {
        let network = Network::new(clip, feed_forward);
        let exact = Engine::all().into_iter().map(|e| (e, Precision::F32));
        let narrow = [Precision::Half, Precision::Int8].map(|p| (Engine::detect(), p));
        for (engine, precision) in exact.chain(narrow) {
            let kernels = network.kernels(engine, precision);
            let plain = matches!(feed_forward, FeedForward::Plain(_))
                && engine == Engine::detect()
                && precision == Precision::F32;
            let departures = departures().into_iter().take(if plain { 4 } else { 1 });
            let all = departures.flat_map(|departures| {
                // All requests of the network as it was trained, the last few otherwise.
                let requests = requests().into_iter();
                let left_out = if departures.is_none() { 0 } else { 10 };
                requests.skip(left_out).map(move |request| FeatureRequest {
                    departures,
                    ..request
                })
            });
            for request in all {
                let name = format!("{name}, {engine:?} {precision}, {request:?}");
                let found = kernels.encode(&images, &request).unwrap();
                assert_eq!(found.len(), images.len(), "{name}");
                let reference =
                    Reference::new(&network.shape, &network, request.departures).unwrap();
                for (found, image) in found.iter().zip(&images) {
                    let expected = reference.encode(image, &request).unwrap();
                    check(&name, precision, found, &expected);
                }
            }
        }
    }
}

fn check(name: &str, precision: Precision, found: &ImageFeatures, expected: &ImageFeatures) {
    let layout = |features: &ImageFeatures| -> Vec<_> {
        let maps = features.maps.iter();
        maps.map(|map| (map.layer, map.grid, map.dim)).collect()
    };
    assert_eq!(layout(found), layout(expected), "{name}");
    let (found, expected) = (vectors(found), vectors(expected));
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(&expected) {
        let sum = |term: &dyn Fn(f64, f64) -> f64| -> f64 {
            let pairs = found.iter().zip(*expected);
            pairs.map(|(&a, &b)| term(a.into(), b.into())).sum()
        };
        let length = sum(&|_, b| b * b).sqrt();
        let difference = sum(&|a, b| (a - b).powi(2)).sqrt() / length;
        let cosine = sum(&|a, b| a * b) / (sum(&|a, _| a * a).sqrt() * length);
        match precision {
            Precision::F32 => assert!(difference < 1e-4, "{name}: {difference}"),
            Precision::Half => assert!(cosine >= 0.999, "{name}: {cosine}"),
            // Random weights have no outliers and no structure; real ones are tested with DINOv2.
            Precision::Int8 => assert!(cosine >= 0.98, "{name}: {cosine}"),
        }
    }
}

#[test]
fn positions_on_another_grid_are_those_of_april_gan() {
    let goldens = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens/aprilgan_tiny.safetensors");
    let goldens = candle_core::safetensors::load(goldens, &candle_core::Device::Cpu).unwrap();
    let shape = Network::new(true, FeedForward::Plain(Activation::QuickGelu)).shape;
    let trained = seeded_tensor(41, "visual.positional_embedding", &[17, WIDTH]).unwrap();
    let grid = crate::Grid {
        rows: 5,
        columns: 5,
    };
    let rule = PositionResize::BicubicAntialias;
    let found = super::position::resize(&trained, &shape, grid, rule).unwrap();
    let difference = (found - &goldens["pos_embed"]).unwrap().abs().unwrap();
    let largest = difference.flatten_all().unwrap().max(0).unwrap();
    assert!(largest.to_scalar::<f32>().unwrap() < 1e-5, "{largest}");
}
