//! What a convolutional network is made of: windows, convolutions, and the steps from map to map.

use serde::{Deserialize, Serialize};

use crate::engine::Precision;
use crate::product::Epilogue;

/// Maps that the steps of a network may use.
pub(super) const SLOTS: usize = 8;

/// Colours of an image, the channels of the first map.
pub(super) const COLOURS: usize = 3;

/// Sides of a window beyond any network's.
pub(super) const LONGEST_SIDE: usize = 16;

/// One step of a network: from one map to another, each known by its number. Map 0 holds the image
/// at first; maps are used again as soon as nobody needs them any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The map to read.
    pub from: usize,
    /// The map to write; of an epilogue that adds it holds the residual. Not used by the steps
    /// that write none.
    pub to: usize,
    /// What is done.
    pub operation: Operation,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A convolution with its bias and what follows it.
    Convolution(Convolution),
    /// The largest number of each window; what lies outside the map does not count.
    MaxPool(Window),
    /// Nothing: the map is the output of a stage, the next one in their order.
    Stage,
    /// The mean over all places is the image's embedding.
    Embedding,
}

/// A convolution. Batch norm is part of its weights and bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convolution {
    /// Where it looks.
    pub window: Window,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Each output sees the one input of its number, of which there are as many.
    pub depthwise: bool,
    /// It is never computed less exactly: where all that follows depends on few numbers, more bits
    /// cost little. The network's precision decides if this is [`Precision::Int8`].
    pub least: Precision,
    /// What follows.
    pub last: Epilogue,
}

impl Convolution {
    /// Weights that it has.
    pub fn weights(&self) -> usize {
        let inputs = if self.depthwise { 1 } else { self.inputs };
        self.outputs
            .saturating_mul(inputs)
            .saturating_mul(self.window.side * self.window.side)
    }
}

/// A square that moves over a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Rows and columns.
    pub side: usize,
    /// How far it moves.
    pub stride: usize,
    /// How far it reaches over the edge.
    pub padding: Padding,
}

/// How far a window reaches over the edge of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// By so many places on all sides, as in PyTorch.
    Symmetric(usize),
    /// So that there are as many windows as strides begin within the map, TensorFlow's `SAME`: an
    /// odd place is at the bottom and on the right.
    Same,
}

impl Window {
    /// A window of one place.
    pub const POINT: Self = Self {
        side: 1,
        stride: 1,
        padding: Padding::Symmetric(0),
    };

    /// How many windows there are along a side of `length` places, and how many places the first
    /// one begins before the edge.
    pub fn along(&self, length: usize) -> (usize, usize) {
        let Self { side, stride, .. } = *self;
        match self.padding {
            Padding::Symmetric(padding) => {
                let room = (length + 2 * padding).checked_sub(side);
                (room.map_or(0, |room| room / stride + 1), padding)
            }
            Padding::Same => {
                let count = length.div_ceil(stride);
                let reach = count.saturating_sub(1) * stride + side;
                (count, reach.saturating_sub(length) / 2)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_placed_as_in_pytorch_and_tensorflow() {
        let same = |side, stride| Window {
            side,
            stride,
            padding: Padding::Same,
        };
        let symmetric = |side, stride, padding| Window {
            side,
            stride,
            padding: Padding::Symmetric(padding),
        };
        let cases = [
            ("even, stride 2", same(3, 2), 224, (112, 0)),
            ("odd, stride 2", same(3, 2), 7, (4, 1)),
            ("five, stride 2", same(5, 2), 14, (7, 1)),
            ("stride 1", same(5, 1), 14, (14, 2)),
            ("shorter than the window", same(5, 2), 1, (1, 2)),
            ("stem of a ResNet", symmetric(7, 2, 3), 224, (112, 3)),
            ("odd input", symmetric(3, 2, 1), 7, (4, 1)),
            ("no room", symmetric(3, 1, 0), 2, (0, 0)),
        ];
        for (case, window, length, expected) in cases {
            assert_eq!(window.along(length), expected, "{case}");
        }
    }
}
