//! What holds for every method: the same result alone and in a batch, from the saved file and
//! from memory; and anomalies score higher than normal images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

mod common;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anomalens_backbones::{ImageFeatures, Precision};
use anomalens_detectors::training::{
    Cache, TrainEvent, TrainOptions, TrainProgress, Trained, TrainingSample,
};
use anomalens_detectors::{
    Array, BackboneRef, Calibration, DefaultWeights, Detector, DetectorError, DetectorFile,
    FitContext, ImageSource, InputSpec, Method, MethodInfo, MethodSettings, Need, Note, Prediction,
    Provenance, ReferenceImage, Scope, State, StreamOptions, TrainContext, find, methods, predict,
    stream_features,
};
use anomalens_metrics::Platt;
use anomalens_vision::{Image, MaskSource};
use common::{MeanColour, WithText, image, save};
use serde_json::json;

const GREY: [u8; 3] = [90, 100, 110];
const RED: [u8; 3] = [220, 20, 30];
const SPOT: (usize, usize) = (3, 12);

/// Methods whose image score is of the mean colour, which a small spot hardly changes.
const OF_WHOLE: [&str; 7] = [
    "spade", "clip", "clip-ac", "winclip", "coop", "clip-ad", "zoc",
];

/// Methods without a map.
const WITHOUT_MAP: [&str; 2] = ["clip-ad", "zoc"];

/// Pieces of words with their log probabilities, and captions of the images that methods are trained on.
const PIECES: &str = "<s>\t0\n</s>\t0\n\u{2581}a\t-1\n\u{2581}grey\t-2\n\u{2581}plate\t-2";
const CAPTION: &str = "a grey plate";

/// Methods that see the centre of an image.
const PAPERS_ON_FRAMES: [&str; 4] = ["patchcore", "padim", "spade", "acr"];

fn normal(i: u8) -> Image {
    image([GREY[0] + i, GREY[1], GREY[2] + i], None)
}

fn anomalous(i: u8) -> Image {
    image([GREY[0] + i, GREY[1], GREY[2]], Some((RED, SPOT.0, SPOT.1)))
}

fn reference(i: u8) -> ReferenceImage {
    ReferenceImage::new(format!("{i}.png"), normal(i))
}

fn name(method: &dyn Method) -> &'static str {
    method.info().name
}

fn uses_references(method: &dyn Method) -> bool {
    method.info().requirements.references != Need::No
}

/// A detector of `method` trained and fitted on two normal images, where it needs that.
fn fit(method: &dyn Method) -> Box<dyn Detector> {
    fit_with(method, &MethodSettings::new())
}

/// The same with `settings`.
fn fit_with(method: &dyn Method, settings: &MethodSettings) -> Box<dyn Detector> {
    match uses_references(method) {
        true => fit_on(method, settings, &[reference(0), reference(4)]),
        false => fit_on(method, settings, &[]),
    }
}

/// The same on these normal images.
fn fit_on(
    method: &dyn Method,
    settings: &MethodSettings,
    references: &[ReferenceImage],
) -> Box<dyn Detector> {
    let mut settings = settings.clone();
    if matches!(method.info().weights, DefaultWeights::Clip(_)) {
        return prompted(method, &settings, references);
    }
    if matches!(name(method), "anomaly-dino" | "musc") {
        settings.entry("image_size").or_insert(224.into());
    }
    if PAPERS_ON_FRAMES.contains(&name(method)) {
        // The whole image as it is.
        settings.entry("image_size").or_insert(224.into());
        settings.entry("crop").or_insert(0.into());
    }
    if name(method) == "musc" {
        // Mean colours say nothing about which images are alike.
        settings.insert("rescore".to_owned(), Vec::<usize>::new().into());
    }
    let settings = &settings;
    let context = FitContext::new(settings, &MeanColour).with_references(references);
    let keeps_references = uses_references(method);
    if method.trainer().is_none() || (keeps_references && references.is_empty()) {
        return method.fit(&context).unwrap();
    }
    let mut state = trained(method);
    for (name, value) in settings {
        state.config[name] = value.clone();
    }
    match uses_references(method) {
        true => method.update_references(state, &context, &[]).unwrap(),
        false => method.load(state).unwrap(),
    }
}

/// A detector of `method` whose prompts are made colours afterwards, since no text says what a colour is.
fn prompted(
    method: &dyn Method,
    settings: &MethodSettings,
    references: &[ReferenceImage],
) -> Box<dyn Detector> {
    let mut settings = settings.clone();
    settings.entry("image_size").or_insert(224.into());
    let vocabulary = tempfile::NamedTempFile::new().unwrap();
    match name(method) {
        "april-gan" => {
            settings.entry("blocks").or_insert(json!([12]));
        }
        "zoc" => {
            std::fs::write(&vocabulary, PIECES).unwrap();
            settings.insert("vocabulary".to_owned(), json!(vocabulary.path()));
            settings.insert("layers".to_owned(), json!(1));
            settings.insert("top".to_owned(), json!(2));
        }
        _ => {}
    }
    let bare = FitContext::new(&settings, &WithText);
    let context = bare.with_references(references);
    let mut state = match (method.info().requirements.training, method.trainer()) {
        (Need::Required, Some(trainer)) => trainer.untrained(&bare, 5).unwrap().state(),
        _ => method.fit(&context).unwrap().state(),
    };
    // Grey and red as CLIP's networks see them.
    let (grey, red) = ([-0.87, -0.46, 0.16], [0.62, -0.63, -0.46]);
    let rows = |rows: &[[f32; 3]]| Array {
        shape: vec![rows.len(), 3],
        values: rows.concat(),
    };
    let colours = match name(method) {
        "april-gan" => vec![
            ("text_features", rows(&[grey, red])),
            (
                "fc.0.weight",
                rows(&[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
            ),
        ],
        // Whatever the decoder says, it is red.
        "zoc" => vec![
            ("seen_features", rows(&[grey])),
            ("word_features", rows(&[red; 5])),
        ],
        _ => vec![("text_features", rows(&[grey, red]))],
    };
    for (name, colours) in colours {
        state.tensors.insert(name.to_owned(), colours);
    }
    // What normal patches score was of the texts before.
    if let Some(range) = state.tensors.get_mut("range") {
        range.values = vec![0.0, 0.01];
    }
    match name(method) {
        "april-gan" => method.update_references(state, &context, &[]).unwrap(),
        _ => method.load(state).unwrap(),
    }
}

/// What `method` learns, once for all tests.
fn trained(method: &dyn Method) -> State {
    static TRAINED: OnceLock<BTreeMap<&str, State>> = OnceLock::new();
    let all = TRAINED.get_or_init(|| {
        let trained = methods().iter().filter(|method| method.trainer().is_some());
        trained
            .map(|method| (name(*method), train(*method).state()))
            .collect()
    });
    all[name(method)].clone()
}

/// A detector of `method` trained on normal and anomalous images with masks.
fn train(method: &dyn Method) -> Box<dyn Detector> {
    let folder = tempfile::tempdir().unwrap();
    let (epochs, batch, rate) = match name(method) {
        "anomalyclip" => (12, 2, 0.1),
        // The first epoch has a rate of its own.
        "coop" => (4, 8, 0.1),
        "regad" => (2, 4, 1e-3),
        _ => (2, 4, 0.01),
    };
    let trained = train_in(
        method,
        folder.path(),
        TrainOptions {
            epochs: Some(epochs),
            batch: Some(batch),
            learning_rate: Some(rate),
            ..TrainOptions::default()
        },
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap();
    let log = trained.log;
    assert_eq!(log.stopped, None);
    assert!(log.epochs.last().unwrap().loss < log.epochs[0].loss);
    let (kept, again) = log.costs().unwrap();
    assert!(kept < again, "{kept} {again}");
    trained.detector
}

/// Trains `method` on images in `folder`, where its files go, too.
fn train_in(
    method: &dyn Method,
    folder: &Path,
    options: TrainOptions,
    progress: &mut TrainProgress,
) -> Result<Trained, DetectorError> {
    let images: Vec<Image> = [0, 3, 6, 9]
        .into_iter()
        .flat_map(|i| [normal(i), anomalous(i)])
        .collect();
    let mask = folder.join("mask.png");
    let sources: Vec<ImageSource> = if mask.exists() {
        let files = (0..images.len()).map(|i| folder.join(format!("{i}.png")));
        files.map(ImageSource::from).collect()
    } else {
        save(folder, &images)
    };
    let spot = (0..224 * 224_usize).flat_map(|i| {
        let (row, column) = (i / 224 / 14, i % 224 / 14);
        [if (row, column) == SPOT { 255 } else { 0 }; 3]
    });
    Image::new(224, 224, spot.collect())
        .unwrap()
        .save_png(&mask)
        .unwrap();
    let samples: Vec<TrainingSample> = sources
        .into_iter()
        .enumerate()
        .map(|(i, source)| TrainingSample {
            source,
            class: "plate".into(),
            anomalous: i % 2 == 1,
            mask: match i % 2 {
                1 => MaskSource::File(mask.clone().into()),
                _ => MaskSource::Empty,
            },
        })
        .collect();
    let vocabulary = folder.join("spiece.vocab");
    std::fs::write(&vocabulary, PIECES).unwrap();
    let captions = folder.join("captions.json");
    let file = json!({
        "images": (0..8).map(|i| json!({ "id": i, "file_name": format!("{i}.png") })).collect::<Vec<_>>(),
        "annotations": (0..8).map(|i| json!({ "image_id": i, "caption": CAPTION })).collect::<Vec<_>>(),
    });
    std::fs::write(&captions, file.to_string()).unwrap();
    let of_zoc = json!({ "vocabulary": vocabulary, "captions": captions, "layers": 1 }).to_string();
    let settings = match name(method) {
        "april-gan" => r#"{"blocks": [1], "image_size": 224}"#,
        "clip-ad" => r#"{"temperature": 0.1}"#,
        "zoc" => &of_zoc,
        "anomalyclip" => r#"{"blocks": [1], "image_score": "map", "temperature": 0.02}"#,
        "denseclip" => r#"{"block": 1, "image_size": 224}"#,
        "coop" => r#"{"block": 1, "image_size": 224}"#,
        // Of four normal images.
        "acr" => r#"{"blocks": [1], "task_size": 8}"#,
        "regad" => r#"{"image_size": 64}"#,
        _ => r#"{"blocks": [1]}"#,
    };
    let settings: MethodSettings = serde_json::from_str(settings).unwrap();
    let options = TrainOptions {
        folder: folder.join("training"),
        ..options
    };
    let context = TrainContext {
        settings: &settings,
        encoder: match method.info().weights {
            DefaultWeights::Clip(_) => &WithText,
            _ => &MeanColour,
        },
        samples: &samples,
        start: None,
        options: &options,
    };
    method.require_trainer()?.train(&context, progress)
}

#[test]
fn features_on_disk_are_not_computed_twice() {
    let method = find("anomalyclip").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let training = folder.path().join("training");
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let features = || -> Vec<PathBuf> {
        let shelves = entries(&training.join("features")).into_iter();
        shelves.flat_map(|shelf| entries(&shelf)).collect()
    };
    let options = |cache| TrainOptions {
        epochs: Some(2),
        batch: Some(3),
        cache,
        ..TrainOptions::default()
    };
    // Cancelled after five images, of which one is damaged afterwards.
    let stopped = train_in(
        method,
        folder.path(),
        options(Cache::Disk),
        &mut |event| match event {
            TrainEvent::Encoded(5) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        },
    );
    let stopped = stopped.unwrap();
    assert_eq!(stopped.log.stopped.as_deref(), Some("interrupted"));
    let files = features();
    assert_eq!(files.len(), 5);
    let bytes = std::fs::read(&files[0]).unwrap();
    std::fs::write(&files[0], &bytes[..bytes.len() - 9]).unwrap();
    let mut seen = vec![];
    let rest = train_in(method, folder.path(), options(Cache::Disk), &mut |event| {
        if let TrainEvent::Encoded(done) = event {
            seen.push(done);
        }
        ControlFlow::Continue(())
    });
    assert_eq!(seen, [4, 5, 6, 7, 8]);
    assert!(features().is_empty(), "removed when the run is done");
    std::fs::remove_dir_all(&training).unwrap();
    let watch = &mut |_| ControlFlow::Continue(());
    let memory = train_in(method, folder.path(), options(Cache::Memory), watch);
    assert_eq!(
        memory.unwrap().detector.state(),
        rest.unwrap().detector.state()
    );
}

#[test]
fn tasks_are_the_same_wherever_features_are_kept_and_in_a_run_that_resumes() {
    let method = find("acr").unwrap();
    let train = |folder: &Path, epochs, cache| {
        let options = TrainOptions {
            epochs: Some(epochs),
            batch: Some(2),
            cache,
            ..TrainOptions::default()
        };
        let watch = &mut |_: TrainEvent| ControlFlow::Continue(());
        let trained = train_in(method, folder, options, watch).unwrap();
        let state = trained.detector.state();
        file(trained.detector)
            .save(&folder.join("trained"))
            .unwrap();
        state
    };
    let folders = [0; 3].map(|_| tempfile::tempdir().unwrap());
    let [memory, disk, resumed] = folders.each_ref().map(|folder| folder.path());
    let expected = train(memory, 2, Cache::Memory);
    assert_eq!(train(disk, 2, Cache::Disk), expected);
    assert_ne!(train(resumed, 1, Cache::Memory), expected);
    assert_eq!(train(resumed, 2, Cache::Memory), expected);
    // What `train` wrote is what `fit` takes, with the settings that it was trained with.
    let settings = MethodSettings::new();
    let path = resumed.join("trained");
    let context = FitContext {
        trained: Some(&path),
        ..FitContext::new(&settings, &MeanColour)
    };
    assert_eq!(method.fit(&context).unwrap().state(), expected);
}

#[test]
fn a_checkpoint_is_bound_to_the_weights() {
    let method = find("anomalyclip").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let train = |backbone: &str| {
        let options = TrainOptions {
            epochs: Some(1),
            backbone: backbone.to_owned(),
            ..TrainOptions::default()
        };
        let watch = &mut |_: TrainEvent| ControlFlow::Continue(());
        train_in(method, folder.path(), options, watch)
    };
    assert!(train("one").is_ok());
    assert!(train("one").is_ok());
    let message = train("another").err().unwrap().to_string();
    assert!(message.contains("other data or settings"), "{message}");
}

fn scores(
    detector: &dyn Detector,
    sources: &[ImageSource],
    options: &StreamOptions,
) -> Vec<Prediction> {
    let mut found: Vec<Option<Prediction>> = sources.iter().map(|_| None).collect();
    predict(
        &MeanColour,
        &[detector],
        sources,
        &HashSet::new(),
        options,
        &mut |outcome| {
            found[outcome.image] = Some(outcome.result.unwrap());
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    found.into_iter().map(Option::unwrap).collect()
}

fn file(detector: Box<dyn Detector>) -> DetectorFile {
    DetectorFile {
        detector,
        backbone: BackboneRef {
            name: "mean-colour".into(),
            sha256: "0".repeat(64),
            precision: Precision::Half,
            activation: None,
            companions: vec![],
        },
        provenance: Provenance {
            command: "a test".into(),
            data: "made up".into(),
            date: "2026-01-01T00:00:00Z".into(),
            version: "0.1.0".into(),
            losses: vec![],
        },
        calibration: None,
        levels: Default::default(),
    }
}

#[test]
fn every_method_finds_the_anomalous_image_and_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let images = [
        normal(1),
        anomalous(2),
        normal(3),
        normal(5),
        normal(2),
        normal(6),
    ];
    let sources = save(folder.path(), &images);
    for &method in methods() {
        let found = scores(fit(method).as_ref(), &sources, &StreamOptions::default());
        let highest = (0..found.len()).max_by(|&a, &b| found[a].score.total_cmp(&found[b].score));
        let scores: Vec<f32> = found.iter().map(|p| p.score).collect();
        let is_highest = highest == Some(1) || OF_WHOLE.contains(&name(method));
        assert!(is_highest, "{}: {scores:?}", name(method));
        if WITHOUT_MAP.contains(&name(method)) {
            assert!(found.iter().all(|prediction| !prediction.has_map()));
            continue;
        }
        let map = &found[1].map;
        let peak = (0..map.values().len())
            .max_by(|&a, &b| map.values()[a].total_cmp(&map.values()[b]))
            .unwrap();
        // The spot is one of 16 x 16 patches.
        let finer = map.columns() as f64 / 16.0;
        let at = |place: usize| (place as f64 / finer) as usize;
        let (row, column) = (at(peak / map.columns()), at(peak % map.columns()));
        let near = row.abs_diff(SPOT.0) <= 1 && column.abs_diff(SPOT.1) <= 1;
        assert!(near, "{}: peak at {row}, {column}", name(method));
        assert!(
            found[1].range.upper_quantile < map.values()[peak],
            "{}",
            name(method)
        );
    }
}

#[test]
fn test_time_views_raise_the_resolution_and_are_kept_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let sources = save(folder.path(), &[normal(1), anomalous(2), normal(3)]);
    let options = StreamOptions::default();
    let mut augmented = vec![];
    for &method in methods() {
        let once = fit(method);
        if once.state().config.get("tta").is_none() {
            continue;
        }
        augmented.push(name(method));
        let one = scores(once.as_ref(), &sources, &options);
        for views in [2, 3] {
            let tta = MethodSettings::from_iter([("tta".to_owned(), views.into())]);
            let several = fit_with(method, &tta);
            let found = scores(several.as_ref(), &sources, &options);
            for (one, found) in one.iter().zip(&found) {
                let finer = (views * one.map.rows(), views * one.map.columns());
                assert_eq!((found.map.rows(), found.map.columns()), finer);
            }
            assert!(
                found[1].score > found[0].score && found[1].score > found[2].score,
                "{}",
                name(method)
            );
            let path = folder.path().join(name(method));
            file(several).save(&path).unwrap();
            let loaded = DetectorFile::load(&path).unwrap().detector;
            assert_eq!(scores(loaded.as_ref(), &sources, &options), found);
        }
    }
    assert_eq!(augmented, ["lens"]);
}

#[test]
fn an_image_in_memory_scores_as_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let images = [normal(1), anomalous(2), normal(3)];
    let files = save(folder.path(), &images);
    let memory: Vec<ImageSource> = (images.into_iter())
        .map(|image| ImageSource::Memory {
            name: "an image".to_owned(),
            image: Arc::new(image),
        })
        .collect();
    let options = StreamOptions::default();
    for &method in methods() {
        let detector = fit(method);
        assert_eq!(
            scores(detector.as_ref(), &files, &options),
            scores(detector.as_ref(), &memory, &options),
            "{}",
            name(method)
        );
    }
}

#[test]
fn a_single_reference_is_enough() {
    for &method in methods() {
        if !uses_references(method) {
            continue;
        }
        if name(method) == "padim" {
            let settings = MethodSettings::new();
            let one = [reference(0)];
            let context = FitContext::new(&settings, &MeanColour).with_references(&one);
            let message = method.fit(&context).err().unwrap().to_string();
            assert!(message.contains("at least two normal images"), "{message}");
            continue;
        }
        let detector = fit_on(method, &MethodSettings::new(), &[reference(0)]);
        let folder = tempfile::tempdir().unwrap();
        let sources = save(folder.path(), &[normal(2), anomalous(2)]);
        let found = scores(detector.as_ref(), &sources, &StreamOptions::default());
        let found: Vec<f32> = found.iter().map(|prediction| prediction.score).collect();
        assert!(
            found.iter().all(|score| score.is_finite()),
            "{}: {found:?}",
            name(method)
        );
        let is_higher = found[0] < found[1] || OF_WHOLE.contains(&name(method));
        assert!(is_higher, "{}: {found:?}", name(method));
    }
}

#[test]
fn the_batch_size_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let images = [normal(1), anomalous(2), normal(3), normal(5), normal(2)];
    let sources = save(folder.path(), &images);
    for &method in methods() {
        let detector = fit(method);
        let [one, three] = [Some(1), Some(3)].map(|batch| {
            scores(
                detector.as_ref(),
                &sources,
                &StreamOptions {
                    batch,
                    ..Default::default()
                },
            )
        });
        assert_eq!(one, three, "{}", name(method));
    }
}

#[test]
fn a_reloaded_detector_gives_identical_predictions() {
    let folder = tempfile::tempdir().unwrap();
    let sources = save(folder.path(), &[normal(1), anomalous(2), normal(3)]);
    for &method in methods() {
        let path = folder.path().join(name(method));
        let made = file(fit(method));
        made.save(&path).unwrap();
        let loaded = DetectorFile::load(&path).unwrap();
        assert_eq!(loaded.provenance, made.provenance);
        assert_eq!(loaded.identity(), made.identity());
        let options = StreamOptions::default();
        let [before, after] = [made.detector, loaded.detector]
            .map(|detector| scores(detector.as_ref(), &sources, &options));
        assert_eq!(before, after, "{}", name(method));
    }
}

#[test]
fn wrong_and_damaged_files_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    file(fit(find("anomaly-dino").unwrap()))
        .save(&path)
        .unwrap();
    let whole = std::fs::read(&path).unwrap();
    let header_length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    // Same length, so that the file stays well-formed where it is meant to.
    let edited = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let header = String::from_utf8(whole[8..8 + header_length].to_vec()).unwrap();
        assert!(header.contains(from), "{from} is not in {header}");
        [
            &whole[..8],
            header.replace(from, to).as_bytes(),
            &whole[8 + header_length..],
        ]
        .concat()
    };
    let mut flipped = whole.clone();
    flipped[whole.len() - 5] ^= 1;
    let weights = {
        let tensors = std::collections::HashMap::from([(
            "weight".to_owned(),
            candle_core::Tensor::new(&[1_f32], &candle_core::Device::Cpu).unwrap(),
        )]);
        let path = folder.path().join("weights");
        candle_core::safetensors::save(&tensors, &path).unwrap();
        std::fs::read(path).unwrap()
    };
    // An empty tensor, one side of which is 2^60.
    let endless = {
        let header = String::from_utf8(whole[8..8 + header_length].to_vec()).unwrap();
        let empty = r#","endless":{"dtype":"F32","shape":[1152921504606846976,0],"data_offsets":"#;
        let end = whole.len() - 8 - header_length;
        let header = header.trim_end().strip_suffix('}').unwrap();
        let header = format!("{header}{empty}[{end},{end}]}}}}");
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), &whole[8 + header_length..]].concat()
    };
    let cases: [(&str, Vec<u8>, &str); 10] = [
        (
            "a side without end",
            endless,
            "has a side of 1152921504606846976",
        ),
        ("empty", vec![], "not a complete safetensors file"),
        (
            "text",
            b"not a detector at all".to_vec(),
            "not a complete safetensors file",
        ),
        (
            "cut off",
            whole[..whole.len() - 100].to_vec(),
            "not a complete safetensors file",
        ),
        ("a bit flipped", flipped, "damaged"),
        ("a weight file", weights, "no detector header"),
        (
            "a newer format",
            edited(r#"\"format_version\":3"#, r#"\"format_version\":9"#),
            "format version 9",
        ),
        (
            "an older format",
            edited(r#"\"format_version\":3"#, r#"\"format_version\":1"#),
            "which an older version of this program wrote",
        ),
        (
            "an unknown method",
            edited(
                r#"\"method\":\"anomaly-dino\""#,
                r#"\"method\":\"anomaly-dime\""#,
            ),
            "did you mean `anomaly-dino`",
        ),
        (
            "settings that do not fit the input",
            edited(r#"\"image_size\":224"#, r#"\"image_size\":238"#),
            "preprocessing does not follow",
        ),
    ];
    for (name, bytes, expected) in cases {
        std::fs::write(&path, bytes).unwrap();
        let message = DetectorFile::load(&path).err().expect(name).to_string();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(
            message.contains(&path.display().to_string()),
            "{name}: {message}"
        );
    }
    let other = file(fit(find("musc").unwrap()));
    let backbone = |sha256: &str, companions| BackboneRef {
        sha256: sha256.repeat(64),
        companions,
        ..other.backbone.clone()
    };
    let error = other.check_backbone(&backbone("1", vec![])).unwrap_err();
    assert!(matches!(error, DetectorError::OtherBackbone { .. }));
    let two = backbone("0", vec![backbone("2", vec![])]);
    assert!(other.check_backbone(&two).is_ok());
    let of_two = DetectorFile {
        backbone: two,
        ..file(fit(find("musc").unwrap()))
    };
    let error = of_two.check_backbone(&other.backbone).unwrap_err();
    assert!(error.to_string().contains("SHA-256 none"), "{error}");
}

/// A calibration as it may be.
fn calibration() -> Calibration {
    Calibration {
        rule: "fpr=0.05".parse().unwrap(),
        threshold: 0.625,
        probability: Some(Platt {
            slope: 2.5,
            offset: -1.5,
        }),
        normal: 30,
        anomalous: 20,
        data: "folder:nuts".to_owned(),
        date: "2026-01-01T00:00:00Z".to_owned(),
    }
}

#[test]
fn a_calibration_is_kept_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let mut made = file(fit(find("anomaly-dino").unwrap()));
    let bare = made.identity();
    made.calibration = Some(calibration());
    made.save(&path).unwrap();
    let loaded = DetectorFile::load(&path).unwrap();
    assert_eq!(loaded.calibration, made.calibration);
    assert_eq!(loaded.identity(), made.identity());
    assert_ne!(
        loaded.identity(),
        bare,
        "results with and without decisions differ"
    );
    let kept = loaded.calibration.unwrap();
    assert!(kept.is_anomalous(0.625) && !kept.is_anomalous(0.624));
    let probability = kept.probability(0.6).unwrap();
    assert!((probability - 0.5).abs() < 1e-7, "{probability}");
}

#[test]
fn a_calibration_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let with = |change: fn(&mut Calibration)| {
        let mut calibration = calibration();
        change(&mut calibration);
        calibration
    };
    let cases = [
        (
            "falling",
            "anomaly-dino",
            with(|c| c.probability.as_mut().unwrap().slope = -1.0),
            "its probability does not rise with the score",
        ),
        (
            "from nothing",
            "anomaly-dino",
            with(|c| (c.normal, c.anomalous) = (0, 0)),
            "its calibration was chosen from no image",
        ),
        (
            "no threshold",
            "anomaly-dino",
            with(|c| c.threshold = f32::INFINITY),
            "its header cannot be read",
        ),
        (
            "of images that score each other",
            "musc",
            calibration(),
            "a detector of musc cannot be calibrated",
        ),
    ];
    for (name, method, calibration, expected) in cases {
        let mut made = file(fit(find(method).unwrap()));
        made.calibration = Some(calibration);
        made.save(&path).unwrap();
        let message = DetectorFile::load(&path).err().expect(name).to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn a_file_that_cannot_be_written_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let detector = file(fit(find("musc").unwrap()));
    let missing = folder.path().join("no such folder").join("file");
    let error = detector.save(&missing).unwrap_err();
    assert!(
        matches!(&error, DetectorError::WriteFile { path, .. } if *path == missing),
        "{error}"
    );
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let references = [reference(0)];
    let cases = [
        ("lens", r#"{"blocks": []}"#, "names no block"),
        (
            "anomaly-dino",
            r#"{"image_size": 7}"#,
            "at least `multiple`, 14",
        ),
        ("anomaly-dino", r#"{"top_fraction": 0}"#, "top_fraction"),
        (
            "anomaly-dino",
            r#"{"masking": "sideways"}"#,
            "unknown variant `sideways`",
        ),
        (
            "anomaly-dino",
            r#"{"blokcs": [6]}"#,
            "unknown field `blokcs`",
        ),
        ("anomaly-dino", r#"{"block": "six"}"#, "invalid type"),
        ("musc", r#"{"degrees": [2]}"#, "odd"),
        ("musc", r#"{"group": 1}"#, "group"),
        ("musc", r#"{"lowest_fraction": 1.5}"#, "lowest_fraction"),
        (
            "lens",
            r#"{"evidence": "rumour"}"#,
            "unknown variant `rumour`",
        ),
        ("lens", r#"{"group": 1}"#, "`group` must be at least 2"),
        ("lens", r#"{"blocks": []}"#, "names no block"),
        ("lens", r#"{"tta": 9}"#, "`tta` must be 1 to 8"),
        ("inctrl", "{}", "learned from auxiliary data"),
        ("april-gan", "{}", "needs a backbone with a text encoder"),
        (
            "april-gan",
            r#"{"temperature": 0}"#,
            "`temperature` must be above 0",
        ),
        ("april-gan", r#"{"blocks": [9, 6]}"#, "in their order"),
        ("april-gan", r#"{"blocks": []}"#, "names no block"),
        ("april-gan", r#"{"group": 1}"#, "`group` must be at least 2"),
        (
            "april-gan",
            r#"{"activation": "relu"}"#,
            "unknown variant `relu`",
        ),
        ("clip-ad", "{}", "needs a backbone with a text encoder"),
        (
            "clip-ad",
            r#"{"template": "a photo"}"#,
            "`template` must contain",
        ),
        (
            "clip-ad",
            r#"{"image_size": 0}"#,
            "`image_size` must be above 0",
        ),
        ("zoc", "{}", "needs a backbone with a text encoder"),
        ("zoc", r#"{"top": 0}"#, "`top` must be above 0"),
        ("zoc", r#"{"steps": 0}"#, "`steps` must be 1 to 512"),
        ("zoc", r#"{"classes": []}"#, "names no seen label"),
        ("acr", "{}", "learned from auxiliary data"),
        ("acr", r#"{"blocks": [6, 9]}"#, "one layer is compared"),
        ("acr", r#"{"stages": [3]}"#, "not both"),
        ("acr", r#"{"output": 0}"#, "`output` must be 1 to 4096"),
        ("acr", r#"{"layers": 17}"#, "`layers` must be at most 16"),
        (
            "acr",
            r#"{"anomaly_ratio": 0.6}"#,
            "`anomaly_ratio` must be 0 to 0.5",
        ),
        ("acr", r#"{"noise": 0}"#, "`noise` must be above 0"),
        ("acr", r#"{"group": 1}"#, "`group` must be at least 2"),
        (
            "acr",
            r#"{"task_size": 1}"#,
            "`task_size` must be 2 to 4096",
        ),
        ("acr", r#"{"crop": 512}"#, "must not exceed `image_size`"),
        ("coop", "{}", "learned from auxiliary data"),
        ("coop", r#"{"context_length": 65}"#, "must be 1 to 64"),
        ("coop", r#"{"position": "back"}"#, "unknown variant `back`"),
        ("coop", r#"{"normal_name": "good"}"#, "must contain `{}`"),
        ("clip", "{}", "needs a backbone with a text encoder"),
        (
            "clip",
            r#"{"temperature": 0}"#,
            "`temperature` must be above 0",
        ),
        ("clip", r#"{"sigma": -1}"#, "`sigma` must be at least 0"),
        (
            "clip-ac",
            r#"{"prompts": "nowhere.json"}"#,
            "neither a file nor one of clip, clip-ac",
        ),
        (
            "patchcore",
            r#"{"coreset": 0}"#,
            "`coreset` must be above 0",
        ),
        (
            "patchcore",
            r#"{"crop": 512}"#,
            "must not exceed `image_size`, 256",
        ),
        (
            "patchcore",
            r#"{"variant": "own"}"#,
            "unknown variant `own`",
        ),
        ("patchcore", r#"{"blocks": []}"#, "names no block"),
        ("patchcore", r#"{"stages": [2]}"#, "not both"),
        ("patchcore", r#"{"blocks": [9, 6]}"#, "in their order"),
        ("patchcore", r#"{"neighbours": 0}"#, "above 0"),
        (
            "patchcore",
            r#"{"dimension": 99999}"#,
            "`dimension` must be 1 to 16384",
        ),
        ("winclip", "{}", "needs a backbone with a text encoder"),
        ("winclip", r#"{"windows": []}"#, "`windows` must be"),
        ("winclip", r#"{"windows": [2, 2]}"#, "different sides"),
        (
            "winclip",
            r#"{"patch_tokens": "projected"}"#,
            "unknown variant `projected`",
        ),
        (
            "maskclip",
            r#"{"key_smoothing": 2}"#,
            "`key_smoothing` are from 0 to 1",
        ),
        ("maskclip", r#"{"block": 0}"#, "counted from 1"),
        (
            "denseclip",
            r#"{"decoder_heads": 5}"#,
            "multiple of `decoder_heads`",
        ),
        ("padim", "{}", "at least two normal images"),
        ("regad", "{}", "learns to register images of other classes"),
        (
            "regad",
            r#"{"image_size": 16}"#,
            "`image_size` must be 32 to 512",
        ),
        (
            "regad",
            r#"{"transformer": "spin"}"#,
            "unknown variant `spin`",
        ),
        (
            "regad",
            r#"{"episode_shots": 0}"#,
            "`episode_shots` must be 1 to 64",
        ),
        (
            "regad",
            r#"{"regularisation": 0}"#,
            "`regularisation` must be above 0",
        ),
        (
            "spade",
            r#"{"neighbours": 0}"#,
            "`neighbours` must be above 0",
        ),
        (
            "spade",
            r#"{"max_memory": 0}"#,
            "need 1 MB, and `max_memory` is 0",
        ),
        (
            "spade",
            r#"{"image_size": 0}"#,
            "`image_size` must be above 0",
        ),
    ];
    for (method, options, expected) in cases {
        let options: MethodSettings = serde_json::from_str(options).unwrap();
        let error = find(method)
            .unwrap()
            .fit(&FitContext::new(&options, &MeanColour).with_references(&references))
            .err()
            .expect(expected);
        let message = error.to_string();
        assert!(message.contains(expected), "{method}: {message}");
    }
    let two = [reference(0), reference(4)];
    for (options, expected) in [
        (r#"{"features": 0}"#, "`features` must be above 0"),
        (
            r#"{"regularisation": 0}"#,
            "`regularisation` must be above 0",
        ),
        (
            r#"{"max_memory": 0}"#,
            "distributions of 9 features need 1 MB",
        ),
    ] {
        let options: MethodSettings = serde_json::from_str(options).unwrap();
        let context = FitContext::new(&options, &MeanColour).with_references(&two);
        let error = find("padim").unwrap().fit(&context).err();
        let message = error.expect(expected).to_string();
        assert!(message.contains(expected), "{message}");
    }
    let settings = MethodSettings::new();
    let bare = FitContext::new(&settings, &MeanColour);
    let none = find("anomaly-dino").unwrap().fit(&bare);
    assert!(matches!(
        none.err(),
        Some(DetectorError::NoReferences("anomaly-dino"))
    ));
    let missing = FitContext {
        trained: Some(Path::new("no such file")),
        ..bare.with_references(&references)
    };
    let missing = find("inctrl").unwrap().fit(&missing).err().unwrap();
    assert!(missing.to_string().contains("no such file"), "{missing}");
    let former = find("self-similarity").unwrap_err().to_string();
    assert!(former.contains("part of the method `lens`"), "{former}");
    let unknown = find("anomaly-dyno").unwrap_err().to_string();
    assert!(
        unknown.contains("did you mean `anomaly-dino`?"),
        "{unknown}"
    );
}

#[test]
fn features_of_another_network_are_refused() {
    // Longer tokens and embeddings, as those of a larger network.
    fn widen(features: &mut ImageFeatures) {
        for map in &mut features.maps {
            let rows = map.tokens.chunks_exact(map.dim);
            map.tokens = rows.flat_map(|row| [row, &[0.5]].concat()).collect();
            map.dim += 1;
            map.class_token.iter_mut().for_each(|class| class.push(0.5));
        }
        let embedding = features.embedding.iter_mut();
        embedding.for_each(|embedding| embedding.push(0.5));
        features.further.iter_mut().for_each(widen);
    }
    let folder = tempfile::tempdir().unwrap();
    let sources = save(folder.path(), &[normal(1), normal(2), anomalous(3)]);
    let seen = |input: &InputSpec| -> Vec<ImageFeatures> {
        let mut all = vec![ImageFeatures::default(); sources.len()];
        let options = StreamOptions::default();
        stream_features(&MeanColour, input, &sources, &options, |index, found| {
            all[index] = found.unwrap().0;
            ControlFlow::Continue(())
        })
        .unwrap();
        all
    };
    for &method in methods() {
        let detector = fit(method);
        let profile = detector.profile();
        let mut features = seen(&profile.input);
        for input in &profile.further {
            let both = features.iter_mut().zip(seen(input));
            both.for_each(|(image, further)| image.further.push(further));
        }
        let right: Vec<&ImageFeatures> = features.iter().collect();
        assert!(detector.score(&right).is_ok(), "{}", name(method));
        features.iter_mut().for_each(widen);
        let wide: Vec<&ImageFeatures> = features.iter().collect();
        // MuSc compares images with each other and keeps nothing of a network.
        let refused = detector.score(&wide).is_err() || name(method) == "musc";
        assert!(refused, "{}: wider", name(method));
        let nothing = vec![ImageFeatures::default(); 3];
        let nothing: Vec<&ImageFeatures> = nothing.iter().collect();
        assert!(detector.score(&nothing).is_err(), "{}: none", name(method));
    }
}

#[test]
fn prompts_name_the_class() {
    for &method in methods() {
        let MethodInfo {
            weights,
            requirements,
            ..
        } = method.info();
        // What must be trained first shows it in its own tests.
        let must_be_trained = requirements.training == Need::Required;
        if must_be_trained || !matches!(weights, DefaultWeights::Clip(_)) {
            continue;
        }
        let texts = |class: Option<&str>, settings: &str| {
            let settings: MethodSettings = serde_json::from_str(settings).unwrap();
            let context = FitContext {
                class,
                ..FitContext::new(&settings, &WithText)
            };
            let state = method.fit(&context).unwrap().state();
            let texts = state.tensors["text_features"].clone();
            (state.config["class"].clone(), texts)
        };
        let (none, bolt) = (texts(None, "{}"), texts(Some("bolt"), "{}"));
        assert_eq!((&none.0, &bolt.0), (&json!("object"), &json!("bolt")));
        assert_ne!(none.1, bolt.1, "{}", name(method));
        let given = texts(Some("nut"), r#"{"class": "bolt"}"#);
        assert_eq!(given, bolt, "{}", name(method));
    }
}

#[test]
fn unusable_images_are_told_and_the_others_scored() {
    let folder = tempfile::tempdir().unwrap();
    let mut sources = save(folder.path(), &[normal(1), anomalous(2), normal(3)]);
    std::fs::write(sources[1].path(), "no image").unwrap();
    sources.push(folder.path().join("missing.png").into());
    for &method in methods() {
        let detector = fit(method);
        let mut good = vec![];
        let mut bad = vec![];
        let skip = HashSet::new();
        let options = StreamOptions {
            batch: Some(2),
            ..Default::default()
        };
        predict(
            &MeanColour,
            &[detector.as_ref()],
            &sources,
            &skip,
            &options,
            &mut |outcome| {
                match outcome.result {
                    Ok(_) => good.push(outcome.image),
                    Err(_) => bad.push(outcome.image),
                }
                ControlFlow::Continue(())
            },
        )
        .unwrap();
        good.sort_unstable();
        assert_eq!((good, bad), (vec![0, 2], vec![1, 3]), "{}", name(method));
    }
}

#[test]
fn images_to_skip_are_left_out_and_a_break_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let sources = save(folder.path(), &(0..6).map(normal).collect::<Vec<_>>());
    let seen = |method: &str, options: &str, skip: &[usize], stop_after: usize| {
        let options: MethodSettings = serde_json::from_str(options).unwrap();
        let detector = fit_with(find(method).unwrap(), &options);
        let mut seen = vec![];
        let skip = skip.iter().copied().collect();
        predict(
            &MeanColour,
            &[detector.as_ref()],
            &sources,
            &skip,
            &StreamOptions::default(),
            &mut |outcome| {
                seen.push(outcome.image);
                if seen.len() == stop_after {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )
        .unwrap();
        seen
    };
    assert_eq!(seen("anomaly-dino", "{}", &[0, 3], 9), [1, 2, 4, 5]);
    assert_eq!(seen("anomaly-dino", "{}", &[], 2), [0, 1]);
    // Groups {0, 2, 4} and {1, 3, 5}: only a whole group is left out.
    assert_eq!(seen("musc", r#"{"group": 3}"#, &[0, 2, 4, 5], 9), [1, 3, 5]);
    assert_eq!(seen("musc", r#"{"group": 3}"#, &[], 4), [0, 2, 4, 1]);
}

#[test]
fn references_come_and_go() {
    for name in ["lens", "inctrl", "april-gan", "regad"] {
        references_of_a_method_come_and_go(find(name).unwrap());
    }
}

fn references_of_a_method_come_and_go(method: &dyn Method) {
    let folder = tempfile::tempdir().unwrap();
    let sources = save(folder.path(), &[normal(1), anomalous(2)]);
    let update = |method: &dyn Method, state, add: &[ReferenceImage], remove: &[&str]| {
        let remove: Vec<String> = remove.iter().map(|name| (*name).to_owned()).collect();
        let settings = MethodSettings::new();
        let context = FitContext::new(&settings, &MeanColour).with_references(add);
        method.update_references(state, &context, &remove)
    };
    let both = update(method, trained(method), &[reference(0), reference(4)], &[]).unwrap();
    assert_eq!(both.references(), ["0.png", "4.png"]);
    let three = update(method, both.state(), &[reference(2)], &[]).unwrap();
    assert_eq!(three.references(), ["0.png", "2.png", "4.png"]);
    let again = update(method, three.state(), &[], &["2.png"]).unwrap();
    let options = StreamOptions::default();
    let [before, with, after] =
        [&both, &three, &again].map(|detector| scores(detector.as_ref(), &sources, &options));
    assert_eq!(before, after);
    assert_ne!(before, with);

    let refused = |result: Result<Box<dyn Detector>, DetectorError>| {
        result.err().map(|error| error.to_string()).unwrap()
    };
    let message = refused(update(method, both.state(), &[], &["3.png"]));
    assert!(message.contains("0.png, 4.png"), "{message}");
    let message = refused(update(method, both.state(), &[reference(4)], &[]));
    assert!(
        message.contains("two references called `4.png`"),
        "{message}"
    );
    let none = update(method, both.state(), &[], &["0.png", "4.png"]);
    match name(method) {
        // It goes on without.
        "april-gan" => assert_eq!(none.unwrap().state(), trained(method)),
        of => assert!(matches!(
            none.err(),
            Some(DetectorError::NoReferences(found)) if found == of
        )),
    }
    let untouched = method.load(trained(method)).unwrap();
    assert!(untouched.references().is_empty());
    let dino = find("anomaly-dino").unwrap();
    let fixed = update(dino, fit(dino).state(), &[reference(1)], &[]);
    assert!(matches!(
        fixed.err(),
        Some(DetectorError::FixedReferences("anomaly-dino"))
    ));
}

#[test]
fn regad_learns_on_and_refuses_what_it_cannot_use() {
    let method = find("regad").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let watch = &mut |_: TrainEvent| ControlFlow::Continue(());
    let options = |epochs| TrainOptions {
        epochs: Some(epochs),
        batch: Some(2),
        learning_rate: Some(1e-3),
        ..TrainOptions::default()
    };
    // Interrupted after the first epoch, then gone on with: the same as in one go.
    let mut stop = |event: TrainEvent| match event {
        TrainEvent::Epoch(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let first = train_in(method, folder.path(), options(3), &mut stop).unwrap();
    assert_eq!(first.log.epochs.len(), 1);
    let resumed = train_in(method, folder.path(), options(3), watch).unwrap();
    let start = folder.path().join("training/regad_model.pt");
    assert_eq!(
        method
            .trainer()
            .unwrap()
            .start_file(&folder.path().join("training")),
        Some(start.clone())
    );
    let kept = folder.path().join("kept.pt");
    std::fs::copy(start, &kept).unwrap();
    std::fs::remove_dir_all(folder.path().join("training")).unwrap();
    let options = TrainOptions {
        cache: Cache::Off,
        ..options(3)
    };
    let whole = train_in(method, folder.path(), options, watch).unwrap();
    assert_eq!(whole.detector.state(), resumed.detector.state());

    // The checkpoint in the original's form is the same network, whatever the backbone.
    let references = [reference(0), reference(4)];
    let settings: MethodSettings = serde_json::from_str(r#"{"image_size": 64}"#).unwrap();
    let path = folder.path().join("trained");
    file(whole.detector).save(&path).unwrap();
    let fitted = [&kept, &path].map(|trained| {
        let context = FitContext {
            trained: Some(trained),
            ..FitContext::new(&settings, &MeanColour).with_references(&references)
        };
        method.fit(&context).unwrap().state()
    });
    assert_eq!(fitted[0], fitted[1]);
    for (settings, expected) in [
        (
            r#"{"image_size": 96}"#,
            "leave `image_size` as it was in training",
        ),
        (
            r#"{"image_size": 64, "max_memory": 1}"#,
            "statistics of 2 normal images need 8 MB",
        ),
        (
            r#"{"image_size": 64, "transformer": "scale"}"#,
            "set the kind that they were trained with",
        ),
    ] {
        let settings: MethodSettings = serde_json::from_str(settings).unwrap();
        let context = FitContext {
            trained: Some(&kept),
            ..FitContext::new(&settings, &MeanColour).with_references(&references)
        };
        let message = method.fit(&context).err().expect(expected).to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn lens_uses_whatever_evidence_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let images = [normal(1), anomalous(2), normal(3), normal(5)];
    let sources = save(folder.path(), &images);
    let lens = find("lens").unwrap();
    let none: &[ReferenceImage] = &[];
    let some = &[reference(0), reference(4)][..];
    for (name, settings, references, scope, kept) in [
        ("nothing", r#"{}"#, none, Scope::Single, 0),
        ("references", r#"{}"#, some, Scope::Single, 2),
        (
            "own image",
            r#"{"evidence": "own-image"}"#,
            some,
            Scope::Single,
            0,
        ),
        (
            "a batch",
            r#"{"evidence": "batch"}"#,
            none,
            Scope::Joint(64),
            0,
        ),
    ] {
        let settings: MethodSettings = serde_json::from_str(settings).unwrap();
        let context = FitContext::new(&settings, &MeanColour).with_references(references);
        let detector = lens.fit(&context).unwrap();
        assert_eq!(detector.scope(), scope, "{name}");
        assert_eq!(detector.references().len(), kept, "{name}");
        let found = scores(detector.as_ref(), &sources, &StreamOptions::default());
        for (i, prediction) in found.iter().enumerate() {
            assert!(i == 1 || prediction.score < found[1].score, "{name}: {i}");
        }
        let path = folder.path().join("file");
        file(detector).save(&path).unwrap();
        let loaded = DetectorFile::load(&path).unwrap().detector;
        let again = scores(loaded.as_ref(), &sources, &StreamOptions::default());
        assert_eq!(again, found, "{name}");
    }
    let settings: MethodSettings = serde_json::from_str(r#"{"evidence": "references"}"#).unwrap();
    let bare = lens.fit(&FitContext::new(&settings, &MeanColour));
    assert!(matches!(
        bare.err(),
        Some(DetectorError::NoReferences("lens"))
    ));
}

#[test]
fn the_order_of_a_batch_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let images = [normal(1), anomalous(2), normal(3), normal(5), normal(9)];
    let sources = save(folder.path(), &images);
    let mut turned = sources.clone();
    turned.reverse();
    turned.swap(1, 3);
    for (method, settings) in [
        ("lens", r#"{"evidence": "batch"}"#),
        ("musc", "{}"),
        ("acr", r#"{"anomaly_ratio": 0.3}"#),
    ] {
        let settings: MethodSettings = serde_json::from_str(settings).unwrap();
        let detector = match method {
            "acr" => fit_with(find(method).unwrap(), &settings),
            _ => {
                let context = FitContext::new(&settings, &MeanColour);
                find(method).unwrap().fit(&context).unwrap()
            }
        };
        let options = StreamOptions::default();
        let mut found = scores(detector.as_ref(), &turned, &options);
        found.swap(1, 3);
        found.reverse();
        assert_eq!(
            found,
            scores(detector.as_ref(), &sources, &options),
            "{method}"
        );
    }
}

#[test]
fn copies_and_blank_references_do_not_shrink_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let sources = save(folder.path(), &[normal(1), anomalous(2)]);
    let named = |name: &str, image: Image| ReferenceImage::new(name, image);
    let blank = || Image::new(224, 224, vec![200; 224 * 224 * 3]).unwrap();
    let lens = find("lens").unwrap();
    let settings = MethodSettings::new();
    let fitted = |references: &[ReferenceImage]| {
        let context = FitContext::new(&settings, &MeanColour).with_references(references);
        lens.fit(&context)
    };
    let plain = fitted(&[named("a", normal(0)), named("b", normal(4))]).unwrap();
    let about_images = |note: &&Note| !matches!(note, Note::Chosen { .. });
    assert_eq!(plain.notes().iter().filter(about_images).count(), 0);
    let mixed = fitted(&[
        named("a", normal(0)),
        named("a2", normal(0)),
        named("b", normal(4)),
        named("dark", blank()),
        named("b2", normal(4)),
    ])
    .unwrap();
    let notes = mixed.notes().iter().filter(about_images);
    let told: Vec<String> = notes.map(Note::to_string).collect();
    assert_eq!(
        told,
        [
            "a2 is a copy of a; both count as one normal image",
            "dark is of one colour and left out as a normal image",
            "b2 is a copy of b; both count as one normal image",
        ]
    );
    let options = StreamOptions::default();
    assert_eq!(
        scores(mixed.as_ref(), &sources, &options),
        scores(plain.as_ref(), &sources, &options)
    );
    let all_blank = fitted(&[named("a", blank()), named("b", blank())]);
    let message = all_blank.err().unwrap().to_string();
    assert!(message.contains("of one colour"), "{message}");
    // The same thing photographed twice within moments.
    let mut again = normal(0).as_bytes().to_vec();
    again.iter_mut().step_by(1001).for_each(|x| *x ^= 1);
    let again = Image::new(224, 224, again).unwrap();
    let burst = fitted(&[named("a", normal(0)), named("b", again)]).unwrap();
    let found = scores(burst.as_ref(), &sources, &options);
    assert!(found[1].score < 100.0, "{}", found[1].score);
}

#[test]
fn a_reference_of_something_else_is_named() {
    let lens = find("lens").unwrap();
    let settings = MethodSettings::new();
    let named = |name: &str, image: Image| ReferenceImage::new(name, image);
    // (name, the last reference, notes)
    for (name, last, expected) in [
        ("all alike", normal(8), vec![]),
        ("one is of something else", anomalous(0), vec!["last"]),
    ] {
        let alike = (0..4).map(|i| named(&i.to_string(), normal(2 * i)));
        let references: Vec<_> = alike.chain([named("last", last)]).collect();
        let context = FitContext::new(&settings, &MeanColour).with_references(&references);
        let detector = lens.fit(&context).unwrap();
        let odd = detector.notes().iter().filter_map(|note| match note {
            Note::OddReference { name, tenths } => {
                assert!(*tenths > 20, "{note}");
                Some(name.as_str())
            }
            _ => None,
        });
        assert_eq!(odd.collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn an_image_of_one_colour_is_flagged() {
    let folder = tempfile::tempdir().unwrap();
    let mut nearly = vec![200; 64 * 64 * 3];
    nearly.iter_mut().step_by(7).for_each(|x| *x += 2);
    let flat = Image::new(64, 64, nearly).unwrap();
    let sources = save(folder.path(), &[normal(1), flat]);
    let lens = find("lens").unwrap();
    let detector = fit(lens);
    let found = scores(detector.as_ref(), &sources, &StreamOptions::default());
    assert!(found[0].notes.is_empty());
    assert_eq!(found[1].notes, [Note::FlatImage]);
}

#[test]
fn variants_of_the_papers_methods_find_the_place_and_are_kept_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let sources = save(folder.path(), &[normal(1), anomalous(2), normal(3)]);
    let options = StreamOptions::default();
    for (method, settings, side) in [
        ("patchcore", r#"{"variant": "anomalib"}"#, 224),
        (
            "patchcore",
            r#"{"selection": "exact", "coreset": 0.01}"#,
            16,
        ),
        ("patchcore", r#"{"selection": "k-centre", "seed": 3}"#, 16),
        ("patchcore", r#"{"crop": 196}"#, 14),
        ("padim", r#"{"variant": "anomalib"}"#, 224),
        ("padim", r#"{"features": 3}"#, 16),
        ("spade", r#"{"literal_chunks": true, "neighbours": 1}"#, 224),
        ("spade", r#"{"crop": 196}"#, 196),
    ] {
        let name = format!("{method} {settings}");
        let settings: MethodSettings = serde_json::from_str(settings).unwrap();
        let detector = fit_with(find(method).unwrap(), &settings);
        let found = scores(detector.as_ref(), &sources, &options);
        assert_eq!(found[1].map.rows(), side, "{name}");
        let [first, second, third] = [0, 1, 2].map(|i| found[i].score);
        let is_highest = second > first && second > third;
        assert!(is_highest || OF_WHOLE.contains(&method), "{name}");
        let path = folder.path().join("file");
        file(detector).save(&path).unwrap();
        let loaded = DetectorFile::load(&path).unwrap().detector;
        assert_eq!(scores(loaded.as_ref(), &sources, &options), found, "{name}");
    }
}
