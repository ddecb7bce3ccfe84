//! Layers of convolutional networks that learn, each with its gradients. The frozen networks are in the
//! kernels, which are faster and have none.
//!
//! ```text
//! convolution.rs  convolutions; pool.rs: the largest of a window
//! window.rs       where the windows of both lie
//! batch_norm.rs   batch norm
//! warp.rs         maps seen through a matrix
//! ```

mod batch_norm;
mod convolution;
mod pool;
mod warp;
mod window;

use candle_core::{CpuStorage, Error, Layout, Result, Shape, Tensor};

pub(crate) use batch_norm::{BatchNorm, Phase};
pub(crate) use convolution::convolution;
pub(crate) use pool::max_pool;
pub(crate) use warp::{MATRIX, inverses, warp};

/// The numbers of a tensor without gaps.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    let range = layout.contiguous_offsets();
    let found = range.and_then(|(start, end)| all.get(start..end));
    found.ok_or_else(|| Error::msg("a tensor has gaps between its numbers"))
}

/// All numbers of `tensor` in the order of its axes.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Images, channels, rows and columns.
fn dims4(layout: &Layout) -> Result<[usize; 4]> {
    let (images, channels, rows, columns) = layout.shape().dims4()?;
    Ok([images, channels, rows, columns])
}

/// What an operation gives back.
fn of_numbers(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::training::random::{generator, normal};

    fn random(shape: &[usize], seed: u32) -> Var {
        let values = normal(shape.iter().product(), 1.0, &mut generator(seed, 0));
        let values = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        Var::from_tensor(&values).unwrap()
    }

    /// Compares the gradients of the weighted sum of what `layer` gives with its differences when a number
    /// of one of `inputs` is moved.
    #[track_caller]
    fn gradients_are_differences(inputs: &[Var], layer: impl Fn() -> Result<Tensor>) {
        let weights = random(layer().unwrap().dims(), 99);
        let loss = || {
            let product = (layer().unwrap() * weights.as_tensor()).unwrap();
            let values = to_vec(&product).unwrap();
            values.into_iter().map(f64::from).sum::<f64>()
        };
        let sum = (layer().unwrap() * weights.as_tensor()).unwrap().sum_all();
        let gradients = sum.unwrap().backward().unwrap();
        for (number, input) in inputs.iter().enumerate() {
            let gradient = to_vec(gradients.get(input).unwrap()).unwrap();
            let values = to_vec(input).unwrap();
            for place in (0..values.len()).step_by(values.len().div_ceil(9)) {
                const STEP: f32 = 1e-2;
                let moved = [STEP, -STEP].map(|step| {
                    let mut moved = values.clone();
                    moved[place] += step;
                    let moved = Tensor::from_vec(moved, input.dims(), &Device::Cpu).unwrap();
                    input.set(&moved).unwrap();
                    loss()
                });
                let before = Tensor::from_vec(values.clone(), input.dims(), &Device::Cpu).unwrap();
                input.set(&before).unwrap();
                let expected = (moved[0] - moved[1]) / f64::from(2.0 * STEP);
                let off = (f64::from(gradient[place]) - expected).abs();
                assert!(
                    off < 2e-2 + 1e-2 * expected.abs(),
                    "{number}: {off} of {expected}"
                );
            }
        }
    }

    #[test]
    fn convolutions_are_the_librarys_and_have_its_gradients() {
        // (side, stride, padding, rows, columns)
        for (side, stride, padding, rows, columns) in [
            (3, 1, 1, 6, 5),
            (3, 2, 1, 7, 6),
            (7, 2, 3, 9, 10),
            (1, 2, 0, 5, 5),
            (1, 1, 0, 3, 4),
        ] {
            let x = random(&[2, 3, rows, columns], 1);
            let weight = random(&[4, 3, side, side], 2);
            let layer = || convolution(&x, &weight, stride, padding);
            let found = layer().unwrap();
            let expected = x.conv2d(&weight, padding, stride, 1, 1).unwrap();
            assert_eq!(found.dims(), expected.dims());
            let off = (found - expected)
                .unwrap()
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap();
            let off: f32 = off.max(0).unwrap().to_scalar().unwrap();
            assert!(off < 3e-5, "{off}");
            gradients_are_differences(&[x.clone(), weight.clone()], layer);
        }
    }

    #[test]
    fn the_largest_of_each_window_takes_the_gradient() {
        let values = [
            [1.0_f32, 5.0, 2.0, 0.0],
            [3.0, 5.0, -1.0, -2.0],
            [-9.0, -8.0, -7.0, -6.0],
        ];
        let x = Tensor::new(&values, &Device::Cpu).unwrap();
        let x = Var::from_tensor(&x.reshape((1, 1, 3, 4)).unwrap()).unwrap();
        let pooled = max_pool(&x, 3, 2, 1).unwrap();
        assert_eq!(pooled.dims(), [1, 1, 2, 2]);
        assert_eq!(to_vec(&pooled).unwrap(), [5.0, 5.0, 5.0, 5.0]);
        let last = random(&[1, 1, 9, 9], 3);
        gradients_are_differences(std::slice::from_ref(&last), || max_pool(&last, 3, 2, 1));
        // Of equal numbers the first one counts.
        let gradients = pooled.sum_all().unwrap().backward().unwrap();
        let gradient = to_vec(gradients.get(&x).unwrap()).unwrap();
        assert_eq!(gradient[..6], [0.0, 2.0, 0.0, 0.0, 0.0, 2.0]);
    }

    #[test]
    fn maps_are_seen_through_matrices_and_have_gradients() {
        let map = Tensor::arange(0_f32, 12.0, &Device::Cpu).unwrap();
        let map = map.reshape((1, 1, 3, 4)).unwrap();
        let through = |matrix: [f32; 6]| {
            let matrix = Tensor::from_slice(&matrix, (1, 2, 3), &Device::Cpu).unwrap();
            to_vec(&warp(&map, &matrix).unwrap()).unwrap()
        };
        let near = |found: &[f32], expected: &[f32]| {
            let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 1e-5, "{found:?}");
        };
        near(
            &through([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
            &to_vec(&map).unwrap(),
        );
        // Moved by one and a half of four pixels: what lies beyond the edge is mirrored about it.
        let moved = through([1.0, 0.0, 0.75, 0.0, 1.0, 0.0]);
        near(&moved[..4], &[1.5, 2.5, 3.0, 2.5]);
        let turned = through([-1.0, 0.0, 0.0, 0.0, -1.0, 0.0]);
        near(&turned[..4], &[11.0, 10.0, 9.0, 8.0]);
        // Nothing is read outside, whatever the matrix.
        for odd in [f32::NAN, f32::INFINITY, 1e30] {
            assert_eq!(through([odd, 0.0, odd, 0.0, odd, 1.0]).len(), 12);
        }

        let maps = random(&[2, 2, 4, 5], 7);
        let matrices = [
            0.9, -0.2, 0.1, 0.3, 1.2, -0.1, 1.1, 0.1, 0.4, -0.2, 0.7, 0.3_f32,
        ];
        let matrices = Tensor::from_slice(&matrices, (2, 2, 3), &Device::Cpu).unwrap();
        let back = warp(&maps, &inverses(&matrices).unwrap().unwrap()).unwrap();
        assert_eq!(back.dims(), maps.dims());
        let line = Tensor::new(&[[[1.0_f32, 2.0, 0.0], [2.0, 4.0, 1.0]]], &Device::Cpu).unwrap();
        assert!(inverses(&line).unwrap().is_none());
        gradients_are_differences(std::slice::from_ref(&maps), || warp(&maps, &matrices));
        // Those of the matrices on a map without edges between its places.
        let slope = Tensor::arange(0_f32, 40.0, &Device::Cpu).unwrap();
        let slope = slope.reshape((1, 1, 5, 8)).unwrap();
        let matrix = Tensor::new(&[[[0.6_f32, 0.1, 0.0], [-0.1, 0.5, 0.1]]], &Device::Cpu).unwrap();
        let matrix = Var::from_tensor(&matrix).unwrap();
        gradients_are_differences(std::slice::from_ref(&matrix), || warp(&slope, &matrix));
    }

    #[test]
    fn batch_norm_learns_from_batches_and_has_gradients() {
        for shape in [&[3, 2, 4, 5][..], &[7, 2]] {
            let x = random(shape, 4);
            let norm = BatchNorm {
                weight: random(&[2], 5),
                bias: random(&[2], 6),
                ..BatchNorm::new(2).unwrap()
            };
            let inputs = [x.clone(), norm.weight.clone(), norm.bias.clone()];
            gradients_are_differences(&inputs, || norm.forward(&x, Phase::Training));
            // After many batches of the same numbers the running statistics are theirs, but for the
            // variance, which divides by one less.
            for _ in 0..200 {
                norm.forward(&x, Phase::Training).unwrap();
            }
            let count: usize = shape.iter().product::<usize>() / 2;
            let unbiased = (count as f64 / (count - 1) as f64).sqrt();
            let [learned, kept] = [Phase::Training, Phase::Scoring].map(|phase| {
                let centred = norm.forward(&x, phase).unwrap();
                let bias = norm
                    .bias
                    .reshape(&[&[1, 2][..], &vec![1; shape.len() - 2]].concat()[..]);
                to_vec(&centred.broadcast_sub(&bias.unwrap()).unwrap()).unwrap()
            });
            for (learned, kept) in learned.into_iter().zip(kept) {
                assert!((f64::from(learned) - f64::from(kept) * unbiased).abs() < 1e-4);
            }
        }
    }
}
