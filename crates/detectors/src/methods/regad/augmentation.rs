//! The 22 forms of a normal image from which statistics are taken (paper, section 3.4, "augmentations"):
//! turned, moved, mirrored, grey.

use std::f32::consts::PI;

use candle_core::{Device, Result, Tensor};

use crate::components::convnet::{MATRIX, warp};

/// Forms of each image.
pub(super) const FORMS: usize = 22;

/// By how much it is turned, in sixteenths of half a turn.
const SIXTEENTHS: [f32; 8] = [-4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0];

/// By how much it is moved, in halves of a side: to the left, up.
const SHIFTS: [[f32; 2]; 8] = [
    [0.2, 0.2],
    [-0.2, 0.2],
    [-0.2, -0.2],
    [0.2, -0.2],
    [0.1, 0.1],
    [-0.1, 0.1],
    [-0.1, -0.1],
    [0.1, -0.1],
];

/// How bright red, green and blue are.
const BRIGHTNESS: [f32; 3] = [0.299, 0.587, 0.114];

/// All forms of a square `image`, `[3, side, side]`, itself first: `[22, 3, side, side]`.
pub(super) fn forms(image: &Tensor) -> Result<Tensor> {
    let image = image.unsqueeze(0)?.contiguous()?;
    let turned = SIXTEENTHS.map(|sixteenths| {
        let (sine, cosine) = (PI * sixteenths / 16.0).sin_cos();
        [cosine, -sine, 0.0, sine, cosine, 0.0]
    });
    let moved = SHIFTS.map(|[x, y]| [1.0, 0.0, x, 0.0, 1.0, y]);
    let matrices = [turned, moved].concat().concat();
    let count = turned.len() + moved.len();
    let matrices = Tensor::from_vec(matrices, (count, MATRIX[0], MATRIX[1]), &Device::Cpu)?;
    let warped = warp(&image.repeat((count, 1, 1, 1))?, &matrices)?;
    // Axes: image, channel, row, column.
    let mirrored = image.flip(&[3])?;
    let brightness = Tensor::new(&BRIGHTNESS, &Device::Cpu)?.reshape((1, 3, 1, 1))?;
    let grey = image.broadcast_mul(&brightness)?.sum_keepdim(1)?;
    let grey = grey.broadcast_as(image.shape())?;
    let turned = image.transpose(2, 3)?.contiguous()?;
    let quarter = turned.flip(&[2])?;
    let half = mirrored.flip(&[2])?;
    let three_quarters = turned.flip(&[3])?;
    Tensor::cat(
        &[
            &image,
            &warped,
            &mirrored,
            &grey,
            &quarter,
            &half,
            &three_quarters,
        ],
        0,
    )
}
