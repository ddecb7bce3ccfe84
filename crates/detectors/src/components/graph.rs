//! Scoring as operations of an ONNX graph: what several methods are made of. Everything is float32, and
//! the first axis is the images of a batch.

use anomalens_backbones::{BackboneError, Grid, LayerId};
use anomalens_onnx::model::{Attribute, Element, Graph, Value};
use anomalens_onnx::network::{Outputs, Tokens, slice};
use anomalens_vision::{GeometryError, Map};

use crate::DetectorError;
use crate::components::joined::Sampling;
use crate::components::neighbourhood;

/// Vectors of a bank that all patches are compared with at once: similarities to more take too much
/// memory.
const TOGETHER: usize = 4096;

/// Epsilon of the layer norm without learned parts, as in `tokens.rs`.
const LAYER_NORM_EPS: f32 = 1e-5;

/// What an image scores, in a graph.
#[derive(Debug, Clone)]
pub struct GraphScored {
    /// `[batch]`
    pub score: Value,
    /// `[batch, rows, columns]`
    pub map: Value,
    /// Rows and columns of the map.
    pub grid: Grid,
}

/// Reduces axes, which stay with length 1 if they are kept.
pub(crate) fn reduce(
    graph: &mut Graph,
    operation: &str,
    value: &Value,
    axes: &[i64],
    keep: bool,
) -> Value {
    let axes = graph.ints(axes);
    let keep = ("keepdims", Attribute::Int(keep.into()));
    graph.node(operation, &[value, &axes], &[keep])
}

/// `value * factor + summand`
pub(crate) fn scaled(graph: &mut Graph, value: &Value, factor: f32, summand: f32) -> Value {
    let factor = graph.number(factor);
    let product = graph.node("Mul", &[value, &factor], &[]);
    let summand = graph.number(summand);
    graph.node("Add", &[&product, &summand], &[])
}

/// The sum of several values of one shape.
pub(crate) fn sum(graph: &mut Graph, values: &[Value]) -> Value {
    match values {
        [one] => one.clone(),
        several => graph.node("Sum", &several.iter().collect::<Vec<_>>(), &[]),
    }
}

/// The mean of several values of one shape.
pub(crate) fn mean_of(graph: &mut Graph, values: &[Value]) -> Value {
    let total = sum(graph, values);
    let part = graph.number(1.0 / values.len() as f32);
    graph.node("Mul", &[&total, &part], &[])
}

/// Values one after the other along an axis.
pub(crate) fn concat(graph: &mut Graph, values: &[Value], axis: i64) -> Value {
    let all: Vec<&Value> = values.iter().collect();
    graph.node("Concat", &all, &[("axis", Attribute::Int(axis))])
}

/// Vectors along `axis` of length 1; zeros stay zeros.
pub(crate) fn unit(graph: &mut Graph, value: &Value, axis: i64) -> Value {
    let length = reduce(graph, "ReduceL2", value, &[axis], true);
    let least = graph.number(f32::MIN_POSITIVE);
    let length = graph.node("Max", &[&length, &least], &[]);
    graph.node("Div", &[value, &length], &[])
}

/// Rows of `width` numbers with mean 0 and variance 1.
pub(crate) fn standardised(graph: &mut Graph, rows: &Value, width: usize) -> Value {
    let ones = graph.constant("ones", &[width], &vec![1.0; width]);
    let attributes = [
        ("axis", Attribute::Int(-1)),
        ("epsilon", Attribute::Float(LAYER_NORM_EPS)),
    ];
    graph.node("LayerNormalization", &[rows, &ones], &attributes)
}

/// The mean of the `count` highest of `[batch, n]`.
pub(crate) fn top_mean(graph: &mut Graph, values: &Value, count: usize) -> Value {
    let count = graph.ints(&[count as i64]);
    let [highest, _] = graph.nodes("TopK", &[values, &count], &[]);
    reduce(graph, "ReduceMean", &highest, &[1], false)
}

/// The inner products `[.., n]` of rows `[.., width]` with vectors `[n, width]`.
pub(crate) fn products(graph: &mut Graph, rows: &Value, vectors: &[f32], width: usize) -> Value {
    let vectors = graph.turned("vectors", vectors, width);
    graph.node("MatMul", &[rows, &vectors], &[])
}

/// For each of `patches` `[batch, places, width]` the highest inner product with a vector of `bank`,
/// `[batch, places]`.
pub(crate) fn highest_similarity(
    graph: &mut Graph,
    patches: &Value,
    bank: &[f32],
    width: usize,
) -> Value {
    let parts = bank.chunks((TOGETHER * width).max(1)).map(|part| {
        let found = products(graph, patches, part, width);
        reduce(graph, "ReduceMax", &found, &[-1], false)
    });
    let parts: Vec<Value> = parts.collect();
    match parts.as_slice() {
        [one] => one.clone(),
        several => graph.node("Max", &several.iter().collect::<Vec<_>>(), &[]),
    }
}

/// Half of the cosine distance, at least 0.
pub(crate) fn residual(graph: &mut Graph, cosine: &Value) -> Value {
    let half = scaled(graph, cosine, -0.5, 0.5);
    graph.node("Relu", &[&half], &[])
}

/// Vectors of any length that are searched by Euclidean distance. They are taken from their mean, so
/// that squares stay small against rounding.
pub(crate) struct GraphVectors {
    /// Their mean, `[width]`.
    centre: Value,
    /// `[n, width]`, less the mean.
    vectors: Value,
    /// `[n]`: half the square of the length of each.
    halves: Value,
}

/// The nearest vectors of patches.
pub(crate) struct GraphNear {
    /// Which they are, `[batch, places]`.
    pub(crate) index: Value,
    /// The squares of the distances, `[batch, places]`.
    pub(crate) squared: Value,
    /// The patches less the mean of the vectors, `[batch, places, width]`.
    pub(crate) patches: Value,
}

impl GraphVectors {
    /// Vectors `[n, width]`.
    pub(crate) fn new(graph: &mut Graph, vectors: &[f32], width: usize) -> Self {
        let count = vectors.len() / width.max(1);
        let (centre, moved) = centred(vectors, width);
        let half = |row: &[f32]| {
            let square: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
            (0.5 * square) as f32
        };
        let halves: Vec<f32> = moved.chunks_exact(width).map(half).collect();
        Self {
            centre: graph.constant("bank_mean", &[width], &centre),
            vectors: graph.constant("bank", &[count, width], &moved),
            halves: graph.constant("bank_halves", &[count], &halves),
        }
    }

    /// The nearest one of each of `patches` `[batch, places, width]`. The distance to what a search by
    /// inner products finds is taken from the vectors themselves.
    pub(crate) fn nearest(&self, graph: &mut Graph, patches: &Value) -> GraphNear {
        let (patches, nearness) = self.nearness(graph, patches);
        let attributes = [
            ("axis", Attribute::Int(-1)),
            ("keepdims", Attribute::Int(0)),
        ];
        let index = graph.node("ArgMax", &[&nearness], &attributes);
        let found = self.get(graph, &index);
        let differences = graph.node("Sub", &[&patches, &found], &[]);
        let squared = reduce(graph, "ReduceSumSquare", &differences, &[-1], false);
        GraphNear {
            index,
            squared,
            patches,
        }
    }

    /// The `count` nearest ones of `[batch, 1, width]`, and how far they are, `[batch, count]` each.
    pub(crate) fn several_nearest(
        &self,
        graph: &mut Graph,
        one: &Value,
        count: usize,
    ) -> (Value, Value) {
        let (one, nearness) = self.nearness(graph, one);
        let wanted = graph.ints(&[count as i64]);
        let [_, index] = graph.nodes("TopK", &[&nearness, &wanted], &[]);
        let index = graph.reshape(&index, &[0, -1]);
        let found = self.get(graph, &index);
        let differences = graph.node("Sub", &[&one, &found], &[]);
        let distances = reduce(graph, "ReduceL2", &differences, &[-1], false);
        (index, distances)
    }

    /// `patches` less the mean, and what is largest for the nearest vector, `[batch, places, n]`.
    fn nearness(&self, graph: &mut Graph, patches: &Value) -> (Value, Value) {
        let patches = graph.node("Sub", &[patches, &self.centre], &[]);
        let columns = graph.transpose(&self.vectors, &[1, 0]);
        let products = graph.node("MatMul", &[&patches, &columns], &[]);
        let nearness = graph.node("Sub", &[&products, &self.halves], &[]);
        (patches, nearness)
    }

    /// The vectors with these numbers, less the mean, along a further axis.
    pub(crate) fn get(&self, graph: &mut Graph, index: &Value) -> Value {
        graph.node("Gather", &[&self.vectors, index], &[])
    }
}

/// The mean of vectors of `width` numbers, and the vectors less that.
pub(crate) fn centred(vectors: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = || vectors.chunks_exact(width.max(1));
    let mut sums = vec![0.0_f64; width];
    for row in rows() {
        let both = sums.iter_mut().zip(row);
        both.for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let count = rows().len().max(1) as f64;
    let mean: Vec<f32> = sums.into_iter().map(|sum| (sum / count) as f32).collect();
    let moved = rows().flat_map(|row| row.iter().zip(&mean).map(|(x, mean)| x - mean));
    let moved = moved.collect();
    (mean, moved)
}

/// What a linear operation on maps does along one side: `to` sums of `from` values.
pub(crate) struct Along {
    from: usize,
    to: usize,
    /// `[from, to]`.
    weights: Vec<f32>,
}

impl Along {
    /// That of `operation`, found out with a map of one column for each value.
    fn of(
        from: usize,
        operation: impl Fn(&Map) -> Result<Map, GeometryError>,
    ) -> Result<Self, GeometryError> {
        let mut weights = vec![];
        for at in 0..from {
            let one = (0..from).map(|i| f32::from(u8::from(i == at)));
            weights.extend(operation(&Map::new(from, 1, one.collect())?)?.into_values());
        }
        let to = weights.len() / from.max(1);
        Ok(Self { from, to, weights })
    }

    /// That of bringing a coarse side to a finer one.
    pub(crate) fn sampled(from: usize, to: usize, sampling: Sampling) -> Self {
        let mut weights = vec![0.0; from * to];
        for at in 0..to {
            for (cell, weight) in sampling.along(at, to, from) {
                weights[cell * to + at] += weight;
            }
        }
        Self { from, to, weights }
    }

    /// How many values come out.
    pub(crate) fn to(&self) -> usize {
        self.to
    }

    /// That of summing `step` neighbours each.
    pub(crate) fn in_steps(from: usize, step: usize) -> Self {
        let to = from.div_ceil(step);
        let mut weights = vec![0.0; from * to];
        for at in 0..from {
            weights[at * to + at / step] = 1.0;
        }
        Self { from, to, weights }
    }
}

/// `maps` `[.., rows, columns]` after linear operations along both sides.
pub(crate) fn resampled(graph: &mut Graph, maps: &Value, rows: &Along, columns: &Along) -> Value {
    let across = graph.constant("across", &[columns.from, columns.to], &columns.weights);
    let wide = graph.node("MatMul", &[maps, &across], &[]);
    let down = graph.turned("down", &rows.weights, rows.to);
    graph.node("MatMul", &[&down, &wide], &[])
}

/// `map` `[batch, rows, columns]` of a grid on another one, by a `rule` that does the same along both
/// sides: it makes so many rows of a map of one column.
pub(crate) fn resized(
    graph: &mut Graph,
    map: &Value,
    from: Grid,
    to: Grid,
    rule: impl Fn(&Map, usize) -> Result<Map, GeometryError>,
) -> Result<Value, GeometryError> {
    let down = Along::of(from.rows, |map| rule(map, to.rows))?;
    let across = Along::of(from.columns, |map| rule(map, to.columns))?;
    Ok(resampled(graph, map, &down, &across))
}

/// Patches `[batch, places, width]` as planes `[batch, width, rows, columns]`.
pub(crate) fn planes(graph: &mut Graph, patches: &Value, grid: Grid, width: usize) -> Value {
    let turned = graph.transpose(patches, &[0, 2, 1]);
    let shape = [0, width, grid.rows, grid.columns].map(|length| length as i64);
    graph.reshape(&turned, &shape)
}

/// Planes as patches again.
pub(crate) fn patches(graph: &mut Graph, planes: &Value, width: usize) -> Value {
    let rows = graph.reshape(planes, &[0, width as i64, -1]);
    graph.transpose(&rows, &[0, 2, 1])
}

/// Values of places `[batch, places]` as a map.
pub(crate) fn as_map(graph: &mut Graph, values: &Value, grid: Grid) -> Value {
    graph.reshape(values, &[0, grid.rows as i64, grid.columns as i64])
}

/// A window that moves over planes, which go on as zeros beyond their border.
pub(crate) fn window(side: usize) -> Vec<(&'static str, Attribute)> {
    let (before, side) = ((side / 2) as i64, (side / 2 * 2 + 1) as i64);
    vec![
        ("kernel_shape", Attribute::Ints(vec![side; 2])),
        ("pads", Attribute::Ints(vec![before; 4])),
    ]
}

/// The mean of the `side x side` cells around each one; those outside count as zero.
pub(crate) fn averages(graph: &mut Graph, planes: &Value, side: usize) -> Value {
    let mut attributes = window(side);
    attributes.push(("count_include_pad", Attribute::Int(1)));
    graph.node("AveragePool", &[planes], &attributes)
}

/// Planes of one layer.
pub(crate) struct Planes {
    pub(crate) value: Value,
    pub(crate) grid: Grid,
    pub(crate) width: usize,
}

impl Planes {
    /// The places of `layers`, in their order.
    pub(crate) fn of_layers(
        graph: &mut Graph,
        seen: &Outputs,
        layers: &[LayerId],
    ) -> Result<Vec<Self>, DetectorError> {
        let planes = layers
            .iter()
            .map(|&layer| Ok(Self::of(graph, after(seen, layer)?)));
        planes.collect()
    }

    /// The places of a layer.
    pub(crate) fn of(graph: &mut Graph, tokens: &Tokens) -> Self {
        let places = tokens.places(graph);
        Self {
            value: planes(graph, &places, tokens.grid, tokens.dim),
            grid: tokens.grid,
            width: tokens.dim,
        }
    }
}

/// Layers on the grid of the finest, one's numbers after the other's, `[batch, all, rows, columns]`.
pub(crate) fn joined(graph: &mut Graph, layers: &[Planes], sampling: Sampling) -> Planes {
    let nowhere = Grid {
        rows: 0,
        columns: 0,
    };
    let grids = layers.iter().map(|layer| layer.grid);
    let grid = grids.max_by_key(|grid| grid.len()).unwrap_or(nowhere);
    let fine = layers.iter().map(|layer| match layer.grid == grid {
        true => layer.value.clone(),
        false => {
            let rows = Along::sampled(layer.grid.rows, grid.rows, sampling);
            let columns = Along::sampled(layer.grid.columns, grid.columns, sampling);
            resampled(graph, &layer.value, &rows, &columns)
        }
    });
    let fine: Vec<Value> = fine.collect();
    Planes {
        value: concat(graph, &fine, 1),
        grid,
        width: layers.iter().map(|layer| layer.width).sum(),
    }
}

/// [`joined_cells`](crate::pipeline) in a graph: layers averaged over squares of `side` cells, of length
/// 1, and joined to one.
pub(crate) fn joined_cells(graph: &mut Graph, layers: &[Tokens], side: usize) -> Option<Tokens> {
    let first = layers.first()?.layer;
    let averaged = layers.iter().map(|tokens| {
        let planes = Planes::of(graph, tokens);
        let sums = match neighbourhood::reach(side) {
            0 => planes.value,
            _ => averages(graph, &planes.value, side),
        };
        Planes {
            value: unit(graph, &sums, 1),
            ..planes
        }
    });
    let averaged: Vec<Planes> = averaged.collect();
    let all = joined(graph, &averaged, Sampling::Bilinear);
    Some(Tokens {
        layer: first,
        grid: all.grid,
        dim: all.width,
        class_token: false,
        value: patches(graph, &all.value, all.width),
    })
}

/// The probability that vectors `[.., width]` are anomalous, `[.., 1]`: see
/// [`probability`](super::prompts::probability).
pub(crate) fn probability(
    graph: &mut Graph,
    [normal, anomalous]: &[Vec<f32>; 2],
    vectors: &Value,
    temperature: f32,
) -> Value {
    let direction = anomalous.iter().zip(normal);
    let direction: Vec<f32> = direction.map(|(a, n)| (a - n) / temperature).collect();
    let vectors = unit(graph, vectors, -1);
    let margin = products(graph, &vectors, &direction, direction.len());
    graph.node("Sigmoid", &[&margin], &[])
}

/// Without the last axis, which has length 1.
pub(crate) fn squeezed(graph: &mut Graph, value: &Value) -> Value {
    let axis = graph.ints(&[-1]);
    graph.node("Squeeze", &[value, &axis], &[])
}

/// 1 where `value` is above `threshold`, else 0.
pub(crate) fn above(graph: &mut Graph, value: &Value, threshold: f32) -> Value {
    let threshold = graph.number(threshold);
    let above = graph.node("Greater", &[value, &threshold], &[]);
    graph.cast(&above, Element::F32)
}

/// What the input with this number gives.
pub(crate) fn of_input(seen: &[Outputs], number: usize) -> Result<&Outputs, DetectorError> {
    let count = seen.len();
    seen.get(number).ok_or_else(|| {
        DetectorError::Backbone(BackboneError::NoSuchNetwork {
            number: number + 1,
            count,
        })
    })
}

/// The tokens after `layer`.
pub(crate) fn after(seen: &Outputs, layer: LayerId) -> Result<&Tokens, DetectorError> {
    let found = seen.maps.iter().find(|tokens| tokens.layer == layer);
    found.ok_or(DetectorError::MissingLayer(layer))
}

/// The first along the last axis, which is dropped.
pub(crate) fn first(graph: &mut Graph, value: &Value) -> Value {
    let first = slice(graph, value, -1, 0, 1);
    squeezed(graph, &first)
}
