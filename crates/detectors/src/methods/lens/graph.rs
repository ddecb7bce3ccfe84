//! How looks score, as operations of a graph.

use anomalens_backbones::{Grid, LayerId};
use anomalens_onnx::model::{Attribute, Graph, Value};
use anomalens_onnx::network::Outputs;
use anomalens_vision::Alignment;

use super::foreground::{Foreground, GROUND};
use super::look::{Look, Source};
use super::own_image::{self, OwnImage};
use super::power_mean::PowerMean;
use super::references::References;
use super::residual::{LARGE, step};
use super::score_scale::{HIGHEST, Residuals};
use super::{NAME, Settings};
use crate::DetectorError;
use crate::components::graph::{
    Along, GraphScored, above, as_map, concat, highest_similarity, mean_of, patches, planes,
    products, reduce, resampled, residual, resized, scaled, squeezed, standardised, top_mean, unit,
};
use crate::components::self_similarity::GraphDistances;
use crate::settings::Checked;

impl Look {
    /// The results of images as it sees them.
    pub(super) fn in_graph(
        &self,
        graph: &mut Graph,
        seen: &Outputs,
    ) -> Result<GraphScored, DetectorError> {
        let settings = &self.checked.settings;
        match &self.source {
            Source::Batch => Err(no_graph("images of a batch are compared with each other")),
            Source::OwnImage(own) => own.in_graph(graph, seen, settings),
            Source::References(references) => {
                references.in_graph(graph, seen, &self.checked, &self.head)
            }
        }
    }
}

/// The results of all looks joined, as `looks::join` does it.
pub(super) fn join(
    graph: &mut Graph,
    mut seen: Vec<GraphScored>,
) -> Result<GraphScored, DetectorError> {
    if seen.len() == 1 {
        return Ok(seen.remove(0));
    }
    let most = |side: fn(&GraphScored) -> usize| seen.iter().map(side).max().unwrap_or(0);
    let grid = Grid {
        rows: most(|one| one.grid.rows),
        columns: most(|one| one.grid.columns),
    };
    let mut maps = vec![];
    for one in &seen {
        maps.push(resized(graph, &one.map, one.grid, grid, |map, to| {
            map.resize(to, 1, Alignment::Edges)
        })?);
    }
    let scores: Vec<Value> = seen.into_iter().map(|one| one.score).collect();
    Ok(GraphScored {
        score: mean_of(graph, &scores),
        map: mean_of(graph, &maps),
        grid,
    })
}

/// The places of the layers that are compared, as the network gives them, their width and their grid.
fn layers(
    graph: &mut Graph,
    seen: &Outputs,
    settings: &Settings,
) -> Result<(Vec<Value>, usize, Grid), DetectorError> {
    let (mut places, mut width, mut grid) = (
        vec![],
        0,
        Grid {
            rows: 0,
            columns: 0,
        },
    );
    for &number in settings.compared() {
        let found = seen
            .maps
            .iter()
            .find(|tokens| tokens.layer.number() == number);
        let tokens = found.ok_or(DetectorError::MissingLayer(LayerId::Block(number)))?;
        (width, grid) = (tokens.dim, tokens.grid);
        places.push(tokens.places(graph));
    }
    Ok((places, width, grid))
}

impl OwnImage {
    fn in_graph(
        &self,
        graph: &mut Graph,
        seen: &Outputs,
        settings: &Settings,
    ) -> Result<GraphScored, DetectorError> {
        let (places, _, grid) = layers(graph, seen, settings)?;
        let directions = places.iter().map(|places| unit(graph, places, -1));
        let directions: Vec<Value> = directions.collect();
        let found = GraphDistances::new(graph, grid, &directions).ok_or_else(too_small)?;
        let distances = found.of_image(graph);
        let score = top_mean(graph, &distances, own_image::HIGHEST);
        let map = found.of_place(graph);
        let score = scaled(graph, &score, 1.0 / self.image(), 0.0);
        let map = scaled(graph, &map, 1.0 / self.image(), 0.0);
        Ok(GraphScored {
            score,
            map: as_map(graph, &map, grid),
            grid,
        })
    }
}

impl References {
    fn in_graph(
        &self,
        graph: &mut Graph,
        seen: &Outputs,
        Checked { settings, profile }: &Checked<Settings>,
        head: &PowerMean,
    ) -> Result<GraphScored, DetectorError> {
        let Some(first) = self.banks().first() else {
            return Err(DetectorError::NoReferences(NAME));
        };
        profile.check_graph(seen, first.width())?;
        let (places, width, grid) = layers(graph, seen, settings)?;
        let (mut patches, mut nearest, mut images) = (vec![], vec![], vec![]);
        for (block, places) in places.iter().enumerate() {
            let standard = standardised(graph, places, width);
            let own = unit(graph, &standard, -1);
            let found = highest_similarity(graph, &own, self.banks()[block].values(), width);
            nearest.push(residual(graph, &found));
            let sums = reduce(graph, "ReduceSum", &standard, &[1], false);
            let mean = unit(graph, &sums, -1);
            let means = self.means(block, width);
            let cosines = products(graph, &mean, &means, width);
            images.push(residual(graph, &cosines));
            patches.push(own);
        }
        let mut map = mean_of(graph, &nearest);
        if let (Some(foreground), Some(last)) = (self.foreground(), patches.last()) {
            let weights = foreground.in_graph(graph, last, grid);
            map = graph.node("Mul", &[&map, &weights], &[]);
        }
        let image_level = mean_of(graph, &images);
        let image_level = reduce(graph, "ReduceMin", &image_level, &[1], false);
        let of_patches = top_mean(graph, &map, HIGHEST.min(grid.len()));
        let own = match settings.own_image {
            true => own(graph, &patches, grid, width)?,
            false => scaled(graph, &of_patches, 0.0, 0.0),
        };
        let parts = [of_patches, image_level, own].map(|part| graph.reshape(&part, &[-1, 1]));
        let residuals = concat(graph, &parts, 1);
        let ones = Residuals {
            patches: 1.0,
            image_level: 1.0,
            own: 1.0,
        };
        let factors = graph.constant("units", &[1, 3], &ones.ratios(self.unit()));
        let ratios = graph.node("Mul", &[&residuals, &factors], &[]);
        let score = head.in_graph(graph, &ratios, settings)?;
        let map = scaled(graph, &map, 1.0 / self.unit().patches, 0.0);
        Ok(GraphScored {
            score,
            map: as_map(graph, &map, grid),
            grid,
        })
    }
}

impl Foreground {
    /// What each of `patches` `[batch, places, width]` counts.
    fn in_graph(&self, graph: &mut Graph, patches: &Value, grid: Grid) -> Value {
        let (axis, threshold, is_above) = self.parts();
        let along = products(graph, patches, axis, axis.len());
        let along = squeezed(graph, &along);
        let mut object = above(graph, &along, threshold);
        if !is_above {
            object = scaled(graph, &object, -1.0, 1.0);
        }
        let (rows, columns) = (grid.rows as i64, grid.columns as i64);
        let object = graph.reshape(&object, &[0, 1, rows, columns]);
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![3; 2])),
            ("pads", Attribute::Ints(vec![1; 4])),
        ];
        let near = graph.node("MaxPool", &[&object], &attributes);
        let near = graph.reshape(&near, &[0, rows * columns]);
        scaled(graph, &near, 1.0 - GROUND, GROUND)
    }
}

impl PowerMean {
    /// The scores of `ratios` `[batch, 3]`.
    fn in_graph(
        &self,
        graph: &mut Graph,
        ratios: &Value,
        settings: &Settings,
    ) -> Result<Value, DetectorError> {
        let (weights, unit) = self.logarithms_of_weights()?;
        let on = [true, settings.image_level, settings.own_image];
        let on = on.map(|on| f32::from(u8::from(on)));
        let on = graph.constant("parts", &[1, 3], &on);
        let ratios = graph.node("Mul", &[ratios, &on], &[]);
        let least = graph.number(super::power_mean::LEAST as f32);
        let ratios = graph.node("Max", &[&ratios, &least], &[]);
        let logarithms = graph.node("Log", &[&ratios], &[]);
        let weights = graph.constant("weights", &[1, 3], &weights);
        let weighted = graph.node("Add", &[&logarithms, &weights], &[]);
        let power = super::power_mean::POWER as f32;
        let terms = scaled(graph, &weighted, power, 0.0);
        let sum = reduce(graph, "ReduceLogSumExp", &terms, &[1], false);
        let mean = scaled(graph, &sum, 1.0 / power, -unit);
        Ok(graph.node("Exp", &[&mean], &[]))
    }
}

/// How different from the rest of the image the least familiar patches are, as `residual::own` has it.
fn own(
    graph: &mut Graph,
    of_blocks: &[Value],
    grid: Grid,
    width: usize,
) -> Result<Value, DetectorError> {
    let (mut compared, mut small) = (of_blocks.to_vec(), grid);
    if grid.len() > LARGE {
        let step = step(grid);
        let along = |side| Along::in_steps(side, step);
        let (down, across) = (along(grid.rows), along(grid.columns));
        (small.rows, small.columns) = (down.to(), across.to());
        for one in &mut compared {
            let cells = planes(graph, one, grid, width);
            let sums = resampled(graph, &cells, &down, &across);
            let sums = patches(graph, &sums, width);
            *one = unit(graph, &sums, -1);
        }
    }
    let found = GraphDistances::new(graph, small, &compared).ok_or_else(too_small)?;
    let distances = found.of_image(graph);
    Ok(top_mean(graph, &distances, own_image::HIGHEST))
}

fn too_small() -> DetectorError {
    no_graph(
        "the image has too few patches that are compared with each other; take a larger --size",
    )
}

fn no_graph(reason: &str) -> DetectorError {
    DetectorError::NoGraph {
        method: NAME,
        reason: reason.to_owned(),
    }
}
