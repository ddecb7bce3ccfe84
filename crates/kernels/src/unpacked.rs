//! Packed weights as plain float32 again, for those who run a network elsewhere.

use crate::conv::Convolution;

/// The weights of a layer: `[outputs, inputs]` and a bias `[outputs]`, of a layer norm one of each for
/// every input, of a convolution `[outputs, inputs, side, side]` (of a depthwise one
/// `[outputs, 1, side, side]`) and a bias. Exact for float32; of narrower formats the numbers that
/// products are computed with.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpacked {
    /// Row by row.
    pub weight: Vec<f32>,
    /// One for each output.
    pub bias: Vec<f32>,
}

impl Unpacked {
    /// From one place of a window after the other to a plane for each input.
    pub(crate) fn planes(mut self, convolution: &Convolution) -> Self {
        let (inputs, side) = (convolution.inputs, convolution.window.side);
        let area = side * side;
        for filter in self.weight.chunks_exact_mut(inputs * area) {
            let places = filter.to_vec();
            for (place, from) in places.chunks_exact(inputs).enumerate() {
                for (input, &x) in from.iter().enumerate() {
                    filter[input * area + place] = x;
                }
            }
        }
        self
    }

    /// From `half` gates and `half` values by turns to first all gates, then all values.
    pub(crate) fn apart(self, half: usize) -> Self {
        let inputs = self.weight.len() / self.bias.len();
        Self {
            weight: apart(&self.weight, half * inputs),
            bias: apart(&self.bias, half),
        }
    }
}

/// The pieces of `length` with even numbers, then those with odd ones.
fn apart(numbers: &[f32], length: usize) -> Vec<f32> {
    let pieces = |first| numbers.chunks_exact(length).skip(first).step_by(2);
    pieces(0).chain(pieces(1)).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::Window;
    use crate::engine::{Engine, Precision};
    use crate::linear::PackedLinear;
    use crate::product::Epilogue;

    #[test]
    fn layers_are_what_they_were_packed_from() {
        let (inputs, outputs) = (37, 45);
        let number = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 64.0;
        let weight: Vec<f32> = (0..inputs * outputs).map(number).collect();
        let bias: Vec<f32> = (0..outputs).map(number).collect();
        for engine in Engine::all() {
            for (precision, tolerance) in [
                (Precision::F32, 0.0),
                (Precision::Half, 0.004),
                (Precision::Int8, 0.008),
            ] {
                let layer = PackedLinear::new(engine, precision, &weight, &bias).unwrap();
                for (layer, spread) in [(layer.unpack(), 1.0), (layer.above(-0.25).unpack(), 2.0)] {
                    let case = format!("{engine:?} {precision}");
                    let near = |found: &[f32], expected: &[f32], tolerance: f32| {
                        assert_eq!(found.len(), expected.len(), "{case}");
                        for (a, b) in found.iter().zip(expected) {
                            assert!((a - b).abs() <= tolerance, "{case}: {a} for {b}");
                        }
                    };
                    near(&layer.weight, &weight, tolerance);
                    near(&layer.bias, &bias, tolerance * spread * 1e-3);
                }
            }
        }
    }

    #[test]
    fn numbers_are_put_where_they_were() {
        let convolution = Convolution {
            window: Window {
                side: 2,
                ..Window::POINT
            },
            inputs: 3,
            outputs: 1,
            depthwise: false,
            least: Precision::Half,
            last: Epilogue::Store,
        };
        let places = Unpacked {
            weight: (0..12_u8).map(f32::from).collect(),
            bias: vec![1.0],
        };
        let planes = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11_u8].map(f32::from);
        assert_eq!(places.planes(&convolution).weight, planes);
        let turns = Unpacked {
            weight: [0, 0, 1, 1, 2, 2, 3, 3_u8].map(f32::from).to_vec(),
            bias: [0, 1, 2, 3_u8].map(f32::from).to_vec(),
        };
        let apart = turns.apart(1);
        assert_eq!(apart.weight, [0, 0, 2, 2, 1, 1, 3, 3_u8].map(f32::from));
        assert_eq!(apart.bias, [0, 2, 1, 3_u8].map(f32::from));
    }
}
