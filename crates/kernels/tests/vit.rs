//! Whole networks under every instruction set and precision against the same network in plain
//! float64 loops.
#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::sync::Arc;

use anomalens_kernels::{
    AttentionKind, BlockWeights, Engine, Epilogue, HeadWeights, Images, LinearWeights, LocalStream,
    MappedFile, NormWeights, Precision, SharedBytes, StemWeights, Vit, VitConfig, VitEmbedding,
    VitRequest, VitSizes, VitStage, VitTokens,
};

const WIDTH: usize = 48;
const HEADS: usize = 3;
const MIDDLE: usize = 100;
const PATCH: usize = 4;
const BLOCKS: usize = 4;
const EMBEDDING: usize = 20;
/// Height and width of the images, in pixels.
const SIZE: (usize, usize) = (20, 28);
const TOKENS: usize = 1 + SIZE.0 * SIZE.1 / PATCH / PATCH;
const EPSILON: f32 = 1e-5;

/// Numbers of a normal-like distribution, the same every time.
fn numbers(count: usize, seed: u64, size: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count)
        .map(|_| (next() + next() + next()) * 2.0 * size)
        .collect()
}

/// Weights by role, for one block or for what comes before the blocks.
struct Numbers {
    norms: Vec<Vec<f32>>,
    scales: Vec<Vec<f32>>,
    layers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Numbers {
    fn new(seed: u64, sizes: &[(usize, usize)]) -> Self {
        let norm = |i: u64| {
            let numbers = numbers(WIDTH, seed * 100 + i, 0.2);
            numbers.iter().map(|x| x + (i % 2) as f32).collect()
        };
        let layer = |(i, &(inputs, outputs)): (usize, &(usize, usize))| {
            let seed = seed * 100 + 50 + 2 * i as u64;
            let size = 1.5 / (inputs as f32).sqrt();
            (
                numbers(inputs * outputs, seed, size),
                numbers(outputs, seed + 1, 0.2),
            )
        };
        Self {
            norms: (1..5).map(norm).collect(),
            scales: (5..7)
                .map(|i| numbers(WIDTH, seed * 100 + i, 1.0))
                .collect(),
            layers: sizes.iter().enumerate().map(layer).collect(),
        }
    }

    fn norm(&self, i: usize) -> NormWeights<'_> {
        NormWeights {
            weight: &self.norms[2 * i],
            bias: &self.norms[2 * i + 1],
        }
    }

    fn layer(&self, i: usize) -> LinearWeights<'_> {
        LinearWeights {
            weight: &self.layers[i].0,
            bias: &self.layers[i].1,
        }
    }

    fn block(&self) -> BlockWeights<'_> {
        BlockWeights {
            norm1: self.norm(0),
            qkv: self.layer(0),
            output: self.layer(1),
            scale1: Some(&self.scales[0]),
            norm2: self.norm(1),
            up: self.layer(2),
            down: self.layer(3),
            scale2: Some(&self.scales[1]),
        }
    }
}

type Rows = Vec<Vec<f64>>;

fn linear(x: &Rows, layer: LinearWeights) -> Rows {
    let inputs = layer.weight.len() / layer.bias.len();
    let sum = |row: &[f64], (weight, &bias): (&[f32], &f32)| {
        let products = row.iter().zip(weight).map(|(x, &w)| x * f64::from(w));
        products.sum::<f64>() + f64::from(bias)
    };
    let outputs = || layer.weight.chunks(inputs).zip(layer.bias);
    x.iter()
        .map(|row| outputs().map(|output| sum(row, output)).collect())
        .collect()
}

fn norm(x: &Rows, weights: NormWeights) -> Rows {
    x.iter()
        .map(|row| {
            let mean = row.iter().sum::<f64>() / WIDTH as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / WIDTH as f64;
            let scale = 1.0 / (variance + f64::from(EPSILON)).sqrt();
            let parts = row.iter().zip(weights.weight.iter().zip(weights.bias));
            parts
                .map(|(x, (&w, &b))| (x - mean) * scale * f64::from(w) + f64::from(b))
                .collect()
        })
        .collect()
}

fn attention(qkv: &Rows, query: usize, key: usize) -> Rows {
    let head_width = WIDTH / HEADS;
    let mut result = vec![vec![0.0; WIDTH]; qkv.len()];
    for head in 0..HEADS {
        let part = |token: usize, part: usize| {
            &qkv[token][part * WIDTH + head * head_width..][..head_width]
        };
        for (token, result) in result.iter_mut().enumerate() {
            let score = |other: usize| {
                let pairs = part(token, query).iter().zip(part(other, key));
                pairs.map(|(x, y)| x * y).sum::<f64>() / (head_width as f64).sqrt()
            };
            let powers: Vec<f64> = (0..qkv.len()).map(|other| score(other).exp()).collect();
            let total: f64 = powers.iter().sum();
            for i in 0..head_width {
                let values = powers
                    .iter()
                    .enumerate()
                    .map(|(other, p)| p * part(other, 2)[i]);
                result[head * head_width + i] = values.sum::<f64>() / total;
            }
        }
    }
    result
}

/// `x + y * scale`
fn add(x: &Rows, y: &Rows, scale: &[f32]) -> Rows {
    let row = |(x, y): (&Vec<f64>, &Vec<f64>)| {
        let parts = x.iter().zip(y).zip(scale);
        parts
            .map(|((x, y), &scale)| x + y * f64::from(scale))
            .collect()
    };
    x.iter().zip(y).map(row).collect()
}

/// The tokens of both streams after each block.
fn plain(
    first: &Numbers,
    blocks: &[Numbers],
    class_token: &[f32],
    positions: &[f32],
    pixels: &[f32],
    local: Option<LocalStream>,
) -> Vec<(Rows, Rows)> {
    let columns = SIZE.1 / PATCH;
    let patch = |i: usize| -> Vec<f64> {
        let mut patch = vec![];
        for colour in 0..3 {
            for y in 0..PATCH {
                for x in 0..PATCH {
                    let row = colour * SIZE.0 + i / columns * PATCH + y;
                    patch.push(f64::from(pixels[row * SIZE.1 + i % columns * PATCH + x]));
                }
            }
        }
        patch
    };
    let patches = linear(&(0..TOKENS - 1).map(patch).collect(), first.layer(0));
    let mut tokens: Rows = vec![class_token.iter().map(|&x| f64::from(x)).collect()];
    tokens.extend(patches);
    let positions: Rows = positions
        .chunks(WIDTH)
        .map(|row| row.iter().map(|&x| f64::from(x)).collect())
        .collect();
    let mut tokens = norm(&add(&tokens, &positions, &[1.0; WIDTH]), first.norm(0));
    let mut local_tokens = tokens.clone();
    let mut results = vec![];
    for (numbers, number) in blocks.iter().zip(1..) {
        let (block, scale1, scale2) = (numbers.block(), &numbers.scales[0], &numbers.scales[1]);
        let qkv = linear(&norm(&tokens, block.norm1), block.qkv);
        let attended = linear(&attention(&qkv, 0, 1), block.output);
        tokens = add(&tokens, &attended, scale1);
        let mut hidden = linear(&norm(&tokens, block.norm2), block.up);
        for x in hidden.iter_mut().flatten() {
            *x /= 1.0 + (-1.702 * *x).exp();
        }
        tokens = add(&tokens, &linear(&hidden, block.down), scale2);
        local_tokens = match local {
            Some(LocalStream { from, kind }) if number >= from => {
                let part = match kind {
                    AttentionKind::Vv => 2,
                    AttentionKind::Kk => 1,
                    AttentionKind::Qq | AttentionKind::Qk => 0,
                };
                let attended = linear(&attention(&qkv, part, part), block.output);
                add(&local_tokens, &attended, scale1)
            }
            _ => tokens.clone(),
        };
        results.push((tokens.clone(), local_tokens.clone()));
    }
    results
}

/// The lowest cosine and the largest relative difference of rows.
fn compare(found: &[f32], expected: &Rows) -> (f64, f64) {
    let mut worst = (1.0_f64, 0.0_f64);
    let width = expected[0].len();
    assert_eq!(found.len(), expected.len() * width);
    for (found, expected) in found.chunks(width).zip(expected) {
        let found: Vec<f64> = found.iter().map(|&x| f64::from(x)).collect();
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let length = dot(expected, expected).sqrt();
        let cosine = dot(&found, expected) / (dot(&found, &found).sqrt() * length);
        let difference: Vec<f64> = found.iter().zip(expected).map(|(x, y)| x - y).collect();
        let difference = dot(&difference, &difference).sqrt() / length;
        worst = (worst.0.min(cosine), worst.1.max(difference));
    }
    worst
}

/// All weights of a small network.
struct Network {
    first: Numbers,
    blocks: Vec<Numbers>,
    class_token: Vec<f32>,
    positions: Vec<f32>,
    projection: Vec<f32>,
}

impl Network {
    fn new() -> Self {
        let sizes = [
            (WIDTH, 3 * WIDTH),
            (WIDTH, WIDTH),
            (WIDTH, MIDDLE),
            (MIDDLE, WIDTH),
        ];
        Self {
            first: Numbers::new(1, &[(3 * PATCH * PATCH, WIDTH)]),
            blocks: (0..BLOCKS as u64)
                .map(|i| Numbers::new(i + 2, &sizes))
                .collect(),
            class_token: numbers(WIDTH, 90, 1.0),
            positions: numbers(TOKENS * WIDTH, 91, 1.0),
            projection: numbers(EMBEDDING * WIDTH, 93, 0.3),
        }
    }

    fn packed(&self, engine: Engine, precision: Precision) -> Vit {
        let config = VitConfig {
            heads: HEADS,
            patch: PATCH,
            epsilon: EPSILON,
            activation: Epilogue::QuickGelu,
        };
        let stem = StemWeights {
            patch: self.first.layer(0),
            class_token: &self.class_token,
            norm: Some(self.first.norm(0)),
        };
        let head = HeadWeights {
            norm: self.first.norm(1),
            projection: Some(&self.projection),
        };
        let mut vit = Vit::new(engine, precision, config, &stem, &head).unwrap();
        for block in &self.blocks {
            vit.push(&block.block()).unwrap();
        }
        vit
    }

    /// The tokens of both streams after each block.
    fn plain(&self, pixels: &[f32], local: Option<LocalStream>) -> Vec<(Rows, Rows)> {
        let (class_token, positions) = (&self.class_token, &self.positions);
        plain(
            &self.first,
            &self.blocks,
            class_token,
            positions,
            pixels,
            local,
        )
    }

    fn projected(&self, tokens: &Rows) -> Rows {
        let layer = LinearWeights {
            weight: &self.projection,
            bias: &[0.0; EMBEDDING],
        };
        linear(tokens, layer)
    }
}

fn images_of(pixels: &[f32]) -> Images<'_> {
    Images {
        pixels,
        height: SIZE.0,
        width: SIZE.1,
    }
}

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
    let config = VitConfig {
        heads: HEADS,
        patch: PATCH,
        epsilon: EPSILON,
        activation: Epilogue::Gelu,
    };
    assert!(Vit::new(Engine::detect(), Precision::F32, config, &stem, &head).is_err());
}

#[test]
fn saved_networks_encode_as_those_they_were_saved_from() {
    let network = Network::new();
    let images = numbers(3 * SIZE.0 * SIZE.1, 92, 1.0);
    let request = VitRequest {
        blocks: vec![2, BLOCKS],
        stage: VitStage::Projected,
        local: None,
        embedding: Some(VitEmbedding::Normed),
    };
    let sizes = VitSizes {
        width: WIDTH,
        blocks: BLOCKS,
        norm: true,
        projection: true,
    };
    let config = VitConfig {
        heads: HEADS,
        patch: PATCH,
        epsilon: EPSILON,
        activation: Epilogue::QuickGelu,
    };
    let folder = tempfile::tempdir().unwrap();
    for (from, precision) in engines_and_precisions() {
        let vit = network.packed(from, precision);
        let expected = vit.encode(images_of(&images), &network.positions, &request);
        let expected = expected.unwrap();
        let mut bytes = vec![];
        vit.write(&mut bytes).unwrap();
        let path = folder.path().join("packed");
        std::fs::write(&path, &bytes).unwrap();
        let mapped = SharedBytes::Mapped(Arc::new(MappedFile::open(&path).unwrap()));
        // Somewhere in the program, on no cache line.
        let mut odd = vec![0; 4];
        odd.extend_from_slice(&bytes);
        let odd = SharedBytes::Static(odd.leak());
        for (to, at, bytes) in Engine::all()
            .into_iter()
            .flat_map(|to| [(to, 0, &mapped), (to, 4, &odd)])
        {
            let name = format!("{precision} from {from:?} to {to:?}");
            let read = Vit::read(to, precision, config.clone(), sizes, bytes, at).unwrap();
            let found = read.encode(images_of(&images), &network.positions, &request);
            let found = found.unwrap();
            if from == to {
                assert_eq!(found, expected, "{name}");
            }
            let pairs = found.blocks.iter().zip(&expected.blocks);
            for (found, expected) in pairs {
                let rows = |tokens: &VitTokens| -> Rows {
                    let rows = tokens.patch_tokens.chunks(EMBEDDING);
                    rows.map(|row| row.iter().map(|&x| f64::from(x)).collect())
                        .collect()
                };
                let (cosine, _) = compare(&found.patch_tokens, &rows(expected));
                assert!(cosine > 0.995, "{name}: {cosine}");
            }
        }
        // A part of the file is no network, nor is another network's.
        let cut = SharedBytes::Static(bytes[..bytes.len() / 2].to_vec().leak());
        let other = VitSizes {
            width: 2 * WIDTH,
            ..sizes
        };
        for (bytes, sizes) in [(&cut, sizes), (&mapped, other)] {
            assert!(Vit::read(from, precision, config.clone(), sizes, bytes, 0).is_err());
        }
    }
}

fn engines_and_precisions() -> impl Iterator<Item = (Engine, Precision)> {
    let engines = Engine::all().into_iter();
    engines.flat_map(|engine| Precision::ALL.map(|precision| (engine, precision)))
}
