//! A session with a thread of its own, and the memory that goes in and out.
//!
//! ONNX Runtime keeps what a GPU needs (handles, recorded graphs) for each thread that runs a session:
//! threads that come and go would make it anew each time.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, TensorElementType};
use rayon::prelude::*;

use crate::OnnxError;
use crate::model::Float;

/// What goes in.
pub(super) const PIXELS: &str = "pixels";

/// Pieces of memory for batches that are kept between calls.
const MOST_SLOTS: usize = 4;

/// Numbers that one task converts.
const TASK: usize = 1 << 16;

/// What a session is for.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// How numbers are held.
    pub(super) float: Float,
    /// Of an image, `[3, height, width]`.
    pub(super) pixels: [usize; 3],
    /// Names and shapes of what comes out of an image.
    pub(super) outputs: Vec<(String, Vec<usize>)>,
    /// The number of an NVIDIA GPU.
    pub(super) cuda: Option<i32>,
    /// Whether what the GPU does for one image is recorded and replayed.
    pub(super) replays: bool,
}

/// A session that runs on its thread.
pub(super) struct Engine {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    slots: Mutex<Vec<Slot>>,
}

impl Drop for Engine {
    /// Waits until the session is closed: a GPU's driver must not be shut down by the end of the program
    /// meanwhile.
    fn drop(&mut self) {
        let slots = self.slots.get_mut();
        slots.unwrap_or_else(PoisonError::into_inner).clear();
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // Why it ended was told to whoever waited for it.
            let _ = thread.join();
        }
    }
}

/// Where the answer goes.
type Reply = SyncSender<ort::Result<Box<Slot>>>;

/// What the thread is asked for.
enum Job {
    Make(usize, Reply),
    Run(Box<Slot>, Reply),
}

/// Memory for a batch.
pub(super) struct Slot {
    batch: usize,
    pixels: DynTensor,
    outputs: Vec<DynTensor>,
    binding: IoBinding,
    /// Where the GPU reads and writes, if it must always be the same places.
    inside: Option<(DynTensor, Vec<DynTensor>)>,
}

impl Engine {
    /// Opens a session on a thread of its own.
    pub(super) fn new(
        plan: Plan,
        open: impl FnOnce() -> Result<Session, OnnxError> + Send + 'static,
    ) -> Result<Self, OnnxError> {
        let (jobs, receiver) = channel();
        let (opened, is_open) = sync_channel(1);
        let thread = std::thread::spawn(move || match open() {
            Ok(session) => {
                let _ = opened.send(Ok(()));
                work(session, &plan, &receiver);
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        });
        let gone = |_| OnnxError::Device {
            device: "ONNX Runtime".to_owned(),
            reason: "the thread that opens a session ended".to_owned(),
        };
        is_open.recv().map_err(gone)??;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            slots: Mutex::default(),
        })
    }

    /// Runs a batch, and hands what came out to `take`.
    pub(super) fn run<T>(
        &self,
        images: &[&[f32]],
        take: impl FnOnce(&[DynTensor]) -> ort::Result<T>,
    ) -> ort::Result<T> {
        let free = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let place = slots.iter().position(|slot| slot.batch == images.len());
            if place.is_none() && slots.len() == MOST_SLOTS {
                slots.remove(0);
            }
            place.map(|place| slots.swap_remove(place))
        };
        let mut slot = match free {
            Some(slot) => Box::new(slot),
            None => self.ask(|reply| Job::Make(images.len(), reply))?,
        };
        fill(&mut slot.pixels, images)?;
        let slot = self.ask(|reply| Job::Run(slot, reply))?;
        let taken = take(&slot.outputs);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() < MOST_SLOTS {
            slots.push(*slot);
        }
        taken
    }

    fn ask(&self, job: impl FnOnce(Reply) -> Job) -> ort::Result<Box<Slot>> {
        let (reply, answer) = sync_channel(1);
        let gone = || ort::Error::new("the thread that runs a session ended");
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job(reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

/// Does what is asked for, until nobody asks any more.
fn work(mut session: Session, plan: &Plan, jobs: &Receiver<Job>) {
    for job in jobs {
        // Whoever asked may be gone: nobody misses the answer then.
        let _ = match job {
            Job::Make(batch, reply) => {
                reply.send(Slot::new(&mut session, plan, batch).map(Box::new))
            }
            Job::Run(mut slot, reply) => reply.send(slot.run(&mut session).map(|()| slot)),
        };
    }
}

impl Slot {
    fn new(session: &mut Session, plan: &Plan, batch: usize) -> ort::Result<Self> {
        let memory = |device, number, kind| {
            let memory = MemoryInfo::new(device, number, AllocatorType::Device, kind)?;
            Allocator::new(session, memory)
        };
        let host = Allocator::default();
        // What a GPU reads from at full speed. ONNX Runtime 1.31 refuses to write there.
        let pinned = plan
            .cuda
            .map(|number| memory(AllocationDevice::CUDA_PINNED, number, MemoryType::CPUInput));
        let pinned = pinned.transpose()?;
        let inside = plan.cuda.filter(|_| plan.replays);
        let inside =
            inside.map(|number| memory(AllocationDevice::CUDA, number, MemoryType::Default));
        let inside = inside.transpose()?;
        let mut binding = session.create_binding()?;
        let pixels = plan.tensor(pinned.as_ref().unwrap_or(&host), batch, &plan.pixels)?;
        let tensors = |allocator: &Allocator| -> ort::Result<Vec<DynTensor>> {
            let shapes = plan.outputs.iter().map(|(_, shape)| shape);
            shapes
                .map(|shape| plan.tensor(allocator, batch, shape))
                .collect()
        };
        let mut outputs = tensors(&host)?;
        let mut inside = match inside {
            Some(device) => {
                let pixels = plan.tensor(&device, batch, &plan.pixels)?;
                binding.bind_input(PIXELS, &pixels)?;
                Some((pixels, tensors(&device)?))
            }
            None => None,
        };
        let bound = inside.as_mut().map_or(&mut outputs, |(_, outputs)| outputs);
        for ((name, _), output) in plan.outputs.iter().zip(bound) {
            binding.bind_output(name, output)?;
        }
        let mut slot = Self {
            batch,
            pixels,
            outputs,
            binding,
            inside,
        };
        if slot.inside.is_some() {
            // Once to find out what is needed, once to record.
            for _ in 0..2 {
                slot.run(session)?;
            }
        }
        Ok(slot)
    }

    /// Copies in, runs, copies out.
    fn run(&mut self, session: &mut Session) -> ort::Result<()> {
        match &mut self.inside {
            Some((pixels, outputs)) => {
                self.pixels.copy_into(&mut *pixels)?;
                session.run_binding(&self.binding)?;
                for (from, to) in outputs.iter().zip(&mut self.outputs) {
                    from.copy_into(to)?;
                }
            }
            None => {
                self.binding.bind_input(PIXELS, &self.pixels)?;
                session.run_binding(&self.binding)?;
            }
        }
        Ok(())
    }
}

impl Plan {
    fn tensor(
        &self,
        allocator: &Allocator,
        batch: usize,
        shape: &[usize],
    ) -> ort::Result<DynTensor> {
        let element = match self.float {
            Float::F32 => TensorElementType::Float32,
            Float::F16 => TensorElementType::Float16,
        };
        let lengths = [&[batch], shape].concat();
        DynTensor::new(allocator, element, lengths)
    }
}

/// The numbers of a tensor.
pub(super) enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl<'a> Numbers<'a> {
    pub(super) fn of(tensor: &'a DynTensor) -> ort::Result<Self> {
        match tensor.data_type() {
            TensorElementType::Float16 => Ok(Self::F16(tensor.try_extract_tensor()?.1)),
            _ => Ok(Self::F32(tensor.try_extract_tensor()?.1)),
        }
    }

    pub(super) fn part(&self, start: usize, length: usize) -> Vec<f32> {
        match self {
            Self::F32(numbers) => numbers[start..start + length].to_vec(),
            Self::F16(numbers) => numbers[start..start + length].to_f32_vec(),
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
            places.for_each(|(to, image)| {
                let parts = to.par_chunks_mut(TASK).zip(image.par_chunks(TASK));
                parts.for_each(|(to, from)| to.convert_from_f32_slice(from));
            });
        }
        _ => {
            let (_, numbers) = to.try_extract_tensor_mut::<f32>()?;
            let places = numbers.par_chunks_mut(length).zip(images);
            places.for_each(|(to, image)| to.copy_from_slice(image));
        }
    }
    Ok(())
}
