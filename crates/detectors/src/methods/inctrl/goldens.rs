//! Against the original implementation on a tiny network with seeded weights: every part of the
//! score with two and four shots, and three steps of training in both layouts of a batch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anomalens_backbones::checkpoint::{Checkpoint, seeded_tensor};
use anomalens_backbones::clip::{Architecture, ClipVision, TextConfig, VisionConfig};
use anomalens_backbones::{Activation, ImageEncoder, ImageFeatures};
use candle_core::{DType, Device, Tensor};

use super::checkpoint;
use super::layout::{BatchLayout, BatchSize};
use super::network::{Evidence, Network, Scores, Sizes};
use super::references::{Kept, References};
use super::settings::Settings;
use super::train::{BETAS, DECAY, FocalLoss, LEARNING_RATE};
use super::{InCtrlDetector, residual, text};
use crate::components::convnet::Phase;
use crate::components::prompts::Texts;
use crate::testing::{Goldens, close, exact, flat, inputs};
use crate::training::{Adam, Batch, Learned, Learner, Optimiser, TrainingSample};
use crate::{Detector, Settings as _};

const SEED: u64 = 21;

/// What the images 0 to 3 are said to show, and which of the others are their shots.
const CLASSES: [&str; 4] = ["candle", "metal_nut", "cat", "cable_gland"];
const SHOTS: [[usize; 4]; 4] = [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [4, 5, 6, 7]];

fn network() -> ClipVision {
    let architecture = Architecture {
        vision: VisionConfig {
            width: 192,
            blocks: 12,
            heads: 3,
            patch: 16,
            position_side: 5,
            embedding: 64,
        },
        text: TextConfig {
            width: 128,
            blocks: 3,
            heads: 2,
            context: 77,
            vocabulary: 49_408,
            embedding: 64,
        },
        activation: Activation::Gelu,
    };
    let checkpoint = Checkpoint::seeded(SEED, architecture.shapes());
    let activation = Some(architecture.activation);
    ClipVision::new(Arc::new(checkpoint), activation, &exact()).unwrap()
}

/// What the frozen encoders make of the images and classes, and what the original made of them.
struct Frozen {
    goldens: Goldens,
    config: Settings,
    /// Of all sixteen images.
    features: Vec<ImageFeatures>,
    /// The prompts' embeddings for each class.
    texts: [Texts; 4],
}

/// The same for all tests, computed once.
fn frozen() -> &'static Frozen {
    static FROZEN: OnceLock<Frozen> = OnceLock::new();
    FROZEN.get_or_init(|| {
        let goldens = Goldens::load("inctrl_tiny.safetensors");
        let network = network();
        let config = Settings {
            image_size: 80,
            ..Settings::defaults(&network, true)
        };
        let request = config.profile().unwrap().input.request;
        let images = inputs(goldens.get("images"));
        let text = network.text(None).unwrap().unwrap();
        Frozen {
            features: network.encode(&images, &request).unwrap(),
            texts: CLASSES.map(|class| text::embeddings(&text, class).unwrap()),
            config,
            goldens,
        }
    })
}

fn seeded() -> Network {
    let sizes = Sizes {
        embedding: 64,
        patches: 25,
        middle: 16,
    };
    let model = Network::new(sizes, 0).unwrap();
    for (name, var) in model.variables() {
        var.set(&seeded_tensor(SEED, &name, var.dims()).unwrap())
            .unwrap();
    }
    model
}

/// The features of the first `count` images and two shots of each, as a training step has them.
fn batch(count: usize) -> Batch {
    let shots = SHOTS[..count].iter().flat_map(|shots| &shots[..2]).copied();
    let places: Vec<usize> = (0..count).chain(shots).collect();
    let tensor =
        |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    let of = |part: &dyn Fn(&ImageFeatures) -> Vec<f32>| {
        let images = places.iter().map(|&place| &frozen().features[place]);
        images.flat_map(part).collect()
    };
    Batch {
        embedding: Some(tensor(
            of(&|image| image.embedding.clone().unwrap()),
            &[places.len(), 64],
        )),
        blocks: (0..3)
            .map(|block| {
                let tokens = of(&|image| image.maps[block].tokens.clone());
                tensor(tokens, &[places.len(), 25, 192])
            })
            .collect(),
    }
}

/// The first `count` images and two shots of each, as samples.
fn samples(count: usize) -> Vec<TrainingSample> {
    let sample = |place: usize| TrainingSample {
        source: PathBuf::new().into(),
        class: CLASSES[place.min(3)].to_owned(),
        anomalous: false,
        mask: anomalens_vision::MaskSource::Unknown,
    };
    (0..3 * count).map(sample).collect()
}

/// What training would make of these settings and this model.
fn learner<'a>(config: &'a Settings, network: &'a Network) -> FocalLoss<'a> {
    let classes = CLASSES.map(str::to_owned);
    FocalLoss {
        settings: config,
        network,
        texts: classes.into_iter().zip(frozen().texts.clone()).collect(),
    }
}

/// The scores of the first three images in one batch with two shots of each, and what they rest on.
fn three_scored(config: &Settings) -> (Evidence, Scores) {
    let network = seeded();
    let size = BatchSize {
        images: 3,
        shots: 2,
        blocks: 3,
    };
    let samples = samples(3);
    let samples: Vec<&TrainingSample> = samples.iter().collect();
    let evidence = learner(config, &network)
        .evidence(&samples, size, &batch(3))
        .unwrap();
    let scores = network.scores(&evidence, config, Phase::Scoring).unwrap();
    (evidence, scores)
}

#[test]
fn every_part_of_the_score() {
    let Frozen {
        goldens,
        config,
        features,
        texts,
    } = frozen();
    for shots in [2, 4] {
        for image in 0..3 {
            let config = config.clone();
            let network = seeded();
            let kept = SHOTS[image][..shots].iter().map(|&shot| {
                let kept = Kept::new(&features[shot], &config, &network).unwrap();
                (shot.to_string(), kept)
            });
            let detector = InCtrlDetector {
                references: References::new(kept.collect::<BTreeMap<_, _>>()).unwrap(),
                profile: config.profile().unwrap(),
                texts: Some(texts[image].clone()),
                settings: config,
                network,
            };
            let golden = |part: &str| {
                let all = goldens.get(&format!("eval.k{shots}.{part}"));
                flat(&all.get(image).unwrap())
            };
            let check = |part: &str, found: &[f32]| {
                let name = format!("{part} of image {image} with {shots} shots");
                close(&name, found, &golden(part), 1e-4);
            };
            check("text_features", &texts[image].0.concat());
            let patches = residual::patches(&features[image], &detector.settings).unwrap();
            let blocks = patches.iter().zip(&detector.references.banks);
            let maps = blocks.map(|(own, bank)| residual::residuals(own, bank).unwrap());
            check("block_map", &maps.collect::<Vec<_>>().concat());

            let map = residual::map(&patches, &detector.references.banks).unwrap();
            check("patch_map", &map);
            let adapted = detector.references.mean.clone().unwrap();
            let evidence = detector.evidence(&features[image], &map, &adapted).unwrap();
            check("text_score", &flat(&evidence.text));
            let own = detector.network.adapt(&evidence.embedding).unwrap();
            check("token_ref", &flat(&(adapted - own).unwrap()));
            let Scores {
                anomaly,
                image: of_embedding,
                holistic,
            } = (detector.network)
                .scores(&evidence, &detector.settings, Phase::Scoring)
                .unwrap();
            check("image_score", &flat(&of_embedding.unwrap()));
            check("holistic_score", &flat(&holistic));
            check("final_score", &flat(&anomaly));
            let scored = detector.score(&[&features[image]]).unwrap().remove(0);
            check("final_score", &[scored.score]);
        }
    }
}

#[test]
fn parts_can_be_switched_off() {
    let scores = |change: &dyn Fn(&mut Settings)| {
        let mut config = frozen().config.clone();
        change(&mut config);
        let (evidence, scores) = three_scored(&config);
        let image = scores.image.map(|image| flat(&image));
        let largest = flat(&evidence.map.max(1).unwrap());
        (
            flat(&scores.anomaly),
            image,
            flat(&scores.holistic),
            largest,
        )
    };
    let (all, image, holistic, largest) = scores(&|_| ());
    let original = frozen().goldens.values("eval.k2.final_score");
    close("all", &all, &original, 1e-4);
    let (score, ..) = scores(&|config| config.max_term = false);
    close("no largest residual", &score, &holistic, 1e-6);
    assert!(largest.iter().all(|x| *x > 0.0) && score != all);
    let (no_text, image_alone, ..) = scores(&|config| config.text_prior = false);
    assert_ne!(no_text, all);
    assert_eq!(image_alone, image);
    let (no_image, image, ..) = scores(&|config| config.image_residual = false);
    assert_ne!(no_image, all);
    assert_eq!(image, None);
    let (no_patches, _, holistic, _) = scores(&|config| config.patch_residual = false);
    assert_ne!(no_patches, all);
    // Without patches there is no largest residual either.
    assert_eq!(no_patches, holistic);
}

#[test]
fn a_batch_as_the_reference_mixes_it_up() {
    let (_, scores) = three_scored(&Settings {
        batch_layout: BatchLayout::Reference,
        ..frozen().config.clone()
    });
    for (part, found) in [
        ("final_score", &scores.anomaly),
        ("image_score", scores.image.as_ref().unwrap()),
    ] {
        let expected = format!("eval.batch3_literal.k2.{part}");
        let expected = frozen().goldens.values(&expected);
        close(part, &flat(found), &expected, 1e-4);
    }
}

#[test]
fn three_steps_of_training() {
    let goldens = &frozen().goldens;
    let features = batch(4);
    let labels: Vec<i32> = goldens.get("train.labels").to_vec1().unwrap();
    let mut samples = samples(4);
    for (sample, label) in samples.iter_mut().zip(labels) {
        sample.anomalous = label == 1;
    }
    let samples: Vec<&TrainingSample> = samples.iter().collect();
    for (layout, golden) in [
        (BatchLayout::Intended, "train_fixed"),
        (BatchLayout::Reference, "train_literal"),
    ] {
        let config = Settings {
            batch_layout: layout,
            ..frozen().config.clone()
        };
        let model = seeded();
        let mut optimiser = Adam::new(model.variables(), LEARNING_RATE, BETAS)
            .unwrap()
            .with_decay(DECAY);
        let learner = learner(&config, &model);
        for step in 0..3 {
            let losses = learner.loss(&features, &samples, &[]).unwrap();
            let parts = losses.parts.iter().map(|(_, part)| part);
            let found: Vec<f32> = parts
                .chain([&losses.total])
                .map(|loss| loss.to_scalar().unwrap())
                .collect();
            let expected = goldens.values(&format!("{golden}.{step}.loss"));
            close(&format!("{golden} loss {step}"), &found, &expected, 1e-3);
            let gradients = losses.total.backward().unwrap();
            optimiser.step(&gradients).unwrap();
            if step > 0 {
                continue;
            }
            for (name, var) in model.variables() {
                if let Some(running) = goldens.0.get(&format!("{golden}.0.buffer.{name}")) {
                    close(&name, &flat(&var), &flat(running), 1e-3);
                }
                let Some(expected) = goldens.0.get(&format!("{golden}.grad0.{name}")) else {
                    assert!(gradients.get(&var).is_none(), "{name}");
                    continue;
                };
                let expected = flat(expected);
                close(
                    &format!("{golden} gradient of {name}"),
                    &flat(gradients.get(&var).unwrap()),
                    &expected,
                    1e-3,
                );
                // Where a gradient is zero but for rounding, rounding decides which way its
                // parameter goes.
                let after = goldens.values(&format!("{golden}.0.param.{name}"));
                let triples = flat(&var).into_iter().zip(after).zip(expected);
                for ((found, expected), gradient) in triples {
                    let same = (found - expected).abs() < 2e-5 || gradient.abs() < 1e-6;
                    assert!(same, "{golden} {name}: {found} {expected} {gradient}");
                }
            }
        }
    }
}

#[test]
fn prompts_are_those_of_the_original() {
    let [normal, anomalous] = text::prompts("metal_nut").unwrap();
    assert_eq!((normal.len(), anomalous.len()), (154, 88));
    assert_eq!(normal[0], "a cropped photo of the metal nut.");
    assert_eq!(anomalous[1], "a cropped photo of a damaged metal nut.");
    assert_eq!(
        text::prompts("cat").unwrap(),
        [
            ["a photo of cat for anomaly detection."],
            ["a photo without cat for anomaly detection."]
        ]
    );
}

#[test]
fn a_published_checkpoint_survives_writing_and_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.pyth");
    let written = seeded();
    checkpoint::write(&path, &written, 300).unwrap();
    let learned = Learned::<Settings>::read(&path).unwrap();
    assert!(learned.settings.is_none());
    let read = checkpoint::network(&mut |name| learned.tensor(name)).unwrap();
    for ((name, written), (_, read)) in written.variables().iter().zip(read.variables()) {
        assert_eq!(flat(written), flat(&read), "{name}");
    }
    let tensors = anomalens_backbones::checkpoint::read_torch(&path).unwrap();
    assert_eq!(tensors.len(), 2 + 2 * (6 + 3 * 5));
    let find = |name: &str| &tensors.iter().find(|(n, _)| n == name).unwrap().1;
    for (name, shape) in [
        ("adapter.fc.0.weight", &[16, 64][..]),
        ("adapter.fc.2.weight", &[64, 16]),
        ("diff_head.projection1.weight", &[128, 25]),
        ("diff_head.projection3.bias", &[1]),
        ("diff_head.bn1.running_mean", &[25]),
        ("diff_head_ref.bn1.weight", &[64]),
        ("diff_head_ref.bn3.running_var", &[64]),
    ] {
        assert_eq!(find(name).dims(), shape, "{name}");
    }
    let counted = find("diff_head.bn2.num_batches_tracked");
    assert_eq!((counted.dtype(), counted.rank()), (DType::I64, 0));
    assert_eq!(counted.to_scalar::<i64>().unwrap(), 300);

    let error = Learned::<Settings>::read(&folder.path().join("none"))
        .err()
        .unwrap();
    assert!(error.to_string().contains("none"), "{error}");
}
