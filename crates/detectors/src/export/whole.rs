//! The graph: bytes of images through the networks to scores and maps.

use anomalens_backbones::{Grid, ImageEncoder, Normalisation};
use anomalens_onnx::model::{Element, Float, Graph, Length, Value};
use anomalens_onnx::network::{BATCH, Outputs, Size, network, normalised, slice};

use super::plan::Plan;
use super::{ExportError, ExportOptions, Port};
use crate::components::graph::{GraphScored, joined_cells, resized};
use crate::{DetectorFile, Enlargement};

/// A graph, and what comes out of it.
pub(super) struct Built {
    pub(super) graph: Graph,
    pub(super) outputs: Vec<Port>,
}

impl Built {
    fn new(options: &ExportOptions) -> Self {
        let float = match options.half {
            true => Float::F16,
            false => Float::F32,
        };
        Self {
            graph: Graph::new("anomalens", float, options.contrib),
            outputs: vec![],
        }
    }

    /// `value` comes out, its lengths after the batch's being `shape`.
    fn output(
        &mut self,
        options: &ExportOptions,
        name: &str,
        value: &Value,
        element: Element,
        shape: &[usize],
    ) {
        let lengths = shape.iter().map(|&length| length.into());
        let lengths: Vec<Length> = std::iter::once(batch(options)).chain(lengths).collect();
        self.graph.output(name, value, element, &lengths);
        self.outputs.push(Port {
            name: name.to_owned(),
            shape: shape.to_vec(),
        });
    }
}

fn batch(options: &ExportOptions) -> Length {
    match options.dynamic_batch {
        true => BATCH,
        false => 1.into(),
    }
}

/// What all networks give, in float32.
fn seen(
    built: &mut Built,
    plan: &Plan<'_>,
    encoder: &dyn ImageEncoder,
    options: &ExportOptions,
) -> Result<Vec<Outputs>, ExportError> {
    let graph = &mut built.graph;
    let ports = plan.ports().into_iter().map(|port| {
        let lengths = port.shape.iter().map(|&length| length.into());
        let lengths: Vec<Length> = std::iter::once(batch(options)).chain(lengths).collect();
        graph.input(&port.name, Element::U8, &lengths)
    });
    let ports: Vec<Value> = ports.collect();
    let mut all = vec![];
    for seen in &plan.seen {
        let normalisation = Normalisation {
            mean: seen.input.preprocess.mean,
            std: seen.input.preprocess.std,
        };
        let pixels = normalised(graph, &ports[seen.port], &normalisation);
        let encoder = encoder.network(seen.input.network)?;
        all.push(network(
            graph,
            encoder,
            &seen.input.request,
            seen.size,
            &pixels,
        )?);
    }
    if graph.float == Float::F16 {
        // Differences of nearly equal numbers need the digits.
        for outputs in &mut all {
            for tokens in &mut outputs.maps {
                tokens.value = graph.cast(&tokens.value, Element::F32);
            }
            outputs.embedding = outputs
                .embedding
                .take()
                .map(|x| graph.cast(&x, Element::F32));
        }
        graph.float = Float::F32;
    }
    Ok(all)
}

/// The networks alone.
pub(super) fn encoder(
    plan: &Plan<'_>,
    encoder: &dyn ImageEncoder,
    options: &ExportOptions,
) -> Result<Built, ExportError> {
    let mut built = Built::new(options);
    let all = seen(&mut built, plan, encoder, options)?;
    for (place, outputs) in all.iter().enumerate() {
        for tokens in &outputs.maps {
            let name = output_name(place, &tokens.layer.to_string());
            let (grid, dim) = (tokens.grid, tokens.dim);
            let graph = &mut built.graph;
            let places = tokens.places(graph);
            let shape = [grid.rows, grid.columns, dim];
            let lengths = [0, grid.rows as i64, grid.columns as i64, dim as i64];
            let places = graph.reshape(&places, &lengths);
            let class = tokens.class_token.then(|| {
                let class = slice(graph, &tokens.value, 1, 0, 1);
                graph.reshape(&class, &[0, dim as i64])
            });
            built.output(options, &name, &places, Element::F32, &shape);
            if let Some(class) = class {
                let name = format!("{name}_class");
                built.output(options, &name, &class, Element::F32, &[dim]);
            }
        }
        if let Some(embedding) = &outputs.embedding {
            let network = encoder.network(plan.seen[place].input.network)?;
            let (name, shape) = (output_name(place, "embedding"), [network.spec().embedding]);
            built.output(options, &name, embedding, Element::F32, &shape);
        }
    }
    Ok(built)
}

/// `block 6` of the first network is `block_6`, of the second `network2_block_6`.
pub(super) fn output_name(place: usize, what: &str) -> String {
    let what = what.replace(' ', "_");
    match place {
        0 => what,
        _ => format!("network{}_{what}", place + 1),
    }
}

/// The whole detector.
pub(super) fn detector(
    file: &DetectorFile,
    plan: &Plan<'_>,
    encoder: &dyn ImageEncoder,
    options: &ExportOptions,
) -> Result<Built, ExportError> {
    let detector = file.detector.as_ref();
    plan.require_single_pass(detector)?;
    let mut built = Built::new(options);
    let mut all = seen(&mut built, plan, encoder, options)?;
    let graph = &mut built.graph;
    for (outputs, seen) in all.iter_mut().zip(&plan.seen) {
        if let Some(side) = seen.input.join_cells {
            let joined = joined_cells(graph, &outputs.maps, side);
            outputs.maps = joined.into_iter().collect();
        }
    }
    let GraphScored { score, map, grid } = detector.graph(graph, &all)?;
    let size = plan.size();
    let enlarged = enlarged(graph, &map, grid, size, detector.profile().enlargement)?;
    let decision = file.calibration.as_ref().map(|calibration| {
        let threshold = graph.number(calibration.threshold);
        graph.node("GreaterOrEqual", &[&score, &threshold], &[])
    });
    let shape = [grid.rows, grid.columns];
    built.output(options, "score", &score, Element::F32, &[]);
    built.output(options, "map", &map, Element::F32, &shape);
    let shape = [size.height, size.width];
    built.output(options, "anomaly_map", &enlarged, Element::F32, &shape);
    if let Some(decision) = decision {
        built.output(options, "decision", &decision, Element::Bool, &[]);
    }
    Ok(built)
}

/// The map at `size`, where a pixel is one of the image that goes in.
fn enlarged(
    graph: &mut Graph,
    map: &Value,
    from: Grid,
    Size { height, width }: Size,
    enlargement: Enlargement,
) -> Result<Value, ExportError> {
    let sigma = enlargement.sigma(height, width, 1.0);
    let to = Grid {
        rows: height,
        columns: width,
    };
    let enlarged = resized(graph, map, from, to, |map, to| {
        map.resize(to, 1, enlargement.alignment)?.smooth(sigma)
    });
    Ok(enlarged?)
}
