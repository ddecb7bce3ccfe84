//! Every stage against the published code, on small networks with seeded weights: outputs, losses,
//! gradients, two steps of Adam, a batch of images, and how it is scored. The convolutional network and the
//! contrastive loss of its other data sets, which the program has no use for, are here.

use std::collections::HashMap;
use std::sync::LazyLock;

use anomalens_backbones::checkpoint::{Checkpoint, seeded_tensor};
use anomalens_backbones::{Grid, LayerId};
use candle_core::{D, DType, Var};

use super::network::{Sizes, loss, squared_distances};
use super::train::{BETAS, LEARNING_RATE};
use super::*;
use crate::components::convnet::BatchNorm;
use crate::testing::{Goldens, NoNetwork, close, flat, near};
use crate::training::Learned;
use crate::training::{Adam, Optimiser};

static GOLDENS: LazyLock<Goldens> = LazyLock::new(|| Goldens::load("acr_small.safetensors"));

const SEED: u64 = 91;

/// Biases in front of a batch norm: their gradient is rounding alone, and so are Adam's steps.
const WITHOUT_GRADIENT: [&str; 3] = ["enc.0.bias", "enc.3.bias", "fc.bias"];

fn seeded() -> Network {
    let network = Network::new(&Sizes::halving(64, 2, 8), 0).unwrap();
    for (name, var) in network.variables() {
        let name = format!("feat.{name}");
        var.set(&seeded_tensor(SEED, &name, var.dims()).unwrap())
            .unwrap();
    }
    network
}

/// The network with the golden's parameters after two steps.
fn trained() -> Network {
    let network = seeded();
    for (name, var) in network.variables() {
        if let Some(value) = GOLDENS.0.get(&format!("feat.after2.{name}")) {
            var.set(value).unwrap();
        }
    }
    network
}

fn float(name: &str) -> Tensor {
    GOLDENS.get(name).to_dtype(DType::F32).unwrap()
}

fn loss_of(network: &Network, one_class: bool) -> Tensor {
    let distances = network.distances(GOLDENS.get("feat.x"), Phase::Training);
    loss(&distances.unwrap(), &float("feat.y"), one_class).unwrap()
}

#[test]
fn outputs_losses_and_steps_are_the_originals() {
    let network = seeded();
    let x = GOLDENS.get("feat.x");
    let z = network.forward(x, Phase::Batch).unwrap();
    near("feat.z", &flat(&z), &GOLDENS.values("feat.z"), 1e-4);
    let distances = network.distances(x, Phase::Batch).unwrap();
    near(
        "feat.dist",
        &flat(&distances),
        &GOLDENS.values("feat.dist"),
        1e-4,
    );
    let one_class = flat(&loss_of(&network, true));
    near("oc_loss", &one_class, &GOLDENS.values("feat.oc_loss"), 1e-4);

    let parameters = network.variables();
    let mut optimiser = Adam::new(parameters.clone(), LEARNING_RATE, BETAS).unwrap();
    let mut losses = vec![];
    for step in 0..2 {
        let loss = loss_of(&network, false);
        losses.extend(flat(&loss));
        let gradients = loss.backward().unwrap();
        for (name, var) in &parameters {
            let golden = format!("feat.grad.{name}");
            let Some(expected) = GOLDENS.0.get(&golden).filter(|_| step == 0) else {
                continue;
            };
            let found = flat(gradients.get(var).unwrap());
            match WITHOUT_GRADIENT.contains(&name.as_str()) {
                true => near(&golden, &found, &flat(expected), 1e-6),
                false => close(&golden, &found, &flat(expected), 1e-4),
            }
        }
        assert!(optimiser.step(&gradients).unwrap());
    }
    near("losses", &losses, &GOLDENS.values("feat.losses"), 1e-4);
    let mut compared = 0;
    for (name, var) in &parameters {
        let golden = format!("feat.after2.{name}");
        let Some(expected) = GOLDENS.0.get(&golden) else {
            continue;
        };
        compared += 1;
        let most = match WITHOUT_GRADIENT.contains(&name.as_str()) {
            true => 4.0 * LEARNING_RATE as f32,
            false => 2e-5,
        };
        near(&golden, &flat(var), &flat(expected), most);
    }
    assert_eq!(compared, 13);
}

/// The features of the golden's images, 9 places in rows of 3.
fn images() -> Vec<ImageFeatures> {
    let x = GOLDENS.get("test.x").narrow(1, 0, 4).unwrap();
    let image = |image: usize| ImageFeatures {
        maps: vec![FeatureMap {
            layer: LayerId::Stage(3),
            grid: Grid {
                rows: 3,
                columns: 3,
            },
            dim: 64,
            tokens: flat(&x.narrow(1, image, 1).unwrap().contiguous().unwrap()),
            class_token: None,
        }],
        ..ImageFeatures::default()
    };
    (0..4).map(image).collect()
}

fn detector(anomaly_ratio: f64) -> AcrDetector {
    let settings = Settings {
        stages: vec![3],
        anomaly_ratio,
        crop: Choice::Given(224),
        ..Settings::defaults(&NoNetwork)
    };
    AcrDetector::new(Checked::new(settings).unwrap(), trained()).unwrap()
}

/// Distances `[places][images]` as `[images, places]`.
fn by_image(distances: &[Vec<f32>]) -> Vec<f32> {
    let images = distances[0].len();
    let image = |image: usize| distances.iter().map(move |place| place[image]);
    (0..images).flat_map(image).collect()
}

#[test]
fn a_batch_is_scored_as_by_the_original() {
    // With the golden's pseudo-anomalies.
    let distances = trained().distances(GOLDENS.get("test.x"), Phase::Batch);
    let real = distances.unwrap().narrow(1, 0, 4).unwrap();
    let distances = real.to_vec2::<f32>().unwrap();
    let found = by_image(&distances);
    near("test.dist", &found, &GOLDENS.values("test.dist"), 1e-4);
    let (mut maps, mut highest) = (vec![], vec![]);
    let profile = detector(0.5).checked.profile;
    for distances in GOLDENS.values("test.dist").chunks(9) {
        let map = Map::new(3, 3, distances.to_vec()).unwrap();
        let large = profile.enlargement.apply(&map, 224, 224, 1.0).unwrap();
        highest.push(large.range().unwrap().1);
        let rows = large.values().chunks(224).step_by(16);
        maps.extend(rows.flat_map(|row| row.iter().step_by(16)).copied());
    }
    near("test.map", &maps, &GOLDENS.values("test.map"), 1e-4);
    near("highest", &highest, &GOLDENS.values("test.image_max"), 1e-4);

    // Of the whole detector, where no noise comes in.
    let images = images();
    let images: Vec<&ImageFeatures> = images.iter().collect();
    let alone = detector(0.0);
    let scored = alone.score(&images).unwrap();
    let maps: Vec<f32> = scored
        .iter()
        .flat_map(|one| one.map.values())
        .copied()
        .collect();
    let expected = GOLDENS.values("test.dist_real_only");
    near("test.dist_real_only", &maps, &expected, 1e-4);

    // Noise follows from the seed and what images show: not from their order.
    let noisy = detector(0.5);
    let scored = noisy.score(&images).unwrap();
    let reversed: Vec<&ImageFeatures> = images.iter().rev().copied().collect();
    let mut again = noisy.score(&reversed).unwrap();
    again.reverse();
    assert_eq!(scored, again);
    let one = noisy.score(&images[..1]).unwrap_err();
    assert!(
        one.to_string().contains("at least 2 of them, not 1"),
        "{one}"
    );
    // The golden's noise is another, of the same size.
    for (scored, expected) in scored.iter().zip(GOLDENS.values("test.dist").chunks(9)) {
        for (found, expected) in scored.map.values().iter().zip(expected) {
            let ratio = found / expected;
            assert!((0.3..3.0).contains(&ratio), "{ratio}");
        }
    }
}

#[test]
fn a_checkpoint_is_a_plain_state_dict() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ckpt_50.pt");
    let network = trained();
    network
        .distances(GOLDENS.get("feat.x"), Phase::Training)
        .unwrap();
    checkpoint::write(&path, &network, 6).unwrap();
    let file = Checkpoint::open(&path).unwrap();
    let mut names: Vec<&str> = file.names().collect();
    names.sort_unstable();
    let norm = [
        "bias",
        "num_batches_tracked",
        "running_mean",
        "running_var",
        "weight",
    ];
    let mut expected = vec!["center".to_owned()];
    for linear in ["enc.0", "enc.3", "fc"] {
        expected.extend(["bias", "weight"].map(|part| format!("{linear}.{part}")));
    }
    for batch in ["enc.1", "enc.4", "batch_norm"] {
        expected.extend(norm.map(|part| format!("{batch}.{part}")));
    }
    expected.sort_unstable();
    assert_eq!(names, expected);
    let learned = Learned::<Settings>::read(&path).unwrap();
    let read = checkpoint::network(|name| learned.tensor(name)).unwrap();
    for ((name, before), (_, after)) in network.variables().iter().zip(read.variables()) {
        assert_eq!(flat(before), flat(&after), "{name}");
    }
    // A layer whose width is not that of the next, and one that is missing.
    for (name, shape) in [("enc.3.weight", Some([16, 31])), ("fc.bias", None)] {
        let state = file.names().filter(|n| *n != name || shape.is_some());
        let state = state.map(|n| {
            let shape = match shape {
                Some(shape) if n == name => shape.to_vec(),
                _ => file.shape(n).unwrap().to_vec(),
            };
            let zeros = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            (n.to_owned(), zeros)
        });
        let state: HashMap<String, Tensor> = state.collect();
        let error = checkpoint::network(|name| state.get(name).cloned()).err();
        let message = error.expect(name).to_string();
        assert!(message.contains("missing or has an unusable"), "{message}");
    }
}

/// The network for CIFAR-100-C: four blocks of convolution, batch norm, relu and pooling.
struct Convolutional {
    blocks: Vec<(Var, Var, BatchNorm)>,
    norm: BatchNorm,
    centre: Var,
}

const HIDDEN: usize = 8;
const OUTPUT: usize = 32;

impl Convolutional {
    fn seeded() -> Self {
        let var = |name: &str, shape: &[usize]| {
            Var::from_tensor(&seeded_tensor(SEED, name, shape).unwrap()).unwrap()
        };
        let norm = |name: &str, width: usize| {
            let norm = BatchNorm::new(width).unwrap();
            for (part, var) in norm.variables() {
                let value = seeded_tensor(SEED, &format!("{name}.{part}"), &[width]);
                var.set(&value.unwrap()).unwrap();
            }
            norm
        };
        let block = |i: usize| {
            let name = format!("cnn.logits.features.{i}");
            let inputs = if i == 0 { 3 } else { HIDDEN };
            (
                var(&format!("{name}.conv.weight"), &[HIDDEN, inputs, 3, 3]),
                var(&format!("{name}.conv.bias"), &[HIDDEN]),
                norm(&format!("{name}.normalize"), HIDDEN),
            )
        };
        Self {
            blocks: (0..4).map(block).collect(),
            norm: norm("cnn.batch_norm", OUTPUT),
            centre: var("cnn.center", &[OUTPUT]),
        }
    }

    /// `[rows, OUTPUT]` from images `[rows, 3, 32, 32]`.
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = images.clone();
        for (weight, bias, norm) in &self.blocks {
            let bias = bias.reshape((1, HIDDEN, 1, 1))?;
            x = x.conv2d(weight, 1, 1, 1, 1)?.broadcast_add(&bias)?;
            let channels_last = x.permute((0, 2, 3, 1))?.contiguous()?;
            let rows = norm.forward(&channels_last.reshape(((), HIDDEN))?, Phase::Training)?;
            x = rows.reshape(channels_last.shape())?.permute((0, 3, 1, 2))?;
            // The gradient of candle's pooling is a quarter of the right one.
            let (_, _, rows, columns) = x.dims4()?;
            let cells = x.relu()?;
            let cells = cells.reshape((images.dim(0)?, HIDDEN, rows / 2, 2, columns / 2, 2))?;
            x = cells.max(5)?.max(3)?;
        }
        self.norm.forward(&x.flatten_from(1)?, Phase::Training)
    }

    fn distances(&self, images: &Tensor) -> Tensor {
        squared_distances(&self.forward(images).unwrap(), self.centre.as_tensor()).unwrap()
    }

    /// Those that the golden compares.
    fn compared(&self) -> Vec<(&'static str, Var)> {
        vec![
            ("center", self.centre.clone()),
            ("batch_norm.weight", self.norm.weight.clone()),
            ("logits.features.0.conv.weight", self.blocks[0].0.clone()),
            (
                "logits.features.0.normalize.weight",
                self.blocks[0].2.weight.clone(),
            ),
            ("logits.features.3.conv.weight", self.blocks[3].0.clone()),
        ]
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let blocks = self
            .blocks
            .iter()
            .flat_map(|(weight, bias, norm)| [weight, bias, &norm.weight, &norm.bias]);
        let all = blocks.chain([&self.norm.weight, &self.norm.bias, &self.centre]);
        let named = all.enumerate().map(|(i, var)| (i.to_string(), var.clone()));
        named.collect()
    }
}

#[test]
fn the_convolutional_variant_learns_as_the_original() {
    let network = Convolutional::seeded();
    let (x, y) = (GOLDENS.get("cnn.x"), float("cnn.y"));
    let z = network.forward(&x.get(0).unwrap()).unwrap();
    near("cnn.z0", &flat(&z), &GOLDENS.values("cnn.z0"), 1e-4);
    let scores = flat(&network.distances(&x.get(0).unwrap()));
    near("cnn.scores0", &scores, &GOLDENS.values("cnn.scores0"), 1e-4);
    let mut optimiser = Adam::new(network.parameters(), 3e-3, BETAS).unwrap();
    let mut losses = vec![];
    for step in 0..2 {
        let tasks = (0..2).map(|task| {
            let distances = network.distances(&x.get(task).unwrap());
            loss(&distances, &y.get(task).unwrap(), false).unwrap()
        });
        let tasks: Vec<Tensor> = tasks.collect();
        let loss = Tensor::stack(&tasks, 0).unwrap().mean_all().unwrap();
        losses.extend(flat(&loss));
        let mut gradients = loss.backward().unwrap();
        for (name, var) in network.compared().iter().filter(|_| step == 0) {
            let golden = format!("cnn.grad.{name}");
            let found = flat(gradients.get(var).unwrap());
            close(&golden, &found, &GOLDENS.values(&golden), 1e-4);
            // One entry is rounding alone: which way Adam moves it must be the original's.
            gradients.insert(var, GOLDENS.get(&golden).clone());
        }
        assert!(optimiser.step(&gradients).unwrap());
    }
    near("cnn.losses", &losses, &GOLDENS.values("cnn.losses"), 1e-3);
    let mut compared = 0;
    for (name, var) in network.compared() {
        if let Some(expected) = GOLDENS.0.get(&format!("cnn.after2.{name}")) {
            compared += 1;
            near(name, &flat(&var), &flat(expected), 2e-5);
        }
    }
    assert_eq!(compared, 3);
}

/// The contrastive losses of the variant with learned transformations, for normal and for anomalous samples with
/// views `[samples, views, width]`, the first view being the sample itself.
fn contrastive(views: &Tensor) -> candle_core::Result<[Tensor; 2]> {
    const TEMPERATURE: f64 = 0.1;
    let count = views.dim(1)?;
    let lengths = views.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    let z = views.broadcast_div(&lengths)?;
    let similar = (z.matmul(&z.transpose(1, 2)?)? / TEMPERATURE)?.exp()?;
    let others = (1.0 - Tensor::eye(count, DType::F32, &Device::Cpu)?)?;
    let all = similar.broadcast_mul(&others)?.sum(D::Minus1)?;
    let all = all.narrow(1, 1, count - 1)?;
    let own = similar
        .narrow(2, 0, 1)?
        .squeeze(2)?
        .narrow(1, 1, count - 1)?;
    let scale = 1.0 / ((count - 1) as f64).ln();
    let normal = ((all.log()? - own.log()?)? * scale)?.mean(1)?;
    let anomalous = ((1.0 - (own / all)?)?.log()? * -scale)?.mean(1)?;
    Ok([normal, anomalous])
}

#[test]
fn the_contrastive_losses_are_the_originals() {
    let [normal, anomalous] = contrastive(GOLDENS.get("ntl.z")).unwrap();
    near(
        "normal",
        &flat(&normal),
        &GOLDENS.values("ntl.loss_normal"),
        1e-4,
    );
    let expected = GOLDENS.values("ntl.loss_anomalous");
    near("anomalous", &flat(&anomalous), &expected, 1e-4);
}
