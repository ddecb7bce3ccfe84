//! Convolutional networks.

use anomalens_backbones::{
    ConvBlueprint, Convolution, Epilogue, FeatureRequest, Grid, LayerId, Operation, Step, Unpacked,
    Window,
};

use super::{Outputs, Size, Tokens, mean};
use crate::OnnxError;
use crate::model::{Attribute, Graph, Value};

/// A feature map `[batch, channels, rows, columns]`.
#[derive(Debug, Clone)]
struct Map {
    value: Value,
    channels: usize,
    grid: Grid,
}

pub(super) fn add(
    graph: &mut Graph,
    blueprint: &ConvBlueprint<'_>,
    request: &FeatureRequest,
    size: Size,
    pixels: &Value,
) -> Result<Outputs, OnnxError> {
    let mut maps: Vec<Option<Map>> = vec![Some(Map {
        value: pixels.clone(),
        channels: 3,
        grid: Grid {
            rows: size.height,
            columns: size.width,
        },
    })];
    let (mut stages, mut embedding) = (vec![], None);
    let last = request.layers.iter().map(|layer| layer.number()).max();
    for (step, weights) in blueprint.steps() {
        if request.embedding.is_none() && Some(stages.len()) >= last {
            break;
        }
        let Step { from, to, .. } = step;
        let map = maps.get(from).cloned().flatten();
        let map = map.ok_or(OnnxError::NoLayer(LayerId::Stage(stages.len() + 1)))?;
        let result = match step.operation {
            Operation::Stage => {
                stages.push(map);
                continue;
            }
            Operation::Embedding => {
                embedding = Some(mean(graph, &map.value, &[2, 3]));
                continue;
            }
            Operation::MaxPool(window) => {
                let (attributes, grid) = window_attributes(&window, map.grid);
                Map {
                    value: graph.node("MaxPool", &[&map.value], &attributes),
                    channels: map.channels,
                    grid,
                }
            }
            Operation::Convolution(convolution) => {
                let residual = maps.get(to).cloned().flatten();
                let weights = weights.unwrap_or(Unpacked {
                    weight: vec![],
                    bias: vec![],
                });
                convolve(graph, &convolution, &weights, &map, residual.as_ref())
            }
        };
        if maps.len() <= to {
            maps.resize(to + 1, None);
        }
        maps[to] = Some(result);
    }
    let tokens = |graph: &mut Graph, layer: LayerId| {
        let stage = layer.number().checked_sub(1).and_then(|i| stages.get(i));
        let map: &Map = stage.ok_or(OnnxError::NoLayer(layer))?;
        let rows = graph.reshape(&map.value, &[0, map.channels as i64, -1]);
        Ok(Tokens {
            layer,
            grid: map.grid,
            dim: map.channels,
            class_token: false,
            value: graph.transpose(&rows, &[0, 2, 1]),
        })
    };
    let maps = request.layers.iter().map(|&layer| tokens(graph, layer));
    Ok(Outputs {
        maps: maps.collect::<Result<_, OnnxError>>()?,
        embedding: request.embedding.and(embedding),
    })
}

fn convolve(
    graph: &mut Graph,
    convolution: &Convolution,
    weights: &Unpacked,
    map: &Map,
    residual: Option<&Map>,
) -> Map {
    let Convolution {
        window,
        inputs,
        outputs,
        depthwise,
        last,
        ..
    } = *convolution;
    let (groups, inputs) = match depthwise {
        true => (inputs, 1),
        false => (1, inputs),
    };
    let shape = [outputs, inputs, window.side, window.side];
    let weight = graph.constant("filter", &shape, &weights.weight);
    let bias = graph.constant("filter_bias", &[outputs], &weights.bias);
    let (mut attributes, grid) = window_attributes(&window, map.grid);
    attributes.push(("group", Attribute::Int(groups as i64)));
    let mut value = graph.node("Conv", &[&map.value, &weight, &bias], &attributes);
    if let Some(residual) = residual.filter(|_| last.adds()) {
        value = graph.node("Add", &[&value, &residual.value], &[]);
    }
    value = match last {
        Epilogue::Relu | Epilogue::AddRelu => graph.node("Relu", &[&value], &[]),
        Epilogue::Relu6 => {
            let (low, high) = (graph.number(0.0), graph.number(6.0));
            graph.node("Clip", &[&value, &low, &high], &[])
        }
        _ => value,
    };
    Map {
        value,
        channels: outputs,
        grid,
    }
}

/// A window's settings, and the grid of the map that it makes of one.
fn window_attributes(window: &Window, grid: Grid) -> (Vec<(&'static str, Attribute)>, Grid) {
    let (rows, top) = window.along(grid.rows);
    let (columns, left) = window.along(grid.columns);
    // What the last window reaches over the edge.
    let over = |count: usize, length: usize, before: usize| {
        let reach = count.saturating_sub(1) * window.stride + window.side;
        reach.saturating_sub(length + before)
    };
    let (bottom, right) = (
        over(rows, grid.rows, top),
        over(columns, grid.columns, left),
    );
    let ints = |numbers: &[usize]| Attribute::Ints(numbers.iter().map(|&n| n as i64).collect());
    let attributes = vec![
        ("kernel_shape", ints(&[window.side; 2])),
        ("strides", ints(&[window.stride; 2])),
        ("pads", ints(&[top, left, bottom, right])),
    ];
    (attributes, Grid { rows, columns })
}
