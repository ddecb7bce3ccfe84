//! EfficientNet-Lite (Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
//! Networks", 2019; the Lite variants were published with TensorFlow in 2020), with the names of
//! `efficientnet_lite_pytorch` or those of timm's `tf_efficientnet_lite0`.
//!
//! Inverted residual blocks without squeeze-and-excite, relu6 everywhere but after a block's last
//! convolution, TensorFlow's `SAME` padding, batch norm with epsilon 1e-3. Pixels enter as
//! `(level - 127) / 128`.

use anomalens_kernels::{Epilogue, Padding, Precision};

use crate::checkpoint::Checkpoint;
use crate::cnn::{ConvNames, Plan};
use crate::{BackboneError, Normalisation};

/// Epsilon of every batch norm.
const EPSILON: f64 = 1e-3;

/// Stages after the stem, and the stride of the first block of each.
const STAGES: usize = 7;
const STRIDES: [usize; STAGES] = [1, 2, 2, 2, 1, 2, 1];

/// How exactly the blocks of each stage are computed at least. All else comes from the 16 channels of
/// the first stage: in bfloat16 they alone would cost half of the exactness. In 8 bits the first four
/// stages would cost two thirds of it; they have a twentieth of the weights.
const LEAST: [Precision; STAGES] = [
    Precision::F32,
    Precision::Half,
    Precision::Half,
    Precision::Half,
    Precision::Int8,
    Precision::Int8,
    Precision::Int8,
];

/// The classifier, which is no part of the encoder.
const IGNORED: &[&str] = &["_fc.", "classifier."];

/// Name, blocks and channels of each stage. Networks without squeeze-and-excite but with other sizes
/// (MobileNetV2) have the same names and other padding.
const KNOWN: [(&str, [usize; STAGES], [usize; STAGES]); 3] = [
    (
        "EfficientNet-Lite0",
        [1, 2, 2, 3, 3, 4, 1],
        [16, 24, 40, 80, 112, 192, 320],
    ),
    (
        "EfficientNet-Lite1",
        [1, 3, 3, 4, 4, 5, 1],
        [16, 24, 40, 80, 112, 192, 320],
    ),
    (
        "EfficientNet-Lite2",
        [1, 3, 3, 4, 4, 5, 1],
        [16, 24, 48, 88, 120, 208, 352],
    ),
];

/// How a file names its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// `_blocks.0._depthwise_conv`: blocks are counted through all stages.
    Original,
    /// `blocks.0.0.conv_dw`: blocks are counted in their stage.
    Timm,
}

/// The names of one block.
struct BlockNames {
    expand: Option<ConvNames>,
    depthwise: ConvNames,
    project: ConvNames,
}

impl Naming {
    fn of(checkpoint: &Checkpoint) -> Option<Self> {
        [Self::Original, Self::Timm].into_iter().find(|naming| {
            let stem = naming.stem();
            let block = naming.block(checkpoint, 0, 0, 0);
            checkpoint.contains(&format!("{}.weight", stem.weight))
                && checkpoint.contains(&format!("{}.weight", block.depthwise.weight))
        })
    }

    fn stem(self) -> ConvNames {
        match self {
            Self::Original => ConvNames::new("", "_conv_stem", "_bn0"),
            Self::Timm => ConvNames::new("", "conv_stem", "bn1"),
        }
    }

    fn head(self) -> ConvNames {
        match self {
            Self::Original => ConvNames::new("", "_conv_head", "_bn1"),
            Self::Timm => ConvNames::new("", "conv_head", "bn2"),
        }
    }

    /// A block by its number in the network, its stage, and its number in the stage.
    fn block(
        self,
        checkpoint: &Checkpoint,
        block: usize,
        stage: usize,
        number: usize,
    ) -> BlockNames {
        match self {
            Self::Original => {
                let prefix = format!("_blocks.{block}.");
                let expand = checkpoint.contains(&format!("{prefix}_expand_conv.weight"));
                BlockNames {
                    expand: expand.then(|| ConvNames::new(&prefix, "_expand_conv", "_bn0")),
                    depthwise: ConvNames::new(&prefix, "_depthwise_conv", "_bn1"),
                    project: ConvNames::new(&prefix, "_project_conv", "_bn2"),
                }
            }
            Self::Timm => {
                let prefix = format!("blocks.{stage}.{number}.");
                let names = |weight, norm| ConvNames::new(&prefix, weight, norm);
                match checkpoint.contains(&format!("{prefix}conv_pwl.weight")) {
                    true => BlockNames {
                        expand: Some(names("conv_pw", "bn1")),
                        depthwise: names("conv_dw", "bn2"),
                        project: names("conv_pwl", "bn3"),
                    },
                    false => BlockNames {
                        expand: None,
                        depthwise: names("conv_dw", "bn1"),
                        project: names("conv_pw", "bn2"),
                    },
                }
            }
        }
    }
}

/// Whether a checkpoint holds a network of this family.
pub(crate) fn recognises(checkpoint: &Checkpoint) -> bool {
    Naming::of(checkpoint).is_some()
}

/// The steps of the network whose tensors these are.
///
/// # Errors
/// [`BackboneError`] that tells what keeps them from being a network of this family.
pub(crate) fn plan(checkpoint: &Checkpoint) -> Result<Plan, BackboneError> {
    let naming = Naming::of(checkpoint);
    let naming = naming.ok_or_else(|| BackboneError::Config("it has no stem".to_owned()))?;
    let missing = |name: &str| BackboneError::MissingTensor {
        name: name.to_owned(),
        expected: vec![],
    };
    // Outputs and side of the convolution `name`.
    let shape = |name: &str| match checkpoint.shape(&format!("{name}.weight")) {
        Some(&[outputs, _, side, _]) => Ok((outputs, side)),
        _ => Err(missing(&format!("{name}.weight"))),
    };
    let (name, depths, channels) = known(checkpoint, naming, &shape)?;
    let mut plan = Plan::new(
        name.to_owned(),
        Normalisation::LEVELS,
        "relu6",
        EPSILON,
        |_| Padding::Same,
        IGNORED,
    );
    let relu6 = Epilogue::Relu6;
    let stem = naming.stem();
    let (mut inputs, side) = shape(&stem.weight)?;
    plan.dense((0, 1), (side, 2), (3, inputs), relu6, stem);
    // The map that holds the stream, and the one that the next block without a shortcut writes.
    let (mut stream, mut spare) = (1, 0);
    let mut block = 0;
    for (stage, (depth, wide)) in depths.into_iter().zip(channels).enumerate() {
        plan.least = LEAST[stage];
        for number in 0..depth {
            let stride = if number == 0 { STRIDES[stage] } else { 1 };
            let names = naming.block(checkpoint, block, stage, number);
            let (hidden, side) = shape(&names.depthwise.weight)?;
            let expanded = match names.expand {
                Some(names) => {
                    plan.dense((stream, 2), (1, 1), (inputs, hidden), relu6, names);
                    2
                }
                None => stream,
            };
            plan.depthwise(
                (expanded, 3),
                (side, stride),
                hidden,
                relu6,
                names.depthwise,
            );
            let shortcut = stride == 1 && inputs == wide;
            let (to, last) = match shortcut {
                true => (stream, Epilogue::Add),
                false => (spare, Epilogue::Store),
            };
            plan.dense((3, to), (1, 1), (hidden, wide), last, names.project);
            if !shortcut {
                (stream, spare) = (spare, stream);
            }
            inputs = wide;
            block += 1;
        }
        plan.stage(stream);
    }
    let head = naming.head();
    let (outputs, side) = shape(&head.weight)?;
    plan.dense((stream, 2), (side, 1), (inputs, outputs), relu6, head);
    plan.embedding(2);
    Ok(plan)
}

/// Which of the known networks it is: stages begin where the number of channels changes.
#[allow(clippy::type_complexity)] // one function of this file
fn known(
    checkpoint: &Checkpoint,
    naming: Naming,
    shape: &dyn Fn(&str) -> Result<(usize, usize), BackboneError>,
) -> Result<(&'static str, [usize; STAGES], [usize; STAGES]), BackboneError> {
    let (mut depths, mut channels) = (vec![], vec![]);
    match naming {
        Naming::Original => {
            for block in 0..checkpoint.count("_blocks", "_project_conv.weight") {
                let (outputs, _) = shape(&format!("_blocks.{block}._project_conv"))?;
                match depths.last_mut() {
                    Some(depth) if channels.last() == Some(&outputs) => *depth += 1,
                    _ => {
                        depths.push(1);
                        channels.push(outputs);
                    }
                }
            }
        }
        Naming::Timm => {
            let stages = checkpoint.count("blocks", "0.conv_dw.weight");
            for stage in 0..stages {
                depths.push(checkpoint.count(&format!("blocks.{stage}"), "conv_dw.weight"));
                let names = naming.block(checkpoint, 0, stage, 0);
                channels.push(shape(&names.project.weight)?.0);
            }
        }
    }
    let found = KNOWN.into_iter().find(|(_, known_depths, known_channels)| {
        known_depths[..] == depths[..] && known_channels[..] == channels[..]
    });
    found.ok_or_else(|| {
        BackboneError::Config(format!(
            "stages of {depths:?} blocks and {channels:?} channels are none of those of \
             EfficientNet-Lite0, Lite1 or Lite2"
        ))
    })
}
