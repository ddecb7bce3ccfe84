//! What RegAD learns (paper, sections 3.1 to 3.3): a ResNet-18 up to its third stage with a spatial
//! transformer after each stage, an encoder, and a predictor. Tensors have the names of the original's
//! checkpoints, `STN.`, `ENC.` and `PRED.` before those of each part.

use std::collections::BTreeMap;

use candle_core::{Device, Error, Result, Tensor, Var};

use super::transformer::Transformer;
use crate::components::convnet::{BatchNorm, Phase, convolution, inverses, max_pool, warp};
use crate::training::random::{generator, uniform};

/// Stages, each of two blocks; from one to the next the channels double and the sides halve.
pub(super) const STAGES: usize = 3;
const BLOCKS: usize = 2;

/// Channels in the transformers' convolutions.
const LOCAL: [usize; 2] = [64, 16];

/// Channels of the first stage of a ResNet-18, and numbers in the middle of a transformer then.
pub(super) const WIDTH: usize = 64;
const HIDDEN: usize = 1024;

/// Purpose of the generator of initial values.
const INITIAL_VALUES: u32 = u32::MAX;

/// The tensors of batch norm.
const NORM_PARTS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// What the shapes of all tensors follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) transformer: Transformer,
    /// Pixels along a side of an image.
    pub(super) image: usize,
    /// Channels of the first stage.
    pub(super) width: usize,
    /// Numbers in the middle of a transformer.
    pub(super) hidden: usize,
}

/// A tensor that is learned.
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    start: Start,
}

/// What a tensor holds before training.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// Random numbers below a bound that follows from how many inputs there are, as PyTorch has it.
    Uniform { inputs: usize },
    /// One number everywhere.
    All(f32),
    /// The numbers under which a transformer changes nothing.
    Identity,
}

/// A side after so many steps with a stride of 2, each of which rounds up.
fn halved(side: usize, times: usize) -> usize {
    (0..times).fold(side, |side, _| side.div_ceil(2))
}

impl Sizes {
    /// Those of a network whose first stage has `width` channels; 64 in a ResNet-18.
    pub(super) fn new(transformer: Transformer, image: usize, width: usize) -> Self {
        Self {
            transformer,
            image,
            width,
            hidden: HIDDEN * width / WIDTH,
        }
    }

    /// Channels after a stage, counted from 0.
    pub(super) fn channels(&self, stage: usize) -> usize {
        self.width << stage
    }

    /// Places along a side of the map after a stage.
    pub(super) fn side(&self, stage: usize) -> usize {
        halved(self.image, 2 + stage)
    }

    /// Places of the map after the first stage, and numbers of the maps after all of them.
    pub(super) fn places(&self) -> (usize, usize) {
        let numbers = (0..STAGES).map(|stage| self.channels(stage) * self.side(stage).pow(2));
        (self.side(0).pow(2), numbers.sum())
    }

    /// Every tensor.
    pub(super) fn parameters(&self) -> Vec<Parameter> {
        let mut all = Parameters(vec![]);
        let mut inputs = self.width;
        all.convolution("STN.conv1", "STN.bn1", [inputs, 3, 7, 7]);
        for stage in 0..STAGES {
            let outputs = self.channels(stage);
            for block in 0..BLOCKS {
                let part = |part: &str| format!("STN.layer{}.{block}.{part}", stage + 1);
                all.convolution(&part("conv1"), &part("bn1"), [outputs, inputs, 3, 3]);
                all.convolution(&part("conv2"), &part("bn2"), [outputs, outputs, 3, 3]);
                if inputs != outputs {
                    let names = [part("downsample.0"), part("downsample.1")];
                    all.convolution(&names[0], &names[1], [outputs, inputs, 1, 1]);
                }
                inputs = outputs;
            }
            let part = |part: &str| format!("STN.stn{}.{part}", stage + 1);
            let [first, second] = LOCAL;
            all.convolution(&part("conv.0"), &part("conv.1"), [first, outputs, 3, 3]);
            all.convolution(&part("conv.4"), &part("conv.5"), [second, first, 3, 3]);
            let located = second * halved(self.side(stage), 2).pow(2);
            let middle = Start::Uniform { inputs: located };
            all.linear(&part("fc.0"), [self.hidden, located], [middle, middle]);
            let numbers = self.transformer.identity().len();
            let last = [Start::All(0.0), Start::Identity];
            all.linear(&part("fc.2"), [numbers, self.hidden], last);
        }
        let square = [inputs, inputs, 1, 1];
        all.convolution("ENC.conv1", "ENC.bn1", square);
        all.convolution("ENC.conv2", "ENC.bn2", square);
        // The last norm is in every checkpoint and used nowhere.
        all.convolution("ENC.conv3", "ENC.bn3", square);
        all.convolution("PRED.conv1", "PRED.bn1", square);
        all.add("PRED.conv2.weight", &square, Start::Uniform { inputs });
        all.0
    }
}

struct Parameters(Vec<Parameter>);

impl Parameters {
    fn add(&mut self, name: &str, shape: &[usize], start: Start) {
        self.0.push(Parameter {
            name: name.to_owned(),
            shape: shape.to_vec(),
            start,
        });
    }

    fn convolution(&mut self, weight: &str, norm: &str, shape: [usize; 4]) {
        let inputs = shape[1..].iter().product();
        self.add(
            &format!("{weight}.weight"),
            &shape,
            Start::Uniform { inputs },
        );
        for (part, start) in NORM_PARTS.into_iter().zip([1.0, 0.0, 0.0, 1.0]) {
            self.add(&format!("{norm}.{part}"), &shape[..1], Start::All(start));
        }
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], [weight, bias]: [Start; 2]) {
        self.add(&format!("{name}.weight"), &shape, weight);
        self.add(&format!("{name}.bias"), &shape[..1], bias);
    }
}

/// The learned parts.
pub(super) struct Network {
    sizes: Sizes,
    variables: BTreeMap<String, Var>,
}

/// What the transformers make of images.
pub(super) struct Registered {
    /// After each stage, as the next one sees it: `[images, channels, rows, columns]`.
    pub(super) stages: Vec<Tensor>,
    /// What each stage was seen through, `[images, 2, 3]`.
    pub(super) matrices: Vec<Tensor>,
}

impl Registered {
    /// What encoder and statistics are about: the last stage.
    pub(super) fn last(&self) -> Result<&Tensor> {
        let last = self.stages.last();
        last.ok_or_else(|| Error::msg("a network without stages"))
    }

    /// Each stage as it would be without transformers: seen through the inverses of its own matrix and of
    /// those before, the last one first. None if there is no inverse.
    pub(super) fn moved_back(&self) -> Result<Option<Vec<Tensor>>> {
        let mut undo: Vec<Tensor> = vec![];
        let mut moved = vec![];
        for (stage, matrices) in self.stages.iter().zip(&self.matrices) {
            let Some(inverses) = inverses(matrices)? else {
                return Ok(None);
            };
            undo.push(inverses);
            let mut undo = undo.iter().rev();
            moved.push(undo.try_fold(stage.detach(), |map, inverses| warp(&map, inverses))?);
        }
        Ok(Some(moved))
    }
}

impl Network {
    /// The network whose tensors `take` gives.
    ///
    /// # Errors
    /// The name of a tensor that is missing or has another shape.
    pub(super) fn of(
        sizes: Sizes,
        mut take: impl FnMut(&Parameter) -> Option<Tensor>,
    ) -> std::result::Result<Self, String> {
        let mut variables = BTreeMap::new();
        for parameter in sizes.parameters() {
            let tensor = take(&parameter).filter(|tensor| tensor.dims() == parameter.shape);
            let variable = tensor.and_then(|tensor| Var::from_tensor(&tensor).ok());
            let Parameter { name, .. } = parameter;
            match variable {
                Some(variable) => variables.insert(name, variable),
                None => return Err(name),
            };
        }
        Ok(Self { sizes, variables })
    }

    /// What training starts from: transformers that change nothing, other numbers from `seed`, but for those
    /// that `start` gives.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(super) fn initial(
        sizes: Sizes,
        seed: u32,
        mut start: impl FnMut(&Parameter) -> Option<Tensor>,
    ) -> std::result::Result<Self, String> {
        let mut random = generator(seed, INITIAL_VALUES);
        Self::of(sizes, |parameter| {
            let count = parameter.shape.iter().product();
            let values = match parameter.start {
                Start::Identity => sizes.transformer.identity().to_vec(),
                Start::All(value) => vec![value; count],
                Start::Uniform { inputs } => {
                    let bound = (inputs as f64).sqrt().recip();
                    let value = |_| (bound * (2.0 * uniform(&mut random) - 1.0)) as f32;
                    (0..count).map(value).collect()
                }
            };
            let initial = || Tensor::from_vec(values, parameter.shape.as_slice(), &Device::Cpu);
            start(parameter).or_else(|| initial().ok())
        })
    }

    /// The sizes.
    pub(super) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Everything that is learned by the original's names and in their order, running statistics too.
    pub(super) fn variables(&self) -> impl Iterator<Item = (String, Var)> {
        let parameters = self.sizes.parameters().into_iter();
        parameters.filter_map(|Parameter { name, .. }| {
            let variable = self.variables.get(&name)?.clone();
            Some((name, variable))
        })
    }

    /// Images `[images, 3, side, side]` through stages and transformers.
    pub(super) fn register(&self, images: &Tensor, phase: Phase) -> Result<Registered> {
        let x = self.convolution(images, "STN.conv1", 2)?;
        let x = self.norm(&x, "STN.bn1", phase)?.relu()?;
        let mut x = max_pool(&x, 3, 2, 1)?;
        let mut registered = Registered {
            stages: vec![],
            matrices: vec![],
        };
        for stage in 1..=STAGES {
            for block in 0..BLOCKS {
                let stride = if stage > 1 && block == 0 { 2 } else { 1 };
                x = self.block(&x, &format!("STN.layer{stage}.{block}"), stride, phase)?;
            }
            let matrices = self.matrices(&x, &format!("STN.stn{stage}"), phase)?;
            x = warp(&x, &matrices)?;
            registered.stages.push(x.clone());
            registered.matrices.push(matrices);
        }
        Ok(registered)
    }

    /// A residual block.
    fn block(&self, x: &Tensor, name: &str, stride: usize, phase: Phase) -> Result<Tensor> {
        let part = |part: &str| format!("{name}.{part}");
        let inner = self.convolution(x, &part("conv1"), stride)?;
        let inner = self.norm(&inner, &part("bn1"), phase)?.relu()?;
        let inner = self.convolution(&inner, &part("conv2"), 1)?;
        let inner = self.norm(&inner, &part("bn2"), phase)?;
        let shortcut = match stride {
            1 => x.clone(),
            _ => {
                let shortcut = self.convolution(x, &part("downsample.0"), stride)?;
                self.norm(&shortcut, &part("downsample.1"), phase)?
            }
        };
        (inner + shortcut)?.relu()
    }

    /// What a transformer sees a map through.
    pub(super) fn matrices(&self, x: &Tensor, name: &str, phase: Phase) -> Result<Tensor> {
        let mut x = x.clone();
        for (convolution, norm) in [("conv.0", "conv.1"), ("conv.4", "conv.5")] {
            x = self.convolution(&x, &format!("{name}.{convolution}"), 1)?;
            x = self.norm(&x, &format!("{name}.{norm}"), phase)?.relu()?;
            x = max_pool(&x, 3, 2, 1)?;
        }
        let linear = |x: &Tensor, layer: &str| {
            let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{layer}.{part}"));
            let product = x.matmul(&self.get(&weight)?.t()?)?;
            product.broadcast_add(self.get(&bias)?)
        };
        let middle = linear(&x.flatten_from(1)?, "fc.0")?.relu()?;
        self.sizes.transformer.matrices(&linear(&middle, "fc.2")?)
    }

    /// The last stage through the encoder.
    pub(super) fn encode(&self, x: &Tensor, phase: Phase) -> Result<Tensor> {
        let x = self.dense(x, "ENC", "1", phase)?;
        let x = self.dense(&x, "ENC", "2", phase)?;
        self.convolution(&x, "ENC.conv3", 1)
    }

    /// What the predictor makes of what was encoded.
    pub(super) fn predict(&self, x: &Tensor, phase: Phase) -> Result<Tensor> {
        let x = self.dense(x, "PRED", "1", phase)?;
        self.convolution(&x, "PRED.conv2", 1)
    }

    fn dense(&self, x: &Tensor, part: &str, layer: &str, phase: Phase) -> Result<Tensor> {
        let x = self.convolution(x, &format!("{part}.conv{layer}"), 1)?;
        self.norm(&x, &format!("{part}.bn{layer}"), phase)?.relu()
    }

    fn convolution(&self, x: &Tensor, name: &str, stride: usize) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"))?;
        convolution(x, weight, stride, weight.dim(3)? / 2)
    }

    fn norm(&self, x: &Tensor, name: &str, phase: Phase) -> Result<Tensor> {
        let [weight, bias, mean, variance] =
            NORM_PARTS.map(|part| self.get(&format!("{name}.{part}")).cloned());
        let norm = BatchNorm {
            weight: weight?,
            bias: bias?,
            mean: mean?,
            variance: variance?,
        };
        norm.forward(x, phase)
    }

    fn get(&self, name: &str) -> Result<&Var> {
        let found = self.variables.get(name);
        found.ok_or_else(|| Error::msg(format!("the network has no tensor `{name}`")))
    }
}
