//! Weights that make the inputs of 8-bit layers as alike in size as possible.
//!
//! All inputs of a token share one factor, so that a single large channel leaves the others few of
//! the 8 bits. SmoothQuant (Xiao et al., 2023, section 4) divides each channel of a layer norm by a
//! number of its own and multiplies the weights that it meets by the same; Outlier Suppression+ (Wei
//! et al., 2023, section 4.1) moves each channel's range around zero, and what that takes away into
//! the layer's bias. Neither changes what the network computes or costs anything when it runs.

use super::weights::{Block, BlockWeights, LinearWeights, NormWeights};
use super::work::{Plan, Rules, Workspace};
use super::{Images, Vit};
use crate::error::ShapeError;
use crate::parallel::Workers;
use crate::request::FeatureRequest;

/// How much of the differences between channels the weights take over: SmoothQuant's alpha.
const SHARE: f32 = 0.65;

/// Channels count as at least this part of the largest.
const LEAST: f32 = 1e-3;

/// Images on their way through a network that is being packed, see [`Vit::push`].
pub struct Calibration {
    images: Vec<Workspace>,
}

impl Vit {
    /// Images that later blocks are fitted to, with the position embedding `positions` as for
    /// [`encode`](Self::encode). The network must have no block yet.
    ///
    /// # Errors
    /// [`ShapeError`] if the images or the position embedding do not fit, or there are blocks.
    pub fn calibration(
        &self,
        images: &Images,
        positions: &[f32],
    ) -> Result<Calibration, ShapeError> {
        ShapeError::check("list of blocks before calibration", self.blocks.len(), 0)?;
        let plan = Plan {
            vit: self,
            request: &FeatureRequest::default(),
            positions,
            grid: self.grid(images, positions)?,
        };
        let embedded = images.pixels.iter().map(|pixels| {
            let mut workspace = Workspace::default();
            workspace.embed(&plan, pixels, Workers::Pool);
            workspace
        });
        let images = embedded.collect();
        Ok(Calibration { images })
    }
}

impl Calibration {
    /// Sends the images through a block, packed in wider numbers, and fits its weights to what its
    /// two layer norms make of them.
    pub(super) fn fit(&mut self, vit: &Vit, wide: &Block, weights: &BlockWeights) -> [Smoothed; 2] {
        let mut ranges = [Ranges::new(vit.width), Ranges::new(vit.width)];
        let [first, second] = &mut ranges;
        let rules = Rules::trained(vit);
        for image in &mut self.images {
            let rows = image.tokens(vit);
            first.widen(image.normed(vit, &wide.norm1, Workers::Pool));
            image.attend(vit, &rules, wide, rows, None, Workers::Pool);
            second.widen(image.normed(vit, &wide.norm2, Workers::Pool));
            image.feed_forward(vit, &rules, wide, rows, Workers::Pool);
        }
        [
            Smoothed::new(weights.norm1, weights.qkv, first),
            Smoothed::new(weights.norm2, weights.up, second),
        ]
    }
}

/// Lowest and highest number of each channel.
struct Ranges {
    low: Vec<f32>,
    high: Vec<f32>,
}

impl Ranges {
    fn new(width: usize) -> Self {
        Self {
            low: vec![f32::INFINITY; width],
            high: vec![f32::NEG_INFINITY; width],
        }
    }

    fn widen(&mut self, rows: &[f32]) {
        for row in rows.chunks_exact(self.low.len()) {
            for ((low, high), &x) in self.low.iter_mut().zip(&mut self.high).zip(row) {
                *low = low.min(x);
                *high = high.max(x);
            }
        }
    }
}

/// A layer norm and the layer after it, as they were but for the numbers between them.
pub(super) struct Smoothed {
    norm: [Vec<f32>; 2],
    layer: [Vec<f32>; 2],
}

impl Smoothed {
    fn new(norm: NormWeights, layer: LinearWeights, ranges: &Ranges) -> Self {
        let width = norm.weight.len();
        let pairs = || ranges.low.iter().zip(&ranges.high);
        let middle: Vec<f32> = pairs().map(|(low, high)| (low + high) / 2.0).collect();
        let mut inputs: Vec<f32> = pairs().map(|(low, high)| (high - low) / 2.0).collect();
        let mut weights = vec![0.0_f32; width];
        for row in layer.weight.chunks_exact(width) {
            for (most, x) in weights.iter_mut().zip(row) {
                *most = most.max(x.abs());
            }
        }
        raise(&mut inputs);
        raise(&mut weights);
        let scales: Vec<f32> = inputs
            .iter()
            .zip(&weights)
            .map(|(input, weight)| input.powf(SHARE) / weight.powf(1.0 - SHARE))
            .map(|scale| if scale.is_normal() { scale } else { 1.0 })
            .collect();
        let divided = |(x, scale): (f32, &f32)| x / scale;
        let moved = norm.bias.iter().zip(&middle).map(|(x, middle)| x - middle);
        let rows = || layer.weight.chunks_exact(width);
        let row_bias = |(row, &bias): (&[f32], &f32)| {
            let products = row.iter().zip(&middle);
            let products = products.map(|(&x, &middle)| f64::from(x) * f64::from(middle));
            (f64::from(bias) + products.sum::<f64>()) as f32
        };
        Self {
            norm: [
                norm.weight
                    .iter()
                    .copied()
                    .zip(&scales)
                    .map(divided)
                    .collect(),
                moved.zip(&scales).map(divided).collect(),
            ],
            layer: [
                rows()
                    .flat_map(|row| row.iter().zip(&scales).map(|(x, scale)| x * scale))
                    .collect(),
                rows().zip(layer.bias).map(row_bias).collect(),
            ],
        }
    }

    pub(super) fn norm(&self) -> NormWeights<'_> {
        let [weight, bias] = &self.norm;
        NormWeights { weight, bias }
    }

    pub(super) fn layer(&self) -> LinearWeights<'_> {
        let [weight, bias] = &self.layer;
        LinearWeights { weight, bias }
    }
}

/// Raises what is next to nothing, so that no factor is out of all proportion.
fn raise(magnitudes: &mut [f32]) {
    let most = magnitudes.iter().copied().fold(0.0, f32::max);
    for x in magnitudes {
        *x = x.max(LEAST * most);
    }
}
