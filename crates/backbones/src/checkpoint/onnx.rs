//! The initialisers of an ONNX model that was exported from a Hugging Face network.
//!
//! Only the weights are read, not the graph: a linear layer's weight, which the exporter leaves
//! without a name, is named after the `MatMul` node that uses it, and the position embedding is
//! joined from the two pieces that the exporter split it into.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anomalens_kernels::MappedFile;
use bytes::Bytes;
use candle_core::{Device, Tensor};
use prost::Message;

use super::stored::{Element, Stored};
use super::{Shared, Source};
use crate::BackboneError;

/// Name of the part of the graph that holds the image encoder.
const BACKBONE: &str = "backbone";

/// The backbone's tensors under Hugging Face names; linear weights turned to `[out, in]`.
pub(super) fn read(
    path: &Path,
    file: &Arc<MappedFile>,
) -> Result<HashMap<String, Source>, BackboneError> {
    let broken = |reason: String| BackboneError::Format {
        path: path.to_owned(),
        format: "safetensors or ONNX",
        reason,
    };
    let bytes = Bytes::from_owner(Shared(file.clone()));
    let model = Model::decode(bytes).map_err(|error| broken(error.to_string()))?;
    let graph = model
        .graph
        .ok_or_else(|| broken("there is no graph in it".to_owned()))?;

    let anonymous: HashMap<&str, &TensorProto> = graph
        .initializers
        .iter()
        .filter(|tensor| tensor.name.starts_with("onnx::"))
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let mut tensors = HashMap::new();
    for tensor in &graph.initializers {
        if let Some(name) = strip_component(&tensor.name, '.') {
            tensors.insert(name.to_owned(), tensor.load(file, false).map_err(&broken)?);
        }
    }
    let mut position = PositionPieces::default();
    let mut seen = HashSet::new();
    for node in &graph.nodes {
        let Some(place) = node
            .name
            .strip_prefix('/')
            .and_then(|name| strip_component(name, '/'))
        else {
            continue;
        };
        let weights = node
            .inputs
            .iter()
            .filter_map(|input| anonymous.get(input.as_str()));
        for weight in weights.filter(|weight| seen.insert(weight.name.as_str())) {
            match (node.op_type.as_str(), place.strip_suffix("/MatMul")) {
                ("MatMul", Some(layer)) => {
                    let weight = weight.load(file, true).map_err(&broken)?;
                    tensors.insert(format!("{}.weight", layer.replace('/', ".")), weight);
                }
                ("Concat", _) if place.starts_with("embeddings/") => {
                    position.class = Some(weight.tensor().map_err(&broken)?);
                }
                ("Reshape", _) if place.starts_with("embeddings/") && weight.dims.len() == 3 => {
                    position.patches = Some(weight.tensor().map_err(&broken)?);
                }
                _ => {}
            }
        }
    }
    if let PositionPieces {
        class: Some(class),
        patches: Some(patches),
    } = position
    {
        tensors.insert(
            "embeddings.position_embeddings".to_owned(),
            Source::Tensor(Tensor::cat(&[class, patches], 1)?),
        );
    }
    if tensors.is_empty() {
        return Err(broken(format!("it has no weights under `{BACKBONE}`")));
    }
    Ok(tensors)
}

/// `backbone<separator>rest` -> `rest`.
fn strip_component(name: &str, separator: char) -> Option<&str> {
    name.strip_prefix(BACKBONE)?.strip_prefix(separator)
}

/// The class token's position `[1, 1, width]` and the patches' positions `[1, n, width]`.
#[derive(Default)]
struct PositionPieces {
    class: Option<Tensor>,
    patches: Option<Tensor>,
}

// The few fields of onnx.proto3 that hold weights; field numbers are the format's own.

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "bytes", tag = "9")]
    raw_data: Bytes,
}

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;

impl TensorProto {
    /// Where the tensor is to be had, a matrix on its side if `turned`, or what is wrong with it.
    fn load(&self, file: &Arc<MappedFile>, turned: bool) -> Result<Source, String> {
        let of = |reason: String| format!("tensor `{}`: {reason}", self.name);
        let shape = self.shape()?;
        // Raw data are a part of the file itself.
        let start = self
            .raw_data
            .as_ptr()
            .addr()
            .checked_sub(file.as_ptr().addr());
        let bytes = start.map(|start| start..start + self.raw_data.len());
        let bytes = bytes.filter(|bytes| !bytes.is_empty() && bytes.end <= file.len());
        let Some(bytes) = bytes else {
            let tensor = self.tensor()?;
            let tensor = match turned {
                true => tensor.t().and_then(|tensor| tensor.contiguous()),
                false => Ok(tensor),
            };
            return tensor.map(Source::Tensor).map_err(|e| of(e.to_string()));
        };
        let stored = match shape[..] {
            [rows, columns] if turned => {
                let (shape, strides) = (vec![columns, rows], vec![1, columns]);
                Stored::view(file, bytes, Element::F32, 0, shape, strides)
            }
            _ if turned => Err(format!("a matrix is expected, not the shape {shape:?}")),
            _ => Stored::contiguous(file, bytes, Element::F32, shape),
        };
        stored.map(Source::Stored).map_err(of)
    }

    /// The shape, if the values are float32 and as many as it needs.
    fn shape(&self) -> Result<Vec<usize>, String> {
        let of = |reason: String| format!("tensor `{}`: {reason}", self.name);
        if self.data_type != FLOAT {
            return Err(of(format!(
                "data type {} where float32 (1) is expected",
                self.data_type
            )));
        }
        let shape: Vec<usize> = self
            .dims
            .iter()
            .map(|&side| usize::try_from(side).map_err(|_| of(format!("negative side {side}"))))
            .collect::<Result<_, _>>()?;
        let found = match self.raw_data.len() {
            0 => self.float_data.len(),
            bytes => bytes / size_of::<f32>(),
        };
        let wanted = shape
            .iter()
            .try_fold(1_usize, |n, &side| n.checked_mul(side));
        match wanted == Some(found) {
            true => Ok(shape),
            false => Err(of(format!("{found} values for the shape {shape:?}"))),
        }
    }

    /// The tensor in memory.
    fn tensor(&self) -> Result<Tensor, String> {
        let shape = self.shape()?;
        let values: Vec<f32> = if self.raw_data.is_empty() {
            self.float_data.clone()
        } else {
            let (words, _) = self.raw_data.as_chunks::<4>();
            words.iter().map(|&word| f32::from_le_bytes(word)).collect()
        };
        Tensor::from_vec(values, shape, &Device::Cpu)
            .map_err(|error| format!("tensor `{}`: {error}", self.name))
    }
}
