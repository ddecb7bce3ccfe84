//! The same as operations of a graph.

use anomalens_backbones::Grid;
use anomalens_onnx::model::{Attribute, Graph, Value};
use anomalens_onnx::network::Outputs;

use super::settings::Variant;
use super::{NAME, PadimDetector, smoothed};
use crate::DetectorError;
use crate::components::graph::{GraphScored, Planes, as_map, joined, patches, reduce, resized};
use crate::components::joined::Sampling;
use crate::settings::Checked;

impl PadimDetector {
    pub(super) fn in_graph(
        &self,
        graph: &mut Graph,
        seen: &Outputs,
    ) -> Result<GraphScored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let layers = Planes::of_layers(graph, seen, &profile.input.request.layers)?;
        let all = joined(graph, &layers, Sampling::Nearest);
        if all.width != self.channels.total {
            return Err(DetectorError::Width {
                expected: self.channels.total,
                found: all.width,
            });
        }
        if all.grid.len() != self.gaussians.places() {
            return Err(DetectorError::NoGraph {
                method: NAME,
                reason: "it knows what each place of its own size looks like; leave --size out"
                    .to_owned(),
            });
        }
        let distances = self.distances_in_graph(graph, &all);
        let map = as_map(graph, &distances, all.grid);
        let side = settings.framing().side() as usize;
        let of_network = Grid {
            rows: side,
            columns: side,
        };
        let large = resized(graph, &map, all.grid, of_network, |map, side| {
            smoothed(map, side, 1, settings.variant)
        })?;
        let score = reduce(graph, "ReduceMax", &large, &[1, 2], false);
        let (map, grid) = match settings.variant {
            Variant::Original => (map, all.grid),
            Variant::Anomalib => (large, of_network),
        };
        Ok(GraphScored { score, map, grid })
    }

    /// How far each place is from its distribution, `[batch, places]`.
    fn distances_in_graph(&self, graph: &mut Graph, all: &Planes) -> Value {
        let (places, width) = (self.gaussians.places(), self.gaussians.width());
        let taken: Vec<i64> = self
            .channels
            .taken
            .iter()
            .map(|&channel| channel as i64)
            .collect();
        let taken = graph.ints(&taken);
        let axis = ("axis", Attribute::Int(1));
        let taken = graph.node("Gather", &[&all.value, &taken], &[axis]);
        let tokens = patches(graph, &taken, width);
        let means = graph.constant("means", &[places, width], &self.gaussians.means);
        let differences = graph.node("Sub", &[&tokens, &means], &[]);
        let columns = graph.reshape(&differences, &[0, places as i64, width as i64, 1]);
        let inverses = graph.constant(
            "inverses",
            &[places, width, width],
            &self.gaussians.inverses(),
        );
        let whitened = graph.node("MatMul", &[&inverses, &columns], &[]);
        let squared = reduce(graph, "ReduceSumSquare", &whitened, &[2, 3], false);
        graph.node("Sqrt", &[&squared], &[])
    }
}
