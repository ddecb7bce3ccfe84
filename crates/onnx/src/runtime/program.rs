//! One graph on one device: sessions, and the memory that goes in and out.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anomalens_backbones::{FeatureMap, FeatureRequest, ImageEncoder, ImageFeatures};
use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, TensorElementType};
use prost::Message;
use rayon::prelude::*;

use super::Device;
use super::library::Library;
use crate::OnnxError;
use crate::model::{Float, Graph, Length};
use crate::network::{BATCH, Size, Tokens, network};

/// The name of what goes in.
const PIXELS: &str = "pixels";

/// The name of the embedding, which comes out last.
const EMBEDDING: &str = "embedding";

/// Constants from this size on are handed over beside the model, which cannot hold 2 GB.
const BESIDE: (&str, usize) = ("weights", 1024);

/// Pieces of memory for batches that are kept between calls.
const MOST_SLOTS: usize = 4;

/// A graph that is ready to run.
pub(crate) struct Program {
    device: Device,
    size: Size,
    session: Mutex<Session>,
    shape: Shape,
    slots: Mutex<Vec<Slot>>,
    /// The same for one image, recorded; none where that cannot be done.
    recorded: OnceLock<Option<Mutex<Recorded>>>,
}

/// What comes out.
struct Shape {
    maps: Vec<Tokens>,
    embedding: Option<usize>,
}

/// Memory of the host for a batch.
struct Slot {
    batch: usize,
    pixels: DynTensor,
    outputs: Vec<DynTensor>,
    binding: IoBinding,
}

/// A graph for one image that was recorded on a GPU, whose memory stays where it is.
struct Recorded {
    session: Session,
    /// Of the device.
    inside: Slot,
    /// Of the host.
    pixels: DynTensor,
    outputs: Vec<DynTensor>,
}

impl Program {
    /// Opens what `request` asks for of images of `size`.
    pub(crate) fn new(
        library: &Library,
        device: &Device,
        encoder: &dyn ImageEncoder,
        request: &FeatureRequest,
        size: Size,
    ) -> Result<Self, OnnxError> {
        let (session, shape) = open(library, device, encoder, request, size, false)?;
        Ok(Self {
            device: device.clone(),
            size,
            session: Mutex::new(session),
            shape,
            slots: Mutex::default(),
            recorded: OnceLock::new(),
        })
    }

    /// Records the graph for one image, where the device can; a failure only costs time.
    pub(crate) fn record(
        &self,
        library: &Library,
        encoder: &dyn ImageEncoder,
        request: &FeatureRequest,
    ) {
        self.recorded.get_or_init(|| {
            let number = self
                .device
                .cuda_number()
                .filter(|_| self.device.replays())?;
            let (session, shape) =
                open(library, &self.device, encoder, request, self.size, true).ok()?;
            let recorded = Recorded::new(session, &shape, self, number);
            recorded.ok().map(Mutex::new)
        });
    }

    /// The features of images of its size.
    pub(crate) fn run(&self, images: &[&[f32]]) -> Result<Vec<ImageFeatures>, OnnxError> {
        if let ([image], Some(Some(recorded))) = (images, self.recorded.get()) {
            let mut recorded = lock(recorded);
            let Recorded {
                session,
                inside,
                pixels,
                outputs,
            } = &mut *recorded;
            fill(pixels, &[image]).map_err(|error| self.failed(&error))?;
            replay(session, inside, pixels, outputs).map_err(|error| self.failed(&error))?;
            return self.take(outputs, 1).map_err(|error| self.failed(&error));
        }
        let mut slot = self
            .slot(images.len())
            .map_err(|error| self.failed(&error))?;
        let features = self.run_in(&mut slot, images);
        let mut slots = lock(&self.slots);
        if features.is_ok() && slots.len() < MOST_SLOTS {
            slots.push(slot);
        }
        features.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &ort::Error) -> OnnxError {
        OnnxError::Device {
            device: self.device.to_string(),
            reason: error.to_string(),
        }
    }

    fn run_in(&self, slot: &mut Slot, images: &[&[f32]]) -> ort::Result<Vec<ImageFeatures>> {
        fill(&mut slot.pixels, images)?;
        {
            let mut session = lock(&self.session);
            slot.binding.bind_input(PIXELS, &slot.pixels)?;
            session.run_binding(&slot.binding)?;
        }
        self.take(&slot.outputs, images.len())
    }

    /// Memory for a batch: what is free, or new.
    fn slot(&self, batch: usize) -> ort::Result<Slot> {
        let mut slots = lock(&self.slots);
        if let Some(place) = slots.iter().position(|slot| slot.batch == batch) {
            return Ok(slots.swap_remove(place));
        }
        if slots.len() == MOST_SLOTS {
            slots.remove(0);
        }
        drop(slots);
        let session = lock(&self.session);
        let memory = self.device.cuda_number().map(|number| {
            MemoryInfo::new(
                AllocationDevice::CUDA_PINNED,
                number,
                AllocatorType::Device,
                MemoryType::CPUInput,
            )
        });
        let allocator = match memory {
            Some(memory) => Allocator::new(&session, memory?)?,
            None => Allocator::default(),
        };
        Slot::new(&session, &allocator, self, &self.shape, batch)
    }

    fn element(&self) -> TensorElementType {
        match self.device.float() {
            Float::F32 => TensorElementType::Float32,
            Float::F16 => TensorElementType::Float16,
        }
    }

    /// What came out of a batch, image by image.
    fn take(&self, outputs: &[DynTensor], batch: usize) -> ort::Result<Vec<ImageFeatures>> {
        let numbers = outputs.iter().map(Numbers::of);
        let numbers: Vec<Numbers<'_>> = numbers.collect::<ort::Result<_>>()?;
        let features = (0..batch).into_par_iter().map(|image| {
            let maps = self.shape.maps.iter().zip(&numbers).map(|(map, numbers)| {
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
            let embedding = self.shape.embedding.zip(numbers.last());
            ImageFeatures {
                maps: maps.collect(),
                embedding: embedding.map(|(dim, numbers)| numbers.part(image * dim, dim)),
                further: vec![],
            }
        });
        Ok(features.collect())
    }
}

impl Shape {
    /// Names and numbers of each output of a batch, in their order.
    fn outputs(&self, batch: usize) -> Vec<(String, Vec<usize>)> {
        let maps = self.maps.iter().enumerate();
        let maps = maps.map(|(i, map)| (map_name(i), vec![batch, map.count(), map.dim]));
        let embedding = self
            .embedding
            .map(|dim| (EMBEDDING.to_owned(), vec![batch, dim]));
        maps.chain(embedding).collect()
    }
}

impl Slot {
    fn new(
        session: &Session,
        allocator: &Allocator,
        program: &Program,
        shape: &Shape,
        batch: usize,
    ) -> ort::Result<Self> {
        let element = program.element();
        let Size { height, width } = program.size;
        let pixels = DynTensor::new(allocator, element, [batch, 3, height, width])?;
        let mut binding = session.create_binding()?;
        let mut outputs = vec![];
        for (name, lengths) in shape.outputs(batch) {
            let mut output = DynTensor::new(allocator, element, lengths)?;
            binding.bind_output(name, &mut output)?;
            outputs.push(output);
        }
        Ok(Self {
            batch,
            pixels,
            outputs,
            binding,
        })
    }
}

impl Recorded {
    fn new(
        mut session: Session,
        shape: &Shape,
        program: &Program,
        number: i32,
    ) -> ort::Result<Self> {
        let memory = |device, kind| MemoryInfo::new(device, number, AllocatorType::Device, kind);
        let on_device = memory(AllocationDevice::CUDA, MemoryType::Default)?;
        let pinned = memory(AllocationDevice::CUDA_PINNED, MemoryType::CPUInput)?;
        let on_device = Allocator::new(&session, on_device)?;
        let pinned = Allocator::new(&session, pinned)?;
        let mut inside = Slot::new(&session, &on_device, program, shape, 1)?;
        let outside = Slot::new(&session, &pinned, program, shape, 1)?;
        inside.binding.bind_input(PIXELS, &inside.pixels)?;
        let Slot {
            pixels,
            mut outputs,
            ..
        } = outside;
        // Once to find out what is needed, once to record.
        for _ in 0..2 {
            replay(&mut session, &mut inside, &pixels, &mut outputs)?;
        }
        Ok(Self {
            session,
            inside,
            pixels,
            outputs,
        })
    }
}

/// Copies in, runs, copies out.
fn replay(
    session: &mut Session,
    inside: &mut Slot,
    pixels: &DynTensor,
    outputs: &mut [DynTensor],
) -> ort::Result<()> {
    pixels.copy_into(&mut inside.pixels)?;
    session.run_binding(&inside.binding)?;
    for (from, to) in inside.outputs.iter().zip(outputs) {
        from.copy_into(to)?;
    }
    Ok(())
}

/// The numbers of a tensor.
enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl<'a> Numbers<'a> {
    fn of(tensor: &'a DynTensor) -> ort::Result<Self> {
        match tensor.data_type() {
            TensorElementType::Float16 => Ok(Self::F16(tensor.try_extract_tensor()?.1)),
            _ => Ok(Self::F32(tensor.try_extract_tensor()?.1)),
        }
    }

    fn part(&self, start: usize, length: usize) -> Vec<f32> {
        match self {
            Self::F32(numbers) => numbers[start..start + length].to_vec(),
            Self::F16(numbers) => {
                let mut part = vec![0.0; length];
                numbers[start..start + length].convert_to_f32_slice(&mut part);
                part
            }
        }
    }
}

/// Writes images one after the other.
fn fill(to: &mut DynTensor, images: &[&[f32]]) -> ort::Result<()> {
    let length = images.first().map_or(1, |image| image.len());
    match to.data_type() {
        TensorElementType::Float16 => {
            let (_, numbers) = to.try_extract_tensor_mut::<f16>()?;
            let places = numbers.par_chunks_mut(length).zip(images);
            places.for_each(|(to, image)| to.convert_from_f32_slice(image));
        }
        _ => {
            let (_, numbers) = to.try_extract_tensor_mut::<f32>()?;
            let places = numbers.par_chunks_mut(length).zip(images);
            places.for_each(|(to, image)| to.copy_from_slice(image));
        }
    }
    Ok(())
}

/// A session, and what comes out of it; for batches of one image if it is to `replay`.
fn open(
    library: &Library,
    device: &Device,
    encoder: &dyn ImageEncoder,
    request: &FeatureRequest,
    size: Size,
    replay: bool,
) -> Result<(Session, Shape), OnnxError> {
    let float = device.float();
    let batch = if replay { Length::Fixed(1) } else { BATCH };
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
    let session = start(library, device, graph, replay)?;
    let shape = Shape {
        maps: outputs.maps,
        embedding,
    };
    Ok((session, shape))
}

/// A session of `graph`, all of it on the device.
fn start(
    library: &Library,
    device: &Device,
    graph: Graph,
    replay: bool,
) -> Result<Session, OnnxError> {
    let (model, weights) = graph.model(Some(BESIDE));
    let session = (|| {
        let mut builder = Session::builder(&library.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?;
        if !weights.is_empty() {
            builder = builder.with_external_initializer_file_in_memory(BESIDE.0, weights.into())?;
        }
        if let Some(provider) = device.provider(replay) {
            builder = builder
                .with_execution_providers([provider])?
                .with_disable_cpu_fallback()?;
        } else {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            builder = builder.with_intra_threads(threads)?;
        }
        builder.commit_from_memory(&model.encode_to_vec())
    })();
    session.map_err(|error: ort::Error| OnnxError::Device {
        device: device.to_string(),
        reason: [error.to_string(), library.complaints()]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("; "),
    })
}

/// Whether a device starts at all.
///
/// # Errors
/// [`OnnxError::Device`] tells why it does not.
pub(crate) fn probe(library: &Library, device: &Device) -> Result<(), OnnxError> {
    let float = device.float();
    let mut graph = Graph::new("probe", float, false);
    let x = graph.input("x", float.into(), &[1.into()]);
    let sum = graph.node("Add", &[&x, &x], &[]);
    graph.output("y", &sum, float.into(), &[1.into()]);
    start(library, device, graph, false).map(drop)
}

fn map_name(i: usize) -> String {
    format!("map_{i}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
