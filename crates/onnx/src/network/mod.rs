//! Networks as parts of graphs.

mod convolutional;
mod transformer;

use anomalens_backbones::{
    BackboneError, Blueprint, FeatureRequest, Grid, ImageEncoder, LayerId, Normalisation,
};

use crate::OnnxError;
use crate::model::{Attribute, Element, Graph, Length, Value};

/// The length that stands for the images of a batch.
pub const BATCH: Length = Length::Named("batch");

/// The height and width of the images that a graph takes, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// What a network gives in a graph.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// The tokens after each layer that was asked for, in that order.
    pub maps: Vec<Tokens>,
    /// `[batch, embedding]`
    pub embedding: Option<Value>,
}

/// Tokens `[batch, tokens, dim]`.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The layer.
    pub layer: LayerId,
    /// The places that they belong to.
    pub grid: Grid,
    /// Length of a token.
    pub dim: usize,
    /// Whether the first one is the class token, before those of the places.
    pub class_token: bool,
    /// Where they are.
    pub value: Value,
}

impl Tokens {
    /// How many there are of an image.
    pub fn count(&self) -> usize {
        self.grid.len() + usize::from(self.class_token)
    }

    /// Those of the places alone, `[batch, places, dim]`.
    pub fn places(&self, graph: &mut Graph) -> Value {
        match self.class_token {
            false => self.value.clone(),
            true => slice(graph, &self.value, 1, 1, i64::MAX),
        }
    }
}

/// `value` from `start` up to `end` along an axis.
pub fn slice(graph: &mut Graph, value: &Value, axis: i64, start: i64, end: i64) -> Value {
    let [start, end, axis] = [start, end, axis].map(|x| graph.ints(&[x]));
    graph.node("Slice", &[value, &start, &end, &axis], &[])
}

/// The features that `request` asks for of `pixels`, `[batch, 3, height, width]` and normalised.
///
/// # Errors
/// [`OnnxError::NoBlueprint`], and [`OnnxError::Backbone`] for what the network cannot give.
pub fn network(
    graph: &mut Graph,
    encoder: &dyn ImageEncoder,
    request: &FeatureRequest,
    size: Size,
    pixels: &Value,
) -> Result<Outputs, OnnxError> {
    encoder.check(request)?;
    let Size { height, width } = size;
    let multiple = encoder.spec().multiple;
    let fits = |side: usize| side > 0 && side.is_multiple_of(multiple);
    if !fits(height) || !fits(width) {
        return Err(OnnxError::Backbone(BackboneError::InputSize {
            height,
            width,
            numbers: 3 * height * width,
            multiple,
        }));
    }
    match encoder.blueprint() {
        Some(Blueprint::Transformer(transformer)) => {
            transformer::add(graph, &transformer, request, size, pixels)
        }
        Some(Blueprint::Convolutional(network)) => {
            convolutional::add(graph, &network, request, size, pixels)
        }
        None => Err(OnnxError::NoBlueprint(encoder.spec().name.clone())),
    }
}

/// Bytes `[batch, height, width, 3]` as a network wants them: `[batch, 3, height, width]` and normalised.
pub fn normalised(graph: &mut Graph, bytes: &Value, normalisation: &Normalisation) -> Value {
    // TensorRT does nothing with bytes but this.
    let numbers = graph.cast(bytes, Element::F32);
    let numbers = graph.transpose(&numbers, &[0, 3, 1, 2]);
    let Normalisation { mean, std } = normalisation;
    let scales = std.map(|std| 1.0 / (255.0 * std));
    let shifts = [0, 1, 2].map(|i| -mean[i] / std[i]);
    let float = crate::model::Float::F32;
    let scales = graph.typed("scale", &[1, 3, 1, 1], &scales, float);
    let shifts = graph.typed("shift", &[1, 3, 1, 1], &shifts, float);
    let scaled = graph.node("Mul", &[&numbers, &scales], &[]);
    let shifted = graph.node("Add", &[&scaled, &shifts], &[]);
    match graph.float {
        crate::model::Float::F32 => shifted,
        crate::model::Float::F16 => graph.cast(&shifted, Element::F16),
    }
}

/// The mean over axes, which are dropped.
fn mean(graph: &mut Graph, value: &Value, axes: &[i64]) -> Value {
    let axes = graph.ints(axes);
    let keep = ("keepdims", Attribute::Int(0));
    graph.node("ReduceMean", &[value, &axes], &[keep])
}
