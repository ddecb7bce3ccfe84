//! A network's steps, and the tensors that each of them needs.

use std::collections::HashSet;

use anomalens_kernels::{
    ConvNet, Convolution, Epilogue, LinearWeights, Operation, Padding, Precision, Step, Window,
};
use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::{BackboneError, Kernels, Normalisation};

/// The tensors of batch norm.
const NORM_PARTS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// How large the map of a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scale {
    /// Channels.
    pub(crate) dim: usize,
    /// Pixels from one place to the next.
    pub(crate) stride: usize,
}

/// The names of a convolution and of its batch norm, without `.weight` and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConvNames {
    pub(crate) weight: String,
    pub(crate) norm: String,
}

impl ConvNames {
    pub(crate) fn new(prefix: &str, weight: &str, norm: &str) -> Self {
        Self {
            weight: format!("{prefix}{weight}"),
            norm: format!("{prefix}{norm}"),
        }
    }
}

/// A network as its weight file tells it.
pub(crate) struct Plan {
    /// A name for people.
    pub(crate) name: String,
    pub(crate) normalisation: Normalisation,
    /// The function after most convolutions, for people.
    pub(crate) activation: &'static str,
    /// Epsilon of every batch norm.
    pub(crate) epsilon: f64,
    /// How far windows reach over the edge.
    pub(crate) padding: fn(usize) -> Padding,
    /// The convolutions that are added are never computed less exactly.
    pub(crate) least: Precision,
    /// Tensors under these prefixes do not belong to the encoder.
    pub(crate) ignored: &'static [&'static str],
    steps: Vec<(Step, Option<ConvNames>)>,
}

impl Plan {
    pub(crate) fn new(
        name: String,
        normalisation: Normalisation,
        activation: &'static str,
        epsilon: f64,
        padding: fn(usize) -> Padding,
        ignored: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            normalisation,
            activation,
            epsilon,
            padding,
            least: Precision::Half,
            ignored,
            steps: vec![],
        }
    }

    fn push(&mut self, from: usize, to: usize, operation: Operation, names: Option<ConvNames>) {
        let step = Step {
            from,
            to,
            operation,
        };
        self.steps.push((step, names));
    }

    /// The window of `side` places with this network's padding.
    pub(crate) fn window(&self, side: usize, stride: usize) -> Window {
        Window {
            side,
            stride,
            padding: (self.padding)(side),
        }
    }

    /// A convolution in which every output sees every input.
    pub(crate) fn dense(
        &mut self,
        (from, to): (usize, usize),
        (side, stride): (usize, usize),
        (inputs, outputs): (usize, usize),
        last: Epilogue,
        names: ConvNames,
    ) {
        let convolution = Convolution {
            window: self.window(side, stride),
            inputs,
            outputs,
            depthwise: false,
            least: self.least,
            last,
        };
        self.push(from, to, Operation::Convolution(convolution), Some(names));
    }

    /// A depthwise convolution.
    pub(crate) fn depthwise(
        &mut self,
        (from, to): (usize, usize),
        (side, stride): (usize, usize),
        channels: usize,
        last: Epilogue,
        names: ConvNames,
    ) {
        let convolution = Convolution {
            window: self.window(side, stride),
            inputs: channels,
            outputs: channels,
            depthwise: true,
            least: self.least,
            last,
        };
        self.push(from, to, Operation::Convolution(convolution), Some(names));
    }

    pub(crate) fn max_pool(&mut self, from: usize, to: usize, side: usize, stride: usize) {
        let window = self.window(side, stride);
        self.push(from, to, Operation::MaxPool(window), None);
    }

    /// The map is what the next stage ends with.
    pub(crate) fn stage(&mut self, map: usize) {
        self.push(map, map, Operation::Stage, None);
    }

    /// The map's mean is the image's embedding.
    pub(crate) fn embedding(&mut self, map: usize) {
        self.push(map, map, Operation::Embedding, None);
    }

    /// The stages of the whole network, and the length of its embedding.
    pub(crate) fn sizes(&self) -> (Vec<Scale>, usize) {
        let mut maps: Vec<Scale> = vec![Scale { dim: 3, stride: 1 }; 1];
        let (mut stages, mut embedding) = (vec![], 0);
        for (step, _) in &self.steps {
            let Scale { dim, stride } = maps.get(step.from).copied().unwrap_or(maps[0]);
            let scale = match step.operation {
                Operation::Stage => {
                    stages.push(Scale { dim, stride });
                    continue;
                }
                Operation::Embedding => {
                    embedding = dim;
                    continue;
                }
                Operation::MaxPool(window) => Scale {
                    dim,
                    stride: stride * window.stride,
                },
                Operation::Convolution(convolution) => Scale {
                    dim: convolution.outputs,
                    stride: stride * convolution.window.stride,
                },
            };
            if maps.len() <= step.to {
                maps.resize(step.to + 1, scale);
            }
            maps[step.to] = scale;
        }
        (stages, embedding)
    }

    /// Reads and packs the weights, up to the stage that the kernels are asked for.
    pub(crate) fn pack(
        &self,
        checkpoint: &Checkpoint,
        kernels: &Kernels,
    ) -> Result<ConvNet, BackboneError> {
        self.nothing_else(checkpoint)?;
        let mut network = ConvNet::new(kernels.engine, kernels.precision);
        for (step, names) in &self.steps {
            match (step.operation, names) {
                (Operation::Convolution(convolution), Some(names)) => {
                    let (weight, bias) = self.folded(checkpoint, &convolution, names)?;
                    let weights = LinearWeights {
                        weight: &weight,
                        bias: &bias,
                    };
                    network.push(*step, Some(weights))?;
                }
                _ => network.push(*step, None)?,
            }
            if Some(network.stages().len()) == kernels.blocks {
                break;
            }
        }
        Ok(network)
    }

    /// Whether the checkpoint has tensors of another network: one with more in its blocks would give
    /// other features.
    fn nothing_else(&self, checkpoint: &Checkpoint) -> Result<(), BackboneError> {
        let mut known = HashSet::new();
        for names in self.steps.iter().filter_map(|(_, names)| names.as_ref()) {
            known.insert(format!("{}.weight", names.weight));
            known.extend(NORM_PARTS.map(|part| format!("{}.{part}", names.norm)));
        }
        let odd = checkpoint.names().filter(|name| {
            let skipped = name.ends_with(".num_batches_tracked")
                || self.ignored.iter().any(|prefix| name.starts_with(prefix));
            !skipped && !known.contains(*name)
        });
        match odd.min() {
            None => Ok(()),
            Some(name) => Err(BackboneError::Config(format!(
                "{} has no tensor `{name}`",
                self.name
            ))),
        }
    }

    /// Weight and bias of a convolution with its batch norm, in float32.
    fn folded(
        &self,
        checkpoint: &Checkpoint,
        convolution: &Convolution,
        names: &ConvNames,
    ) -> Result<(Vec<f32>, Vec<f32>), BackboneError> {
        let numbers = |name: String, shape: &[usize]| -> Result<Vec<f32>, BackboneError> {
            let tensor = checkpoint.tensor(&name, shape, &Device::Cpu)?;
            Ok(tensor.flatten_all()?.to_vec1()?)
        };
        let (outputs, side) = (convolution.outputs, convolution.window.side);
        let inputs = match convolution.depthwise {
            true => 1,
            false => convolution.inputs,
        };
        let shape = [outputs, inputs, side, side];
        let mut weight = numbers(format!("{}.weight", names.weight), &shape)?;
        let [gamma, beta, mean, variance] =
            NORM_PARTS.map(|part| numbers(format!("{}.{part}", names.norm), &[outputs]));
        let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
        let mut bias = beta;
        let filters = weight.chunks_exact_mut(inputs * side * side);
        for (output, filter) in filters.enumerate() {
            let spread = (f64::from(variance[output]) + self.epsilon).sqrt();
            let scale = f64::from(gamma[output]) / spread;
            for x in filter {
                *x = (f64::from(*x) * scale) as f32;
            }
            let shifted = f64::from(bias[output]) - f64::from(mean[output]) * scale;
            bias[output] = shifted as f32;
        }
        Ok((weight, bias))
    }
}
