//! The same as operations of a graph.

use anomalens_backbones::Grid;
use anomalens_onnx::model::{Attribute, Graph, Value};
use anomalens_onnx::network::Outputs;
use anomalens_vision::Alignment;

use super::{Gallery, NAME, SpadeDetector};
use crate::DetectorError;
use crate::components::graph::{
    GraphScored, GraphVectors, after, as_map, centred, mean_of, reduce, resized,
};

impl SpadeDetector {
    pub(super) fn in_graph(
        &self,
        graph: &mut Graph,
        seen: &Outputs,
    ) -> Result<GraphScored, DetectorError> {
        let settings = &self.checked.settings;
        if settings.literal_chunks {
            return Err(DetectorError::NoGraph {
                method: NAME,
                reason: "`literal_chunks` leaves out places by their number; fit it without"
                    .to_owned(),
            });
        }
        let deep = after(seen, settings.pooled()?)?;
        let width = |expected: usize, found: usize| match expected == found {
            true => Ok(()),
            false => Err(DetectorError::Width { expected, found }),
        };
        width(self.pooled.width(), deep.dim)?;
        let places = deep.places(graph);
        let mean = reduce(graph, "ReduceMean", &places, &[1], true);
        let pooled = GraphVectors::new(graph, self.pooled.values(), self.pooled.width());
        let count = settings.neighbours.min(self.pooled.len());
        let (images, distances) = pooled.several_nearest(graph, &mean, count);
        let score = reduce(graph, "ReduceMean", &distances, &[1], false);

        let side = settings.framing().side() as usize;
        let of_network = Grid {
            rows: side,
            columns: side,
        };
        let mut maps = vec![];
        for (gallery, layer) in self.galleries.iter().zip(settings.compared()?) {
            let tokens = after(seen, layer)?;
            width(gallery.width, tokens.dim)?;
            let places = tokens.places(graph);
            let distances = gallery.distances_in_graph(graph, &places, &images, count);
            let map = as_map(graph, &distances, tokens.grid);
            maps.push(resized(
                graph,
                &map,
                tokens.grid,
                of_network,
                |map, side| map.resize(side, 1, Alignment::Edges),
            )?);
        }
        Ok(GraphScored {
            score,
            map: mean_of(graph, &maps),
            grid: of_network,
        })
    }
}

impl Gallery {
    /// How far each of `places` `[batch, places, width]` is from the nearest place of some `images`
    /// `[batch, count]`.
    fn distances_in_graph(
        &self,
        graph: &mut Graph,
        places: &Value,
        images: &Value,
        count: usize,
    ) -> Value {
        let (of_image, width) = (self.grid.len(), self.width);
        let all = self.values.len() / (of_image * width).max(1);
        let (centre, moved) = centred(&self.values, width);
        let gallery = graph.constant("gallery", &[all, of_image, width], &moved);
        let centre = graph.constant("gallery_mean", &[width], &centre);
        let places = graph.node("Sub", &[places, &centre], &[]);
        let chosen = graph.node("Gather", &[&gallery, images], &[]);
        let shape = [0, (count * of_image) as i64, width as i64];
        let chosen = graph.reshape(&chosen, &shape);
        let columns = graph.transpose(&chosen, &[0, 2, 1]);
        let products = graph.node("MatMul", &[&places, &columns], &[]);
        let squares = reduce(graph, "ReduceSumSquare", &chosen, &[2], false);
        let half = graph.number(0.5);
        let halves = graph.node("Mul", &[&squares, &half], &[]);
        let halves = graph.reshape(&halves, &[0, 1, -1]);
        let nearness = graph.node("Sub", &[&products, &halves], &[]);
        let nearest = graph.node("ArgMax", &[&nearness], &[("axis", Attribute::Int(-1))]);
        let batch = ("batch_dims", Attribute::Int(1));
        let found = graph.node("GatherND", &[&chosen, &nearest], &[batch]);
        let differences = graph.node("Sub", &[&places, &found], &[]);
        reduce(graph, "ReduceL2", &differences, &[-1], false)
    }
}
