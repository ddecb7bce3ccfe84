//! Convolutional networks, from plain slices of weights: a list of steps from one feature map to
//! another (He et al., "Deep Residual Learning", 2016; Sandler et al., "MobileNetV2", 2018).
//!
//! ```text
//! step        what a network is made of
//! map         feature maps, a place's channels side by side
//! dense       convolutions as products with packed weights
//! depthwise   convolutions of each channel with its own window; pool: the largest of a window
//! inverted    the wide inside of an inverted residual block, panel by panel
//! saved       packed networks as bytes
//! ```

mod dense;
mod depthwise;
mod inverted;
mod map;
mod pool;
mod saved;
mod step;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

pub(crate) use depthwise::{Line as DepthwiseLine, depthwise};
pub(crate) use inverted::{Wide, wide};
pub(crate) use pool::{Line as PoolLine, pool};
pub use step::{Convolution, Operation, Padding, Step, Window};

use crate::engine::{Engine, Precision};
use crate::error::ShapeError;
use crate::features::{FeatureMap, Grid, ImageFeatures};
use crate::format::Format;
use crate::parallel::{Shared, Workers};
use crate::product::{Epilogue, Target};
use crate::request::{FeatureRequest, LayerId};
use crate::rows::Rows;
use crate::unpacked::Unpacked;
use crate::vit::{Images, LinearWeights};
use crate::worker_group::lead;
use dense::{Codes, Dense, Scratch};
use depthwise::Depthwise;
use inverted::Inverted;
use map::{Geometry, Map};
use step::{COLOURS, LONGEST_SIDE, SLOTS};

/// A stage of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageInfo {
    /// Channels of its feature map.
    pub dim: usize,
    /// Pixels from one place to the next.
    pub stride: usize,
}

/// A network, packed for one engine and precision.
pub struct ConvNet {
    engine: Engine,
    precision: Precision,
    steps: Vec<(Step, Packed)>,
    stages: Vec<StageInfo>,
    /// Length of the embedding, if there is one.
    embedding: Option<usize>,
    /// What the maps hold after the last step so far.
    slots: [Option<Slot>; SLOTS],
    /// Workspaces that are not in use; each keeps its size.
    workspaces: Mutex<Vec<Workspace>>,
}

/// What is known of a map.
#[derive(Debug, Clone, Copy)]
struct Slot {
    scale: StageInfo,
    /// No number is below zero.
    positive: bool,
}

/// The weights of a step.
enum Packed {
    None,
    Dense(Dense),
    Depthwise(Depthwise),
}

/// What one image needs on its way; nothing is allocated for a second image of the same size.
#[derive(Default)]
struct Workspace {
    maps: [Map; SLOTS],
    threads: Vec<Scratch>,
    codes: Codes,
    /// The input and the output of the wide inside of a block.
    input: Rows,
    hidden: Rows,
}

impl ConvNet {
    /// A network without steps, which [`push`](Self::push) adds.
    pub fn new(engine: Engine, precision: Precision) -> Self {
        let mut slots = [None; SLOTS];
        slots[0] = Some(Slot {
            scale: StageInfo {
                dim: COLOURS,
                stride: 1,
            },
            positive: false,
        });
        Self {
            engine,
            precision,
            steps: vec![],
            stages: vec![],
            embedding: None,
            slots,
            workspaces: Mutex::default(),
        }
    }

    /// Adds a step; a convolution has `weights`, `[outputs, inputs, side, side]` (of a depthwise
    /// one `[outputs, 1, side, side]`) and a bias.
    ///
    /// # Errors
    /// [`ShapeError`] names what does not fit the steps before.
    pub fn push(&mut self, step: Step, weights: Option<LinearWeights>) -> Result<(), ShapeError> {
        self.check(&step)?;
        let packed = match (step.operation, weights) {
            (Operation::Convolution(convolution), Some(weights)) => {
                let expected = convolution.weights();
                ShapeError::check("weight of a convolution", weights.weight.len(), expected)?;
                let outputs = convolution.outputs;
                ShapeError::check("bias of a convolution", weights.bias.len(), outputs)?;
                let LinearWeights { weight, bias } = weights;
                match convolution.depthwise {
                    true => Packed::Depthwise(Depthwise::new(convolution, weight, bias)?),
                    false => Packed::Dense(Dense::new(
                        self.engine,
                        self.precision_of(&convolution),
                        convolution,
                        weight,
                        bias,
                        self.positive(&step),
                    )?),
                }
            }
            (Operation::Convolution(convolution), None) => {
                let expected = convolution.weights();
                return Err(ShapeError {
                    what: "weight of a convolution",
                    expected,
                    found: 0,
                });
            }
            _ => Packed::None,
        };
        self.add(step, packed);
        Ok(())
    }

    /// Whether no number that a step reads is below zero.
    fn positive(&self, step: &Step) -> bool {
        self.slots[step.from].is_some_and(|slot| slot.positive)
    }

    /// How exactly a convolution is computed.
    fn precision_of(&self, convolution: &Convolution) -> Precision {
        match (self.precision, convolution.least) {
            (Precision::F32, _) | (_, Precision::F32) => Precision::F32,
            (Precision::Half, _) | (_, Precision::Half) => Precision::Half,
            (Precision::Int8, Precision::Int8) => Precision::Int8,
        }
    }

    /// Whether a step fits those before it.
    fn check(&self, step: &Step) -> Result<(), ShapeError> {
        let wrong = |what, expected, found| ShapeError {
            what,
            expected,
            found,
        };
        let slot = |number: usize| {
            let slot = self.slots.get(number).copied();
            slot.ok_or_else(|| wrong("number of a map", SLOTS, number))
        };
        let from = slot(step.from)?
            .ok_or_else(|| wrong("map that is read", 1, 0))?
            .scale;
        let to = slot(step.to)?.map(|slot| slot.scale);
        let window = match step.operation {
            Operation::Stage | Operation::Embedding => return Ok(()),
            Operation::MaxPool(window) => window,
            Operation::Convolution(Convolution {
                window,
                inputs,
                outputs,
                depthwise,
                last,
                ..
            }) => {
                ShapeError::check("input of a convolution", inputs, from.dim)?;
                ShapeError::check("output of a convolution", outputs, outputs.max(1))?;
                if depthwise {
                    ShapeError::check("output of a depthwise convolution", outputs, inputs)?;
                }
                let known = match last {
                    Epilogue::Store | Epilogue::Relu | Epilogue::Relu6 => true,
                    Epilogue::Add | Epilogue::AddRelu => !depthwise,
                    Epilogue::Gelu | Epilogue::QuickGelu | Epilogue::SwiGlu => false,
                };
                if !known {
                    return Err(wrong("epilogue that a convolution has", 1, 0));
                }
                if last.adds() {
                    let residual = to.ok_or_else(|| wrong("residual", outputs, 0))?;
                    ShapeError::check("residual", residual.dim, outputs)?;
                    let stride = from.stride.saturating_mul(window.stride);
                    ShapeError::check("stride of a residual", residual.stride, stride)?;
                }
                window
            }
        };
        if step.from == step.to {
            return Err(wrong("map that is written, which is also read", 1, 0));
        }
        let fits = |x: usize| (1..=LONGEST_SIDE).contains(&x);
        let padding = match window.padding {
            Padding::Symmetric(padding) => padding,
            Padding::Same => 0,
        };
        if !fits(window.side) || !fits(window.stride) || padding >= window.side {
            return Err(wrong("window", LONGEST_SIDE, window.side));
        }
        Ok(())
    }

    /// Takes a step that was checked.
    fn add(&mut self, step: Step, packed: Packed) {
        let Some(from) = self.slots[step.from] else {
            return;
        };
        let written = |window: Window, dim, positive| Slot {
            scale: StageInfo {
                dim,
                stride: from.scale.stride.saturating_mul(window.stride),
            },
            positive,
        };
        match step.operation {
            Operation::Stage => self.stages.push(from.scale),
            Operation::Embedding => self.embedding = Some(from.scale.dim),
            Operation::MaxPool(window) => {
                self.slots[step.to] = Some(written(window, from.scale.dim, from.positive));
            }
            Operation::Convolution(Convolution {
                window,
                outputs,
                last,
                ..
            }) => {
                let clipped = [Epilogue::Relu, Epilogue::Relu6, Epilogue::AddRelu];
                let positive = clipped.contains(&last);
                self.slots[step.to] = Some(written(window, outputs, positive));
            }
        }
        self.steps.push((step, packed));
    }

    /// The stages, from the first to the last.
    pub fn stages(&self) -> &[StageInfo] {
        &self.stages
    }

    /// Length of the embedding, if the network has one.
    pub fn embedding(&self) -> Option<usize> {
        self.embedding
    }

    /// The steps.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().map(|(step, _)| step)
    }

    /// The steps with the weights of those that are convolutions, each unpacked when it is reached.
    pub fn unpack(&self) -> impl Iterator<Item = (Step, Option<Unpacked>)> {
        self.steps.iter().map(|(step, packed)| {
            let weights = match packed {
                Packed::None => None,
                Packed::Dense(dense) => Some(dense.linear.unpack().planes(&dense.convolution)),
                Packed::Depthwise(depthwise) => Some(depthwise.unpack()),
            };
            (*step, weights)
        })
    }

    /// What is wanted of each of `images`, of any size: stages, and the embedding.
    ///
    /// # Errors
    /// [`ShapeError`] if the images do not fit, are too small for the network, or there is no such
    /// stage or no embedding.
    pub fn encode(
        &self,
        images: &Images,
        request: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, ShapeError> {
        let count = images.height.saturating_mul(images.width).saturating_mul(3);
        for pixels in &images.pixels {
            ShapeError::check("image", pixels.len(), count.max(1))?;
        }
        for layer in &request.layers {
            let number = layer.number();
            let there = matches!(layer, LayerId::Stage(n) if (1..=self.stages.len()).contains(n));
            if !there {
                return Err(ShapeError {
                    what: "list of wanted layers",
                    expected: self.stages.len(),
                    found: number,
                });
            }
        }
        if request.embedding.is_some() && self.embedding.is_none() {
            return Err(ShapeError {
                what: "embedding",
                expected: 1,
                found: 0,
            });
        }
        let grid = Grid {
            rows: images.height,
            columns: images.width,
        };
        let batch = images.pixels.len();
        let mut features = Vec::new();
        features.resize_with(batch, || Ok(ImageFeatures::default()));
        let shared = Shared::new(&mut features);
        let encode = |image: usize, workers: Workers| {
            let mut workspace = self.workspaces().pop().unwrap_or_default();
            workspace.maps[0].fill(images.pixels[image], grid, workers);
            // SAFETY: every image is encoded once.
            let features = unsafe { &mut shared.part(image, 1)[0] };
            *features = self.run(&mut workspace, request, workers);
            self.workspaces().push(workspace);
        };
        // As many images as there are threads keep each other out of the way; what is left of a
        // batch is done by all threads together.
        let threads = Workers::Pool.threads();
        let apart = batch / threads * threads;
        Workers::Pool.for_each(apart, |image| encode(image, Workers::Serial));
        if apart < batch {
            lead(|leader| {
                (apart..batch).for_each(|image| encode(image, Workers::Group(leader)));
            });
        }
        features.into_iter().collect()
    }

    /// The steps after `step` that read what it writes, by their numbers.
    fn readers(&self, step: usize) -> impl Iterator<Item = usize> {
        let slot = self.steps[step].0.to;
        let later = self.steps.iter().enumerate().skip(step + 1);
        let mut written = false;
        later
            .map_while(move |(number, (step, _))| {
                if written {
                    return None;
                }
                let adds = match step.operation {
                    Operation::Convolution(Convolution { last, .. }) => {
                        written = step.to == slot;
                        last.adds() && written
                    }
                    Operation::MaxPool(_) => {
                        written = step.to == slot;
                        false
                    }
                    Operation::Stage | Operation::Embedding => false,
                };
                Some((adds || step.from == slot).then_some(number))
            })
            .flatten()
    }

    /// Whether `reader` is the one step that reads what `step` writes.
    fn leads_to(&self, step: usize, reader: usize) -> bool {
        self.readers(step).eq([reader])
    }

    /// The inverted residual block whose first convolution is a step.
    fn inverted(&self, step: usize) -> Option<Inverted<'_>> {
        let packed = |i: usize| self.steps.get(step + i).map(|(_, packed)| packed);
        let (
            Some(Packed::Dense(expand)),
            Some(Packed::Depthwise(depthwise)),
            Some(Packed::Dense(project)),
        ) = (packed(0), packed(1), packed(2))
        else {
            return None;
        };
        let alone = self.leads_to(step, step + 1) && self.leads_to(step + 1, step + 2);
        Inverted::of(expand, depthwise, project).filter(|_| alone)
    }

    /// What a convolution writes: bfloat16 where nothing but products of such numbers read it.
    fn format(&self, step: usize, dense: &Dense) -> Format {
        let Convolution { outputs, last, .. } = dense.convolution;
        let slot = self.steps[step].0.to;
        let mut readers = self.readers(step).peekable();
        let fits = readers.peek().is_some()
            && Target::takes(Format::Bf16, last, outputs)
            && readers.all(|reader| match &self.steps[reader] {
                (later, Packed::Dense(dense)) => {
                    let narrow = dense.linear.kernel().input == Format::Bf16;
                    narrow && later.from == slot && self.inverted(reader).is_none()
                }
                _ => false,
            });
        match fits {
            true => Format::Bf16,
            false => Format::F32,
        }
    }

    /// Takes the image in the first map through the network, as far as is needed.
    fn run(
        &self,
        workspace: &mut Workspace,
        request: &FeatureRequest,
        workers: Workers,
    ) -> Result<ImageFeatures, ShapeError> {
        let threads = &mut workspace.threads;
        if threads.len() < workers.threads() {
            threads.resize_with(workers.threads(), Scratch::default);
        }
        let mut features = ImageFeatures::default();
        let (mut number, mut stage) = (0, 0);
        while let Some((step, packed)) = self.steps.get(number) {
            let done = features.maps.len() == request.layers.len()
                && request.embedding.is_some() == features.embedding.is_some();
            if done {
                break;
            }
            let from = &workspace.maps[step.from];
            match step.operation {
                Operation::Stage => {
                    stage += 1;
                    let layer = LayerId::Stage(stage);
                    let wanted = request.layers.iter().filter(|&&wanted| wanted == layer);
                    features.maps.extend(wanted.map(|&layer| FeatureMap {
                        layer,
                        grid: from.grid,
                        dim: from.channels,
                        tokens: from.numbers().to_vec(),
                        class_token: None,
                    }));
                }
                Operation::Embedding => {
                    if request.embedding.is_some() {
                        features.embedding = Some(from.mean());
                    }
                }
                Operation::MaxPool(_) | Operation::Convolution(_) => {
                    if let Some(inverted) = self.inverted(number) {
                        self.block(workspace, number, &inverted, workers)?;
                        number += 3;
                        continue;
                    }
                    self.step(workspace, number, step, packed, workers)?;
                }
            }
            number += 1;
        }
        // Stages come in their order; they are returned in that of the request.
        let mut found = std::mem::take(&mut features.maps);
        for layer in &request.layers {
            if let Some(place) = found.iter().position(|map| map.layer == *layer) {
                features.maps.push(found.swap_remove(place));
            }
        }
        Ok(features)
    }

    /// One step that writes a map.
    fn step(
        &self,
        workspace: &mut Workspace,
        number: usize,
        step: &Step,
        packed: &Packed,
        workers: Workers,
    ) -> Result<(), ShapeError> {
        let Workspace {
            maps,
            threads,
            codes,
            ..
        } = workspace;
        let kernel = self.engine.kernel(Precision::F32);
        let window = match step.operation {
            Operation::Convolution(convolution) => convolution.window,
            Operation::MaxPool(window) => window,
            Operation::Stage | Operation::Embedding => return Ok(()),
        };
        let mut to = std::mem::take(&mut maps[step.to]);
        let from = &maps[step.from];
        let geometry = geometry(window, from)?;
        match packed {
            Packed::Dense(dense) => {
                prepare(&mut to, dense, &geometry, self.format(number, dense))?;
                dense.run(from, &mut to, &geometry, threads, codes, workers);
            }
            Packed::Depthwise(depthwise) => {
                to.resize(geometry.to, from.channels, Format::F32);
                depthwise.run(kernel, from, &mut to, &geometry, workers);
            }
            Packed::None => {
                to.resize(geometry.to, from.channels, Format::F32);
                pool::max_pool(kernel, from, &mut to, &geometry, workers);
            }
        }
        maps[step.to] = to;
        Ok(())
    }

    /// The three steps of an inverted residual block, from `number` on.
    fn block(
        &self,
        workspace: &mut Workspace,
        number: usize,
        inverted: &Inverted<'_>,
        workers: Workers,
    ) -> Result<(), ShapeError> {
        let Workspace {
            maps,
            threads,
            input,
            hidden,
            ..
        } = workspace;
        let kernel = self.engine.kernel(Precision::F32);
        let from = &maps[self.steps[number].0.from];
        let inner = geometry(inverted.depthwise.convolution.window, from)?;
        inverted.run(kernel, from, (input, hidden), &inner, threads, workers);
        let slot = self.steps[number + 2].0.to;
        let mut to = std::mem::take(&mut maps[slot]);
        let outer = Geometry::new(Window::POINT, inner.to);
        let format = self.format(number + 2, inverted.project);
        prepare(&mut to, inverted.project, &outer, format)?;
        inverted.project.run_rows(hidden, &mut to, threads, workers);
        maps[slot] = to;
        Ok(())
    }

    fn workspaces(&self) -> std::sync::MutexGuard<'_, Vec<Workspace>> {
        self.workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where windows lie on a map; an error if it is too small for one.
fn geometry(window: Window, from: &Map) -> Result<Geometry, ShapeError> {
    let geometry = Geometry::new(window, from.grid);
    let count = geometry.to.len();
    ShapeError::check(
        "image, which is too small for the network,",
        count,
        count.max(1),
    )?;
    Ok(geometry)
}

/// Gives a map the size that a convolution writes; one that it adds to must have it.
fn prepare(
    to: &mut Map,
    dense: &Dense,
    geometry: &Geometry,
    format: Format,
) -> Result<(), ShapeError> {
    match dense.convolution.last.adds() {
        true => {
            ShapeError::check("residual", to.grid.rows, geometry.to.rows)?;
            ShapeError::check("residual", to.grid.columns, geometry.to.columns)
        }
        false => {
            to.resize(geometry.to, dense.convolution.outputs, format);
            Ok(())
        }
    }
}
