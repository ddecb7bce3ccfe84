//! A small network, and the same in plain float64 loops.

use anomalens_kernels::{
    BlockWeights, Dpam, Engine, Epilogue, HeadWeights, Images, LinearWeights, NormWeights,
    Precision, SelfAttention, StemWeights, Vit, VitConfig,
};

pub(crate) const WIDTH: usize = 48;
pub(crate) const HEADS: usize = 3;
pub(crate) const MIDDLE: usize = 100;
pub(crate) const PATCH: usize = 4;
pub(crate) const BLOCKS: usize = 4;
pub(crate) const EMBEDDING: usize = 20;
/// Height and width of the images, in pixels.
pub(crate) const SIZE: (usize, usize) = (20, 28);
pub(crate) const TOKENS: usize = 1 + SIZE.0 * SIZE.1 / PATCH / PATCH;
pub(crate) const EPSILON: f32 = 1e-5;

/// Numbers of a normal-like distribution, the same every time.
pub(crate) fn numbers(count: usize, seed: u64, size: f32) -> Vec<f32> {
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
pub(crate) struct Numbers {
    pub(crate) norms: Vec<Vec<f32>>,
    pub(crate) scales: Vec<Vec<f32>>,
    pub(crate) layers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Numbers {
    pub(crate) fn new(seed: u64, sizes: &[(usize, usize)]) -> Self {
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

    pub(crate) fn norm(&self, i: usize) -> NormWeights<'_> {
        NormWeights {
            weight: &self.norms[2 * i],
            bias: &self.norms[2 * i + 1],
        }
    }

    pub(crate) fn layer(&self, i: usize) -> LinearWeights<'_> {
        LinearWeights {
            weight: &self.layers[i].0,
            bias: &self.layers[i].1,
        }
    }

    pub(crate) fn block(&self) -> BlockWeights<'_> {
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

pub(crate) type Rows = Vec<Vec<f64>>;

pub(crate) fn linear(x: &Rows, layer: LinearWeights) -> Rows {
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

pub(crate) fn norm(x: &Rows, weights: NormWeights) -> Rows {
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

pub(crate) fn attention(qkv: &Rows, query: usize, key: usize) -> Rows {
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
pub(crate) fn add(x: &Rows, y: &Rows, scale: &[f32]) -> Rows {
    let row = |(x, y): (&Vec<f64>, &Vec<f64>)| {
        let parts = x.iter().zip(y).zip(scale);
        parts
            .map(|((x, y), &scale)| x + y * f64::from(scale))
            .collect()
    };
    x.iter().zip(y).map(row).collect()
}

/// The tokens of both streams after each block.
pub(crate) fn plain(
    first: &Numbers,
    blocks: &[Numbers],
    class_token: &[f32],
    positions: &[f32],
    pixels: &[f32],
    local: Option<Dpam>,
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
            Some(Dpam {
                first_block,
                attention: own,
                ..
            }) if number >= first_block => {
                let part = match own {
                    SelfAttention::Values => 2,
                    SelfAttention::Keys => 1,
                    SelfAttention::Queries => 0,
                    SelfAttention::Alone => unreachable!("tested with whole networks"),
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
pub(crate) fn compare(found: &[f32], expected: &Rows) -> (f64, f64) {
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
pub(crate) struct Network {
    pub(crate) first: Numbers,
    pub(crate) blocks: Vec<Numbers>,
    pub(crate) class_token: Vec<f32>,
    pub(crate) positions: Vec<f32>,
    pub(crate) projection: Vec<f32>,
}

impl Network {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn packed(&self, engine: Engine, precision: Precision) -> Vit {
        self.fitted(engine, precision, None)
    }

    /// The same, fitted to images.
    pub(crate) fn fitted(
        &self,
        engine: Engine,
        precision: Precision,
        pixels: Option<&[f32]>,
    ) -> Vit {
        let stem = StemWeights {
            patch: self.first.layer(0),
            class_token: &self.class_token,
            norm: Some(self.first.norm(0)),
        };
        let head = HeadWeights {
            norm: self.first.norm(1),
            projection: Some(&self.projection),
        };
        let mut vit = Vit::new(engine, precision, config(), &stem, &head).unwrap();
        let mut calibration = pixels.map(|pixels| {
            let images = images_of(pixels);
            vit.calibration(&images, &self.positions).unwrap()
        });
        for block in &self.blocks {
            vit.push(&block.block(), calibration.as_mut()).unwrap();
        }
        vit
    }

    /// The tokens of both streams after each block.
    pub(crate) fn plain(&self, pixels: &[f32], local: Option<Dpam>) -> Vec<(Rows, Rows)> {
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

    pub(crate) fn projected(&self, tokens: &Rows) -> Rows {
        let layer = LinearWeights {
            weight: &self.projection,
            bias: &[0.0; EMBEDDING],
        };
        linear(tokens, layer)
    }
}

/// The network's own settings.
pub(crate) fn config() -> VitConfig {
    VitConfig {
        heads: HEADS,
        patch: PATCH,
        epsilon: EPSILON,
        activation: Epilogue::QuickGelu,
    }
}

pub(crate) fn images_of(pixels: &[f32]) -> Images<'_> {
    Images {
        pixels: pixels.chunks(3 * SIZE.0 * SIZE.1).collect(),
        height: SIZE.0,
        width: SIZE.1,
    }
}
