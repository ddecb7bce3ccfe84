//! What can go wrong between a weight file and features.

use std::path::PathBuf;

use anomalens_kernels::{EngineError, LayerId, ShapeError};
use thiserror::Error;

/// An error of this crate's networks and checkpoint readers.
#[derive(Debug, Error)]
pub enum BackboneError {
    /// The weight file could not be read.
    #[error("cannot read the weight file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A weight file could not be written.
    #[error("cannot write the weight file {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The weight file's content is not what its format promises.
    #[error("{path} is not a usable {format} file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that was tried.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No known network has tensors of these names.
    #[error("{path} holds no network that is known here (known families: {known})")]
    UnknownFamily {
        /// The file.
        path: PathBuf,
        /// Names of the families that were looked for.
        known: &'static str,
    },
    /// A tensor that the network needs is not in the file.
    #[error("the weights lack the tensor `{name}` of shape {expected:?}")]
    MissingTensor {
        /// The tensor's name in the file.
        name: String,
        /// The shape that the network expects.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the network needs.
    #[error("the tensor `{name}` has the shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// The tensor's name in the file.
        name: String,
        /// The shape that the network expects.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// The configuration that follows from the shapes makes no sense.
    #[error("the weights describe an impossible network: {0}")]
    Config(String),
    /// A layer is requested that the network does not have.
    #[error("{encoder} has no {layer}{}", last_layer(.last))]
    NoSuchLayer {
        /// The layer.
        layer: LayerId,
        /// The network's name.
        encoder: String,
        /// Its last layer, if it has any.
        last: Option<LayerId>,
    },
    /// Several networks are used together, and another one is asked for.
    #[error("there is no network {number}: {count} are used together")]
    NoSuchNetwork {
        /// The network, counted from 1.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// Packed weights hold only the first blocks, and a later one is needed.
    #[error(
        "these weights of {encoder} hold the blocks up to {held} only, but block {block} is \
         needed; use the complete weights"
    )]
    BlockNotHeld {
        /// The block, counted from 1.
        block: usize,
        /// The network's name.
        encoder: String,
        /// The last block that is there.
        held: usize,
    },
    /// Another activation, or what else [`Departures`](crate::Departures) has, is wanted of a network
    /// that cannot be computed so.
    #[error("{0} is computed as it was trained only; use weights of CLIP")]
    NoOtherActivation(String),
    /// Packed weights hold only the first stages, and more is needed.
    #[error(
        "these weights of {encoder} hold the stages up to {held} only, but stage {stage} or the \
         embedding is needed; use the whole weights"
    )]
    StageNotHeld {
        /// The stage, counted from 1.
        stage: usize,
        /// The network's name.
        encoder: String,
        /// The last stage that is there.
        held: usize,
    },
    /// Packed weights cannot be used; why.
    #[error("the packed weights cannot be used: {0}")]
    Packed(String),
    /// An input is not RGB or its sides are no multiples of what the network needs.
    #[error(
        "an input of {height} x {width} pixels and {numbers} numbers does not fit: sides that are \
         multiples of {multiple} and 3 numbers for each pixel are needed{}",
        nearest_sides(*height, *width, *multiple)
    )]
    InputSize {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// How many numbers there are.
        numbers: usize,
        /// What both sides must be multiples of, in pixels.
        multiple: usize,
    },
    /// A text has more tokens than the text encoder takes.
    #[error("{text:?} has {tokens} tokens with start and end, more than {context_length}")]
    TextTooLong {
        /// The text.
        text: String,
        /// Its tokens, start and end included.
        tokens: usize,
        /// What the text encoder takes.
        context_length: usize,
    },
    /// The kernels that are asked for are not available.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A device that is used in place of the processor fails; how.
    #[error("{0}")]
    Device(String),
    /// Weights do not fit each other.
    #[error("the weights describe an impossible network: {0}")]
    Kernels(#[from] ShapeError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

fn last_layer(last: &Option<LayerId>) -> String {
    last.map_or_else(String::new, |last| format!("; its last layer is {last}"))
}

/// The sides that fit and are nearest to those that do not: "; nearest to 300 are 294 and 308".
fn nearest_sides(height: usize, width: usize, multiple: usize) -> String {
    let multiple = multiple.max(1);
    let mut sides = vec![height, width];
    sides.dedup();
    sides.retain(|side| *side == 0 || !side.is_multiple_of(multiple));
    let nearest = sides.into_iter().map(|side| {
        let below = side / multiple * multiple;
        match (below, below.saturating_add(multiple)) {
            (0, above) => format!("; nearest to {side} is {above}"),
            (below, above) => format!("; nearest to {side} are {below} and {above}"),
        }
    });
    nearest.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_that_do_not_fit_come_with_the_nearest() {
        for (name, height, width, expected) in [
            ("a square", 300, 300, "; nearest to 300 are 294 and 308"),
            ("one side", 28, 30, "; nearest to 30 are 28 and 42"),
            (
                "both sides",
                15,
                13,
                "; nearest to 15 are 14 and 28; nearest to 13 is 14",
            ),
            ("none", 0, 28, "; nearest to 0 is 14"),
            ("sides that fit", 28, 42, ""),
        ] {
            assert_eq!(nearest_sides(height, width, 14), expected, "{name}");
        }
    }
}
