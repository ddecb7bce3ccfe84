//! The initialisers of an ONNX model that was exported from a Hugging Face network.
//!
//! Only the weights are read, not the graph: a linear layer's weight, which the exporter leaves
//! without a name, is named after the `MatMul` node that uses it, and the position embedding is
//! joined from the two pieces that the exporter split it into.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use candle_core::Tensor;

use super::Source;
use super::data::Data;
use super::protobuf::{Messages, Value};
use super::stored::{Element, Stored};
use crate::BackboneError;

/// Name of the part of the graph that holds the image encoder.
const BACKBONE: &str = "backbone";

/// Sides of a tensor.
const MOST_SIDES: usize = 8;

// Numbers of the few fields of onnx.proto3 that hold weights.
const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_INITIALIZER: u64 = 5;
const NODE_INPUT: u64 = 1;
const NODE_NAME: u64 = 3;
const NODE_OPERATION: u64 = 4;
const TENSOR_DIMS: u64 = 1;
const TENSOR_TYPE: u64 = 2;
const TENSOR_FLOATS: u64 = 4;
const TENSOR_NAME: u64 = 8;
const TENSOR_RAW: u64 = 9;

/// `TensorProto.DataType.FLOAT`.
const FLOAT: u64 = 1;

/// The backbone's tensors under Hugging Face names; linear weights turned to `[out, in]`.
pub(super) fn read(data: &Data) -> Result<Vec<(String, Source)>, BackboneError> {
    let broken = |reason: String| BackboneError::Format {
        path: data.path().to_owned(),
        format: "safetensors, PyTorch or ONNX",
        reason,
    };
    let graph = Graph::read(data).map_err(broken)?;
    let mut tensors = vec![];
    for tensor in &graph.initializers {
        if let Some(name) = strip_component(&tensor.name, '.') {
            let stored = tensor.stored(data, false).map_err(broken)?;
            tensors.push((name.to_owned(), Source::Stored(stored)));
        }
    }
    let anonymous = graph.initializers.iter();
    let anonymous: HashMap<&str, &Initializer> = anonymous
        .filter(|tensor| tensor.name.starts_with("onnx::"))
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let (mut class, mut patches) = (None, None);
    let mut seen = HashSet::new();
    for node in &graph.nodes {
        let place = node.name.strip_prefix('/');
        let Some(place) = place.and_then(|name| strip_component(name, '/')) else {
            continue;
        };
        let inputs = node.inputs.iter();
        let weights = inputs.filter_map(|input| anonymous.get(input.as_str()));
        for weight in weights.filter(|weight| seen.insert(weight.name.as_str())) {
            match (node.operation.as_str(), place.strip_suffix("/MatMul")) {
                ("MatMul", Some(layer)) => {
                    let stored = weight.stored(data, true).map_err(broken)?;
                    let name = format!("{}.weight", layer.replace('/', "."));
                    tensors.push((name, Source::Stored(stored)));
                }
                ("Concat", _) if place.starts_with("embeddings/") => {
                    class = Some(weight.stored(data, false).map_err(broken)?.tensor()?);
                }
                ("Reshape", _) if place.starts_with("embeddings/") && weight.dims.len() == 3 => {
                    patches = Some(weight.stored(data, false).map_err(broken)?.tensor()?);
                }
                _ => {}
            }
        }
    }
    // The class token's position `[1, 1, width]` and the patches' positions `[1, n, width]`.
    if let (Some(class), Some(patches)) = (class, patches) {
        tensors.push((
            "embeddings.position_embeddings".to_owned(),
            Source::Tensor(Tensor::cat(&[class, patches], 1)?),
        ));
    }
    match tensors.is_empty() {
        true => Err(broken(format!("it has no weights under `{BACKBONE}`"))),
        false => Ok(tensors),
    }
}

/// `backbone<separator>rest` -> `rest`.
fn strip_component(name: &str, separator: char) -> Option<&str> {
    name.strip_prefix(BACKBONE)?.strip_prefix(separator)
}

/// What is read of a graph.
#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    initializers: Vec<Initializer>,
}

#[derive(Default)]
struct Node {
    inputs: Vec<String>,
    name: String,
    operation: String,
}

#[derive(Default)]
struct Initializer {
    name: String,
    dims: Vec<u64>,
    data_type: u64,
    /// Where its values are.
    values: Range<usize>,
}

impl Graph {
    fn read(data: &Data) -> Result<Self, String> {
        let messages = &mut Messages::new(data);
        let model = messages.fields(0..data.len())?;
        let graph = model.into_iter().find_map(|field| match field {
            (MODEL_GRAPH, Value::Bytes(range)) => Some(range),
            _ => None,
        });
        let mut read = Self::default();
        for field in messages.fields(graph.ok_or("there is no graph in it")?)? {
            match field {
                (GRAPH_NODE, Value::Bytes(range)) => {
                    read.nodes.push(Node::read(messages, range)?);
                }
                (GRAPH_INITIALIZER, Value::Bytes(range)) => {
                    read.initializers.push(Initializer::read(messages, range)?);
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

impl Node {
    fn read(messages: &mut Messages, range: Range<usize>) -> Result<Self, String> {
        let mut node = Self::default();
        for field in messages.fields(range)? {
            match field {
                (NODE_INPUT, Value::Bytes(range)) => node.inputs.push(messages.text(&range)?),
                (NODE_NAME, Value::Bytes(range)) => node.name = messages.text(&range)?,
                (NODE_OPERATION, Value::Bytes(range)) => node.operation = messages.text(&range)?,
                _ => {}
            }
        }
        Ok(node)
    }
}

impl Initializer {
    fn read(messages: &mut Messages, range: Range<usize>) -> Result<Self, String> {
        let mut tensor = Self::default();
        for field in messages.fields(range)? {
            match field {
                (TENSOR_DIMS, value) => {
                    let left = MOST_SIDES - tensor.dims.len();
                    tensor.dims.extend(messages.numbers(&value, left)?);
                }
                (TENSOR_TYPE, Value::Number(number)) => tensor.data_type = number,
                (TENSOR_NAME, Value::Bytes(range)) => tensor.name = messages.text(&range)?,
                // Both are float32 without gaps; the one that is not used is not there.
                (TENSOR_FLOATS | TENSOR_RAW, Value::Bytes(range)) => tensor.values = range,
                _ => {}
            }
        }
        Ok(tensor)
    }

    /// Where the tensor is, a matrix on its side if `turned`, or what is wrong with it.
    fn stored(&self, data: &Data, turned: bool) -> Result<Stored, String> {
        let stored = || {
            if self.data_type != FLOAT {
                return Err(format!(
                    "data type {} where float32 (1) is expected",
                    self.data_type
                ));
            }
            let sides = self.dims.iter().map(|&side| usize::try_from(side));
            let shape: Vec<usize> = sides.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
            let found = self.values.len() / size_of::<f32>();
            let wanted = shape
                .iter()
                .try_fold(1_usize, |n, &side| n.checked_mul(side));
            if wanted != Some(found) {
                return Err(format!("{found} values for the shape {shape:?}"));
            }
            let bytes = self.values.clone();
            match shape[..] {
                [rows, columns] if turned => {
                    let (shape, strides) = (vec![columns, rows], vec![1, columns]);
                    Stored::view(data, bytes, Element::F32, 0, shape, strides)
                }
                _ if turned => Err(format!("a matrix is expected, not the shape {shape:?}")),
                _ => Stored::contiguous(data, bytes, Element::F32, shape),
            }
        };
        stored().map_err(|reason| format!("tensor `{}`: {reason}", self.name))
    }
}
