//! Position embeddings for grids other than the one that they were trained on: bicubic (a = -0.75,
//! half-pixel centres, no antialiasing, borders repeated), as PyTorch's `interpolate` does it.

use serde::{Deserialize, Serialize};

/// The cubic kernel's parameter in PyTorch.
const CUBIC_A: f64 = -0.75;

/// How far from a new grid's position to the trained one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionResize {
    /// The trained grid is stretched to exactly the new size (Hugging Face, ONNX exports).
    #[default]
    ExactSize,
    /// The scale is `(new + 0.1) / trained`, as in the original DINOv2 repository.
    PaddedScale,
}

/// Row-major `[to, from]`: the weight of each trained position for each new one.
pub(crate) fn weights(from: usize, to: usize, rule: PositionResize) -> Vec<f32> {
    let step = match rule {
        PositionResize::ExactSize => from as f64 / to as f64,
        PositionResize::PaddedScale => from as f64 / (to as f64 + 0.1),
    };
    let mut matrix = vec![0.0; from * to];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let source = (i as f64 + 0.5) * step - 0.5;
        let first = source.floor();
        for tap in -1..=2 {
            let position = first + f64::from(tap);
            let index = position.clamp(0.0, (from - 1) as f64) as usize;
            row[index] += cubic(source - position) as f32;
        }
    }
    matrix
}

/// The cubic convolution kernel at distance `x`.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        CUBIC_A * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}
