//! The same as operations of a graph.

use anomalens_backbones::Grid;
use anomalens_onnx::model::{Attribute, Graph, Value};
use anomalens_onnx::network::Outputs;

use super::embedding::{CELLS, SIDE, part, width};
use super::settings::{Settings, Variant};
use super::{PatchCoreDetector, enlarged};
use crate::DetectorError;
use crate::components::graph::{
    self, GraphNear, GraphScored, GraphVectors, Planes, averages, first, patches, reduce, resized,
    scaled, squeezed, window,
};
use crate::components::joined::Sampling;
use crate::settings::Checked;

impl PatchCoreDetector {
    pub(super) fn in_graph(
        &self,
        graph: &mut Graph,
        seen: &Outputs,
    ) -> Result<GraphScored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let layers = Planes::of_layers(graph, seen, &profile.input.request.layers)?;
        self.check_widths(&layers.iter().map(|layer| layer.width).collect::<Vec<_>>())?;
        let embedded = embedding(graph, &layers, settings);
        let patches = patches(graph, &embedded.value, embedded.width);
        let bank = GraphVectors::new(graph, self.bank.values(), self.bank.width());
        let near = bank.nearest(graph, &patches);
        let scores = match settings.variant {
            Variant::Original => near.squared.clone(),
            Variant::Anomalib => graph.node("Sqrt", &[&near.squared], &[]),
        };
        let highest = reduce(graph, "ReduceMax", &scores, &[1], false);
        let score = match settings.neighbours {
            1 => highest,
            count => {
                let weight = self.weight_in_graph(graph, &bank, &near, count);
                graph.node("Mul", &[&highest, &weight], &[])
            }
        };
        let (mut map, mut grid) = (graph::as_map(graph, &scores, embedded.grid), embedded.grid);
        if settings.variant == Variant::Anomalib {
            let side = settings.framing().side() as usize;
            let of_network = Grid {
                rows: side,
                columns: side,
            };
            map = resized(graph, &map, grid, of_network, |map, side| {
                enlarged(map, side, 1)
            })?;
            grid = of_network;
        }
        Ok(GraphScored { score, map, grid })
    }

    /// How much the score of the farthest patch counts, `[batch]`.
    fn weight_in_graph(
        &self,
        graph: &mut Graph,
        bank: &GraphVectors,
        near: &GraphNear,
        count: usize,
    ) -> Value {
        let around = self.bank.nearest(self.bank.values(), count);
        let around: Vec<i64> = around.iter().map(|near| near.index as i64).collect();
        let count = around.len() / self.bank.len().max(1);
        let around = graph.ints(&around);
        let around = graph.reshape(&around, &[-1, count as i64]);
        let along = ("axis", Attribute::Int(1));
        let farthest = graph.node("ArgMax", &[&near.squared], std::slice::from_ref(&along));
        let nearest = graph.node("GatherElements", &[&near.index, &farthest], &[along]);
        let batch = ("batch_dims", Attribute::Int(1));
        let patch = graph.node("GatherND", &[&near.patches, &farthest], &[batch]);
        let patch = graph.reshape(&patch, &[0, 1, 1, self.bank.width() as i64]);
        let around = graph.node("Gather", &[&around, &nearest], &[]);
        let vectors = bank.get(graph, &around);
        let differences = graph.node("Sub", &[&vectors, &patch], &[]);
        let distances = reduce(graph, "ReduceL2", &differences, &[-1], false);
        let shares = graph.node("Softmax", &[&distances], &[("axis", Attribute::Int(-1))]);
        let own = first(graph, &shares);
        let own = squeezed(graph, &own);
        scaled(graph, &own, -1.0, 1.0)
    }
}

/// The patches of an image as planes.
fn embedding(graph: &mut Graph, layers: &[Planes], settings: &Settings) -> Planes {
    let shortened = layers.iter().map(|layer| match settings.variant {
        Variant::Original => pooled_cells(graph, layer, settings.dimension),
        Variant::Anomalib => Planes {
            value: averages(graph, &layer.value, SIDE),
            ..*layer
        },
    });
    let shortened: Vec<Planes> = shortened.collect();
    let joined = graph::joined(graph, &shortened, Sampling::Bilinear);
    if settings.variant == Variant::Anomalib {
        return joined;
    }
    // Each number is the mean of as many neighbours as there are layers.
    let (rows, columns) = (joined.grid.rows as i64, joined.grid.columns as i64);
    let (to, each) = (settings.dimension as i64, layers.len() as i64);
    let apart = graph.reshape(&joined.value, &[0, to, each, rows * columns]);
    let means = reduce(graph, "ReduceMean", &apart, &[2], false);
    Planes {
        value: graph.reshape(&means, &[0, to, rows, columns]),
        width: width(&[], settings),
        ..joined
    }
}

/// The cells around each one shortened to `length` numbers: a convolution, in as many groups as possible.
fn pooled_cells(graph: &mut Graph, layer: &Planes, length: usize) -> Planes {
    let groups = greatest_common_divisor(layer.width, length);
    let (inputs, outputs) = (layer.width / groups, length / groups);
    let mut weights = vec![0.0; length * inputs * CELLS];
    for (i, row) in weights.chunks_exact_mut(inputs * CELLS).enumerate() {
        let part = part(i, layer.width * CELLS, length);
        let before = i / outputs * inputs * CELLS;
        let share = 1.0 / part.len() as f32;
        row[part.start - before..part.end - before].fill(share);
    }
    let weights = graph.constant("pooling", &[length, inputs, SIDE, SIDE], &weights);
    let mut attributes = window(SIDE);
    attributes.push(("group", Attribute::Int(groups as i64)));
    Planes {
        value: graph.node("Conv", &[&layer.value, &weights], &attributes),
        width: length,
        ..*layer
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => greatest_common_divisor(b, a % b),
    }
}
