//! Against CoOp's modules, its optimiser and AnomalyCLIP's modules on a tiny network with seeded weights:
//! prompts, text features, losses, gradients and steps of three labels; scores, maps and steps of two.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::LazyLock;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_vision::{Image, MaskSource};
use candle_core::{DType, Device, Tensor, Var};

use super::prompt::Labels;
use super::train::{DECAY, ImageLoss, LEARNING_RATE, MOMENTUM, learning_rate, logits};
use super::*;
use crate::components::learned_prompts::cross_entropy;
use crate::methods::clip::goldens::network;
use crate::testing::{Goldens, flat, inputs, near};
use crate::training::{Batch, Learner, Optimiser, Sgd, TrainOptions, TrainingSample};

static GOLDENS: LazyLock<Goldens> = LazyLock::new(|| Goldens::load("coop_tiny.safetensors"));

/// Learned tokens.
const TOKENS: usize = 4;

/// The side of the images of the adaptation, and the others'.
const SIDE: usize = 70;
const SMALL_SIDE: usize = 56;

fn context(name: &str) -> Var {
    Var::from_tensor(GOLDENS.get(name)).unwrap()
}

/// Prompts with the golden's context for things with these names.
fn prompts(names: &[&str], context_name: &str, position: Position) -> Prompts {
    let text = network().text(None).unwrap().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let labels = Labels::new(&text, TOKENS, &names).unwrap();
    Prompts::with(text, context(context_name), position, vec![labels])
}

/// The embeddings of images `[batch, 3, side, side]`.
fn embeddings(images: &Tensor, side: usize) -> Tensor {
    let mut request = settings(side).profile().unwrap().input.request;
    request.layers.clear();
    let features = network().encode(&inputs(images), &request).unwrap();
    let count = features.len();
    let all = features.into_iter().flat_map(|one| one.embedding.unwrap());
    Tensor::from_vec(all.collect(), (count, 32), &Device::Cpu).unwrap()
}

fn settings(side: usize) -> Settings {
    Settings {
        classes: vec!["metal_nut".to_owned()],
        image_size: side as u32,
        context_length: TOKENS,
        ..Settings::defaults(&network())
    }
}

/// The value and the gradient of a loss, and steps on it, as CoOp's optimiser makes them.
fn steps(context: &Var, loss: &dyn Fn() -> Tensor, mut after: impl FnMut(usize, f32, Vec<f32>)) {
    let named = vec![("ctx".to_owned(), context.clone())];
    let optimiser = Sgd::new(named, LEARNING_RATE, MOMENTUM);
    let mut optimiser = optimiser.unwrap().with_decay(DECAY);
    for step in 1..=3 {
        let value = loss();
        let gradients = value.backward().unwrap();
        let gradient = flat(gradients.get(context).unwrap());
        assert!(optimiser.step(&gradients).unwrap());
        after(step, value.to_scalar().unwrap(), gradient);
    }
}

#[test]
fn three_labels_are_learned_as_by_the_original() {
    let images = embeddings(GOLDENS.get("images"), SMALL_SIDE);
    near(
        "images",
        &flat(&images),
        &GOLDENS.values("image_features"),
        3e-5,
    );
    let truth = GOLDENS.indices("labels");
    let temperature = f64::from(
        -network()
            .text(None)
            .unwrap()
            .unwrap()
            .logit_scale()
            .unwrap(),
    )
    .exp();
    for (kind, context) in [("unified", "ctx"), ("csc", "ctx_csc")] {
        for (name, position) in [
            ("end", Position::End),
            ("middle", Position::Middle),
            ("front", Position::Front),
        ] {
            let part = |part: &str| format!("{kind}.{name}.{part}");
            let golden = |name: &str| GOLDENS.values(&part(name));
            let prompts = prompts(&["metal nut", "bottle", "pipe fryum"], context, position);
            let ids = prompts.sets[0].frozen.ids.narrow(1, 0, 24).unwrap();
            let ids = flat(&ids.to_dtype(DType::F32).unwrap());
            let expected = GOLDENS.indices("token_ids").into_iter();
            assert_eq!(ids, expected.map(|id| id as f32).collect::<Vec<_>>());
            if let Some(expected) = GOLDENS.0.get(&part("prompts")) {
                let assembled = prompts.assembled(0).unwrap().narrow(1, 0, 14).unwrap();
                near(&part("prompts"), &flat(&assembled), &flat(expected), 2e-5);
            }
            let texts = || prompts.encode(&[0]).unwrap().squeeze(0).unwrap();
            near(
                &part("texts"),
                &flat(&texts()),
                &golden("text_features"),
                2e-5,
            );
            let found = logits(&images, &texts(), temperature).unwrap();
            near(&part("logits"), &flat(&found), &golden("logits"), 1e-4);
            let loss = || {
                let logits = logits(&images, &texts(), temperature).unwrap();
                cross_entropy(&logits, &truth).unwrap()
            };
            let is_stepped = position == Position::End;
            let mut losses = vec![];
            steps(&prompts.context, &loss, |step, loss, gradient| {
                if step == 1 {
                    near(&part("loss"), &[loss], &golden("loss"), 2e-5);
                    near(&part("gradient"), &gradient, &golden("grad_ctx"), 1e-4);
                }
                losses.push(loss);
                if is_stepped && step != 2 {
                    let golden = golden(&format!("ctx_after{step}"));
                    near(&part("context"), &flat(&prompts.context), &golden, 2e-6);
                }
            });
            if is_stepped {
                near(&part("losses"), &losses, &golden("losses"), 2e-5);
                let last = flat(&loss());
                near(&part("last loss"), &last, &golden("loss_after3"), 2e-5);
            }
        }
    }
}

fn sample(anomalous: bool) -> TrainingSample {
    TrainingSample {
        source: PathBuf::new().into(),
        class: "metal_nut".to_owned(),
        anomalous,
        mask: MaskSource::Unknown,
    }
}

#[test]
fn the_adaptation_learns_and_scores_as_the_originals_modules() {
    let network = network();
    let text = || network.text(None).unwrap().unwrap();
    let images = GOLDENS.get("ad.images");
    let embedding = embeddings(images, SIDE);
    let truth = GOLDENS.indices("ad.labels");
    let samples: Vec<TrainingSample> = truth.iter().map(|&label| sample(label == 1)).collect();
    let samples: Vec<&TrainingSample> = samples.iter().collect();
    let batch = Batch {
        embedding: Some(embedding),
        blocks: vec![],
    };
    for (name, temperature) in [("T0.07", Choice::Given(0.07)), ("100", Choice::Auto)] {
        let settings = Settings {
            temperature,
            ..settings(SIDE)
        };
        let text = text();
        let checked = checked(settings, &text).unwrap();
        let prompts = Prompts::new(&checked.settings, text, 0).unwrap();
        let ids = prompts.sets[0].frozen.ids.narrow(1, 0, 16).unwrap();
        let ids = flat(&ids.to_dtype(DType::F32).unwrap());
        let expected = GOLDENS.indices("ad.token_ids").into_iter();
        assert_eq!(ids, expected.map(|id| id as f32).collect::<Vec<_>>());
        prompts.context.set(GOLDENS.get("ctx")).unwrap();
        let learner = ImageLoss {
            settings: &checked.settings,
            prompts: &prompts,
        };
        let texts = prompts.texts().unwrap().remove(0).0.concat();
        near("texts", &texts, &GOLDENS.values("ad.text_features"), 2e-5);
        let detector = CoOpDetector::new(Checked::new(checked.settings.clone()).unwrap(), &prompts);
        let detector = detector.unwrap();
        let features = network
            .encode(&inputs(images), &detector.input().request)
            .unwrap();
        for (image, features) in features.iter().enumerate() {
            let expected = flat(&GOLDENS.get("ad.tokens").get(image).unwrap());
            let tokens = [
                features.embedding.clone().unwrap(),
                features.maps[0].tokens.clone(),
            ];
            near("ad.tokens", &tokens.concat(), &expected, 3e-5);
        }
        let features: Vec<&ImageFeatures> = features.iter().collect();
        let scored = detector.score(&features).unwrap();
        let scores: Vec<f32> = scored.iter().map(|one| one.score).collect();
        let golden = format!("ad.scores_{name}");
        near(&golden, &scores, &GOLDENS.values(&golden), 2e-5);
        if temperature != Choice::Auto {
            for (image, one) in scored.iter().enumerate() {
                let golden = |name: &str| flat(&GOLDENS.get(name).get(image).unwrap());
                near("patches", one.map.values(), &golden("ad.patch_prob"), 2e-5);
                let Profile { enlargement, .. } = detector.profile();
                let sharp = one.map.resize(SIDE, SIDE, enlargement.alignment).unwrap();
                near("ad.map_up", sharp.values(), &golden("ad.map_up"), 2e-5);
                let smooth = enlargement.apply(&one.map, SIDE, SIDE, 1.0).unwrap();
                near("ad.map", smooth.values(), &golden("ad.map"), 2e-5);
            }
        }
        let golden = |part: &str| GOLDENS.values(&format!("ad.{name}.{part}"));
        let loss = || learner.loss(&batch, &samples, &[]).unwrap().total;
        let mut losses = vec![];
        steps(&prompts.context, &loss, |step, loss, gradient| {
            if step == 1 {
                near("gradient", &gradient, &golden("grad_ctx"), 1e-4);
            }
            losses.push(loss);
        });
        near("losses", &losses, &golden("losses"), 2e-5);
        let context = flat(&prompts.context);
        near("context", &context, &golden("ctx_after3"), 2e-6);
    }
}

#[test]
fn the_learning_rate_is_that_of_the_original() {
    // (epochs, epoch, rate)
    for (epochs, epoch, expected) in [
        (50, 1, 1e-5),
        (50, 2, 0.002),
        (50, 3, 0.0019980267284282717),
        (50, 26, 0.001062790519529313),
        (50, 27, 0.001),
        (50, 49, 1.7712749271311268e-05),
        (50, 50, 7.88529868552223e-06),
        (200, 1, 1e-5),
        (200, 2, 0.002),
        (200, 3, 0.0019998766324816606),
        (200, 102, 0.001),
    ] {
        let found = learning_rate(LEARNING_RATE, epoch, epochs);
        assert!(
            (found - expected).abs() < 1e-15,
            "{epochs}, {epoch}: {found}"
        );
    }
}

/// Eight images in `folder`, half of them anomalous, of two classes.
fn samples(folder: &Path) -> Vec<TrainingSample> {
    let sample = |i: usize| {
        let path = folder.join(format!("{i}.png"));
        let anomalous = i % 2 == 1;
        let pixels = (0..56 * 56).flat_map(|at: usize| match anomalous && at % 56 > 30 {
            true => [250, 20, (at % 200) as u8],
            false => [(i * 20) as u8, 120, (at / 56) as u8],
        });
        let image = Image::new(56, 56, pixels.collect()).unwrap();
        image.save_png(&path).unwrap();
        TrainingSample {
            source: path.into(),
            class: ["metal_nut", "bottle"][i / 4].to_owned(),
            anomalous,
            mask: MaskSource::Unknown,
        }
    };
    (0..8).map(sample).collect()
}

#[test]
fn what_was_trained_is_applied_to_things_of_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let network = network();
    let samples = samples(folder.path());
    let settings = json!({ "image_size": 56, "context_length": TOKENS, "temperature": "auto" });
    let settings = settings.as_object().unwrap().clone();
    let train = |name: &str, start: Option<&Path>| {
        let options = TrainOptions {
            epochs: Some(4),
            batch: Some(4),
            folder: folder.path().join(name),
            ..TrainOptions::default()
        };
        let context = TrainContext {
            settings: &settings,
            encoder: &network,
            samples: &samples,
            start,
            options: &options,
        };
        CoOp.train(&context, &mut |_| ControlFlow::Continue(()))
            .unwrap()
    };
    let trained = train("one", None);
    let losses: Vec<f64> = trained.log.epochs.iter().map(|epoch| epoch.loss).collect();
    assert!(losses[3] < 0.9 * losses[0], "{losses:?}");
    assert_eq!(trained.detector.classes(), ["bottle", "metal_nut"]);
    let path = CoOp.start_file(&folder.path().join("one")).unwrap();

    // As the original reads it.
    let file = Checkpoint::open(&path).unwrap();
    let shapes: BTreeMap<&str, &[usize]> = file
        .names()
        .map(|name| (name, file.shape(name).unwrap()))
        .collect();
    let expected: [(&str, &[usize]); 3] = [
        ("ctx", &[4, 128]),
        ("token_prefix", &[4, 1, 128]),
        ("token_suffix", &[4, 72, 128]),
    ];
    assert_eq!(shapes, BTreeMap::from(expected));

    let fitted = |class| {
        let context = FitContext {
            class: Some(class),
            trained: Some(&path),
            ..FitContext::new(&settings, &network)
        };
        CoOp.fit(&context).unwrap()
    };
    let of_class = trained.detector.for_class("metal_nut").unwrap().unwrap();
    assert_eq!(fitted("metal_nut").state(), of_class.state());
    assert_ne!(
        fitted("pipe_fryum").state().tensors,
        of_class.state().tensors
    );
    let unknown = trained.detector.for_class("nut").err().unwrap();
    assert!(
        matches!(unknown, DetectorError::UnknownClass { .. }),
        "{unknown}"
    );
    let loaded = CoOp.load(trained.detector.state()).unwrap();
    assert_eq!(loaded.state(), trained.detector.state());
    let features = network.encode(&[], &loaded.input().request).unwrap();
    let features: Vec<&ImageFeatures> = features.iter().collect();
    let many = loaded.score(&features).err().unwrap().to_string();
    assert!(many.contains("bottle, metal_nut"), "{many}");

    let further = train("two", Some(&path));
    assert!(further.log.epochs[0].loss < losses[0]);
}

#[test]
fn contexts_that_cannot_be_are_refused() {
    let network = network();
    let message = |settings: serde_json::Value| {
        let settings = settings.as_object().unwrap().clone();
        let context = FitContext::new(&settings, &network);
        CoOp.untrained(&context, 0).err().unwrap().to_string()
    };
    for (settings, expected) in [
        (json!({ "context_length": 0 }), "must be 1 to 64"),
        (
            json!({ "initial_words": "a photo inconspicuously" }),
            "one token each",
        ),
        (
            json!({ "initial_words": "a photo of a", "class_specific": true }),
            "both prompts share",
        ),
        (
            json!({ "initial_words": " " }),
            "`context_length` must be 1",
        ),
        (json!({ "normal_name": "normal" }), "must contain `{}`"),
        (json!({ "temperature": 0 }), "`temperature` must be above 0"),
        (json!({ "sigma": -1 }), "`sigma` must be at least 0"),
        (json!({ "image_size": 0 }), "`image_size` must be above 0"),
    ] {
        let found = message(settings);
        assert!(found.contains(expected), "{found}");
    }
    let words = json!({ "initial_words": "a photo of a" });
    let settings = words.as_object().unwrap().clone();
    let context = FitContext::new(&settings, &network);
    let detector = CoOp.untrained(&context, 0).unwrap();
    assert_eq!(detector.state().config["context_length"], 4);
}
