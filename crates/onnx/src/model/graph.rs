//! Graphs as they are built: each operation is added after those whose results it takes.

use std::borrow::Cow;

use half::f16;

use super::proto::{self, attribute_type};

/// The standard operators that graphs are made of.
pub const OPSET: i64 = 20;

/// The operators of ONNX Runtime alone.
const CONTRIB: &str = "com.microsoft";

/// How numbers are held while the network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
}

/// `TensorProto.DataType` of the elements that occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// A float of 32 bits.
    F32 = 1,
    /// A byte.
    U8 = 2,
    /// A whole number of 64 bits.
    I64 = 7,
    /// A truth value.
    Bool = 9,
    /// A float of 16 bits.
    F16 = 10,
}

impl From<Float> for Element {
    fn from(float: Float) -> Self {
        match float {
            Float::F32 => Self::F32,
            Float::F16 => Self::F16,
        }
    }
}

/// A length of what goes in or comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Length {
    /// A number.
    Fixed(usize),
    /// Known when the graph runs.
    Named(&'static str),
}

impl From<usize> for Length {
    fn from(length: usize) -> Self {
        Self::Fixed(length)
    }
}

/// The result of an operation, an input or a constant: its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

/// A setting of an operation.
#[derive(Debug, Clone)]
pub enum Attribute {
    /// A number.
    Float(f32),
    /// A whole number.
    Int(i64),
    /// A word.
    Text(&'static str),
    /// Whole numbers.
    Ints(Vec<i64>),
}

/// A graph, and the constants in it.
#[derive(Debug)]
pub struct Graph {
    /// How constants are held that have no type of their own.
    pub float: Float,
    /// Whether operators of ONNX Runtime alone may be used.
    pub contrib: bool,
    name: String,
    nodes: Vec<proto::Node>,
    inputs: Vec<proto::ValueInfo>,
    outputs: Vec<proto::ValueInfo>,
    constants: Vec<proto::Tensor>,
    metadata: Vec<proto::Entry>,
    count: usize,
    uses_contrib: bool,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str, float: Float, contrib: bool) -> Self {
        Self {
            float,
            contrib,
            name: name.to_owned(),
            nodes: vec![],
            inputs: vec![],
            outputs: vec![],
            constants: vec![],
            metadata: vec![],
            count: 0,
            uses_contrib: false,
        }
    }

    fn fresh(&mut self, what: &str) -> String {
        self.count += 1;
        format!("{what}_{}", self.count)
    }

    /// What goes in.
    pub fn input(&mut self, name: &str, element: Element, shape: &[Length]) -> Value {
        self.inputs.push(info(name, element, shape));
        Value(name.to_owned())
    }

    /// `value` comes out under `name`.
    pub fn output(&mut self, name: &str, value: &Value, element: Element, shape: &[Length]) {
        let node = proto::Node {
            input: vec![value.0.clone()],
            output: vec![name.to_owned()],
            name: format!("{name}_output"),
            op_type: "Identity".to_owned(),
            ..proto::Node::default()
        };
        self.nodes.push(node);
        self.outputs.push(info(name, element, shape));
    }

    /// What a caller must know.
    pub fn metadata(&mut self, key: &str, value: impl Into<String>) {
        let (key, value) = (key.to_owned(), value.into());
        self.metadata.push(proto::Entry { key, value });
    }

    /// Numbers of the graph's float, of this shape.
    pub fn constant(&mut self, what: &str, shape: &[usize], numbers: &[f32]) -> Value {
        self.typed(what, shape, numbers, self.float)
    }

    /// Rows of `width` numbers turned on their side: `[width, rows]`.
    pub fn turned(&mut self, what: &str, rows: &[f32], width: usize) -> Value {
        let width = width.max(1);
        let columns = (0..width).flat_map(|i| rows.iter().skip(i).step_by(width).copied());
        let columns: Vec<f32> = columns.collect();
        self.constant(what, &[width, rows.len() / width], &columns)
    }

    /// The same as [`constant`](Self::constant) of another float.
    pub fn typed(&mut self, what: &str, shape: &[usize], numbers: &[f32], float: Float) -> Value {
        let bytes = match float {
            Float::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Float::F16 => {
                let halves = numbers.iter().map(|&x| f16::from_f32(x));
                halves.flat_map(|x| x.to_le_bytes()).collect()
            }
        };
        self.stored(what, shape, float.into(), bytes)
    }

    /// A single number of the graph's float.
    pub fn number(&mut self, x: f32) -> Value {
        self.constant("number", &[], &[x])
    }

    /// Whole numbers.
    pub fn ints(&mut self, numbers: &[i64]) -> Value {
        let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.stored("shape", &[numbers.len()], Element::I64, bytes)
    }

    fn stored(&mut self, what: &str, shape: &[usize], element: Element, bytes: Vec<u8>) -> Value {
        let name = self.fresh(what);
        self.constants.push(proto::Tensor {
            dims: shape.iter().map(|&length| length as i64).collect(),
            data_type: element as i32,
            name: name.clone(),
            raw_data: Some(bytes),
            ..proto::Tensor::default()
        });
        Value(name)
    }

    /// An operation with one result.
    pub fn node(
        &mut self,
        operation: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
    ) -> Value {
        let [value] = self.nodes_of("", operation, inputs, attributes);
        value
    }

    /// An operation with several results.
    pub fn nodes<const N: usize>(
        &mut self,
        operation: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
    ) -> [Value; N] {
        self.nodes_of("", operation, inputs, attributes)
    }

    /// An operation of ONNX Runtime alone.
    pub fn contrib_node(
        &mut self,
        operation: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
    ) -> Value {
        self.uses_contrib = true;
        let [value] = self.nodes_of(CONTRIB, operation, inputs, attributes);
        value
    }

    fn nodes_of<const N: usize>(
        &mut self,
        domain: &str,
        operation: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
    ) -> [Value; N] {
        let name = self.fresh(operation);
        let outputs = std::array::from_fn(|i| match N {
            1 => Value(name.clone()),
            _ => Value(format!("{name}_{i}")),
        });
        self.nodes.push(proto::Node {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: outputs
                .iter()
                .map(|value: &Value| value.0.clone())
                .collect(),
            name: format!("{name}_node"),
            op_type: operation.to_owned(),
            attribute: attributes.iter().map(attribute).collect(),
            domain: domain.to_owned(),
        });
        outputs
    }

    /// `value` in another shape: 0 keeps a length, -1 is what is left.
    pub fn reshape(&mut self, value: &Value, shape: &[i64]) -> Value {
        let shape = self.ints(shape);
        self.node("Reshape", &[value, &shape], &[])
    }

    /// `value` with its axes in another order.
    pub fn transpose(&mut self, value: &Value, order: &[i64]) -> Value {
        let order = Attribute::Ints(order.to_vec());
        self.node("Transpose", &[value], &[("perm", order)])
    }

    /// `value` as another type.
    pub fn cast(&mut self, value: &Value, element: Element) -> Value {
        self.node("Cast", &[value], &[("to", Attribute::Int(element as i64))])
    }

    /// The model, and the bytes of constants of at least `least` bytes, which it finds in the file
    /// `beside`; without that name all constants are in the model.
    pub(crate) fn model(mut self, beside: Option<(&str, usize)>) -> (proto::Model, Vec<u8>) {
        let mut bytes = vec![];
        if let Some((file, least)) = beside {
            for constant in &mut self.constants {
                let length = constant.raw_data.as_ref().map_or(0, Vec::len);
                if length < least {
                    continue;
                }
                bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
                let entry = |key: &str, value: Cow<'_, str>| proto::Entry {
                    key: key.to_owned(),
                    value: value.into_owned(),
                };
                constant.external_data = vec![
                    entry("location", file.into()),
                    entry("offset", bytes.len().to_string().into()),
                    entry("length", length.to_string().into()),
                ];
                constant.data_location = proto::EXTERNAL;
                bytes.extend(constant.raw_data.take().unwrap_or_default());
            }
        }
        let opset = |domain: &str, version| proto::Opset {
            domain: domain.to_owned(),
            version,
        };
        let contrib = self.uses_contrib.then(|| opset(CONTRIB, 1));
        let model = proto::Model {
            // That of the release with the operators.
            ir_version: 9,
            producer_name: "anomalens".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(proto::GraphBody {
                node: self.nodes,
                name: self.name,
                initializer: self.constants,
                input: self.inputs,
                output: self.outputs,
            }),
            opset_import: [opset("", OPSET)].into_iter().chain(contrib).collect(),
            metadata_props: self.metadata,
        };
        (model, bytes)
    }

    /// Bytes of all constants.
    pub(crate) fn bytes(&self) -> usize {
        let constants = self.constants.iter();
        let bytes = constants.filter_map(|constant| constant.raw_data.as_ref());
        bytes.map(Vec::len).sum()
    }
}

/// Constants beside a model start at a multiple of it, so that they can be mapped.
const ALIGNMENT: usize = 4096;

fn info(name: &str, element: Element, shape: &[Length]) -> proto::ValueInfo {
    let dimension = |length: &Length| match length {
        Length::Fixed(length) => proto::Dimension {
            dim_value: Some(*length as i64),
            dim_param: None,
        },
        Length::Named(name) => proto::Dimension {
            dim_value: None,
            dim_param: Some((*name).to_owned()),
        },
    };
    proto::ValueInfo {
        name: name.to_owned(),
        kind: Some(proto::Type {
            tensor_type: Some(proto::TensorType {
                elem_type: element as i32,
                shape: Some(proto::Shape {
                    dim: shape.iter().map(dimension).collect(),
                }),
            }),
        }),
    }
}

fn attribute((name, value): &(&str, Attribute)) -> proto::Attribute {
    let empty = proto::Attribute {
        name: (*name).to_owned(),
        ..proto::Attribute::default()
    };
    match value {
        Attribute::Float(f) => proto::Attribute {
            f: Some(*f),
            kind: attribute_type::FLOAT,
            ..empty
        },
        Attribute::Int(i) => proto::Attribute {
            i: Some(*i),
            kind: attribute_type::INT,
            ..empty
        },
        Attribute::Text(text) => proto::Attribute {
            s: Some(text.as_bytes().to_vec()),
            kind: attribute_type::STRING,
            ..empty
        },
        Attribute::Ints(ints) => proto::Attribute {
            ints: ints.clone(),
            kind: attribute_type::INTS,
            ..empty
        },
    }
}
