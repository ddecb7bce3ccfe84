//! CLIP's position embedding on other grids than it was trained on.

use super::PositionResize;

/// The kernel's parameter where resizing is antialiased, as in Pillow.
const CUBIC_A: f64 = -0.5;

/// Row-major `[to, from]`: the weights of the trained positions on one axis for each new one.
pub(crate) fn weights(from: usize, to: usize, rule: PositionResize) -> Vec<f32> {
    match rule {
        PositionResize::Bilinear => bilinear(from, to),
        PositionResize::BicubicAntialias => bicubic_antialias(from, to),
    }
}

/// Row-major `[to, from]`: half-pixel centres, borders repeated.
fn bilinear(from: usize, to: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; from * to];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let source = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
        let first = source.floor();
        let part = source - first;
        let first = first as usize;
        row[first] += (1.0 - part) as f32;
        row[(first + 1).min(from - 1)] += part as f32;
    }
    matrix
}

/// Row-major `[to, from]`: the kernel is as wide as the larger of both steps, and its weights are
/// normalised over the taps that exist.
fn bicubic_antialias(from: usize, to: usize) -> Vec<f32> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let mut matrix = vec![0.0; from * to];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - 2.0 * stretch + 0.5).max(0.0) as usize;
        let end = ((centre + 2.0 * stretch + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..end)
            .map(|j| cubic((j as f64 - centre + 0.5) / stretch))
            .collect();
        let sum: f64 = weights.iter().sum();
        for (value, weight) in row[first..end].iter_mut().zip(weights) {
            *value = (weight / sum) as f32;
        }
    }
    matrix
}

/// The cubic convolution kernel at distance `x`.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        CUBIC_A * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}
