//! The encoder that shares images out among devices.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::ClipText;
use anomalens_backbones::weights::{PullEvent, Store};
use anomalens_backbones::{
    Activation, Backbone, BackboneError, BackboneOptions, Blueprint, EncoderSpec, FeatureRequest,
    ImageEncoder, ImageFeatures, OpenError, Precision, by_size,
};
use anomalens_vision::Preprocessed;

use super::gate::Gate;
use super::library::{Library, library};
use super::program::{Program, probe};
use super::{Device, Devices};
use crate::OnnxError;
use crate::model::Float;
use crate::network::Size;

/// Graphs that stay open on a device: methods ask for one or two, at one or two sizes.
const MOST_PROGRAMS: usize = 4;

/// Bytes of activations that a batch may take on a device, by a rough count of what a block holds at
/// once; a device that has less memory gets smaller batches as soon as it runs out.
const BATCH_BYTES: usize = 2 << 30;

/// Images of a batch beyond which no device becomes faster.
const MOST_IMAGES: usize = 64;

/// Batches of a device that are prepared, computed and taken out at the same time.
const LANES: usize = 4;

/// Images of a batch that a device is not given fewer than, where there are as many.
const LEAST_IMAGES: usize = 16;

/// A network on devices in place of the processor.
struct OnnxEncoder {
    /// The same in float32 on the processor.
    exact: Arc<dyn ImageEncoder>,
    spec: EncoderSpec,
    library: &'static Library,
    gate: Gate,
    devices: Vec<OnDevice>,
}

/// What is open on a device.
struct OnDevice {
    device: Device,
    programs: Mutex<Vec<(FeatureRequest, Size, Arc<Program>)>>,
    /// Images of a batch that it has memory for, as far as is known.
    most: AtomicUsize,
}

/// Opens `weights` as [`Backbone::open`] does, to be computed on `devices`; without any, by the
/// kernels of this program.
///
/// # Errors
/// [`OpenError`], which tells of a device what is not there and the command that helps.
pub fn open_on(
    devices: &[Device],
    weights: &str,
    options: BackboneOptions,
    store: &Store,
    progress: &dyn Fn(PullEvent<'_>),
) -> Result<Backbone, Box<OpenError>> {
    if devices.is_empty() {
        return Ok(Backbone::open(weights, options, store, progress)?);
    }
    let exact = BackboneOptions {
        exact: true,
        ..options
    };
    let backbone = Backbone::open(weights, exact, store, progress)?;
    let folder = Some(store.devices_folder());
    let opened = on_devices(backbone, devices, folder);
    Ok(opened.map_err(|error| OpenError::from(BackboneError::from(error)))?)
}

/// `backbone`, which computes in float32 on the processor, on `devices`. `folder` remembers which of
/// them compute what they should.
///
/// # Errors
/// [`OnnxError`] tells what is not there and the command that helps, or how a device fails.
pub fn on_devices(
    backbone: Backbone,
    devices: &[Device],
    folder: Option<PathBuf>,
) -> Result<Backbone, OnnxError> {
    let Some(first) = devices.first() else {
        return Ok(backbone);
    };
    let exact = backbone.encoder.clone();
    if exact.blueprint().is_none() {
        return Err(OnnxError::NoBlueprint(exact.spec().name.clone()));
    }
    let runtime = library(first)?;
    for device in devices {
        library(device)?;
        probe(runtime, device)?;
    }
    let precision = match first.float() {
        Float::F16 => Precision::Half,
        Float::F32 => Precision::F32,
    };
    let titles: Vec<String> = devices.iter().map(Device::title).collect();
    let open = |device: &Device| OnDevice {
        device: device.clone(),
        programs: Mutex::default(),
        most: AtomicUsize::new(MOST_IMAGES),
    };
    let encoder = OnnxEncoder {
        spec: EncoderSpec {
            precision,
            ..exact.spec().clone()
        },
        exact,
        library: runtime,
        gate: Gate {
            folder,
            weights: backbone.sha256,
        },
        devices: devices.iter().map(open).collect(),
    };
    let mut backbone = Backbone {
        encoder: Arc::new(encoder),
        ..backbone
    };
    backbone.runs_as.device = Some(titles.join(" + "));
    backbone.runs_as.precision = precision;
    Ok(backbone)
}

impl Device {
    /// Whether it works here.
    ///
    /// # Errors
    /// [`OnnxError`] tells what is not there and the command that helps, or why it does not start.
    pub fn check(&self) -> Result<(), OnnxError> {
        probe(library(self)?, self)
    }
}

impl Devices {
    /// The devices themselves, none for the processor: `auto` is the first that works.
    pub fn resolve(&self) -> Vec<Device> {
        match self {
            Self::Cpu => vec![],
            Self::Named(devices) => devices.clone(),
            Self::Auto => {
                let mut tried = Self::tried().into_iter();
                let found = tried.find(|device| device.check().is_ok());
                found.into_iter().collect()
            }
        }
    }
}

impl OnnxEncoder {
    /// The graph for a request, opened and compared with the processor at its first use.
    fn program(
        &self,
        on: &OnDevice,
        request: &FeatureRequest,
        size: Size,
    ) -> Result<Arc<Program>, OnnxError> {
        let mut programs = on.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = programs
            .iter()
            .position(|(known, of, _)| known == request && *of == size);
        if let Some(place) = known {
            // The one used last is at the end.
            let entry = programs.remove(place);
            let program = entry.2.clone();
            programs.push(entry);
            return Ok(program);
        }
        let exact = self.exact.as_ref();
        let program = Program::new(self.library, &on.device, exact, request, size)?;
        self.gate
            .check(self.library, &on.device, &program, exact, request, size)?;
        let program = Arc::new(program);
        if programs.len() == MOST_PROGRAMS {
            programs.remove(0);
        }
        programs.push((request.clone(), size, program.clone()));
        Ok(program)
    }

    /// Batches of a device that are in work at the same time.
    fn lanes(&self) -> usize {
        match self.is_processor() {
            true => 1,
            false => LANES,
        }
    }

    /// Whether the processor computes after all.
    fn is_processor(&self) -> bool {
        self.devices.iter().any(|on| on.device.is_processor())
    }

    /// How many images a batch may have at first.
    fn most(&self, request: &FeatureRequest, size: Size) -> usize {
        let Size { height, width } = size;
        let numbers = self.spec.layers.iter().map(|layer| {
            let tokens = (height / layer.stride) * (width / layer.stride);
            // Tokens, normed, queries, keys, values, and four times the width between two layers.
            tokens * layer.dim * 9
        });
        let windows = request
            .windows()
            .map(|side| 2 * side * side)
            .sum::<usize>()
            .max(1);
        let bytes = 2 * numbers.max().unwrap_or(0).max(3 * height * width) * windows;
        (BATCH_BYTES / bytes.max(1)).clamp(1, MOST_IMAGES)
    }

    fn encode_size(
        &self,
        images: &[&[f32]],
        request: &FeatureRequest,
        size: Size,
    ) -> Result<Vec<ImageFeatures>, OnnxError> {
        let most = self.most(request, size);
        let devices = self.devices.len();
        // Several batches for every device, unless they would be small.
        let share = images.len().div_ceil(devices);
        let lanes = self.lanes();
        let batch = (share / lanes).max(LEAST_IMAGES).min(share).min(most);
        let batches: Vec<&[&[f32]]> = images.chunks(batch.max(1)).collect();
        if let ([batch], [on]) = (batches.as_slice(), self.devices.as_slice()) {
            return self.run(on, 0, batch, request, size);
        }
        let next = AtomicUsize::new(0);
        let lane = |on: &OnDevice, lane: usize| {
            let mut done = vec![];
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(batch) = batches.get(place) else {
                    return Ok::<_, OnnxError>(done);
                };
                done.push((place, self.run(on, lane, batch, request, size)?));
            }
        };
        let lanes = batches.len().div_ceil(devices).min(lanes);
        let mut parts = std::thread::scope(|scope| {
            let lane = &lane;
            let threads: Vec<_> = self
                .devices
                .iter()
                .flat_map(|on| (0..lanes).map(move |number| (on, number)))
                .map(|(on, number)| scope.spawn(move || lane(on, number)))
                .collect();
            let mut parts = vec![];
            for thread in threads {
                match thread.join() {
                    Ok(done) => parts.extend(done?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok::<_, OnnxError>(parts)
        })?;
        parts.sort_unstable_by_key(|(place, _)| *place);
        Ok(parts
            .into_iter()
            .flat_map(|(_, features)| features)
            .collect())
    }

    /// A batch on a device, in halves where its memory is short.
    fn run(
        &self,
        on: &OnDevice,
        lane: usize,
        images: &[&[f32]],
        request: &FeatureRequest,
        size: Size,
    ) -> Result<Vec<ImageFeatures>, OnnxError> {
        let program = self.program(on, request, size)?;
        if let [image] = images {
            program.record(self.exact.as_ref(), request, image);
        }
        if lane > 0 {
            program.double(self.exact.as_ref(), request);
        }
        let mut features = Vec::with_capacity(images.len());
        let mut rest = images;
        while !rest.is_empty() {
            let count = rest.len().min(on.most.load(Ordering::Relaxed));
            match program.run(lane, &rest[..count]) {
                Ok(done) => {
                    features.extend(done);
                    rest = &rest[count..];
                }
                Err(error) if count > 1 && is_out_of_memory(&error) => {
                    on.most.fetch_min(count / 2, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(features)
    }
}

/// Whether a device had too little memory, by what ONNX Runtime and drivers write.
fn is_out_of_memory(error: &OnnxError) -> bool {
    let OnnxError::Device { reason, .. } = error else {
        return false;
    };
    let reason = reason.to_lowercase();
    let signs = [
        "out of memory",
        "failed to allocate memory",
        "not enough memory",
        "bad_alloc",
    ];
    signs.iter().any(|sign| reason.contains(sign))
}

impl ImageEncoder for OnnxEncoder {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn encode(
        &self,
        images: &[Preprocessed],
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        self.exact.check(request)?;
        by_size(&self.spec, images, |images| {
            let size = Size {
                height: images.height,
                width: images.width,
            };
            Ok(self.encode_size(&images.pixels, request, size)?)
        })
    }

    fn check(&self, request: &FeatureRequest) -> Result<(), BackboneError> {
        self.exact.check(request)
    }

    fn batch(&self) -> usize {
        match self.is_processor() {
            true => self.exact.batch(),
            // Two batches for each device, of which one is prepared while the other computes.
            false => 2 * MOST_IMAGES * self.devices.len(),
        }
    }

    fn blueprint(&self) -> Option<Blueprint<'_>> {
        self.exact.blueprint()
    }

    fn text(&self, activation: Option<Activation>) -> Result<Option<ClipText>, BackboneError> {
        self.exact.text(activation)
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.exact.checkpoint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_told_from_other_failures() {
        for (reason, expected) in [
            ("CUDA failure 2: out of memory", true),
            (
                "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer",
                true,
            ),
            ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", false),
        ] {
            let error = OnnxError::Device {
                device: "cuda".to_owned(),
                reason: reason.to_owned(),
            };
            assert_eq!(is_out_of_memory(&error), expected, "{reason}");
        }
    }
}
