//! Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2016) and wide ones
//! (Zagoruyko and Komodakis, 2016), with the names of torchvision, which timm has as well.
//!
//! Where a bottleneck makes the map smaller, its 3x3 convolution has the stride, as in torchvision.
//! Batch norm has epsilon 1e-5. All sizes follow from the shapes of the weights.

use anomalens_kernels::{Epilogue, Padding, Precision};

use crate::checkpoint::Checkpoint;
use crate::cnn::{ConvNames, Plan};
use crate::{BackboneError, Normalisation};

/// Epsilon of every batch norm.
const EPSILON: f64 = 1e-5;

/// Side of the first convolution.
const STEM_SIDE: usize = 7;

/// Stages after the stem.
const STAGES: usize = 4;

/// The classifier, which is no part of the encoder.
const IGNORED: &[&str] = &["fc."];

/// A residual network.
#[derive(Debug, Clone, Copy)]
struct Architecture {
    /// For people.
    name: &'static str,
    /// To ask for random weights.
    key: &'static str,
    /// Blocks of each stage.
    depths: [usize; STAGES],
    bottleneck: bool,
    /// Channels inside the blocks of the first stage.
    width: usize,
}

const fn architecture(
    name: &'static str,
    key: &'static str,
    depths: [usize; STAGES],
    bottleneck: bool,
    width: usize,
) -> Architecture {
    Architecture {
        name,
        key,
        depths,
        bottleneck,
        width,
    }
}

const KNOWN: [Architecture; 7] = [
    architecture("ResNet-18", "resnet18", [2, 2, 2, 2], false, 64),
    architecture("ResNet-34", "resnet34", [3, 4, 6, 3], false, 64),
    architecture("ResNet-50", "resnet50", [3, 4, 6, 3], true, 64),
    architecture("ResNet-101", "resnet101", [3, 4, 23, 3], true, 64),
    architecture("ResNet-152", "resnet152", [3, 8, 36, 3], true, 64),
    architecture(
        "Wide ResNet-50-2",
        "wide-resnet50-2",
        [3, 4, 6, 3],
        true,
        128,
    ),
    architecture(
        "Wide ResNet-101-2",
        "wide-resnet101-2",
        [3, 4, 23, 3],
        true,
        128,
    ),
];

/// The networks that can have random weights.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|known| known.key)
}

/// The tensors of the network `name`, without its classifier.
pub(crate) fn shapes(name: &str) -> Option<Vec<(String, Vec<usize>)>> {
    let Architecture {
        depths,
        bottleneck,
        width,
        ..
    } = *KNOWN.iter().find(|known| known.key == name)?;
    let mut shapes = vec![];
    let mut layer = |weight: String, norm: String, shape: [usize; 4]| {
        shapes.push((format!("{weight}.weight"), shape.to_vec()));
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.push((format!("{norm}.{part}"), vec![shape[0]]));
        }
    };
    let mut inputs = 64;
    layer(
        "conv1".into(),
        "bn1".into(),
        [inputs, 3, STEM_SIDE, STEM_SIDE],
    );
    for (stage, depth) in depths.into_iter().enumerate() {
        let width = width << stage;
        let outputs = if bottleneck { 256 << stage } else { width };
        let sides: &[usize] = if bottleneck { &[1, 3, 1] } else { &[3, 3] };
        for block in 0..depth {
            let block_name = format!("layer{}.{block}", stage + 1);
            if block == 0 && (stage > 0 || inputs != outputs) {
                let part = |i| format!("{block_name}.downsample.{i}");
                layer(part(0), part(1), [outputs, inputs, 1, 1]);
            }
            for (i, &side) in (1..).zip(sides) {
                let to = if i == sides.len() { outputs } else { width };
                let part = |part| format!("{block_name}.{part}{i}");
                layer(part("conv"), part("bn"), [to, inputs, side, side]);
                inputs = to;
            }
        }
    }
    Some(shapes)
}

/// Whether a checkpoint holds a residual network.
pub(crate) fn recognises(checkpoint: &Checkpoint) -> bool {
    checkpoint.contains("layer1.0.conv1.weight") && checkpoint.contains("bn1.running_mean")
}

/// The steps of the network whose tensors these are.
///
/// # Errors
/// [`BackboneError`] that tells what keeps them from being a network of this family.
pub(crate) fn plan(checkpoint: &Checkpoint) -> Result<Plan, BackboneError> {
    let prefix = |stage: usize, block: usize| format!("layer{stage}.{block}.");
    let bottleneck = checkpoint.contains("layer1.0.conv3.weight");
    let last = if bottleneck { "conv3" } else { "conv2" };
    let depths = [1, 2, 3, 4].map(|i| checkpoint.count(&format!("layer{i}"), "conv1.weight"));
    // The first number of a weight's shape.
    let outputs = |name: &str| {
        let shape = checkpoint.shape(name);
        let outputs = shape.and_then(<[usize]>::first).copied();
        outputs.ok_or_else(|| BackboneError::MissingTensor {
            name: name.to_owned(),
            expected: vec![],
        })
    };
    let stem = outputs("conv1.weight")?;
    let width = outputs("layer1.0.conv1.weight")?;
    let known = KNOWN
        .iter()
        .find(|known| (known.depths, known.bottleneck, known.width) == (depths, bottleneck, width));
    let mut plan = Plan::new(
        match known {
            Some(known) => known.name.to_owned(),
            None => format!("ResNet of {depths:?} blocks"),
        },
        Normalisation::IMAGENET,
        "relu",
        EPSILON,
        |side| Padding::Symmetric(side / 2),
        IGNORED,
    );
    plan.dense(
        (0, 1),
        (STEM_SIDE, 2),
        (3, stem),
        Epilogue::Relu,
        ConvNames::new("", "conv1", "bn1"),
    );
    plan.max_pool(1, 0, 3, 2);
    plan.least = Precision::Int8;
    // The map that holds the stream, and one for a block's shortcut.
    let (mut stream, mut spare) = (0, 3);
    let mut inputs = stem;
    for (stage, blocks) in (1..).zip(depths) {
        for block in 0..blocks {
            let stride = if stage > 1 && block == 0 { 2 } else { 1 };
            let prefix = prefix(stage, block);
            let names = |i: usize| ConvNames::new(&prefix, &format!("conv{i}"), &format!("bn{i}"));
            let width = outputs(&format!("{prefix}conv1.weight"))?;
            let wide = outputs(&format!("{prefix}{last}.weight"))?;
            let (side, first_stride) = if bottleneck { (1, 1) } else { (3, stride) };
            plan.dense(
                (stream, 1),
                (side, first_stride),
                (inputs, width),
                Epilogue::Relu,
                names(1),
            );
            if bottleneck {
                plan.dense(
                    (1, 2),
                    (3, stride),
                    (width, width),
                    Epilogue::Relu,
                    names(2),
                );
            }
            let shortcut = "downsample.0.weight";
            if checkpoint.contains(&format!("{prefix}{shortcut}")) {
                let names = ConvNames::new(&prefix, "downsample.0", "downsample.1");
                plan.dense(
                    (stream, spare),
                    (1, stride),
                    (inputs, wide),
                    Epilogue::Store,
                    names,
                );
                (stream, spare) = (spare, stream);
            }
            let add = Epilogue::AddRelu;
            match bottleneck {
                true => plan.dense((2, stream), (1, 1), (width, wide), add, names(3)),
                false => plan.dense((1, stream), (3, 1), (width, wide), add, names(2)),
            }
            inputs = wide;
        }
        if blocks > 0 {
            plan.stage(stream);
        }
    }
    plan.embedding(stream);
    Ok(plan)
}
