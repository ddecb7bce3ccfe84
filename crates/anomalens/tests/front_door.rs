//! The library's front door, with the backbone that is part of it.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::path::{Path, PathBuf};

use anomalens::backbones::Precision;
use anomalens::detectors::methods::musc;
use anomalens::detectors::{Check, ExportOptions, ReferenceImage};
use anomalens::metrics::Rule;
use anomalens::synthetic::Spec;
use anomalens::vision::Image;
use anomalens::{AnomalyDetector, Error};

/// A drawn set: its folder, 20 normal test images and as many defective ones.
fn set() -> (tempfile::TempDir, PathBuf, Vec<Image>, Vec<Image>) {
    let folder = tempfile::tempdir().unwrap();
    let spec: Spec = "textures,seed=3,materials=1,images=20,side=112"
        .parse()
        .unwrap();
    let set = folder.path().join("set");
    spec.write(&set).unwrap();
    let material = set.join("weave-001");
    let below = |part: &str| -> Vec<Image> {
        let part = material.join(part);
        let names = anomalens::datasets::images_below(&part).unwrap();
        names
            .iter()
            .map(|name| Image::open(part.join(name)).unwrap())
            .collect()
    };
    let normal = below("test/good");
    let all = below("test");
    let defective = all
        .into_iter()
        .filter(|image| !normal.contains(image))
        .collect();
    (folder, material, normal, defective)
}

#[test]
fn a_detector_is_fitted_calibrated_saved_and_loaded() {
    let (folder, material, normal, defective) = set();
    let mut detector = AnomalyDetector::builder()
        .fit_dir(material.join("train/good"))
        .unwrap();
    assert_eq!(detector.method(), "lens");
    assert!(!detector.is_joint());
    let before = detector.predict(&normal[0]).unwrap();
    assert_eq!((before.is_anomalous(), before.probability()), (None, None));
    detector.calibrate(&normal, &defective, Rule::F1).unwrap();

    let path = folder.path().join("weave.detector");
    detector.save(&path).unwrap();
    let loaded = AnomalyDetector::load(&path).unwrap();
    let images: Vec<Image> = normal.iter().chain(&defective).cloned().collect();
    let together = loaded.predict_all(&images).unwrap();
    let mut right = 0;
    for (i, (image, result)) in images.iter().zip(&together).enumerate() {
        let alone = detector.predict(image).unwrap();
        assert_eq!(alone.score().to_bits(), result.score().to_bits(), "{i}");
        assert_eq!(alone.map().unwrap(), result.map().unwrap(), "{i}");
        assert!(result.probability().is_some());
        right += usize::from(result.is_anomalous() == Some(i >= normal.len()));
    }
    assert!(right > images.len() * 3 / 4, "{right} of {}", images.len());
    let result = together.last().unwrap();
    for picture in [result.overlay().unwrap(), result.heat_map().unwrap()] {
        assert_eq!((picture.width(), picture.height()), (112, 112));
    }
    assert!(!result.regions().unwrap().is_empty());
}

/// Needs the library of ONNX Runtime (`pip install onnxruntime`), without which it passes unseen unless
/// `CI` is set.
#[test]
fn a_detector_file_is_the_same_on_every_device() {
    let (folder, material, normal, defective) = set();
    let detector = AnomalyDetector::builder();
    let detector = detector.fit_dir(material.join("train/good")).unwrap();
    let path = folder.path().join("weave.detector");
    detector.save(&path).unwrap();
    let device = "ort-cpu".parse().unwrap();
    let other = match AnomalyDetector::load_on(&path, &device) {
        Err(error) if error.to_string().contains("pip install onnxruntime") => {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            return;
        }
        other => other.unwrap(),
    };
    let again = folder.path().join("again.detector");
    other.save(&again).unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        std::fs::read(&again).unwrap()
    );
    // The processor computes in 8 bits, the device in 32.
    for image in [&normal[0], &normal[1], &defective[0], &defective[1]] {
        let (one, two) = (
            detector.predict(image).unwrap(),
            other.predict(image).unwrap(),
        );
        let difference = (one.score() - two.score()).abs() / one.score().abs();
        assert!(difference < 0.05, "{} and {}", one.score(), two.score());
    }
}

/// Needs ONNX Runtime (`ANOMALENS_ORT`, or a Python package) to run what is written; with `CI` set that must
/// be there.
#[test]
fn a_detector_is_exported() {
    let (folder, material, ..) = set();
    let normal = material.join("train/good");
    for (name, builder) in [
        (
            "references",
            AnomalyDetector::builder().set("image_size", 112),
        ),
        (
            "own",
            AnomalyDetector::builder()
                .set("evidence", "own-image")
                .set("image_size", 112),
        ),
        (
            "both",
            AnomalyDetector::builder()
                .set("networks", 2)
                .set("image_size", 224)
                .set("foreground", true),
        ),
    ] {
        let detector = builder.fit_dir(&normal).unwrap();
        let file = folder.path().join(format!("{name}.onnx"));
        let exported = detector.export(&file, &ExportOptions::default());
        let exported = exported.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(exported.outputs.len(), 3, "{name}: {exported:?}");
        assert!(file.exists(), "{name}");
        match exported.check {
            Check::Ran { score, cosine, .. } => {
                assert!(
                    score.unwrap() < 1e-4 && cosine > 0.999_99,
                    "{name}: {score:?} {cosine}"
                );
            }
            Check::Read(reason) => assert!(std::env::var_os("CI").is_none(), "{reason}"),
        }
    }
}

#[test]
fn settings_are_typed_or_named() {
    let (_folder, _, normal, _) = set();
    let reference = |i: usize| ReferenceImage::new(i.to_string(), normal[i].clone());
    let references = [reference(0), reference(1)];
    let named = AnomalyDetector::builder()
        .method("musc")
        .set("image_size", 112)
        .set("blocks", vec![6, 9])
        .set("rescore", Vec::<usize>::new())
        .set("search", "half")
        .build()
        .unwrap();
    assert!(named.is_joint());
    let typed = musc::Settings {
        image_size: 112,
        blocks: vec![6, 9],
        family: musc::Family::DinoV2,
        degrees: vec![1, 3, 5],
        lowest_fraction: 0.3,
        rescore: vec![],
        group: None,
        search: Precision::Half,
    };
    let typed = AnomalyDetector::builder().settings(&typed).build().unwrap();
    let scores = |detector: &AnomalyDetector| -> Vec<f32> {
        let results = detector.predict_all(&normal[..4]).unwrap();
        results.iter().map(|result| result.score()).collect()
    };
    assert_eq!(scores(&named), scores(&typed));

    let wrong = [
        (
            "method",
            AnomalyDetector::builder().method("lense").fit(&references),
        ),
        (
            "setting",
            AnomalyDetector::builder().set("blokcs", 1).fit(&references),
        ),
        (
            "weights",
            AnomalyDetector::builder()
                .weights("dinov2-smol")
                .fit(&references),
        ),
        ("folder", AnomalyDetector::builder().fit_dir("nowhere")),
        ("file", AnomalyDetector::load("nowhere.detector")),
        ("alone", named.predict(&normal[0]).map(|_| named)),
    ];
    for (name, result) in wrong {
        let error: Error = result.err().unwrap();
        assert!(!error.to_string().is_empty(), "{name}");
    }
}

/// On a real solar cell: other light, within 10 %, counts far less than a small dark spot.
#[test]
fn a_change_of_light_is_no_defect() {
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/images/demo.jpg");
    let cell = Image::open(photo).unwrap().crop(951, 0, 151, 152).unwrap();
    let (width, height) = (cell.width(), cell.height());
    let changed = |change: &dyn Fn(f32, usize) -> f32| {
        let bytes = cell.as_bytes().iter().enumerate();
        let bytes = bytes.map(|(i, &value)| change(f32::from(value), i).clamp(0.0, 255.0) as u8);
        Image::new(width, height, bytes.collect()).unwrap()
    };
    let bytes = cell.as_bytes();
    let mean = bytes.iter().map(|&x| f32::from(x)).sum::<f32>() / bytes.len() as f32;
    let spot = |value: f32, i: usize| {
        let (x, y) = (i / 3 % width as usize, i / 3 / width as usize);
        if (40..48).contains(&x) && (60..68).contains(&y) {
            0.6 * value
        } else {
            value
        }
    };
    let references = [ReferenceImage::new("cell", cell.clone())];
    let detector = AnomalyDetector::builder().fit(&references).unwrap();
    let score = |image: &Image| detector.predict(image).unwrap().score();
    let (as_it_is, with_spot) = (score(&cell), score(&changed(&spot)));
    for (name, image) in [
        ("brighter", changed(&|x, _| 1.1 * x)),
        ("darker", changed(&|x, _| 0.9 * x)),
        ("more contrast", changed(&|x, _| mean + 1.1 * (x - mean))),
        ("less contrast", changed(&|x, _| mean + 0.9 * (x - mean))),
        ("warmer", changed(&|x, i| [1.1, 1.0, 0.9][i % 3] * x)),
        ("colder", changed(&|x, i| [0.9, 1.0, 1.1][i % 3] * x)),
    ] {
        let part = (score(&image) - as_it_is) / (with_spot - as_it_is);
        assert!(part < 0.1, "{name}: {part}");
    }
}
