//! Every stage against the original's code (MediaBrain-SJTU/RegAD at 5e2c1f8) on images of 64 pixels, with a
//! seeded network of the true sizes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use anomalens_backbones::checkpoint::{
    Checkpoint, read_torch_dicts, seeded_tensor, write_torch_dicts,
};
use anomalens_backbones::{Grid, ImageFeatures};
use candle_core::Tensor;

use super::network::Parameter;
use super::train::{MOMENTUM, Registration, cosine_rate};
use super::*;
use crate::components::few_gaussian::FewGaussians;
use crate::settings::Checked;
use crate::testing::{Goldens, flat, near};
use crate::training::{Optimiser, Sgd};

static GOLDENS: LazyLock<Goldens> = LazyLock::new(|| Goldens::load("regad_small.safetensors"));

const SEED: u64 = 81;
const SIDE: usize = 64;
const PLACES: usize = 256;
const CHANNELS: usize = 448;

fn settings(transformer: Transformer) -> Settings {
    Settings {
        image_size: SIDE as u32,
        transformer,
        ..Settings::default()
    }
}

/// The golden's weights: those of the rule, but a tenth of it for the transformers' last layer, and the
/// identity added to its bias.
fn weight(transformer: Transformer, name: &str, shape: &[usize]) -> Tensor {
    let seeded = seeded_tensor(SEED, name, shape).unwrap();
    if name.ends_with("fc.2.weight") {
        return (seeded.to_dtype(candle_core::DType::F64).unwrap() * 0.1)
            .unwrap()
            .to_dtype(candle_core::DType::F32)
            .unwrap();
    }
    if name.ends_with("fc.2.bias") {
        return (seeded + Tensor::new(transformer.identity(), &Device::Cpu).unwrap()).unwrap();
    }
    seeded
}

fn network(transformer: Transformer) -> Network {
    let sizes = settings(transformer).sizes(WIDTH);
    let take = |p: &Parameter| Some(weight(transformer, &p.name, &p.shape));
    Network::of(sizes, take).unwrap()
}

fn golden_name(transformer: Transformer) -> String {
    let name = serde_json::to_value(transformer).unwrap();
    name.as_str().unwrap().to_owned()
}

#[test]
fn transformers_of_all_kinds_are_the_originals() {
    for transformer in Transformer::ALL {
        let name = golden_name(transformer);
        let network = network(transformer);
        // The transformer alone, on eight channels.
        let own = |name: &str| name.replace("STN.stn1", "mod");
        let alone = Network::of(network.sizes(), |p| {
            let mut shape = p.shape.clone();
            if p.name == "STN.stn1.conv.0.weight" {
                shape[1] = 8;
            }
            let of = |shape: &[usize]| weight(transformer, &own(&p.name), shape);
            // The others stay; the first convolution gets channels that see nothing.
            Some(match p.name.starts_with("STN.stn1") {
                false => Tensor::zeros(p.shape.as_slice(), candle_core::DType::F32, &Device::Cpu)
                    .unwrap(),
                true if shape == p.shape => of(&p.shape),
                true => of(&shape).pad_with_zeros(1, 0, p.shape[1] - 8).unwrap(),
            })
        });
        let input = GOLDENS.get("stn_in");
        let padded = input.pad_with_zeros(1, 0, WIDTH - 8).unwrap();
        let matrices = alone
            .unwrap()
            .matrices(&padded, "STN.stn1", Phase::Scoring)
            .unwrap();
        let golden = |part: &str| format!("stn.{name}.{part}");
        near(
            &name,
            &flat(&matrices),
            &GOLDENS.values(&golden("theta")),
            5e-6,
        );
        let warped = crate::components::convnet::warp(input, &matrices).unwrap();
        near(&name, &flat(&warped), &GOLDENS.values(&golden("out")), 1e-5);

        let query = GOLDENS.get("query").narrow(0, 0, 1).unwrap();
        let registered = network.register(&query, Phase::Scoring).unwrap();
        let last = registered.last().unwrap();
        near(
            &name,
            &flat(last),
            &GOLDENS.values(&format!("net.{name}.out")),
            1e-5,
        );
    }
}

#[test]
fn features_are_the_originals() {
    let network = network(Transformer::RotationScale);
    let registered = network
        .register(GOLDENS.get("query"), Phase::Scoring)
        .unwrap();
    let moved_back = registered.moved_back().unwrap().unwrap();
    for (i, (matrices, map)) in registered.matrices.iter().zip(&moved_back).enumerate() {
        let name = format!("query.theta{}", i + 1);
        near(&name, &flat(matrices), &GOLDENS.values(&name), 5e-6);
        let name = format!("query.stn{}_output", i + 1);
        near(&name, &flat(map), &GOLDENS.values(&name), 1e-5);
    }
    let first = registered.stages[0].narrow(0, 0, 1).unwrap();
    near(
        "warped1",
        &flat(&first),
        &GOLDENS.values("query.warped1"),
        1e-5,
    );
    let last = registered.last().unwrap();
    near("out", &flat(last), &GOLDENS.values("query.out"), 1e-5);
    let encoded = network.encode(last, Phase::Scoring).unwrap();
    near("z", &flat(&encoded), &GOLDENS.values("query.z"), 1e-5);
    let predicted = network.predict(&encoded, Phase::Scoring).unwrap();
    near("p", &flat(&predicted), &GOLDENS.values("query.p"), 1e-5);
}

#[test]
fn forms_are_the_originals() {
    let expected = GOLDENS.get("aug.images");
    let forms = augmentation::forms(&expected.get(0).unwrap()).unwrap();
    assert_eq!(forms.dims(), expected.dims());
    for form in 0..augmentation::FORMS {
        let [found, expected] = [&forms, expected].map(|all| flat(&all.get(form).unwrap()));
        near(&format!("form {form}"), &found, &expected, 2e-6);
    }
}

/// The tokens of each place of all layers, `[places, channels]`.
fn joined(stages: &[Cells<'_>]) -> Vec<f32> {
    use crate::components::joined::{Sampling, join};
    join(stages, finest(stages), Sampling::Nearest)
}

#[test]
fn statistics_maps_and_scores_are_the_originals() {
    let network = network(Transformer::RotationScale);
    let of = |name: &str, i: usize| GOLDENS.get(name).narrow(0, i, 1).unwrap();
    let maps = (0..2).flat_map(|i| references::maps(&of("support", i), &network).unwrap());
    let maps: Vec<_> = maps.collect();
    assert_eq!(maps.len(), 44);
    // Means and covariances from their definition.
    let tokens: Vec<Vec<f32>> = maps.iter().map(|map| joined(map)).collect();
    let mut means = vec![0.0; PLACES * CHANNELS];
    for image in &tokens {
        let both = means.iter_mut().zip(image);
        both.for_each(|(mean, &x)| *mean += f64::from(x) / tokens.len() as f64);
    }
    let covariance = |place: usize, row: usize, column: usize| {
        let at = |channel: usize| place * CHANNELS + channel;
        let difference =
            |image: &[f32], channel: usize| f64::from(image[at(channel)]) - means[at(channel)];
        let products = tokens
            .iter()
            .map(|image| difference(image, row) * difference(image, column));
        let added = if row == column { 0.01 } else { 0.0 };
        (products.sum::<f64>() / 43.0 + added) as f32
    };
    let every_second = (0..CHANNELS).flat_map(|channel| {
        let means = &means;
        (0..PLACES)
            .step_by(2)
            .map(move |place| means[place * CHANNELS + channel] as f32)
    });
    let every_second: Vec<f32> = every_second.collect();
    near("mean", &every_second, &GOLDENS.values("sup.mean"), 1e-5);
    let diagonals = (0..PLACES).step_by(16);
    let diagonals = diagonals.flat_map(|place| (0..CHANNELS).map(move |c| (place, c)));
    let diagonals: Vec<f32> = diagonals
        .map(|(place, c)| covariance(place, c, c))
        .collect();
    near("diagonals", &diagonals, &GOLDENS.values("cov.diag"), 1e-5);
    let some = || (0..CHANNELS).step_by(8);
    let excerpts = [0, 17, 100, 255].into_iter().flat_map(|place| {
        some().flat_map(move |row| some().map(move |column| (place, row, column)))
    });
    let excerpts: Vec<f32> = excerpts.map(|(p, r, c)| covariance(p, r, c)).collect();
    near("covariances", &excerpts, &GOLDENS.values("cov.sub"), 1e-5);

    let statistics = FewGaussians::new(maps, 0.01).unwrap();
    let (mut distances, mut large) = (vec![], vec![]);
    for i in 0..2 {
        let stages = seen(&of("query", i), &network).unwrap();
        if i == 0 {
            let tokens = joined(&stages);
            let every = (0..CHANNELS).flat_map(|channel| {
                let tokens = &tokens;
                (0..PLACES)
                    .step_by(16)
                    .map(move |place| tokens[place * CHANNELS + channel])
            });
            let every: Vec<f32> = every.collect();
            near("embedding", &every, &GOLDENS.values("test.emb0"), 1e-5);
        }
        let squared = statistics.squared_distances(&stages).unwrap();
        let found: Vec<f32> = squared.into_iter().map(|x| x.sqrt() as f32).collect();
        let map = Map::new(16, 16, found.clone()).unwrap();
        large.extend(smoothed(&map, SIDE).unwrap().into_values());
        distances.extend(found);
    }
    near("distances", &distances, &GOLDENS.values("test.dist"), 5e-5);
    near("maps", &large, &GOLDENS.values("test.map"), 5e-5);
    // The original scales maps by the lowest and highest value of all.
    let range = |values: &[f32]| {
        Map::new(1, values.len(), values.to_vec())
            .unwrap()
            .range()
            .unwrap()
    };
    let (lowest, highest) = range(&large);
    let scores = large
        .chunks(SIDE * SIDE)
        .map(|map| (range(map).1 - lowest) / (highest - lowest));
    let scores: Vec<f32> = scores.collect();
    near("scores", &scores, &GOLDENS.values("test.score"), 1e-5);
}

#[test]
fn a_detector_scores_as_the_original() {
    let checked = Checked::new(settings(Transformer::RotationScale)).unwrap();
    let network = network(Transformer::RotationScale);
    let (settings, sizes) = (&checked.settings, network.sizes());
    let supports = (0..2).map(|i| {
        let image = GOLDENS.get("support").narrow(0, i, 1).unwrap();
        (i.to_string(), references::maps(&image, &network).unwrap())
    });
    let references = References::new(supports.collect(), settings, sizes).unwrap();
    let detector = RegadDetector {
        checked,
        network,
        references,
    };
    let image = |i: usize| {
        let planes = GOLDENS.get("query").get(i).unwrap();
        ImageFeatures {
            maps: vec![anomalens_backbones::FeatureMap {
                layer: LayerId::PIXELS,
                grid: Grid {
                    rows: SIDE,
                    columns: SIDE,
                },
                dim: 3,
                tokens: flat(&planes.permute((1, 2, 0)).unwrap().contiguous().unwrap()),
                class_token: None,
            }],
            ..ImageFeatures::default()
        }
    };
    let images = [image(0), image(1)];
    let scored = detector.score(&images.each_ref()).unwrap();
    let expected = GOLDENS.values("test.map");
    for (scored, map) in scored.iter().zip(expected.chunks(SIDE * SIDE)) {
        let highest = map.iter().copied().fold(f32::MIN, f32::max);
        assert!((scored.score - highest).abs() < 5e-5);
    }
    let maps: Vec<f32> = scored
        .iter()
        .flat_map(|s| s.map.values())
        .copied()
        .collect();
    near("distances", &maps, &GOLDENS.values("test.dist"), 5e-5);
}

#[test]
fn registration_at_each_place_is_the_originals() {
    // A map that the original computes from all forms of the normal images and does not use.
    let network = network(Transformer::RotationScale);
    let settings = settings(Transformer::RotationScale);
    let learner = Registration {
        network: &network,
        settings: &settings,
    };
    let forms =
        [0, 1].map(|i| augmentation::forms(&GOLDENS.get("support").get(i).unwrap()).unwrap());
    let supports = Tensor::cat(&forms, 0).unwrap();
    let maps = (0..2).flat_map(|i| {
        let query = GOLDENS.get("query").narrow(0, i, 1).unwrap();
        let map = learner
            .distances(&query, &supports, Phase::Scoring)
            .unwrap();
        let map = Map::new(4, 4, flat(&map)).unwrap();
        map.resize(SIDE, SIDE, Alignment::Edges)
            .unwrap()
            .into_values()
    });
    let maps: Vec<f32> = maps.collect();
    near("cosines", &maps, &GOLDENS.values("test.cosmap"), 1e-5);
}

#[test]
fn training_takes_the_originals_steps() {
    let network = network(Transformer::RotationScale);
    let settings = settings(Transformer::RotationScale);
    let start: BTreeMap<String, Vec<f32>> = network
        .variables()
        .map(|(name, var)| (name, flat(&var)))
        .collect();
    let learner = Registration {
        network: &network,
        settings: &settings,
    };
    let queries = GOLDENS.get("train.query");
    let supports = GOLDENS.get("train.support").flatten(0, 1).unwrap();
    let rate = cosine_rate(1e-4, 1, 50);
    let mut optimiser = Sgd::new(network.variables().collect(), rate, MOMENTUM).unwrap();
    // Goldens have the first rows, and of matrices every eighth column.
    let excerpt = |name: &str, expected: &Tensor, all: &Tensor| {
        let rows = all.narrow(0, 0, expected.dim(0).unwrap()).unwrap();
        let values = flat(&rows);
        assert_eq!(values.len(), expected.elem_count(), "{name}");
        values
    };
    let of = |prefix: &str| -> Vec<(String, Tensor)> {
        let named = GOLDENS.0.iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix(prefix)?;
            Some((name.to_owned(), tensor.clone()))
        });
        named.collect()
    };
    let mut losses = vec![];
    for step in 0..3 {
        if step == 2 {
            for (name, expected) in of("delta2.") {
                let variable = &network.variables().find(|(n, _)| *n == name).unwrap().1;
                let before = Tensor::from_slice(&start[&name], variable.shape(), &Device::Cpu);
                let moved = (variable.as_tensor() - before.unwrap()).unwrap();
                let found = excerpt(&name, &expected, &moved);
                near(&name, &found, &flat(&expected), 3e-7);
            }
            for (name, expected) in of("bn.") {
                let variable = &network.variables().find(|(n, _)| *n == name).unwrap().1;
                near(&name, &flat(variable), &flat(&expected), 1e-5);
            }
        }
        let loss = learner
            .distances(queries, &supports, Phase::Training)
            .unwrap();
        let loss = loss.mean_all().unwrap();
        losses.push(loss.to_scalar::<f32>().unwrap());
        let gradients = loss.backward().unwrap();
        if step == 0 {
            for (name, expected) in of("grad.") {
                let variable = &network.variables().find(|(n, _)| *n == name).unwrap().1;
                let found = excerpt(&name, &expected, gradients.get(variable).unwrap());
                let tolerance = match name.as_str() {
                    "STN.conv1.weight" | "STN.stn1.conv.0.weight" => 2e-4,
                    _ => 2e-5,
                };
                near(&name, &found, &flat(&expected), tolerance);
            }
            for (name, variable) in network.variables() {
                let unused = name.contains("running_") || name.starts_with("ENC.bn3");
                assert_eq!(gradients.get(&variable).is_none(), unused, "{name}");
            }
        }
        assert!(optimiser.step(&gradients).unwrap());
    }
    near("losses", &losses, &GOLDENS.values("losses"), 2e-6);
}

#[test]
fn checkpoints_have_the_originals_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bottle_2_rotation_scale_model.pt");
    let trained = network(Transformer::RotationScale);
    checkpoint::write(&path, &trained, 12).unwrap();
    let mut stored = read_torch_dicts(&path).unwrap();
    // The golden's names, by part and in PyTorch's order.
    let names: Vec<&str> = stored.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), 163);
    assert_eq!(names[5], "STN.bn1.num_batches_tracked");
    assert_eq!(names.last(), Some(&"PRED.conv2.weight"));
    let settings = settings(Transformer::RotationScale);
    let again = Learned::read(&path).unwrap().network(&settings).unwrap();
    for ((name, expected), (other, found)) in trained.variables().zip(again.variables()) {
        assert_eq!((&name, flat(&expected)), (&other, flat(&found)));
    }

    // Files that do not fit are refused with the reason.
    let refused = |settings: &Settings| {
        let network = Learned::read(&path).unwrap().network(settings);
        network.err().unwrap().to_string()
    };
    let other = refused(&Settings {
        transformer: Transformer::Shear,
        ..settings.clone()
    });
    assert!(
        other.contains("give 3 numbers, and those of `transformer` are 2"),
        "{other}"
    );
    let larger = refused(&Settings {
        image_size: 224,
        ..settings.clone()
    });
    assert!(
        larger.contains("does not fit images of 224 pixels"),
        "{larger}"
    );
    stored.retain(|(name, _)| name != "ENC.bn3.bias");
    write_torch_dicts(&path, &stored).unwrap();
    let short = refused(&settings);
    assert!(short.contains("`ENC.bn3.bias` is missing"), "{short}");
}

#[test]
fn training_starts_from_a_resnet18_alone() {
    // A checkpoint without the last stage and the classifier is enough.
    struct Weights(Checkpoint);
    impl ImageEncoder for Weights {
        fn spec(&self) -> &anomalens_backbones::EncoderSpec {
            crate::testing::NoNetwork.spec()
        }
        fn encode(
            &self,
            _: &[anomalens_vision::Preprocessed],
            _: &anomalens_backbones::FeatureRequest,
        ) -> Result<Vec<ImageFeatures>, anomalens_backbones::BackboneError> {
            Ok(vec![])
        }
        fn checkpoint(&self) -> Option<&Checkpoint> {
            Some(&self.0)
        }
    }
    let settings = settings(Transformer::RotationScale);
    let shapes = settings
        .sizes(WIDTH)
        .parameters()
        .into_iter()
        .filter_map(|p| {
            let name = p
                .name
                .strip_prefix("STN.")
                .filter(|name| !name.starts_with("stn"))?;
            Some((name.to_owned(), p.shape))
        });
    let shapes: BTreeMap<String, Vec<usize>> = shapes.collect();
    let start = |shapes: BTreeMap<String, Vec<usize>>| {
        network_of(&Weights(Checkpoint::seeded(3, shapes)), &settings, 1)
    };
    let network = start(shapes.clone()).unwrap();
    let value = |name: &str| {
        let mut variables = network.variables();
        flat(&variables.find(|(n, _)| n == name).unwrap().1)
    };
    let name = "layer2.0.downsample.0.weight";
    let given = seeded_tensor(3, name, &shapes[name]).unwrap();
    assert_eq!(value(&format!("STN.{name}")), flat(&given));
    // Initial transformers change nothing.
    let image = GOLDENS.get("query").narrow(0, 0, 1).unwrap();
    let registered = network.register(&image, Phase::Scoring).unwrap();
    for matrices in &registered.matrices {
        assert_eq!(flat(matrices), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    }
    let bound = value("ENC.conv1.weight")
        .into_iter()
        .fold(0.0_f32, |max, x| max.max(x.abs()));
    assert!((0.0624..0.0625).contains(&bound), "{bound}"); // 1 / 16

    let deeper = [("layer1.2.conv1.weight".to_owned(), vec![64, 64, 3, 3])];
    let mut without = shapes.clone();
    without.remove("layer3.1.bn2.bias");
    for other in [shapes.into_iter().chain(deeper).collect(), without] {
        let error = start(other).err().unwrap().to_string();
        assert!(
            error.contains("starts from the weights of a ResNet-18"),
            "{error}"
        );
    }
}
