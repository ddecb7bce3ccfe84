//! One graph on one device.

use std::sync::OnceLock;

use anomalens_backbones::{FeatureMap, FeatureRequest, ImageEncoder, ImageFeatures};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::DynTensor;
use prost::Message;
use rayon::prelude::*;

use super::Device;
use super::engine::{Engine, Numbers, PIXELS, Plan};
use super::gate::{LEAST_COSINE, smallest_cosine};
use super::library::Library;
use crate::OnnxError;
use crate::model::{Graph, Length};
use crate::network::{BATCH, Size, Tokens, network};

/// The name of the embedding, which comes out last.
const EMBEDDING: &str = "embedding";

/// Constants from this size on are handed over beside the model, which cannot hold 2 GB.
const BESIDE: (&str, usize) = ("weights", 1024);

/// Weights of networks up to this size are on a GPU twice.
const MOST_DOUBLED: usize = 256 << 20;

/// A graph that is ready to run.
pub(super) struct Program {
    library: &'static Library,
    device: Device,
    size: Size,
    maps: Vec<Tokens>,
    embedding: Option<usize>,
    /// Bytes of its weights.
    weights: usize,
    engine: Engine,
    /// The same once more, so that one copies out while the other computes; none where that is not
    /// worth the memory.
    second: OnceLock<Option<Engine>>,
    /// The same for one image, recorded; none where that cannot be done.
    recorded: OnceLock<Option<Engine>>,
}

impl Program {
    /// Opens what `request` asks for of images of `size`.
    pub(super) fn new(
        library: &'static Library,
        device: &Device,
        encoder: &dyn ImageEncoder,
        request: &FeatureRequest,
        size: Size,
    ) -> Result<Self, OnnxError> {
        let Written {
            graph,
            maps,
            embedding,
        } = write(device, encoder, request, size, false)?;
        let weights = graph.bytes();
        let plan = plan(device, size, &maps, embedding, false);
        Ok(Self {
            library,
            device: device.clone(),
            size,
            engine: engine(library, device, plan, graph)?,
            maps,
            embedding,
            weights,
            second: OnceLock::new(),
            recorded: OnceLock::new(),
        })
    }

    /// Opens a second session, for several batches at the same time; a failure only costs time.
    pub(super) fn double(&self, encoder: &dyn ImageEncoder, request: &FeatureRequest) {
        let is_small = self.device.cuda_number().is_some() && self.weights < MOST_DOUBLED;
        let open = || self.another(encoder, request, false);
        self.second.get_or_init(|| is_small.then(open)?.ok());
    }

    /// Records the graph for one image, where the device can; a failure only costs time, and so does a
    /// record that gives something else for `image`.
    pub(super) fn record(
        &self,
        encoder: &dyn ImageEncoder,
        request: &FeatureRequest,
        image: &[f32],
    ) {
        self.recorded.get_or_init(|| {
            if !self.device.replays() {
                return None;
            }
            let recorded = self.another(encoder, request, true).ok()?;
            let one = |engine: &Engine| {
                let features = engine.run(&[image], |outputs| self.take(outputs, 1));
                features.ok()?.pop()
            };
            let cosine = smallest_cosine(&one(&recorded)?, &one(&self.engine)?);
            (cosine >= LEAST_COSINE).then_some(recorded)
        });
    }

    fn another(
        &self,
        encoder: &dyn ImageEncoder,
        request: &FeatureRequest,
        replays: bool,
    ) -> Result<Engine, OnnxError> {
        let Written { graph, .. } = write(&self.device, encoder, request, self.size, replays)?;
        let plan = plan(&self.device, self.size, &self.maps, self.embedding, replays);
        engine(self.library, &self.device, plan, graph)
    }

    /// The features of images of its size; neighbouring lanes compute at the same time.
    pub(super) fn run(
        &self,
        lane: usize,
        images: &[&[f32]],
    ) -> Result<Vec<ImageFeatures>, OnnxError> {
        let engine = match (self.recorded.get(), self.second.get()) {
            (Some(Some(recorded)), _) if images.len() == 1 => recorded,
            (_, Some(Some(second))) if lane % 2 == 1 => second,
            _ => &self.engine,
        };
        let features = engine.run(images, |outputs| self.take(outputs, images.len()));
        features.map_err(|error| failure(self.library, &self.device, &error))
    }

    /// What came out of a batch, image by image.
    fn take(&self, outputs: &[DynTensor], batch: usize) -> ort::Result<Vec<ImageFeatures>> {
        let numbers = outputs.iter().map(Numbers::of);
        let numbers: Vec<Numbers<'_>> = numbers.collect::<ort::Result<_>>()?;
        let features = (0..batch).into_par_iter().map(|image| {
            let maps = self.maps.iter().zip(&numbers).map(|(map, numbers)| {
                let length = map.count() * map.dim;
                let class = if map.class_token { map.dim } else { 0 };
                let start = image * length;
                FeatureMap {
                    layer: map.layer,
                    grid: map.grid,
                    dim: map.dim,
                    tokens: numbers.part(start + class, length - class),
                    class_token: map.class_token.then(|| numbers.part(start, class)),
                }
            });
            let embedding = self.embedding.zip(numbers.last());
            ImageFeatures {
                maps: maps.collect(),
                embedding: embedding.map(|(dim, numbers)| numbers.part(image * dim, dim)),
                further: vec![],
            }
        });
        Ok(features.collect())
    }
}

/// A graph, and what comes out of it.
struct Written {
    graph: Graph,
    maps: Vec<Tokens>,
    embedding: Option<usize>,
}

/// The graph for a request, of batches of one image if it is to be recorded.
fn write(
    device: &Device,
    encoder: &dyn ImageEncoder,
    request: &FeatureRequest,
    size: Size,
    replays: bool,
) -> Result<Written, OnnxError> {
    let float = device.float();
    let batch = if replays { Length::Fixed(1) } else { BATCH };
    let mut graph = Graph::new("encoder", float, device.takes_contrib());
    let lengths = [
        batch.clone(),
        3.into(),
        size.height.into(),
        size.width.into(),
    ];
    let pixels = graph.input(PIXELS, float.into(), &lengths);
    let outputs = network(&mut graph, encoder, request, size, &pixels)?;
    for (i, map) in outputs.maps.iter().enumerate() {
        let lengths = [batch.clone(), map.count().into(), map.dim.into()];
        graph.output(&map_name(i), &map.value, float.into(), &lengths);
    }
    let embedding = outputs.embedding.map(|value| {
        let dim = encoder.spec().embedding;
        graph.output(EMBEDDING, &value, float.into(), &[batch, dim.into()]);
        dim
    });
    Ok(Written {
        graph,
        maps: outputs.maps,
        embedding,
    })
}

fn plan(
    device: &Device,
    size: Size,
    maps: &[Tokens],
    embedding: Option<usize>,
    replays: bool,
) -> Plan {
    let maps = maps.iter().enumerate();
    let maps = maps.map(|(i, map)| (map_name(i), vec![map.count(), map.dim]));
    let embedding = embedding.map(|dim| (EMBEDDING.to_owned(), vec![dim]));
    Plan {
        float: device.float(),
        pixels: [3, size.height, size.width],
        outputs: maps.chain(embedding).collect(),
        cuda: device.cuda_number(),
        replays,
    }
}

fn map_name(i: usize) -> String {
    format!("map_{i}")
}

fn engine(
    library: &'static Library,
    device: &Device,
    plan: Plan,
    graph: Graph,
) -> Result<Engine, OnnxError> {
    let (device, replays) = (device.clone(), plan.replays);
    Engine::new(plan, move || start(library, &device, graph, replays))
}

/// A session of `graph`, all of it on the device.
fn start(
    library: &Library,
    device: &Device,
    graph: Graph,
    replays: bool,
) -> Result<Session, OnnxError> {
    let (model, weights) = graph.model(Some(BESIDE));
    let session = (|| {
        let mut builder = builder(library, device, replays)?;
        if !weights.is_empty() {
            builder = builder.with_external_initializer_file_in_memory(BESIDE.0, weights.into())?;
        }
        builder.commit_from_memory(&model.encode_to_vec())
    })();
    session.map_err(|error| failure(library, device, &error))
}

/// What sessions on a device are made with, where all of a graph runs.
pub(super) fn builder(
    library: &Library,
    device: &Device,
    replays: bool,
) -> ort::Result<SessionBuilder> {
    let builder = Session::builder(&library.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?;
    Ok(match device.provider(replays) {
        Some(provider) => builder
            .with_execution_providers([provider])?
            .with_disable_cpu_fallback()?,
        None => {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            builder
                .with_intra_threads(threads)?
                .with_intra_op_spinning(false)?
        }
    })
}

/// Why a device does not do something, with the command that helps if a library is missing.
pub(super) fn failure(library: &Library, device: &Device, error: &ort::Error) -> OnnxError {
    let mut reasons = vec![in_words(&error.to_string())];
    let more = in_words(&library.complaints());
    if !more.is_empty() && !reasons.contains(&more) {
        reasons.push(more);
    }
    if reasons.iter().any(|reason| is_missing_library(reason)) {
        reasons.push(device.install());
    }
    OnnxError::Device {
        device: device.to_string(),
        reason: reasons.join("; "),
    }
}

/// What ONNX Runtime reports, without the places in its sources.
fn in_words(report: &str) -> String {
    let words = report.rsplit(" : FAIL : ").next().unwrap_or(report);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the system did not find a library that a device needs.
fn is_missing_library(reason: &str) -> bool {
    let signs = ["cannot open shared object file", "LoadLibrary failed"];
    signs.iter().any(|sign| reason.contains(sign))
}

/// Whether a device starts at all.
///
/// # Errors
/// [`OnnxError::Device`] tells why it does not.
pub(super) fn probe(library: &Library, device: &Device) -> Result<(), OnnxError> {
    let float = device.float();
    let mut graph = Graph::new("probe", float, false);
    let x = graph.input("x", float.into(), &[1.into()]);
    let sum = graph.node("Add", &[&x, &x], &[]);
    graph.output("y", &sum, float.into(), &[1.into()]);
    start(library, device, graph, false).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_put_in_words() {
        for (report, expected, missing) in [
            (
                "/src/bridge.cc:2043 Provider& Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load \
                 library p.so with error: libcublas.so.13: cannot open shared object file: No such file\n\n",
                "Failed to load library p.so with error: libcublas.so.13: cannot open shared object \
                 file: No such file",
                true,
            ),
            (
                "no CUDA-capable device is detected",
                "no CUDA-capable device is detected",
                false,
            ),
            ("", "", false),
        ] {
            assert_eq!(in_words(report), expected);
            assert_eq!(is_missing_library(report), missing, "{report}");
        }
    }
}
